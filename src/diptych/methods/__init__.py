"""The methods, one file a paper. This is the one lookup table: id -> module.

Cards are read from the source without importing it, so that listing methods needs neither torch nor a second.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from diptych.card import Card, Claim
from diptych.config import from_dict, nearest

if TYPE_CHECKING:
    from torch import nn

    from diptych.recipe import Preset

IDS: dict[str, str] = {
    "clip": "diptych.methods.contrastive.clip",
    "siglip": "diptych.methods.contrastive.siglip",
    "filip": "diptych.methods.contrastive.filip",
    "uniter": "diptych.methods.fusion.uniter",
    "lxmert": "diptych.methods.fusion.lxmert",
    "alpro": "diptych.methods.fusion.alpro",
    "fiber": "diptych.methods.fusion.fiber",
    "limber": "diptych.methods.generative.limber",
    "instructblip": "diptych.methods.generative.instructblip",
    "pllava": "diptych.methods.generative.pllava",
    "prior": "diptych.methods.generative.prior",
    "coop": "diptych.methods.adaptation.coop",
    "maple": "diptych.methods.adaptation.maple",
    "ctp": "diptych.methods.continual.ctp",
    "clip2point": "diptych.methods.points.clip2point",
}


def card(id: str) -> Card:
    """The card of a method, read from the literal `CARD = Card(...)` of its module.

    Raises:
        ValueError: no such method; the message names the nearest.
    """
    return _read_card(_module_name(id))


def cards() -> list[Card]:
    """All cards, in the order of the table."""
    return [card(id) for id in IDS]


def module(id: str) -> ModuleType:
    """The imported module of a method."""
    return importlib.import_module(_module_name(id))


def config_class(id: str) -> type:
    """The dataclass of a method's options."""
    found: type = module(id).Config
    return found


def presets(id: str) -> dict[str, Preset]:
    """Named configurations of a method with their recipes; `paper` has the paper's sizes."""
    found: dict[str, Preset] = module(id).PRESETS
    return found


def method_class(id: str) -> type[nn.Module]:
    """The class of a method: the one in its module that carries the module's card."""
    source = module(id)
    classes = [c for c in vars(source).values() if isinstance(c, type) and getattr(c, "card", None) is source.CARD]
    found: type[nn.Module] = classes[0]
    return found


def build(id: str, config: Any = None, *, weights: bool = True) -> nn.Module:
    """A method with fresh weights, from its Config, a dictionary of its fields, or the defaults.

    `weights=False` leaves out the pretrained weights of named encoders: for building on the meta device, or where a
    checkpoint is loaded next.
    """
    if config is None or not dataclasses.is_dataclass(config):
        config = from_dict(config_class(id), config or {})
    return method_class(id)(config, weights=weights)


def _module_name(id: str) -> str:
    if id not in IDS:
        raise ValueError(nearest(id, IDS, "method called"))
    return IDS[id]


@cache
def _read_card(name: str) -> Card:
    # the file is found from this package: importlib.util.find_spec would import the parents
    path = Path(__file__).parent.joinpath(*name.split(".")[2:]).with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _targets(node) == ["CARD"]:
            values = {word.arg: _literal(word.value) for word in node.value.keywords if word.arg}
            return Card(**values)
    raise ValueError(f"{path.name} has no CARD = Card(...) with literal values.")


def _literal(node: ast.expr) -> Any:
    """The value of a literal, also where it holds `Claim(...)` with literal arguments."""
    if isinstance(node, ast.Dict):
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Claim":
        return Claim(**{word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg})
    return ast.literal_eval(node)


def _targets(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]
