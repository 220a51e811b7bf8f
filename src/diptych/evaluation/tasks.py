"""`evaluate`, which runs those of the table of tasks that a method and a data set allow."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diptych.batch import MissingField, missing, require
from diptych.card import Grounds, ScoresPairs, TooLong
from diptych.config import nearest
from diptych.data.dataset import Dataset, Subset
from diptych.data.decode import BrokenSample
from diptych.data.mixture import parts_of
from diptych.evaluation.embed import Bench, CannotEvaluate, History, judging
from diptych.evaluation.forgetting import looked_at
from diptych.evaluation.measures import Result, read_samples, write_samples
from diptych.evaluation.reading import GIVEN, own_fields, with_implied
from diptych.evaluation.table import TASKS, Task
from diptych.results import Row

log = logging.getLogger("diptych.evaluation")

_RUN_OF_NEIGHBOURS = 16


@dataclass(frozen=True)
class How:
    """How an evaluation computes; none of it but `limit`, `rerank` and `history` changes a figure."""

    limit: int | None = None
    """judge about this many samples, in runs of 16 neighbours spread evenly over the data set, so that sorted sets are
    covered and groups of neighbours stay together; training data of probes are limited alike"""
    device: str = "cpu"
    """where the method computes"""
    batch: int = 64
    """samples embedded at a time"""
    workers: int = 0
    """processes that read"""
    rerank: int | None = None
    """candidates of each query that pair_retrieval fuses with it, the most similar ones; 0 fuses all pairs, None does
    so up to 50,000 and takes 32 candidates beyond; a method that cannot choose candidates fuses all"""
    history: History | None = None
    """what `look` found after each task of a stream so far; None outside of one"""
    strict: bool = True
    """a task that was asked for by name and cannot run is an error; else it is left out, and the log says why"""


def evaluate(
    method: Any,
    data: Dataset,
    tasks: Sequence[str] = (),
    *,
    run: str = "",
    seed: int = 0,
    out: Path | None = None,
    train_data: Dataset | None = None,
    how: How | None = None,
) -> list[Row]:
    """Measures a method on a data set. Every picture and every text is embedded once for all tasks.

    Args:
        method: an `nn.Module` with `card` and `views`; tasks ask for more by protocol. Its modes are put back after.
        data: what it is judged on.
        tasks: names from `TASKS`; none means every task for which the method and the data have what it takes, and
            the log says which were left out and why.
        run: name of the run, for the rows.
        seed: seed of the run, for the rows; the evaluation itself draws with fixed seeds.
        out: a folder to which samples/TASK.parquet and pictures/*.png are written.
        train_data: what knn and linear_probe learn from.
        how: limit, device, batch and workers, and what is known of a stream.

    Returns:
        One row a figure, in the order of the tasks.

    Raises:
        CannotEvaluate: a task that was asked for by name cannot run; one sentence says what is missing.
        MissingField: the method's own views need a field that the data lacks.
        ValueError: no such task; the message names the nearest.
    """
    _check_own_needs(method, data)
    how = how or How()
    chosen = possible(method, data, tasks, train_data, how.history, strict=how.strict)
    keep_tokens = True if any(Grounds in TASKS[name].protocols for name in chosen) else None
    if not isinstance(method, ScoresPairs):
        keep_tokens = bool(keep_tokens)
    bed = partial(_bench, method, how=how)
    bench = bed(data, [TASKS[name] for name in chosen], keep_tokens=keep_tokens)
    bench.asked, bench.history = bool(tasks), how.history or ()
    galleries = train_data is not None and train_data.split == "gallery"
    learning = [TASKS[name] for name in chosen if TASKS[name].trains or (galleries and TASKS[name].gallery)]
    if train_data is not None and learning:
        bench.train = bed(train_data, learning, keep_tokens=False)
    rows: list[Row] = []
    with judging(method, how.device):
        for name in chosen:
            result = _run(name, bench, asked=bool(tasks) and how.strict)
            if result is None:
                continue
            rows += _rows(method.card.id, run, data, name, seed, result)
            if out is not None:
                _write(name, bench, result, out)
    return rows


def look(method: Any, data: Dataset, *, task: int, out: Path, how: How | None = None) -> list[Mapping[str, np.ndarray]]:
    """Looks at all tasks of a stream once one of them, by its number from 0, has been learned.

    Returns:
        What was found after each task so far; it is kept in `out`/samples/after_taskN.parquet.
    """
    how = how or How()
    bench = _bench(method, data, [TASKS["forgetting"]], how=how, keep_tokens=None)
    with judging(method, how.device):
        write_samples(looked_at(bench), _after(out, task))
    return looks(out, task + 1)


def looks(out: Path, tasks: int) -> list[Mapping[str, np.ndarray]]:
    """What `look` has kept in a folder after each of the first tasks of a stream."""
    return [read_samples(_after(out, task)) for task in range(tasks)]


def _after(out: Path, task: int) -> Path:
    return out / "samples" / f"after_task{task + 1}.parquet"


def obstacles(
    method: Any, data: Dataset, train_data: Dataset | None = None, history: History | None = None
) -> dict[str, str]:
    """For each task that cannot run, the sentence that says why; `history` is empty where it is still to come."""
    found = {name: _obstacle(name, method, data, train_data) for name in TASKS}
    for name in TASKS:
        if TASKS[name].history and history is None and not found[name]:
            found[name] = f"task {name} cannot run: it looks back at the tasks of a stream; train with --stream."
    return {name: sentence for name, sentence in found.items() if sentence}


def _bench(method: Any, data: Dataset, tasks: Sequence[Task], *, how: How, keep_tokens: bool | None) -> Bench:
    """The bench on which some tasks are done."""
    bench = Bench(
        method,
        limited(data, how.limit),
        [field for task in tasks for field in (*task.needs, *task.uses)],
        device=how.device,
        batch=how.batch,
        workers=how.workers,
        keep_tokens=keep_tokens,
        spaces={space for task in tasks for space in task.spaces(method)},
    )
    bench.rerank = how.rerank
    return bench


def limited(data: Dataset, limit: int | None) -> Dataset:
    """About `limit` samples of a data set: runs of 16 neighbours, evenly spread."""
    if limit is None or limit >= len(data):
        return data
    if limit < 1:
        raise ValueError(f"limit is {limit}: judge at least one sample.")
    runs, of = -(-limit // _RUN_OF_NEIGHBOURS), -(-len(data) // _RUN_OF_NEIGHBOURS)
    starts = [run * of // runs * _RUN_OF_NEIGHBOURS for run in range(runs)]
    indices = [start + step for start in starts for step in range(_RUN_OF_NEIGHBOURS) if start + step < len(data)]
    return Subset(data, indices[:limit])


def possible(
    method: Any,
    data: Dataset,
    tasks: Sequence[str] = (),
    train_data: Dataset | None = None,
    history: History | None = None,
    *,
    strict: bool = True,
) -> list[str]:
    """Those of the named tasks, or of all, that can run.

    Raises:
        ValueError: no such task.
        CannotEvaluate: a task that is named cannot run, and `strict` forbids to leave it out.
    """
    for name in tasks:
        if name not in TASKS:
            raise ValueError(nearest(name, TASKS, "evaluation task called"))
    found = obstacles(method, data, train_data, history)
    asked = list(dict.fromkeys(tasks)) or list(TASKS)
    for name in asked:
        if name in found and tasks and strict:
            raise CannotEvaluate(found[name])
        if name in found:
            log.info("left out: %s", found[name])
    return [name for name in asked if name not in found]


def _obstacle(name: str, method: Any, data: Dataset, train_data: Dataset | None) -> str:
    """Why a task cannot run, in a sentence; empty if it can."""
    task = TASKS[name]
    unable = task.unable(method)
    if unable:
        return f"task {name} cannot run: method {method.card.id} {unable}."
    if task.parts and len(parts_of(data)[0]) < 2:
        return f"task {name} cannot run: it compares tasks, and {data.name} is one data set; join some as in A + B."
    needs = task.needs if task.sides else (*own_fields(method.card.needs), *task.needs)
    try:
        require(with_implied(sorted(data.has)), needs, who=f"task {name}", source=f"data set {data.name}")
        if task.sides:
            require(
                with_implied(_side_fields(data)), own_fields(method.card.needs), who=f"task {name}", source="a side"
            )
        if task.trains and train_data is None:
            return f"task {name} cannot run: it learns from a training set, and none was given (train_data)."
        if task.trains and train_data is not None:
            source = f"training set {train_data.name}"
            require(with_implied(sorted(train_data.has)), needs, who=f"task {name}", source=source)
    except MissingField as error:
        return str(error)
    return ""


def _side_fields(data: Dataset) -> list[str]:
    """The fields that the sides of the first sample have."""
    try:
        return sorted(data.read(0, ("sides",)).sides[0])
    except BrokenSample:
        return []


def _check_own_needs(method: Any, data: Dataset) -> None:
    """The views of a method may ask for more than the tasks do, but not where a sample's two sides are what is seen."""
    has = [*with_implied(sorted(data.has)), *GIVEN]
    if missing(has, method.card.needs) and "sides" not in data.has:
        require(has, method.card.needs, who=f"method {method.card.id}", source=f"data set {data.name}")


def _run(name: str, bench: Bench, *, asked: bool) -> Result | None:
    """A task's result; None where it turns out that the samples do not allow it and nobody asked for it by name."""
    try:
        return TASKS[name].function(bench)
    except (CannotEvaluate, TooLong) as error:
        if asked:
            raise
        log.info("left out: %s", error)
        return None


def _rows(method: str, run: str, data: Dataset, task: str, seed: int, result: Result) -> list[Row]:
    source = f"{data.name}/{data.split}" if data.split else data.name
    return [
        Row(
            method=method,
            run=run,
            data=source,
            task=task,
            metric=measure.metric,
            value=measure.estimate.value,
            low=measure.estimate.low,
            high=measure.estimate.high,
            n=measure.estimate.n,
            chance=measure.chance,
            seed=seed,
            how=result.how,
        )
        for measure in result.measures
    ]


def _write(name: str, bench: Bench, result: Result, out: Path) -> None:
    write_samples(result.samples, out / "samples" / f"{name}.parquet")
    draw = TASKS[name].draw
    if draw is not None:
        draw(bench, result, out / "pictures")
