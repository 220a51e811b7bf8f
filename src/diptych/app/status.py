"""Which system has what: the matrix of all systems against seven columns, derived from what was recorded.

Two kinds of files tell: `results/tests.json`, what the tests marked with `shows` came to (`pytest --record` writes it),
and `results/claims/ID/NAME.json`, one measured claim each (`diptych claim ID` writes it). Nothing else fills a cell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from diptych import methods
from diptych.card import Claim
from diptych.config import from_dict

SYSTEMS = Path(__file__).parent / "assets" / "systems.json"
TESTS = Path("results", "tests.json")
CLAIMS = Path("results", "claims")
CLAIM = "C"
CONFIRMED, NOT_CONFIRMED = "confirmed", "not confirmed"


@dataclass(frozen=True)
class Column:
    """A column of the matrix: its name, and what a system must bring to fill it."""

    name: str
    takes: str


COLUMNS: dict[str, Column] = {
    "R": Column("recipe", "the preset `paper` holds the paper's settings and builds with its number of parameters"),
    "F": Column("faithful", "its equations give values found by hand, and in the limiting case it is its baseline"),
    "P": Column("parity", "its outputs equal those of the paper's code or of a maintained library on the same input"),
    "T": Column("trains", "learns a few samples by heart, trains by command on real data, resumes bit for bit"),
    "E": Column(
        "evaluated", "the tasks of its paper measure it, and find what it has learned from scenes of the world"
    ),
    CLAIM: Column(
        "claim", "beats its baseline where its card says so: same budget, several seeds, 95 % interval off 0"
    ),
    "L": Column("loads", "starts from public pretrained towers by name; official checkpoints where there are any"),
}


class State(Enum):
    """What a cell shows. The value is its symbol."""

    SHOWN = "●"
    PARTLY = "◐"
    FAILED = "✗"
    EMPTY = ""


MEANING: dict[State, str] = {
    State.SHOWN: "all of its tests passed, or its claims were confirmed",
    State.PARTLY: "some of its tests were skipped, or a claim is not measured as the card has it now",
    State.FAILED: "a test failed, or a claim was not confirmed",
    State.EMPTY: "nothing shows it yet",
}


@dataclass(frozen=True)
class System:
    """A published system."""

    id: str
    title: str
    year: int
    family: str
    arxiv: str

    @property
    def name(self) -> str:
        """The title up to its first colon."""
        return self.title.partition(": ")[0]


@dataclass(frozen=True)
class Shown:
    """A test function with all of its cases."""

    file: str
    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Cell:
    """What is known of one column of one system: marked tests, or for column C the measured claims."""

    tests: tuple[Shown, ...] = ()
    claims: tuple[Mapping[str, Any], ...] = ()
    """what `results/claims/ID/NAME.json` hold; their "verdict" and "summary" are read"""
    outdated: frozenset[str] = frozenset()
    """names of claims of which the card says something else by now than what was measured, or that were not measured"""

    @property
    def state(self) -> State:
        """Full only when everything that was marked for it passed, and something was."""
        if any(claim["verdict"] != CONFIRMED for claim in self.claims if claim.get("name") not in self.outdated):
            return State.FAILED
        if self.claims:
            return State.PARTLY if self.outdated else State.SHOWN
        if any(test.failed for test in self.tests):
            return State.FAILED
        if not any(test.passed for test in self.tests):
            return State.EMPTY
        return State.PARTLY if any(test.skipped for test in self.tests) else State.SHOWN


@dataclass(frozen=True)
class Line:
    """A row of the matrix."""

    system: System
    cells: Mapping[str, Cell]
    """one a column"""

    @property
    def has_code(self) -> bool:
        """Whether it is a method of this library, or shown in some other way to be there."""
        return self.system.id in methods.IDS or any(cell.state is not State.EMPTY for cell in self.cells.values())


@dataclass(frozen=True)
class Matrix:
    """The systems, in the order of their families, and beside them the methods that are no system: baselines, peers."""

    systems: tuple[Line, ...]
    peers: tuple[Line, ...]

    @property
    def lines(self) -> tuple[Line, ...]:
        """All rows."""
        return self.systems + self.peers

    @property
    def with_code(self) -> tuple[Line, ...]:
        """The systems that have code."""
        return tuple(line for line in self.systems if line.has_code)


@cache
def systems() -> tuple[System, ...]:
    """The systems that this library is to hold, in the order of their families."""
    return tuple(System(**fields) for fields in json.loads(SYSTEMS.read_text(encoding="utf-8")))


def peers() -> tuple[System, ...]:
    """The methods of this library that are none of the systems."""
    listed = {system.id for system in systems()}
    cards = (methods.card(id) for id in methods.IDS if id not in listed)
    return tuple(System(card.id, card.title, card.year, card.family, card.arxiv) for card in cards)


def known() -> list[str]:
    """The ids that a test or a claim can speak of."""
    return [system.id for system in (*systems(), *peers())]


def read(root: Path) -> Matrix:
    """The matrix of a checkout.

    Raises:
        FileNotFoundError: `root` is no checkout, or no test was recorded there.
        ValueError: a claim lacks its verdict or its summary.
    """
    path = root / TESTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: name a checkout with --root, or record with `pytest --record`.")
    claims: dict[str, list[Mapping[str, Any]]] = {}
    for file in sorted((root / CLAIMS).glob("*/*.json")):
        claims.setdefault(file.parent.name, []).append(_claim(file))
    return matrix(json.loads(path.read_text(encoding="utf-8")), claims)


def matrix(recorded: Mapping[str, Mapping[str, Any]], claims: Mapping[str, Sequence[Mapping[str, Any]]]) -> Matrix:
    """The matrix from what was recorded.

    Args:
        recorded: test -> {"shows": {column: ids}, "outcome": "passed", "failed" or "skipped"}.
        claims: id -> [{"name", "verdict": "confirmed" or "not confirmed", "summary": a sentence, "claim": its fields}].
    """

    def line(system: System) -> Line:
        cells = {
            column: Cell(_tests(name for name in recorded if system.id in recorded[name]["shows"].get(column, ())))
            for column in COLUMNS
        }
        if system.id in claims:
            cells[CLAIM] = Cell(claims=tuple(claims[system.id]), outdated=_outdated(system.id, claims[system.id]))
        return Line(system, cells)

    def _tests(names: Iterable[str]) -> tuple[Shown, ...]:
        found: dict[str, dict[str, int]] = {}
        for name in names:
            counts = found.setdefault(name.partition("[")[0], {})
            outcome = recorded[name]["outcome"]
            counts[outcome] = counts.get(outcome, 0) + 1
        split = {name: name.partition("::") for name in found}
        return tuple(Shown(split[name][0], split[name][2], **counts) for name, counts in found.items())

    return Matrix(tuple(map(line, systems())), tuple(map(line, peers())))


def unchanged(measured: Mapping[str, Any], claim: Claim) -> bool:
    """Whether a result is of the claim as it stands on the card now."""
    try:
        return from_dict(Claim, measured.get("claim") or {}) == claim
    except (TypeError, ValueError):  # a claim of an older form, or none
        return False


def _outdated(id: str, measured: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    if id not in methods.IDS:
        return frozenset()
    now, found = methods.card(id).claims, {str(one.get("name")): one for one in measured}
    same = {name for name in now if name in found and unchanged(found[name], now[name])}
    return frozenset((now.keys() | found.keys()) - same)


def _claim(file: Path) -> Mapping[str, Any]:
    claim: dict[str, Any] = {"name": file.stem, **json.loads(file.read_text(encoding="utf-8"))}
    if claim.get("verdict") not in (CONFIRMED, NOT_CONFIRMED) or not claim.get("summary"):
        raise ValueError(f"{file} must have a summary and the verdict {CONFIRMED!r} or {NOT_CONFIRMED!r}.")
    return claim
