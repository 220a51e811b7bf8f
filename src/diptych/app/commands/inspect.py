"""`diptych inspect SRC`: looks at a data set before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.app import options
from diptych.data.raw import Reading

if TYPE_CHECKING:
    from diptych.data.inspect import Inspection


@dataclass(frozen=True)
class Options:
    """Look at a data set: fields, sizes, captions, broken samples, duplicates, leaks between splits, a contact
    sheet, and which methods can learn from it. Anything that `pack` reads, and shards, can be looked at.
    """

    source: options.Source
    """starter, world:KNOB=VALUE,..., a folder, a CSV or Parquet table, annotations, a .tar, hf:NAME"""
    limit: int = 0
    """look at the first so many samples only; 0 looks at all"""
    sheet: str = ""
    """file for the contact sheet; default: NAME-sheet.png"""
    pictures: int = 24
    """pictures on the contact sheet; 0 makes none"""
    json: bool = False
    """print everything as JSON"""
    reading: Reading = field(default_factory=Reading)


def run(args: Sequence[str]) -> int:
    """Prints what was found and writes the contact sheet."""
    chosen = options.parse(Options, args, "inspect")
    from diptych import methods
    from diptych.app import sources, terminal
    from diptych.data.inspect import inspect

    source: Any = sources.open_splits(chosen.source) if sources.is_named(chosen.source) else chosen.source
    with terminal.progress("looking") as progress:
        found = inspect(
            source,
            methods.cards(),
            chosen.reading,
            limit=chosen.limit,
            pictures=chosen.pictures,
            progress=progress,
        )
    sheet = _write_sheet(found, chosen.sheet)
    if chosen.json:
        print(found.to_json(), end="")
        return 0
    terminal.show(found)
    if sheet:
        terminal.say(f"Contact sheet: {sheet}")
    return 0


def _write_sheet(found: Inspection, name: str) -> Path | None:
    if not found.shown:
        return None
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in Path(found.name).stem)
    path = Path(name or f"{plain or 'data'}-sheet.png")
    found.contact_sheet().save(path)
    return path
