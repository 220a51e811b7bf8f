"""Weights to start from: of a run, of a saved method, or of an official checkpoint, wherever names and shapes fit."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diptych.text import one_line

log = logging.getLogger("diptych.models")

State = Mapping[str, Tensor]
_ANSWERS = "answer_head.answers."  # rows of its weight and bias are answers
_PUBLISHED = ("model.safetensors", "pytorch_model.bin")
_UNPICKLED = (".pt", ".pth", ".bin", ".ckpt")


def start_from(
    module: nn.Module,
    place: str,
    official: Callable[[State], State] = dict,
    alike: Mapping[str, str] = MappingProxyType({}),
) -> frozenset[str]:
    """Takes over the weights at `place` whose names and shapes are those of the module; the rest stays as it is.

    Rows of an answer head go by the names of the answers: `config.answers` on both sides, or, of a published model,
    what stands in a file `answers.json` beside its weights: a list of answers, or of objects of which each has one
    under `ans` (LXMERT's all_ans.json).

    Args:
        module: a method; what it takes over is written to the log.
        place: folder of a run or of a saved method, `hf:NAME_OR_PATH` of a model in the form of transformers, or a
            file: safetensors, or a checkpoint of torch, of which tensors alone are read.
        official: from the names in a published checkpoint of the paper's code to ours; used where the file is no
            method of this library.
        alike: what names begin with in other methods of this library -> in this one, for parts that are the same.

    Returns:
        The names of what was taken over.

    Raises:
        FileNotFoundError: there is nothing to start from.
        ValueError: the file is damaged or holds more than tensors, or nothing in it fits.
    """
    found, theirs, ours = read(place)
    if not ours:
        found = official(found)
    own = module.state_dict()
    found = {_named_here(name, own, alike): value for name, value in found.items()}
    by_name = {
        name for name in found if _ANSWERS in name and list(theirs) != list(getattr(module.config, "answers", ()))
    }
    same = {name: value for name, value in found.items() if name in own and own[name].shape == value.shape}
    fits = {name: value for name, value in same.items() if name not in by_name}
    if not fits:
        raise ValueError(f"nothing in {place} has the names and shapes of this model's weights: is it of another kind?")
    rows = _answers(module, {name: found[name] for name in by_name & own.keys()}, own, theirs)
    module.load_state_dict({**fits, **rows}, strict=False)
    fresh = sorted(set(own) - set(fits) - set(rows))
    log.info("%s: %d tensors taken over, %d begin anew%s.", place, len(fits), len(fresh), _first(fresh))
    return frozenset(fits.keys() | rows.keys())


def _named_here(name: str, own: State, alike: Mapping[str, str]) -> str:
    """A name as the module has it, where parts have another name or layers have a low-rank update beside them."""
    layer, _, kind = name.rpartition(".")
    others = [to + name.removeprefix(of) for of, to in alike.items() if name.startswith(of)]
    others += [name.replace(".base_layer.", "."), f"{layer}.base_layer.{kind}"]
    return next((other for other in others if other in own), name) if name not in own else name


def read(place: str) -> tuple[State, tuple[str, ...], bool]:
    """The tensors at a place, the answers that they know by name, and whether they are of a method of this library."""
    path = _published(place.removeprefix("hf:")) if place.startswith("hf:") else Path(place)
    folder = next((one for one in (path, path / "checkpoints" / "last") if (one / "model.safetensors").is_file()), None)
    if folder is not None:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        answers = tuple(told.get("config", {}).get("answers", ()))
        return _tensors(folder / "model.safetensors"), answers, "method" in told
    if not path.is_file():
        raise FileNotFoundError(
            f"{place} is no run, no saved method and no file of weights: there is nothing to start from."
        )
    return _tensors(path), _listed(path.parent / "answers.json"), False


def _listed(path: Path) -> tuple[str, ...]:
    """Names of answers in a file; none where there is no such file."""
    if not path.is_file():
        return ()
    try:
        found = json.loads(path.read_bytes())
        names = tuple(one if isinstance(one, str) else one["ans"] for one in found)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no list of answers ({one_line(str(error), 120)}).") from None
    return names


def _published(name: str) -> Path:
    """The file of weights of a model in a folder or on the hub."""
    from huggingface_hub import snapshot_download

    try:
        folder = name if Path(name).is_dir() else snapshot_download(name, allow_patterns=list(_PUBLISHED))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"there is no model {name!r} to start from ({one_line(str(error), 120)}).") from None
    found = [Path(folder) / file for file in _PUBLISHED if (Path(folder) / file).is_file()]
    if not found:
        raise FileNotFoundError(f"{name} has none of {', '.join(_PUBLISHED)}: there is nothing to start from.")
    return found[0]


def _tensors(path: Path) -> State:
    try:
        if path.suffix not in _UNPICKLED:
            return _plain(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as weights ({one_line(str(error), 120)}).") from None
    except Exception as error:  # torch refuses what is no tensor with an error of pickle's
        raise ValueError(f"{path} holds more than tensors, and is not opened ({one_line(str(error), 120)}).") from None
    for key in ("state_dict", "model", "module"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    return _plain(found)


def _plain(found: Mapping[str, Any]) -> State:
    """The tensors alone, without the prefix that a wrapper for several devices gives to every name."""
    return {name.removeprefix("module."): value for name, value in found.items() if isinstance(value, Tensor)}


def _answers(module: Any, found: State, own: State, theirs: Any) -> dict[str, Tensor]:
    """Rows of the answer head for the answers that both know."""
    mine = getattr(module.config, "answers", ())
    where = {name: index for index, name in enumerate(theirs)}
    pairs = [(index, where[name]) for index, name in enumerate(mine) if name in where]
    rows = {}
    for name, value in found.items():
        if pairs and own[name].shape[1:] == value.shape[1:] and len(value) == len(theirs):
            to, of = (torch.tensor(side) for side in zip(*pairs, strict=True))
            rows[name] = own[name].clone().index_copy_(0, to, value[of].to(own[name].dtype))
    return rows


def _first(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
