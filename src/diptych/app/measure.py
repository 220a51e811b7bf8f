"""Measuring a method on one or several data sets, each on its own, and where what is found is kept."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych import results, training
from diptych.app import sources, wording
from diptych.card import MatchesPairs
from diptych.data.mixture import Mixture, parts_of
from diptych.evaluation import tasks as evaluation
from diptych.evaluation.embed import CannotEvaluate, History
from diptych.recipe import Recipe
from diptych.results import Row

if TYPE_CHECKING:
    from torch import nn

    from diptych.data.dataset import Dataset

FORGETTING = "forgetting"
_FUSED = 200  # samples among which pairs are fused on the way: 40,000 pairs


@dataclass(frozen=True)
class Judged:
    """A data set to be judged on, and the one beside it that probes learn from, where there is one."""

    data: Dataset
    train: Dataset | None = None
    history: History | None = None
    """of a stream of tasks: what was found after each, nothing where this is still to come"""

    @property
    def told(self) -> dict[str, Any]:
        """What reports say of it."""
        return told(self.data)


@dataclass(frozen=True)
class Asked:
    """What is to be measured: whose rows they are, and how."""

    run: str
    seed: int = 0
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    batch: int = 64
    device: str = "cpu"
    rerank: int | None = None


def judged(specs: Sequence[str], split: str) -> list[Judged]:
    """Opens data sets one by one; `SPEC@SPLIT` names another split, a weight (`SPEC@2`) has no meaning here.

    Raises:
        ValueError: two have the same name, so that their figures could not be told apart.
    """
    plain = [sources.with_split(spec, split) for spec in specs]
    sets = [Judged(sources.open_source(spec, of), _train_split(spec, of)) for spec, of in plain]
    names = [f"{one.data.name}/{one.data.split}" for one in sets]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"two of the data sets are called {twice!r}: give one another name in its dataset.json, or judge them as "
            "one, as in 'A + B'."
        )
    return sets


def sets(specs: Sequence[str], recipe: Recipe, learn: Dataset) -> list[Judged]:
    """What a run of a recipe is judged on: sets one by one, or, of a stream, all tasks as one with a part for each.

    Raises:
        ValueError: a stream has not as many parts as `learn`; else as `judged`.
    """
    if not recipe.stream:
        return judged(specs, "val")
    opened = [sources.open_source(*sources.with_split(spec, "val")) for spec in specs]
    whole = opened[0] if len(opened) == 1 else Mixture([(one, 1.0) for one in opened])
    parts, tasks = len(parts_of(whole)[0]), len(parts_of(learn)[0])
    if parts != tasks:
        raise ValueError(
            f"a stream of {tasks} tasks is judged on one set for each, in their order, and not on {parts}."
        )
    return [Judged(whole, learn, ())]


def measure(model: nn.Module, sets: Sequence[Judged], asked: Asked, folders: Sequence[Path | None] = ()) -> list[Row]:
    """The figures on each data set; per-sample results and pictures go into the folders, one a set.

    Of several sets each is judged by those of the tasks that it allows.

    Raises:
        CannotEvaluate: a task that was asked for can run on none of the sets.
    """
    rows: list[Row] = []
    for one, folder in zip(sets, folders or [None] * len(sets), strict=True):
        rows += evaluation.evaluate(
            model,
            one.data,
            asked.tasks,
            run=asked.run,
            seed=asked.seed,
            out=folder,
            train_data=one.train,
            how=evaluation.How(
                asked.limit, asked.device, asked.batch, 0, asked.rerank, one.history, strict=len(sets) == 1
            ),
        )
    lacking = [task for task in asked.tasks if task not in {row.task for row in rows}]
    if lacking:
        names = wording.joined([one.data.name for one in sets])
        raise CannotEvaluate(f"task {lacking[0]} can run on none of {names}: name one alone to be told why.")
    return rows


def allowed(model: nn.Module, sets: Sequence[Judged], tasks: Sequence[str]) -> tuple[str, ...]:
    """Those of the tasks that can run on at least one of the sets; of names alone, nothing is read or computed.

    Raises:
        ValueError: no such task.
        CannotEvaluate: none of them can; with the reason of the first on the first set.
    """
    there = {
        task
        for one in sets
        for task in evaluation.possible(model, one.data, tasks, one.train, one.history, strict=False)
    }
    if tasks and not there:
        evaluation.possible(model, sets[0].data, tasks, sets[0].train, sets[0].history)
    return tuple(task for task in tasks if task in there)


def judge(sets: Sequence[Judged], asked: Asked, limit: int, out: Path) -> training.Judge:
    """Evaluates on the way, on about `limit` samples; the best checkpoint has the largest mean of the shares.

    Where no task is asked for it is retrieval, and all that can be done where that cannot; where this means that pairs
    are fused, on at most `_FUSED` samples. After each task of a stream all samples of all tasks are looked at, if the
    method can be, and what is found is kept in `out`.
    """
    on_the_way = tuple(task for task in asked.tasks if task != FORGETTING)

    def evaluate(model: nn.Module) -> list[Row]:
        device = str(next(model.parameters()).device)
        found = any("retrieval" not in evaluation.obstacles(model, one.data) for one in sets)
        tasks = on_the_way or (("retrieval",) if found else ())
        some = min(limit, _FUSED) if isinstance(model, MatchesPairs) and not tasks else limit
        plain = [replace(one, history=None) for one in sets]
        return measure(model, plain, Asked(asked.run, asked.seed, tasks, max(1, some // len(sets)), device=device))

    def learned(model: nn.Module, task: int) -> list[Row]:
        data, device = sets[0].data, str(next(model.parameters()).device)
        if FORGETTING in evaluation.obstacles(model, data, history=()):
            return []
        history = evaluation.look(model, data, task=task, out=out, how=evaluation.How(device=device))
        how = evaluation.How(device=device, history=history)
        return evaluation.evaluate(model, data, (FORGETTING,), run=asked.run, seed=asked.seed, how=how)

    return training.Judge(evaluate, best=mean_share, learned=learned)


def mean_share(rows: Sequence[Row]) -> float:
    """The mean of the figures that are shares (they have a chance level and lie in [0, 1]): larger is better."""
    shares = [row.value for row in rows if wording.is_share(row)]
    return sum(shares) / len(shares) if shares else -math.inf


def looks(model: nn.Module, one: Judged, out: Path) -> History | None:
    """What was found after each task of a stream that was learned; None outside of one, or where nothing could be."""
    if one.history is None or FORGETTING in evaluation.obstacles(model, one.data, history=()):
        return None
    return evaluation.looks(out, len(parts_of(one.data)[0]))


def folder_of(run: Path, data: Dataset) -> Path:
    """Where an evaluation of a run on a data set is kept."""
    name = re.sub(r"[^\w.-]+", "_", data.name).strip("._") or "data"
    return run / "evaluations" / f"{name}-{data.split}"


def keep(rows: Sequence[Row], sets: Sequence[Judged], folders: Sequence[Path]) -> None:
    """Writes the figures of each data set into its folder."""
    for one, folder in zip(sets, folders, strict=True):
        own = {one.data.name, f"{one.data.name}/{one.data.split}"}
        results.write([row for row in rows if row.data in own], folder)


def told(data: Dataset) -> dict[str, Any]:
    """Name, split, number of samples and licence of a data set."""
    licence = getattr(data, "info", {}).get("licence", "")
    return {"name": data.name, "split": data.split, "samples": len(data), "licence": licence}


def _train_split(spec: str, split: str) -> Dataset | None:
    """The training set beside a split, or the gallery that queries ask."""
    if split == "train":
        return None
    try:
        return sources.open_source(spec, "gallery" if split == "query" else "train")
    except FileNotFoundError:  # the data has no such split; probes are then left out, and the log says so
        return None
