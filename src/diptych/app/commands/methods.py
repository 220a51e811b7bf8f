"""`diptych methods`: the methods, without importing one."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from diptych import methods
from diptych.app import options


@dataclass(frozen=True)
class Options:
    """List the methods: who they are, what they need, what they are measured against."""

    json: bool = False
    """print the cards as JSON"""


def run(args: Sequence[str]) -> int:
    """Prints a table with a row a method."""
    chosen = options.parse(Options, args, "methods")
    cards = [methods.card(name) for name in methods.IDS]
    if chosen.json:
        print(json_module.dumps([asdict(card) for card in cards], indent=1, ensure_ascii=False))
        return 0
    from diptych.app import terminal

    columns = ("id", "title", "year", "family", "needs", "baseline")
    rows = [
        (card.id, card.title, str(card.year), card.family, ", ".join(card.needs), card.baseline or "-")
        for card in cards
    ]
    terminal.table(columns, rows)
    terminal.say("`diptych show ID` tells all about one; `diptych train ID --data SRC --out RUN` trains it.")
    return 0
