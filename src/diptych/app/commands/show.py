"""`diptych show ID`: all about one method."""

from __future__ import annotations

import dataclasses
import inspect
import json as json_module
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diptych import methods
from diptych.app import options


@dataclass(frozen=True)
class Options:
    """Tell all about one method: paper, idea, what it needs, its options with their defaults, its presets."""

    method: options.Id
    """id of the method, as `diptych methods` lists them"""
    json: bool = False
    """print the card, the defaults and the presets as JSON"""


def run(args: Sequence[str]) -> int:
    """Prints the method's docstring, card, options and presets."""
    chosen = options.parse(Options, args, "show")
    card = methods.card(chosen.method)
    config = methods.config_class(card.id)()
    presets = methods.presets(card.id)
    if chosen.json:
        told = {
            "card": dataclasses.asdict(card),
            "config": dataclasses.asdict(config),
            "presets": {name: dataclasses.asdict(preset) for name, preset in presets.items()},
        }
        print(json_module.dumps(told, indent=1, ensure_ascii=False))
        return 0
    from diptych.app import terminal

    terminal.say(inspect.cleandoc(methods.module(card.id).__doc__ or card.idea))
    terminal.table(("", ""), _card_rows(card))
    about = options.docstrings(type(config))
    fields = [(f.name, _short(getattr(config, f.name)), about.get(f.name, "")) for f in dataclasses.fields(config)]
    terminal.table(("option", "default", "meaning"), fields)
    for name, preset in presets.items():
        terminal.say(f"--preset {name}: {preset.about}")
        changed = _changed(preset.config, config) + _changed(preset.recipe, type(preset.recipe)())
        terminal.table(("option", "value"), changed)
    terminal.say(f"Train it: diptych train {card.id} --data starter --out runs/{card.id}")
    return 0


def _card_rows(card: Any) -> list[tuple[str, str]]:
    return [
        ("id", card.id),
        ("year", str(card.year)),
        ("paper", f"https://arxiv.org/abs/{card.arxiv}"),
        ("family", card.family),
        ("needs", ", ".join(card.needs)),
        ("baseline", card.baseline or "none"),
    ]


def _changed(ours: Any, usual: Any) -> list[tuple[str, str]]:
    """The fields of a preset that differ from the defaults."""
    values = ((field.name, getattr(ours, field.name)) for field in dataclasses.fields(ours))
    return [(name, _short(value)) for name, value in values if value != getattr(usual, name)]


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
