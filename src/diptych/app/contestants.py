"""The sides of a comparison as they are typed: `filip`, `filip:keep=0.5`, `clip:preset=paper,batch=256`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from diptych import methods
from diptych.app import options
from diptych.config import nearest
from diptych.recipe import Preset, Recipe

_OPTION = re.compile(r",(?=\s*[\w-]+=)")  # a comma that begins an option, not one within a value


@dataclass(frozen=True)
class Side:
    """One contestant, read: how it was typed, the method, its options and its recipe."""

    label: str
    method: str
    config: Any
    recipe: Recipe


def sides(texts: Sequence[str], settings: Sequence[str] = ()) -> list[Side]:
    """Reads all contestants. `settings` (`key=value`) hold for each that has the option; its own options come after.

    Raises:
        ValueError: two are the same, a method or an option does not exist, or a value is not of the option's type.
    """
    doubled = [text for text in dict.fromkeys(texts) if list(texts).count(text) > 1]
    if doubled:
        raise ValueError(f"{doubled[0]!r} is named twice: give one of them other options, as in {doubled[0]}:lr=5e-4.")
    common, used = options_of(",".join(settings)), set[str]()
    read = [_side(text, common, used) for text in texts]
    for name in common:
        if name not in used:
            known = {known for side in read for known in _names(methods.config_class(side.method))}
            raise ValueError(nearest(name, known, "option called"))
    return read


def side(text: str, settings: Sequence[str] = ()) -> Side:
    """Reads one contestant; see `sides`."""
    return sides([text], settings)[0]


def options_of(text: str) -> dict[str, str]:
    """`keep=0.5,crop=0.5 1` -> {"keep": "0.5", "crop": "0.5 1"}.

    Raises:
        ValueError: a part has no `=`.
    """
    found = {}
    for part in filter(None, (part.strip() for part in _OPTION.split(text))):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{part!r} is not an option: write it as NAME=VALUE, several with commas between.")
        found[name.strip().replace("-", "_")] = value.strip()
    return found


def preset_of(method: str, name: str | None) -> Preset:
    """A named configuration of a method, or its defaults where no name is given.

    Raises:
        ValueError: the method has no preset of that name.
    """
    if not name:
        return Preset(methods.config_class(method)())
    presets = methods.presets(method)
    if name not in presets:
        raise ValueError(nearest(name, presets, f"preset of {method} called"))
    return presets[name]


def _side(text: str, common: dict[str, str], used: set[str]) -> Side:
    method, _, own_text = text.partition(":")
    known = _names(methods.config_class(method))
    own = options_of(own_text)
    for name in own:
        if name not in known:
            raise ValueError(nearest(name, known, f"option of {method} called"))
    used |= common.keys() & known
    chosen = {name: value for name, value in common.items() if name in known} | own
    preset = preset_of(method, chosen.pop("preset", None))
    groups: list[Any] = [
        ("config", type(preset.config), field(default=preset.config)),
        ("recipe", Recipe, field(default=preset.recipe)),
    ]
    read: Any = options.parse(make_dataclass("Side", groups, frozen=True), _typed(chosen), text)
    return Side(text, method, read.config, read.recipe)


def _names(config_class: type) -> set[str]:
    return {f.name for cls in (config_class, Recipe) for f in fields(cls)} | {"preset"}


def _typed(chosen: dict[str, str]) -> list[str]:
    """The options as arguments of a command line, which knows their types."""
    arguments = []
    for name, value in chosen.items():
        flag = name.replace("_", "-")
        if value.lower() in ("true", "false"):
            arguments.append(f"--{flag}" if value.lower() == "true" else f"--no-{flag}")
        else:
            arguments += [f"--{flag}", *shlex.split(value.replace("\\", "\\\\"))]
    return arguments
