"""The matrix of `status` as text: the block in README and the page docs/status.md, written from files, not by hand."""

from __future__ import annotations

import re
import textwrap
from itertools import groupby
from pathlib import Path

from diptych.app.status import COLUMNS, MEANING, Cell, Line, Matrix, Shown, State

README = Path("README.md")
PAGE = Path("docs", "status.md")
START, END = "<!-- status -->", "<!-- /status -->"
_HEAD = (f"| system | paper | {' | '.join(COLUMNS)} |", f"|---|---|{':-:|' * len(COLUMNS)}")


def texts(matrix: Matrix, root: Path) -> dict[Path, str]:
    """What the files that show the matrix must hold.

    Raises:
        ValueError: README has no place for it.
    """
    readme = root / README
    return {readme: with_block(readme.read_text(encoding="utf-8"), block(matrix)), root / PAGE: page(matrix)}


def with_block(readme: str, text: str) -> str:
    """README with `text` between the marks.

    Raises:
        ValueError: the marks are not there, once each and in this order.
    """
    parts = re.split(f"{re.escape(START)}|{re.escape(END)}", readme)
    if len(parts) != 3 or readme.find(START) > readme.find(END):
        raise ValueError(f"README must hold the lines {START} and {END} once each: the table goes between them.")
    return f"{parts[0]}{START}\n{text}{END}{parts[2]}"


def block(matrix: Matrix) -> str:
    """README's table: the systems that have code, and the peers; the others as one number."""
    columns = ", ".join(f"{letter} {column.name}" for letter, column in COLUMNS.items())
    legend = (
        f"{columns}. ● shown, ◐ partly, ✗ failed. With code so far: {len(matrix.with_code)} of {len(matrix.systems)} "
        f"systems; [docs/status.md](docs/status.md) lists them all, and what shows each cell."
    )
    rows = [*_HEAD, *(_row(line, "docs/status.md") for line in matrix.with_code)]
    rows += [_row(line, "docs/status.md", ", peer") for line in matrix.peers]
    return "\n".join(["", *rows, "", *textwrap.wrap(legend, 120, break_on_hyphens=False), "", ""])


def page(matrix: Matrix) -> str:
    """docs/status.md: all systems by family, the peers, and what shows each cell."""
    full = sum(cell.state is State.SHOWN for line in matrix.systems for cell in line.cells.values())
    rules = [f"| {letter} | {column.name} | {column.takes} |" for letter, column in COLUMNS.items()]
    parts = [
        "# Status",
        "Written by `diptych status --write` from `results/tests.json` (what the marked tests came to when they were "
        "last recorded) and `results/claims/` (the measured claims). Do not edit it.",
        f"Systems with code: {len(matrix.with_code)} of {len(matrix.systems)}. "
        f"Full cells: {full} of {len(matrix.systems) * len(COLUMNS)}.",
        "\n".join(["| | column | what fills it |", "|:-:|---|---|", *rules]),
        "\n".join(f"- {state.value or 'empty'}: {meaning}" for state, meaning in MEANING.items()),
    ]
    for family, lines in groupby(matrix.systems, key=lambda line: line.system.family):
        parts += [f"## {_capital(family)}", "\n".join([*_HEAD, *map(_row, lines)])]
    parts += ["## Baselines and peers", "Methods that the systems are measured against."]
    parts += ["\n".join([*_HEAD, *map(_row, matrix.peers)]), "## Evidence"]
    parts += [part for line in matrix.lines if line.has_code for part in _evidence(line)]
    return "\n\n".join(parts) + "\n"


def shown_by(cell: Cell) -> list[str]:
    """What fills a cell: the claim, or the tests, file by file."""
    if cell.claims or cell.outdated:
        told = {str(claim.get("name")): claim["summary"] for claim in cell.claims}
        changed = {name: " (Its card has changed since.)" * (name in cell.outdated) for name in told}
        found = [f"`{name}`: {summary}{changed[name]}" for name, summary in told.items()]
        return found + [f"`{name}`: not measured yet" for name in sorted(cell.outdated - set(told))]
    files = groupby(cell.tests, key=lambda test: test.file)
    return [f"`{file}`: {'; '.join(map(_sentence, tests))}" for file, tests in files]


def _evidence(line: Line) -> list[str]:
    filled = {letter: cell for letter, cell in line.cells.items() if cell.state is not State.EMPTY}
    paragraphs = [f"### {line.system.name}"]
    for letter, cell in filled.items():
        heading = f"**{letter} {COLUMNS[letter].name}** {cell.state.value}"
        paragraphs.append("\n".join([heading, "", *(f"- {text}" for text in shown_by(cell))]))
    empty = [column.name for letter, column in COLUMNS.items() if letter not in filled]
    return [*paragraphs, f"Nothing yet: {', '.join(empty)}."] if empty else paragraphs


def _sentence(test: Shown) -> str:
    """`test_padding_changes_nothing` with 2 cases, one failed -> 'padding changes nothing (2 cases, 1 failed)'."""
    cases = test.passed + test.failed + test.skipped
    counts = {"failed": test.failed, "skipped": test.skipped}
    told = [f"{cases} cases"] * (cases > 1) + [f"{number} {what}" for what, number in counts.items() if number]
    words = test.name.removeprefix("test_").replace("_", " ")
    return f"{words} ({', '.join(told)})" if told else words


def _row(line: Line, page: str = "", note: str = "") -> str:
    system = line.system
    anchor = re.sub(r"[^\w -]", "", system.name.lower()).replace(" ", "-")
    name = f"[{system.name}]({page}#{anchor}){note}" if line.has_code else system.name
    states = " | ".join(cell.state.value for cell in line.cells.values())
    return f"| {name} | [{system.year}](https://arxiv.org/abs/{system.arxiv}) | {states} |"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
