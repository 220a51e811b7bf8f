"""What trains, how fast, and through what: freezing, layer-wise learning rates and LoRA, all by pattern.

A pattern is a regular expression that is searched for in the dotted names of parameters or modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import deepcopy

from torch import nn

from diptych.encoders.base import Encoder, EncoderError, need

_REPEAT, _REPEATED_GROUP, _REPEATS = re.compile(r"[*+{]"), re.compile(r"\)[*+{]"), 3


def freeze(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Stops the gradient of every parameter whose name matches one of `patterns`; returns their names.

    Raises:
        EncoderError: a pattern matches no parameter, which is nearly always a typing error.
    """
    names = [name for name, _ in module.named_parameters()]
    matched = _matching(names, patterns, "parameter")
    for name in matched:
        module.get_parameter(name).requires_grad_(False)
    return matched


def lora(module: nn.Module, patterns: Sequence[str], rank: int = 8, alpha: float = 16.0) -> list[str]:
    """Puts a low-rank update beside every linear layer whose name matches, in place, and freezes the rest of `module`.

    "LoRA: Low-Rank Adaptation of Large Language Models", Hu et al. 2021 (arXiv 2106.09685), section 4.1: the layer
    computes W x + (alpha / rank) B A x, with B zero at first, so that nothing changes until it is trained.

    Returns the names of the layers. `merged` gives the module without the detour.

    Raises:
        EncoderError: peft is missing, or a pattern matches no linear layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise need("lora", error) from None
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    matched = _matching(linear, patterns, "linear layer")
    target = "|".join(re.escape(name) for name in matched)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=f"({target})"), module)
    return matched


def has_lora(module: nn.Module) -> bool:
    """Whether `lora` was applied to it or to a part of it."""
    return any(hasattr(layer, "lora_A") for layer in module.modules())


def merged(module: nn.Module) -> nn.Module:
    """A copy of `module` in which every low-rank update is added to its layer; the structure is that before `lora`."""
    module = deepcopy(module)
    for name, layer in list(module.named_modules()):
        if hasattr(layer, "lora_A"):
            layer.merge()  # type: ignore[operator]
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, layer.get_base_layer())  # type: ignore[operator]
    return module


def layer_decay(encoder: Encoder, decay: float, prefix: str = "") -> tuple[tuple[str, float], ...]:
    """Layer-wise learning rates: (pattern, multiplier) pairs for a `Stage.lr`.

    Layer i of L has decay ** (L - i), what comes before the layers (patches, words, positions) decay ** (L + 1) and
    what comes after them 1 ("BEiT", Bao et al. 2021, arXiv 2106.08254, appendix). What is before and after is told by
    the order in which the encoder declares its parameters.

    Args:
        encoder: whose layers are meant.
        decay: in (0, 1]; 1 changes nothing.
        prefix: the name of the encoder within the method, such as "image".
    """
    layers = {id(layer): index for index, layer in enumerate(encoder.layers)}
    owners = {name: layers[id(module)] for name, module in encoder.named_modules() if id(module) in layers}
    start = f"^{re.escape(prefix)}\\." if prefix else "^"
    count = len(layers)
    pairs = [(f"{start}{re.escape(name)}\\.", decay ** (count - 1 - index)) for name, index in owners.items()]
    before = []
    for name, _ in encoder.named_parameters():
        if any(name.startswith(f"{owner}.") for owner in owners):
            break
        before.append((f"{start}{re.escape(name)}$", decay**count))
    return (*before, *pairs)


def _matching(names: Iterable[str], patterns: Sequence[str], what: str) -> list[str]:
    names = list(names)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise EncoderError(f"{pattern!r} is no pattern ({error}).") from None
        if len(_REPEAT.findall(pattern)) > _REPEATS or _REPEATED_GROUP.search(pattern):
            raise EncoderError(
                f"The pattern {pattern!r} repeats a group, or more than {_REPEATS} parts: it could take for ever."
            )
        if not any(re.search(pattern, name) for name in names):
            shown = ", ".join(names[:6]) or "none"
            raise EncoderError(f"No {what} matches the pattern {pattern!r}; there are {len(names)}, such as {shown}.")
    return [name for name in names if any(re.search(pattern, name) for pattern in patterns)]
