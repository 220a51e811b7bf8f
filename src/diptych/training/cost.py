"""What training costs: operations, memory and time of a run, before it is made.

Operations and memory grow with the batch B as `fixed + sample * B + pair * B**2`, so that three small batches of real
samples tell them for every batch (`training.counting`). Time is measured on a few steps of the trainer.
"""

from __future__ import annotations

import bisect
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diptych.batch import Batch
from diptych.data.dataset import Dataset, Subset
from diptych.data.loader import Loader
from diptych.recipe import Recipe, Stage
from diptych.training import counting, grad_cache, loop, optimiser, precision, schedule
from diptych.training.distributed import Place
from diptych.training.precision import native_bf16
from diptych.training.schedule import Span
from diptych.training.state import Run

SIZES = (8, 16, 32)
"""batches on which growth is counted"""
STATES = {"adamw": 2, "lamb": 2, "sgd": 1}  # numbers that an optimiser keeps for each parameter that it trains
_PROBE_SECONDS = 1.0  # a measured step takes about so long at most, where a smaller batch can see to it
_PROBE_BATCH = 8  # and no smaller batch than this is measured


@dataclass(frozen=True)
class Growth:
    """A quantity over the batch B: `fixed + sample * B + pair * B**2`."""

    fixed: float
    sample: float
    pair: float

    def __call__(self, batch: float) -> float:
        """Its value at a batch of so many samples."""
        return self.fixed + self.sample * batch + self.pair * batch**2

    @classmethod
    def through(cls, points: Mapping[int, float]) -> Growth:
        """The one through three points, batch -> value; what would fall with the batch is taken for rounding."""
        powers = np.vander(np.array(list(points), dtype=float), 3, increasing=True)
        parts = np.linalg.solve(powers, np.array(list(points.values()), dtype=float))
        return cls(*(max(0.0, float(part)) for part in parts))


@dataclass(frozen=True)
class Memory:
    """Bytes that training holds on its device, by part.

    A forward and backward pass over the samples that go through at once (a batch, or one of its accumulated parts)
    holds the batch, all that is saved for the backward pass, and what exists for a moment only. `moments` are those in
    which it holds most, one for small and another for large batches. `kept` is what the method keeps of every sample
    for good, such as features of frozen towers.
    """

    weights: int
    gradients: int
    optimiser: int
    average: int
    moments: tuple[Growth, ...]
    kept: float = 0.0

    def peak(self, at_once: int) -> Growth:
        """The moment that holds most."""
        return max(self.moments, key=lambda moment: moment(at_once))

    def total(self, at_once: int) -> float:
        """Bytes at the peak of a step in which so many samples go through at once, without what is `kept`.

        Gradients come while activations go: for a batch that is not accumulated the sum is a little above the peak.
        """
        return self.weights + self.gradients + self.optimiser + self.average + self.peak(at_once)(at_once)

    def largest(self, limit: float) -> int:
        """The most samples that can go through at once within `limit` bytes; 0 where not even one fits."""
        return bisect.bisect_right(range(1, 2**30), limit, key=self.total)


@dataclass(frozen=True)
class Pace:
    """Seconds a sample.

    It is computed when it is seen `first` and `again` (less, where a method remembers), and `read` by one process.
    `threads` of the `cores` of this machine compute: 0 where another device does.
    """

    first: float
    again: float
    read: float
    threads: int = 0
    cores: int = 1

    def sample(self, workers: int, *, first: bool = False) -> float:
        """Seconds a sample in training, with so many processes that read.

        They read while the device computes, and the slower of the two counts; where both want the same cores, their
        work is shared out among these.
        """
        compute = self.first if first else self.again
        if not workers:
            return compute + self.read
        return max(compute, self.read / workers, (compute * self.threads + self.read) / self.cores)

    def run(self, samples: int, different: int, workers: int) -> float:
        """Seconds of a run over `samples`, so many of them different."""
        first = min(samples, different)
        return first * self.sample(workers, first=True) + (samples - first) * self.sample(workers)


# -- what a run costs --------------------------------------------------------------------------------------------------


def flops_per_sample(method: nn.Module, data: Dataset, recipe: Recipe) -> float:
    """Floating-point operations of training on one sample, forward and backward: the mean over a run of `recipe`.

    Every stage counts with what it trains. A method that remembers what it computed is counted as it will run: in full
    where a sample is seen for the first time, with what is left to compute where it is seen again.
    """
    total, at_once = 0.0, samples_at_once(recipe)
    spans = schedule.plan(recipe, _stages(method, recipe))
    for span in spans:
        source = loop.data_of(span.stage, data)
        growths = flops_growth(method, source, span.stage, recipe)
        first, again = (growth(at_once) / at_once for growth in growths)
        samples = (span.end - span.start) * recipe.batch
        different = min(samples, len(source))
        total += first * different + again * (samples - different)
    return total / (spans[-1].end * recipe.batch)


