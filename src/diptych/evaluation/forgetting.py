"""Retrieval over the tasks of a stream, and what of it is forgotten while later tasks are learned.

A picture's value is the mean over both directions: does it find one of its captions, and do its captions find it (a
picture with several captions counts once). R@1, R@5 and R@10 of both directions are six values, whose mean is R_m (Zhu
et al., CTP, 2023, arXiv 2308.07146, section 5); where there are fewer than eleven candidates, R@10 is always 1.

After each task of a stream all tasks are looked at, among the first task, the first two, ..., and all. Forgetting of a
picture is its value right after its own task minus its value now, **both among the pictures and captions of all
tasks**, those of later ones included: candidates that grew with the stream would pass for forgetting (Lopez-Paz and
Ranzato, GEM, 2017, compare the same two moments; Chaudhry et al., 2018, take the best of all earlier ones). Pictures of
the task that was learned last cannot be forgotten yet, and have no value. `backward_transfer` is what CTP's `eval.py`
prints with the opposite sign: R_m over the first k tasks now minus right after task k, both among these k alone, mean
over k.
"""

from __future__ import annotations

import numpy as np
import torch

from diptych.data.mixture import parts_of
from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate, History, Ints
from diptych.evaluation.measures import Measure, Result
from diptych.evaluation.retrieval import DEPTHS, TwoTowers, distinct
from diptych.evaluation.statistics import Estimate

WAYS = tuple(f"{direction}_r{depth}" for direction in ("image_to_text", "text_to_image") for depth in DEPTHS)
"""The six values of a picture."""
_FIRST = [WAYS.index(f"{direction}_r1") for direction in ("image_to_text", "text_to_image")]


def tasks_retrieval(bench: Bench) -> Result:
    """R@1 and R_m over the parts of a mixture together, and R@1 of the pictures of each part among all."""
    _, task = _tasks(bench)
    found, chances = hits(bench, np.arange(len(bench.samples)))
    once, chance = found[:, _FIRST].mean(1), float(chances[_FIRST].mean())
    columns = {"r1": once, "r_mean": found.mean(1)} | _of_tasks(once, task)
    measures = [
        Measure(name, _mean(values), float(chances.mean()) if name == "r_mean" else chance)
        for name, values in columns.items()
    ]
    return Result(measures, {"key": _keys(bench), "task": task, **columns})


def hits(bench: Bench, rows: Ints) -> tuple[np.ndarray, np.ndarray]:
    """How well some pictures and their captions find each other, among themselves.

    Returns:
        The six values of each picture (n, 6), in [0, 1] and NaN without a caption, and what guessing would give (6,).
    """
    texts, pairs = distinct([bench.captions[row] for row in rows])
    if len(texts) < 2:
        raise CannotEvaluate(f"retrieval needs at least two different captions; {bench.data.name} has {len(texts)}.")
    image = bench.images.take(torch.from_numpy(rows))
    by_image, by_text = TwoTowers(bench).ranks(image, bench.texts(texts), pairs)
    captions = np.bincount(pairs[:, 0], minlength=len(rows))
    found = np.zeros((len(rows), 2 * len(DEPTHS)))
    found[:, : len(DEPTHS)] = by_image[:, None] <= np.array(DEPTHS)
    np.add.at(found[:, len(DEPTHS) :], pairs[:, 0], by_text[pairs[:, 1], None] <= np.array(DEPTHS))
    found[:, len(DEPTHS) :] /= np.maximum(1, captions)[:, None]
    found[captions == 0] = np.nan
    owners = np.bincount(pairs[:, 1])
    sides = ((captions[captions > 0], len(texts)), (owners, len(rows)))
    chances = [statistics.chance_of_recall(right, of, depth) for right, of in sides for depth in DEPTHS]
    return found, np.array(chances)


def looked_at(bench: Bench) -> dict[str, np.ndarray]:
    """All that can be compared later: for each picture its key, its `task` from 1, and its six values among the first k
    tasks, `amongK/WAY`, NaN where its own task is not among these.
    """
    names, task = _tasks(bench)
    table = {"key": _keys(bench), "task": task}
    for last in range(1, len(names) + 1):
        rows = np.flatnonzero(task <= last)
        values = np.full((len(task), len(WAYS)), np.nan)
        values[rows] = hits(bench, rows)[0]
        table |= {f"among{last}/{way}": values[:, column] for column, way in enumerate(WAYS)}
    return table


def forgetting(bench: Bench) -> Result:
    """What was found after each task of a stream, and what of it is forgotten by now."""
    if not bench.history:
        raise CannotEvaluate(f"nothing is known of {bench.data.name} after the tasks of a stream: train with --stream.")
    return forgotten(bench.history)


def forgotten(history: History) -> Result:
    """What is forgotten by now, in shares (below 0 where a task gained), and how it went after each task."""
    task, now = history[0]["task"], len(history)
    then = np.full((len(task), len(WAYS)), np.nan)
    for learned in range(1, now):
        own = task == learned
        then[own] = _among_all(history, learned)[own]
    lost = then - _among_all(history, now)
    columns = {"r1": lost[:, _FIRST].mean(1), "r_mean": lost.mean(1)}
    columns |= {WAYS[column]: lost[:, column] for column in _FIRST} | _of_tasks(columns["r1"], task)
    told = {name: values for name, values in columns.items() if not np.isnan(values).all()}
    measures = [Measure(name, _mean(values)) for name, values in told.items()]
    seen = [_among(history, after, after) for after in range(1, now + 1)]
    for after, values in enumerate(seen, start=1):
        measures.append(Measure(f"after{after}_r1", _mean(values[:, _FIRST].mean(1))))
        measures.append(Measure(f"after{after}_r_mean", _mean(values.mean(1))))
    if now > 1:
        gains = [np.nanmean(_among(history, now, k)) - np.nanmean(seen[k - 1]) for k in range(1, now)]
        measures.append(Measure("backward_transfer", Estimate(float(np.mean(gains)), np.nan, np.nan, len(gains))))
    return Result(measures, {"key": history[0]["key"], "task": task, **columns})


def matrix(history: History) -> np.ndarray:
    """R@1 of each task (rows) after each task so far (columns), among the pictures and captions of all tasks."""
    task = history[0]["task"]
    after = [_among_all(history, learned)[:, _FIRST].mean(1) for learned in range(1, len(history) + 1)]
    return np.array([[_mean(values[task == one]).value for values in after] for one in range(1, task.max() + 1)])


def _among(history: History, after: int, last: int) -> np.ndarray:
    """The six values of each picture (N, 6) after a task, among the first tasks up to one."""
    return np.stack([history[after - 1][f"among{last}/{way}"] for way in WAYS], axis=1)


def _among_all(history: History, after: int) -> np.ndarray:
    return _among(history, after, sum(name.endswith(f"/{WAYS[0]}") for name in history[0]))


def _tasks(bench: Bench) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the tasks, and the number of each sample's, from 1."""
    names, numbers = parts_of(bench.data)
    return names, 1 + numbers[[bench.index[sample.key] for sample in bench.samples]]


def _of_tasks(values: np.ndarray, task: np.ndarray) -> dict[str, np.ndarray]:
    """A column for each task with the values of its own pictures alone."""
    return {f"task{one}_r1": np.where(task == one, values, np.nan) for one in range(1, task.max() + 1)}


def _mean(values: np.ndarray) -> Estimate:
    return statistics.mean(values[~np.isnan(values)])


def _keys(bench: Bench) -> np.ndarray:
    return np.array([sample.key for sample in bench.samples], dtype=object)
