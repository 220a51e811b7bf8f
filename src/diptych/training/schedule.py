"""When what happens: which steps belong to which stage, the learning rate at a step, and what is due after it.

A run has `samples // batch` steps. The stages share them out in order, by their `share`. **Every stage restarts the
schedule**: its own warm-up, then its own decay, over its own steps, as if it were a run of its own, since that is what
papers with several stages do. A warm-up given as a share is a share of the stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diptych.recipe import Recipe, Stage


@dataclass(frozen=True)
class Span:
    """A stage with its place in the run: steps `start` (inclusive) to `end` (exclusive).

    `first_sample` is where the stage begins in its data: stages that train on the same data go on where the last of
    them stopped.
    """

    stage: Stage
    start: int
    end: int
    first_sample: int = 0

    @property
    def name(self) -> str:
        """The stage's name, with the number of its task where it learns one of a stream."""
        return self.stage.name if self.stage.task is None else f"{self.stage.name} (task {self.stage.task + 1})"

    def progress(self, step: int) -> float:
        """How far the stage has gone before `step`, from 0 to 1."""
        return (step - self.start) / (self.end - self.start)

    def position(self, step: int, batch: int) -> int:
        """Where `step` begins in the stage's data, in samples."""
        return self.first_sample + (step - self.start) * batch


def plan(recipe: Recipe, stages: Sequence[Stage]) -> list[Span]:
    """The spans of a run, one a stage, that cover its steps without a gap.

    Raises:
        ValueError: the run is shorter than a batch, or a stage gets no step.
    """
    steps = recipe.samples // recipe.batch
    if steps < 1:
        raise ValueError(f"samples={recipe.samples} is less than one batch of {recipe.batch}: raise samples.")
    whole = sum(stage.share for stage in stages)
    spans: list[Span] = []
    done, seen = 0.0, dict.fromkeys(((stage.data, stage.task) for stage in stages), 0)
    for stage in stages:
        start = spans[-1].end if spans else 0
        done += stage.share
        end = round(steps * done / whole) if whole > 0 else start
        if end <= start:
            name = Span(stage, start, end).name
            raise ValueError(f"stage {name!r} gets none of the {steps} steps: raise samples, or its share.")
        spans.append(Span(stage, start, end, seen[stage.data, stage.task]))
        seen[stage.data, stage.task] += (end - start) * recipe.batch
    if not spans:
        raise ValueError("the method has no stages: return at least one Stage from `stages`.")
    return spans


def rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate as a share of its peak, at a step (from 0) of a stage of `steps` steps.

    With `recipe.epochs` a step here is an epoch, and the fall has the length of the whole stage, as where a scheduler
    that falls over all epochs is stepped once an epoch behind a warm-up that it knows nothing of (Dassl's, in CoOp).
    """
    if recipe.epochs:
        step, steps = step * recipe.epochs // steps, recipe.epochs
    warmup = int(recipe.warmup) if recipe.warmup > 1 else round(recipe.warmup * steps)
    if step < warmup:
        return recipe.warmup_lr or (step + 1) / warmup
    done = (step - warmup) / (steps if recipe.epochs else max(1, steps - warmup)) * recipe.cycles % 1
    falling = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[recipe.schedule]
    return recipe.final_lr + (1 - recipe.final_lr) * falling


def due(step: int, steps: int, times: int) -> bool:
    """Whether one of `times` evenly spread events, the last at the end, falls on this many finished steps."""
    return step * times // steps > (step - 1) * times // steps
