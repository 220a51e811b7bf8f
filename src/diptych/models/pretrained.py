"""`save_pretrained`, `from_pretrained` and `push_to_hub` for every method (huggingface_hub's mixin).

A saved method is a folder with `config.json` (the method's id and the fields of its Config), `model.safetensors`
and, where it has a tokenizer of its own, `tokenizer.json`. Nothing in it is executed when it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor

from diptych.card import Card
from diptych.config import from_dict, to_dict
from diptych.text import one_line
from diptych.version import __version__

_LARGEST_CONFIG = 1 << 20
FILES = ("config.json", "model.safetensors", "tokenizer.json")


class Pretrained(ModelHubMixin, library_name="diptych", tags=["diptych"]):
    """Mixed into a skeleton: saving, loading and sharing of its methods."""

    card: ClassVar[Card]
    config: Any
    passing: ClassVar[tuple[str, ...]] = ()
    """what names begin with of weights that only training needs: a checkpoint of a run holds them, a method does not"""

    def save_pretrained(
        self, save_directory: str | Path, *, state_dict: Mapping[str, Tensor] | None = None, **options: Any
    ) -> str | None:
        """As the mixin's; saves the weights in `state_dict` where it is given (as in transformers), else its own."""
        given = self.state_dict() if state_dict is None else state_dict  # type: ignore[attr-defined]
        weights = {name: value for name, value in given.items() if not name.startswith(self.passing)}
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        # all that `save_model` asks of a model is its state_dict; it sees to tied weights
        model: Any = SimpleNamespace(state_dict=lambda: weights)
        save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
        return super().save_pretrained(folder, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        folder = Path(save_directory)
        description = {"method": self.card.id, "config": to_dict(self.config), "diptych": __version__}
        (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        self.save_assets(folder)

    @classmethod
    def _from_pretrained(  # the signature is the mixin's
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **_: Any,
    ) -> Self:
        folder = Path(model_id)
        if not folder.is_dir():
            found = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=list(FILES),
            )
            folder = Path(found)
        description = read_description(folder)
        if description["method"] != cls.card.id:
            raise ValueError(f"{model_id} holds the method {description['method']!r}, not {cls.card.id!r}.")
        config_class = cls.__init__.__annotations__["config"]
        if isinstance(config_class, str):
            config_class = vars(__import__(cls.__module__, fromlist=["Config"]))["Config"]
        config = from_dict(config_class, description["config"])
        _check_sizes(cls, config, folder / "model.safetensors")
        method = cls(config, weights=False)  # type: ignore[call-arg]
        method.load_assets(folder)
        absent, unknown = load_model(method, folder / "model.safetensors", strict=False)  # type: ignore[arg-type]
        lost = sorted(name for name in (*absent, *unknown) if not name.startswith(cls.passing))
        if lost:
            raise ValueError(f"{folder} is damaged: {one_line(lost[0], 80)} is in the weights or in the model alone.")
        method.begin_anew()
        return method.eval()  # type: ignore[attr-defined, no-any-return]

    def save_assets(self, folder: Path) -> None:
        """Writes what the method needs beside its weights, such as a tokenizer."""

    def load_assets(self, folder: Path) -> None:
        """The inverse of `save_assets`."""

    def begin_anew(self) -> None:
        """Makes what is `passing` anew, from the weights that were loaded."""


def read_description(folder: Path) -> dict[str, Any]:
    """`config.json` of a saved method.

    Raises:
        FileNotFoundError: the folder holds no saved method; the message says what does.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no saved method (no config.json); give a run or a folder made by it.")
    if path.stat().st_size > _LARGEST_CONFIG:
        raise ValueError(f"{path} has more than {_LARGEST_CONFIG:,} bytes: it is no configuration.")
    try:
        description: dict[str, Any] = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}).") from None
    if not isinstance(description, dict) or not isinstance(description.get("method"), str):
        raise FileNotFoundError(f"{path} is not from diptych: it names no method.")
    if not isinstance(description.get("config"), dict):
        raise ValueError(f"{path} is damaged: it holds no options of the method.")
    return description


def _check_sizes(method: Any, config: Any, weights: Path) -> None:
    """Compares what the options lead to with what the weights are, before memory is spent on either.

    Raises:
        ValueError: they do not fit, or the file of the weights is damaged.
    """
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} does not exist or is no plain file.")
    try:
        with safe_open(weights, framework="pt") as file:
            there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{weights} is no whole safetensors file ({error}).") from None
    try:
        with torch.device("meta"):
            made = {name: tuple(value.shape) for name, value in method(config, weights=False).state_dict().items()}
    except (RuntimeError, ArithmeticError, TypeError) as error:
        raise ValueError(f"the options beside {weights} make no model ({one_line(str(error))}).") from None
    for name, shape in there.items():
        if made.get(name) != shape:
            raise ValueError(
                f"{weights} does not fit the options beside it: {one_line(name, 80)} is {shape} there, and by the "
                f"options {made.get(name, 'nothing')}."
            )
