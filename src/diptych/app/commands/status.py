"""`diptych status`: which system has what, derived from recorded tests and measured claims."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from diptych.app import options

if TYPE_CHECKING:
    from diptych.app.status import Line, Matrix


@dataclass(frozen=True)
class Options:
    """Show which of the published systems has what: recipe, faithful, parity, trains, evaluated, claim, loads."""

    system: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[ID]")] = ""
    """tell what shows each cell of this system; default: the matrix of all"""
    root: Path = Path(".")
    """checkout of the library; what was recorded lies in its `results`"""
    write: bool = False
    """write the table of README.md and docs/status.md"""
    json: bool = False
    """print cells and evidence as JSON"""


def run(args: Sequence[str]) -> int:
    """Prints the matrix, or writes it where people read it."""
    chosen = options.parse(Options, args, "status")
    from diptych.app import status, status_page, terminal
    from diptych.config import nearest

    matrix = status.read(chosen.root)
    if chosen.system and chosen.system not in status.known():
        raise ValueError(nearest(chosen.system, status.known(), "system called"))
    lines = [line for line in matrix.lines if chosen.system in ("", line.system.id)]
    if chosen.write:
        for path, text in status_page.texts(matrix, chosen.root).items():
            path.write_text(text, encoding="utf-8")
            terminal.say(f"Written: {path}")
    elif chosen.json:
        print(json_module.dumps([_plain(line) for line in lines], indent=1, ensure_ascii=False))
    elif chosen.system:
        _print_one(lines[0])
    else:
        _print(matrix)
    return 0


def _print(matrix: Matrix) -> None:
    from diptych.app import terminal
    from diptych.app.status import COLUMNS

    def row(line: Line, family: str) -> tuple[str, ...]:
        return line.system.id, line.system.name, family, *(cell.state.value for cell in line.cells.values())

    rows = [row(line, line.system.family) for line in matrix.systems] + [row(line, "(peer)") for line in matrix.peers]
    terminal.table(("id", "system", "family", *COLUMNS), rows)
    terminal.say(", ".join(f"{letter} {column.name}" for letter, column in COLUMNS.items()))
    terminal.say(f"{len(matrix.with_code)} of {len(matrix.systems)} systems have code; `diptych status ID` tells more.")


def _print_one(line: Line) -> None:
    from diptych.app import status_page, terminal
    from diptych.app.status import COLUMNS

    rows = [
        (f"{letter} {COLUMNS[letter].name}", cell.state.value, "\n".join(status_page.shown_by(cell)))
        for letter, cell in line.cells.items()
    ]
    terminal.table(("column", "", "shown by"), rows, title=line.system.title)


def _plain(line: Line) -> dict[str, Any]:
    cells = {
        letter: {
            "state": cell.state.name.lower(),
            "tests": [asdict(test) for test in cell.tests],
            "claims": cell.claims,
        }
        for letter, cell in line.cells.items()
    }
    return {**asdict(line.system), "code": line.has_code, "cells": cells}