def samples_per_second(method: nn.Module, data: Dataset, recipe: Recipe, device: str = "auto") -> float:
    """Samples that a run of `recipe` trains on in a second, from a few measured steps; evaluations are not in it."""
    return recipe.samples / timed(method, data, recipe, device).run(recipe.samples, len(data), recipe.workers)


def samples_at_once(recipe: Recipe) -> int:
    """The samples of one loss: a batch, or the largest of its accumulated parts where each has a loss of its own."""
    return recipe.batch if recipe.grad_cache else -(-recipe.batch // recipe.accumulate)


# -- operations --------------------------------------------------------------------------------------------------------


def flops(method: nn.Module, batch: Batch, stage: Stage | None = None) -> float:
    """Floating-point operations a sample of a forward and backward pass over `batch`, as `counting.flops` counts.

    The backward pass counts for what trains in `stage`: the first of the method where none is given.
    """
    stage = stage or _stages(method, Recipe())[0]
    return counting.on_copy(method, stage, torch.device("cpu"), [batch], counting.flops)[0] / batch.size


def flops_growth(method: nn.Module, data: Dataset, stage: Stage, recipe: Recipe | None = None) -> tuple[Growth, Growth]:
    """Operations of a forward and backward pass over the batch: of samples seen first, and of the same seen again."""
    recipe = recipe or Recipe()
    first, again = _batches(method, stage, data, in_parts(recipe, SIZES))
    count = partial(counting.flops, embed=grad_cache.embedding(recipe))
    counts = counting.on_copy(method, stage, torch.device("cpu"), first, count, again)
    points = [(batch.size, value) for batch, value in zip((*first, *again), counts, strict=True)]
    return Growth.through(dict(points[: len(first)])), Growth.through(dict(points[len(first) :]))


def in_parts(recipe: Recipe, sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    """Sizes of batches on which growth is counted, of which each part has as many samples as the others."""
    parts = recipe.accumulate if recipe.grad_cache else 1
    one, two, three = (-(-size // parts) * parts for size in sizes)
    return (one, two, three) if one < two < three else (parts, 2 * parts, 4 * parts)


# -- memory ------------------------------------------------------------------------------------------------------------


def memory(
    method: nn.Module,
    data: Dataset,
    recipe: Recipe,
    device: torch.device | str = "cpu",
    sizes: tuple[int, int, int] = SIZES,
) -> Memory:
    """Bytes that training needs on a device that torch has here, in the stage that needs most.

    What grows up to a limit only, such as tiles of a loss, must have reached it in all three `sizes` of batches.

    Raises:
        ValueError: the recipe has `grad_cache`, for which the method is not made.
    """
    place = torch.device(device)
    chosen = recipe.precision if recipe.precision != "auto" else precision.choose("auto", place)
    stages = _stages(method, recipe)
    trained = [[value for value, _ in optimiser.trainable(method, stage).values()] for stage in stages]
    averaged = {id(value): value for values in trained for value in values}.values() if recipe.ema else ()
    states = STATES[recipe.optimizer] if recipe.optimizer != "sgd" or recipe.betas[0] else 0
    found = []
    for stage, values in zip(stages, trained, strict=True):
        batches, _ = _batches(method, stage, loop.data_of(stage, data), in_parts(recipe, sizes))
        embed = grad_cache.embedding(recipe)
        count = partial(counting.held, chosen=chosen, embed=embed)
        moments, kept = held_growth(method, batches, stage, count, place, chosen == "fp32" or native_bf16(place))
        grad_cache.check(embed, type(method).__name__)
        found.append(
            Memory(
                weights=counting.size_of([*method.parameters(), *method.buffers()]),
                gradients=counting.size_of(values),
                optimiser=states * counting.size_of(values),
                average=4 * sum(value.numel() for value in averaged),
                moments=moments,
                kept=kept,
            )
        )
    return max(found, key=lambda one: one.total(samples_at_once(recipe)))


def held_growth(
    method: nn.Module,
    batches: Sequence[Batch],
    stage: Stage,
    count: Callable[..., counting.Held],
    device: torch.device,
    compute: bool,
) -> tuple[tuple[Growth, ...], float]:
    """The `moments` of `Memory`, and the bytes that are kept of a sample for good."""
    held = counting.on_copy(method, stage, device, batches, count, compute=compute)
    # a loop over tiles has more moments in a larger batch: then only landmarks can be told to be the same moment
    alike = len({len(one.course) for one in held}) == 1
    courses = [one.course if alike else one.landmarks for one in held]
    sizes = [batch.size for batch in batches]
    moments = [Growth.through(dict(zip(sizes, values, strict=True))) for values in zip(*courses, strict=True)]
    largest = {max(moments, key=lambda moment: moment(batch)) for batch in (2 ** np.arange(21)).tolist()}
    after = Growth.through(dict(zip(sizes, (one.after for one in held), strict=True)))
    return tuple(largest), after.sample


# -- time --------------------------------------------------------------------------------------------------------------


def timed(
    method: nn.Module, data: Dataset, recipe: Recipe, device: str = "auto", steps: int = 3, read: float | None = None
) -> Pace:
    """Measures `steps` optimiser steps on samples seen first and on the same seen again; `read` too, unless given.

    Where a whole batch would take long, a smaller one is measured, and fewer steps. Compiling (`recipe.compile`) is
    left out.
    """
    place = Place(precision.choose_device(device))
    stages = _stages(method, recipe)
    whole = sum(stage.share for stage in stages)
    first = again = 0.0
    with counting.undisturbed(), tempfile.TemporaryDirectory() as folder:
        probe = _Probe(counting.real_copy(method, place.device), data, recipe, place, Path(folder))
        for stage in stages:
            small = min(_PROBE_BATCH, recipe.batch)
            slow = probe.seconds(stage, small, 1)[-1] / small  # the first step prepares libraries
            batch = min(recipe.batch, max(small, 2 ** int(np.log2(_PROBE_SECONDS / slow))))
            steps = min(steps, max(1, int(steps * _PROBE_SECONDS / (slow * batch))))
            seconds = probe.seconds(stage, batch, steps + 1)
            share = stage.share / whole / batch
            first += share * statistics.median(seconds[1 : steps + 1])
            again += share * statistics.median(seconds[steps + 1 :])
    threads = torch.get_num_threads() if place.device.type == "cpu" else 0
    return Pace(first, again, reading(method, data) if read is None else read, threads, cores())


def reading(method: nn.Module, data: Dataset, samples: int = 64) -> float:
    """Seconds in which one process reads and prepares a sample."""
    with counting.undisturbed():
        stage = _stages(method, Recipe())[0]
        source = _spread(loop.data_of(stage, data), samples)
        batches = _loader(method, stage, source, samples // 8).batches(0, samples)
        next(batches)  # opens files
        start = time.perf_counter()
        count = sum(samples // 8 for _ in batches)
        return (time.perf_counter() - start) / count


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@dataclass
class _Probe:
    """Runs steps of the trainer on a copy of a method."""

    method: Any
    data: Dataset
    recipe: Recipe
    place: Place
    out: Path

    def seconds(self, stage: Stage, batch: int, steps: int) -> list[float]:
        """Seconds of each of `steps` steps, and of as many more on the same samples, without waiting for data."""
        recipe = replace(self.recipe, batch=batch, workers=0, compile=False)
        run = Run(self.method, recipe, self.place, self.out)
        run.spans = [Span(replace(stage, data=None), 0, 2 * steps)]
        data = _spread(loop.data_of(stage, self.data), steps * batch)
        found, before = [], 0.0
        with closing(loop.steps(run, data)) as updates:
            for update in updates:
                found.append(run.seconds - before - update.wait)
                before = run.seconds
        run.release()
        return found


def _batches(
    method: nn.Module, stage: Stage, data: Dataset, sizes: tuple[int, int, int] = SIZES
) -> tuple[list[Batch], list[Batch]]:
    """Batches of some sizes, padded alike, and the same samples as another epoch shows them.

    The samples are different ones, up to a number that is quickly read.
    """
    count = min(sum(sizes), sum(SIZES))
    with counting.undisturbed():
        looks = list(_loader(method, stage, _spread(data, count), count).batches(0, 2 * count))
    bounds = list(itertools.pairwise((0, *itertools.accumulate(sizes))))
    first, again = ([_taken(look, torch.arange(*bound) % look.size) for bound in bounds] for look in looks)
    return first, again


def _taken(batch: Batch, rows: Tensor) -> Batch:
    """A copy of some rows: a slice would hold, and be counted as, the memory of all."""
    values = {
        name: value[rows] if isinstance(value, Tensor) else [value[row] for row in rows.tolist()]
        for name, value in batch.items()
    }
    return Batch(values, [batch.sample_keys[row] for row in rows.tolist()])


def _loader(method: Any, stage: Stage, data: Dataset, batch: int) -> Loader:
    fields = loop.fields_of(method, stage, data)
    return Loader(data, method.views, fields, batch, 0, shuffle=False, max_broken=1.0)


def _spread(data: Dataset, count: int) -> Dataset:
    """So many samples of a data set, evenly spread over it; where it has fewer, some several times."""
    return Subset(data, np.linspace(0, len(data) - 1, count).astype(int))


def _stages(method: Any, recipe: Recipe) -> list[Stage]:
    stages: list[Stage] = method.stages(recipe)
    return stages
