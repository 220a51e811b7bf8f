"""Checkpoints: a folder of safetensors and JSON, whole or not there at all.

    model.safetensors, config.json   the method to take away (averaged weights where the recipe asks for an average)
    state.safetensors                optimiser moments, averaged weights, and those weights that `model` does not hold
    state.json                       step, stage, best, rows, identity of the run, sizes of the files of tensors

A folder is written under another name, brought to the disk, and then renamed, so that a crash at any moment leaves
the old checkpoint or the new one. Nothing is pickled. A method saves the weights that it is given with its own
`save_pretrained`, which must keep their names and values (it may leave some out).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor

from diptych.training.snapshot import Snapshot
from diptych.training.state import describe
from diptych.version import __version__

_STATE = "state.safetensors"
_FACTS = "state.json"


@runtime_checkable
class SavesItself(Protocol):
    """A method that knows how to save itself."""

    def save_pretrained(self, folder: Path, *, state_dict: dict[str, Tensor]) -> Any:
        """Writes `model.safetensors` with these weights, since its own ones go on changing, and `config.json`."""
        ...


class SaveFailed(OSError):
    """A checkpoint could not be written; the message is one sentence with what to do."""

    def __str__(self) -> str:
        return str(self.args[0])


class DamagedCheckpoint(ValueError):
    """A checkpoint whose files are not those that were written."""


class Saved(NamedTuple):
    """What `read` finds: `facts` and `tensors` of the run, and `weights` as a state_dict."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]
    weights: dict[str, Tensor]


def write(taken: Snapshot, folder: Path) -> None:
    """Saves what was taken of a run as `folder`, in place of the checkpoint that is there.

    Raises:
        SaveFailed: the disk is full or refuses; the checkpoint that was there is untouched.
    """
    partial = _beside(folder, "partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_files(taken, partial)
        _sync(partial)
        _swap(partial, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        kept = f"that of step {_step(folder)} is kept" if (folder / _FACTS).is_file() else "there is none yet"
        raise SaveFailed(
            f"the checkpoint of step {taken.facts['step']} could not be written to {folder} ({error}); {kept}: "
            f"make room on the disk, then run the same command again to go on."
        ) from error


def find(folder: Path) -> Path | None:
    """The checkpoint called `folder`, or None; puts right what a crash between two renames has left."""
    previous = _beside(folder, "previous")
    if not folder.exists() and previous.exists():
        os.replace(previous, folder)
    return folder if (folder / _FACTS).is_file() else None


def read(folder: Path) -> Saved:
    """Reads a checkpoint, with tensors on the CPU.

    Raises:
        DamagedCheckpoint: a file is missing or has another size than was written.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        for name, size in facts["files"].items():
            if (folder / name).stat().st_size != size:
                raise DamagedCheckpoint(f"{folder / name} has not the {size} bytes that were written: delete {folder}.")
        state = load_file(folder / _STATE)
        weights = {name: value for path in _models(folder) for name, value in load_file(path).items()}
    except (OSError, KeyError, json.JSONDecodeError, SafetensorError) as error:
        raise DamagedCheckpoint(f"the checkpoint {folder} cannot be read ({error!r}): delete it.") from error
    weights = {name: value for name, value in weights.items() if name in facts["shapes"]}
    weights |= {name.removeprefix("weight/"): v for name, v in state.items() if name.startswith("weight/")}
    return Saved(facts, {name: v for name, v in state.items() if not name.startswith("weight/")}, weights)


def _write_files(taken: Snapshot, folder: Path) -> None:
    _write_method(taken, folder)
    exported = {name for path in _models(folder) for name in _names(path)}
    tensors = dict(taken.tensors)
    for name, value in taken.weights.items():
        if name not in exported or name in taken.averaged:
            tensors[f"weight/{name}"] = value.clone()  # safetensors refuses shared memory, as that of a tied weight
    save_file(tensors, folder / _STATE)
    facts = taken.facts | {
        "versions": {
            "diptych": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "files": {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))},
    }
    (folder / _FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_method(taken: Snapshot, folder: Path) -> None:
    weights = taken.exported
    if isinstance(taken.method, SavesItself):
        taken.method.save_pretrained(folder, state_dict=weights)
        return
    # all that `save_model` asks of a model is its state_dict; it sees to tied weights
    save_model(SimpleNamespace(state_dict=lambda: weights), str(folder / "model.safetensors"))  # type: ignore[arg-type]
    (folder / "config.json").write_text(json.dumps(describe(taken.method), indent=2) + "\n", encoding="utf-8")


def _models(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.safetensors")) if path.name != _STATE]


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _step(folder: Path) -> int:
    return int(json.loads((folder / _FACTS).read_text(encoding="utf-8"))["step"])


def _beside(folder: Path, word: str) -> Path:
    return folder.with_name(f".{folder.name}.{word}")


def _swap(partial: Path, folder: Path) -> None:
    previous = _beside(folder, "previous")
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        os.replace(folder, previous)  # from here to the next rename, `find` takes the previous one
    os.replace(partial, folder)
    _sync_path(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync_path(path)
    _sync_path(folder)


def _sync_path(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
