"""What a task hands back: its figures, and the values of single samples behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diptych.evaluation.statistics import Estimate

Column = Sequence[Any] | np.ndarray


@dataclass(frozen=True)
class Measure:
    """One figure: its name, the estimate with its interval, and what guessing would give."""

    metric: str
    estimate: Estimate
    chance: float = math.nan


@dataclass(frozen=True)
class Result:
    """The figures of a task and a table of its samples.

    `samples` maps column names to equally long columns. A column that is named like a metric holds the values whose
    mean (or median, or mean per class) the metric is; NaN and None say that a row has no such value.
    """

    measures: list[Measure]
    samples: Mapping[str, Column] = field(default_factory=dict)
    how: str = ""
    """prompts, and the version of what reads answers, where there are such"""


def stacked(*tables: Mapping[str, Column]) -> dict[str, list[Any]]:
    """Tables one below the other; a column that a table lacks is None there."""
    names = list(dict.fromkeys(name for table in tables for name in table))
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for table in tables:
        rows = len(next(iter(table.values()))) if table else 0
        for name in names:
            columns[name] += list(table.get(name, [None] * rows))
    return columns


def read_samples(path: Path) -> dict[str, np.ndarray]:
    """The inverse of `write_samples`: columns of objects or numbers, NaN where a value is missing."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return {name: table.column(name).to_numpy() for name in table.column_names}


def write_samples(samples: Mapping[str, Column], path: Path) -> None:
    """Writes a table of samples as Parquet; NaN becomes null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: pa.array(list(values), from_pandas=True) for name, values in samples.items()}
    pq.write_table(pa.table(columns), path)
