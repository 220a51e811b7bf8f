"""On which samples contestants disagree most: a choice over the tables of samples that evaluations write.

A table of samples maps column names to equally long columns. A row goes by its `key`, its `text` (the caption or the
phrase that was asked, where there is such a column) and the number of equal rows before it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any
from zlib import crc32

Table = Mapping[str, Sequence[Any]]
Name = tuple[str, str, int]


@dataclass(frozen=True)
class Case:
    """One row of the tables, as all contestants did there."""

    key: str
    text: str
    """what was asked; empty where the sample as a whole is judged"""
    number: int
    """how many rows with the same key and text stand before it"""
    values: tuple[tuple[float, ...], ...]
    """of each contestant, one a seed"""
    details: tuple[tuple[Any, ...], ...] = ()
    """of each contestant, one a seed: the rank of the right answer, or the class that was guessed; nothing where the
    tables have neither"""

    def gain(self, other: int) -> float:
        """How much better a contestant does than the first, in the mean over seeds."""
        return fmean(self.values[other]) - fmean(self.values[0])

    def ranks_apart(self, other: int) -> float:
        """How far apart the mean ranks of the right answer are; 0 where there are none."""
        ranks = [[float(rank) for rank in of if isinstance(rank, int | float)] for of in self.details]
        return abs(fmean(ranks[other]) - fmean(ranks[0])) if all(ranks) and ranks else 0.0


def read(folder: Path, task: str) -> Table:
    """The table of samples of a task in a folder of results; empty where the task was not judged there."""
    import pyarrow.parquet as pq

    path = folder / "samples" / f"{task}.parquet"
    return dict(pq.read_table(path).to_pydict()) if path.is_file() else {}


def cases(tables: Sequence[Sequence[Table]], metric: str) -> list[Case]:
    """The rows that every run was judged on, in the order of the first table.

    Args:
        tables: of each contestant, one a seed, of one task on one data set.
        metric: the column of values; larger is better. Rows without a value are left out.
    """
    places = [[_places(table, metric) for table in of] for of in tables]
    shared = [name for name in places[0][0] if all(name in run for of in places for run in of)] if all(places) else []
    detail = next((name for name in _details(metric) if all(name in table for of in tables for table in of)), "")

    def column(name: str, row: Name) -> tuple[tuple[Any, ...], ...]:
        return tuple(
            tuple(table[name][place[row]] for table, place in zip(of, where, strict=True))
            for of, where in zip(tables, places, strict=True)
        )

    return [Case(*row, column(metric, row), column(detail, row) if detail else ()) for row in shared]


def most(found: Sequence[Case], other: int, at_most: int = 12) -> tuple[list[Case], list[Case]]:
    """The cases in which a contestant does much better, and those in which it does much worse, than the first.

    They are ordered by the difference of the means over seeds, equal ones by how far apart the ranks of the right
    answer are, and then as if by lot, since neighbours in a data set are alike. A sample is shown once, by its first.

    Args:
        found: what to choose from.
        other: which contestant is compared with the first, counted from 0.
        at_most: how many cases each way.

    Returns:
        Where the other is better, and where the first is, the largest difference first; none without a difference.
    """
    ordered = sorted(
        found, key=lambda case: (-abs(case.gain(other)), -case.ranks_apart(other), crc32(repr(case).encode()))
    )
    better = _once_a_sample(case for case in ordered if case.gain(other) > 0)
    worse = _once_a_sample(case for case in ordered if case.gain(other) < 0)
    return better[:at_most], worse[:at_most]


def _once_a_sample(ordered: Iterable[Case]) -> list[Case]:
    found: dict[str, Case] = {}
    for case in ordered:
        found.setdefault(case.key, case)
    return list(found.values())


def _places(table: Table, metric: str) -> dict[Name, int]:
    """Where each row that has a value stands."""
    found: dict[Name, int] = {}
    seen: Counter[tuple[str, str]] = Counter()
    length = len(table.get(metric, ()))
    texts = table.get("text", [None] * length)
    for place in range(length):
        name = str(table["key"][place]), str(texts[place] or "")
        value = table[metric][place]
        if value is not None and math.isfinite(value):
            found[*name, seen[name]] = place
        seen[name] += 1
    return found


def _details(metric: str) -> tuple[str, ...]:
    """Columns that say more of a value of a metric, the best first."""
    return f"{metric.removesuffix('_r1')}_median_rank", "predicted"
