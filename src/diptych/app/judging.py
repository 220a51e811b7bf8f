"""From the runs of a comparison to its figures: means over seeds, and paired differences to the first contestant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.app import measure
from diptych.app.comparison import Difference, Score
from diptych.app.runs import Run
from diptych.evaluation.statistics import holm, mean_over_seeds, paired_difference, permutation_test
from diptych.results import Row

if TYPE_CHECKING:
    from diptych.data.dataset import Dataset


@dataclass(frozen=True)
class Table:
    """Single values behind a metric: (S, n) seeds by samples, and the (n,) keys of the samples."""

    values: np.ndarray
    keys: np.ndarray


def judge(by_label: Mapping[str, Sequence[Run]], judged: Sequence[Dataset]) -> tuple[list[Score], list[Difference]]:
    """Scores of all contestants and their differences to the first.

    Args:
        by_label: the runs of each contestant, one a seed, in one order of the seeds.
        judged: the data sets, in the order in which the runs were judged on them.

    A metric whose values per sample are known (its mean over them is the figure) gets intervals over seeds and samples,
    and is paired; another one (a median, a distance of means) gets mean and interval over the seeds alone.
    """
    scores: list[Score] = []
    differences: list[Difference] = []
    labels = list(by_label)
    for row in _metrics(by_label):
        found = {label: tables(by_label[label], judged, row) for label in labels}
        scores += [score for label in labels if (score := _score(label, by_label[label], row, found[label]))]
        differences += _differences(labels, row, found)
    return scores, differences


def tables(seeds: Sequence[Run], judged: Sequence[Dataset], row: Row) -> Table | None:
    """The values per sample behind a metric with every seed; None where a run has none of them."""
    columns = [_column(_samples(run, judged, row), row.metric) for run in seeds]
    figures = [_figure(run, row) for run in seeds]
    there = [column for column in columns if column is not None]
    if len(there) < len(seeds) or any(not np.array_equal(there[0][0], keys) for keys, _ in there):
        return None
    values = np.stack([values for _, values in there])
    told = [figure.value if figure else np.nan for figure in figures]
    return Table(values, there[0][0]) if np.allclose(values.mean(axis=1), told, atol=1e-6) else None


def _metrics(by_label: Mapping[str, Sequence[Run]]) -> Iterator[Row]:
    """A row for each metric that some run has, in the order of the evaluations."""
    seen: dict[tuple[str, str, str], Row] = {}
    for some in by_label.values():
        for run in some:
            for row in run.rows:
                seen.setdefault((row.data, row.task, row.metric), row)
    yield from seen.values()


def _score(label: str, seeds: Sequence[Run], row: Row, table: Table | None) -> Score | None:
    figures = [figure for run in seeds if (figure := _figure(run, row))]
    if not figures:
        return None
    values = tuple(figure.value for figure in figures)
    if table is not None:
        value, low, high, _ = mean_over_seeds(table.values, clusters=_clusters(table))
    else:
        value, low, high, _ = mean_over_seeds(np.array(values)[:, None])
    return Score(label, row.data, row.task, row.metric, value, low, high, figures[0].n, row.chance, values)


def _differences(labels: Sequence[str], row: Row, found: Mapping[str, Table | None]) -> list[Difference]:
    first = found[labels[0]]
    if first is None:
        return []
    pairs = {}
    for label in labels[1:]:
        other = found[label]
        if other is not None and np.array_equal(other.keys, first.keys):
            clusters = _clusters(first)
            p = permutation_test(other.values, first.values, clusters=clusters)
            pairs[label] = paired_difference(other.values, first.values, clusters=clusters), p
    corrected = holm([p for _, p in pairs.values()])
    about: dict[str, Any] = {"against": labels[0], "data": row.data, "task": row.task, "metric": row.metric}
    return [
        Difference(label, **about, **estimate._asdict(), p=p, p_holm=p_holm)
        for (label, (estimate, p)), p_holm in zip(pairs.items(), corrected, strict=True)
    ]


def _clusters(table: Table) -> np.ndarray | None:
    """Samples of one picture are drawn together; None where each has its own."""
    return table.keys if len(np.unique(table.keys)) < len(table.keys) else None


def _figure(run: Run, row: Row) -> Row | None:
    same = (row.data, row.task, row.metric)
    return next((one for one in run.rows if (one.data, one.task, one.metric) == same), None)


def _samples(run: Run, judged: Sequence[Dataset], row: Row) -> Path:
    """The table of samples of a task: the first data set's lies in the run itself, the others' beside it."""
    index = next(i for i, data in enumerate(judged) if row.data in (data.name, f"{data.name}/{data.split}"))
    folder = run.folder if index == 0 else measure.folder_of(run.folder, judged[index])
    return folder / "samples" / f"{row.task}.parquet"


def _column(path: Path, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Keys and values of the rows that have a value in this column."""
    import pyarrow.parquet as pq

    if not path.is_file() or name not in (schema := pq.read_schema(path)).names or "key" not in schema.names:
        return None
    table = pq.read_table(path, columns=["key", name]).drop_null()
    return np.array(table.column("key").to_pylist()), table.column(name).to_numpy().astype(np.float64)
