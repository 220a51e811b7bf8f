"""What a run is at a moment: everything that a checkpoint must hold for the run to go on as if nothing had happened.

There is no random state in it on purpose: before each step all generators are seeded from (seed, step, rank), so the
random numbers of a step depend on nothing that came before it, neither on evaluations nor on the loader nor on the
number of processes of an earlier part of the run.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from diptych import results
from diptych.batch import Step
from diptych.config import to_dict
from diptych.recipe import Recipe, Stage
from diptych.results import Row
from diptych.training import distributed, optimiser, precision
from diptych.training.distributed import Place, like, whole
from diptych.training.optimiser import Average
from diptych.training.schedule import Span, plan

FREE = ("workers", "evaluations", "checkpoints", "max_broken", "max_nonfinite", "parallel", "patience")
"""fields of the recipe that may change when a run goes on, since the weights do not depend on them"""


@runtime_checkable
class AfterStep(Protocol):
    """A method that has something to do after each optimiser step, such as moving a momentum teacher."""

    def after_step(self, step: Step) -> None:
        """Called under `no_grad`, once an optimiser step, with the `Step` that its loss was given.

        The gradients of the step are still in `.grad`: of the whole batch, and clipped to `Recipe.clip`.
        """
        ...


@runtime_checkable
class BeforeStage(Protocol):
    """A method that has something to do when a stage begins, such as freezing a copy of what it has learned so far."""

    def before_stage(self, step: Step) -> None:
        """Called under `no_grad` before the first step of a stage, with the `Step` that the first loss will be given.

        Of a stream every stage begins anew with every task. A run that goes on in the middle of a stage does not call
        it again, so that what it keeps must be in the `state_dict`.
        """
        ...


class DifferentRun(ValueError):
    """A checkpoint belongs to a run of other settings."""


@dataclass
class Run:
    """A run on its way; `enter` begins a stage, `tensors` and `facts` are what is saved beside the weights.

    `trained` is what trains: the method itself, or a copy of it that is shared out among the processes.
    """

    method: Any  # an nn.Module that is a card.Method
    recipe: Recipe
    place: Place
    out: Path  # folder of the run
    stages: Sequence[Stage] = ()  # those of the method where none are given
    data: dict[str, Any] = field(default_factory=dict)  # name, split and length of the data set
    step: int = 0  # finished optimiser steps
    seconds: float = 0.0  # spent training, over all parts of the run
    paused: dict[str, float] = field(default_factory=dict)  # seconds in which it stood still, by what for
    skipped: int = 0  # steps that were left out because their loss or gradient was not finite
    skipped_in_a_row: int = 0  # the last of these
    intervals: list[dict[str, Any]] = field(default_factory=list)  # what each process's log had summed up when saved
    best: float = -math.inf
    best_step: int = 0
    rows: list[Row] = field(default_factory=list)
    quarantine: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.spans: list[Span] = plan(self.recipe, self.stages or self.method.stages(self.recipe))
        self._able = {name for name, value in self.method.named_parameters() if value.requires_grad}
        self.precision = precision.choose(self.recipe.precision, self.place.device)
        stages = [optimiser.trainable(self.method, span.stage) for span in self.spans]
        trained = {name: value for chosen in stages for name, (value, _) in chosen.items()}
        self.average = Average(trained, self.recipe.ema) if self.recipe.ema else None
        self.trained = self.method
        self.optimiser: torch.optim.Optimizer  # of the stage that was entered
        self._waiting: dict[str, Tensor] = {}  # optimiser state of a checkpoint, until its stage is entered

    @property
    def last(self) -> Path:
        """The checkpoint that an interrupted run goes on from."""
        return self.out / "checkpoints" / "last"

    @property
    def best_so_far(self) -> Path:
        """The checkpoint of the best evaluation."""
        return self.last.with_name("best")

    @property
    def nonfinite(self) -> Path:
        """The file with the keys of the batches of skipped steps."""
        return self.out / "nonfinite.jsonl"

    @property
    def steps(self) -> int:
        """The length of the run."""
        return self.spans[-1].end

    @property
    def samples(self) -> int:
        """Samples seen."""
        return self.step * self.recipe.batch

    @property
    def span(self) -> Span:
        """The stage that the next step belongs to; the last one when the run is over."""
        return next((span for span in self.spans if self.step < span.end), self.spans[-1])

    @property
    def learned(self) -> int | None:
        """The task of a stream that is learned to its end with the step that was last."""
        ends = {span.end: span.stage.task for span in {span.stage.task: span for span in self.spans}.values()}
        return ends.get(self.step)

    def enter(self, span: Span) -> nn.Module:
        """Begins a stage, or goes on in it: sets what trains, makes a fresh optimiser, and returns the loss to call."""
        self.release()
        chosen = optimiser.trainable(self.method, span.stage)
        for name, value in self.method.named_parameters():
            value.requires_grad_(name in chosen)
        loss = distributed.wrap(self.method, self.place, self.recipe.parallel, compiled=self.recipe.compile)
        self.trained = distributed.unwrapped(loss)
        if self.average:
            self.average.follow(dict(self.trained.named_parameters()))
        self.optimiser = optimiser.make(self.recipe, optimiser.trainable(self.trained, span.stage))
        if self._waiting:
            _restore(self.optimiser, self._waiting)
            self._waiting = {}
        return loss

    def release(self) -> None:
        """Ends a stage: the method has the weights and the `requires_grad` that it came with, and no gradients."""
        self._bring_back()
        self.trained = self.method
        if self.average:
            self.average.follow(dict(self.method.named_parameters()))
        for name, value in self.method.named_parameters():
            value.requires_grad_(name in self._able)
            value.grad = None

    def close(self) -> None:
        """Ends the run: the method keeps the averaged weights, where there are such."""
        self.release()
        if self.average:
            self.average.keep(dict(self.method.named_parameters()))
        self.method.to(self.place.device)

    @contextmanager
    def shown(self) -> Iterator[nn.Module]:
        """The method with the weights to judge it by: the averaged ones where there are such. Every process enters."""
        self._bring_back()
        if self.trained is self.method:
            with self.average.applied() if self.average else nullcontext():
                yield self.method
            return
        if self.average:
            self.average.keep(dict(self.method.named_parameters()))
        yield self.method.to(self.place.device) if self.place.main else self.method
        self.method.cpu()

    @torch.no_grad()
    def _bring_back(self) -> None:
        """Gives the method the weights of the copy that trains."""
        if self.trained is not self.method:
            mine = self.method.state_dict()
            for name, value in self.trained.state_dict().items():
                mine[name].copy_(whole(value))

    def tensors(self) -> dict[str, Tensor]:
        """The state of the optimiser and the averaged weights, by names that say what they are."""
        found = {f"average/{name}": copy for name, copy in (self.average.copies.items() if self.average else ())}
        for index, group in enumerate(self.optimiser.param_groups):
            for name, value in zip(group["names"], group["params"], strict=True):
                state = self.optimiser.state.get(value, {})
                found.update({f"optimiser/{name}/{key}": item for key, item in state.items() if item is not None})
            found.update({f"group/{index}/{key}": v for key, v in group.items() if isinstance(v, Tensor)})
        return found

    def facts(self) -> dict[str, Any]:
        """Everything else, as JSON."""
        return {
            "step": self.step,
            "samples": self.samples,
            "stage": self.span.stage.name,
            "seconds": self.seconds,
            "paused": dict(self.paused),
            "skipped": {"all": self.skipped, "in_a_row": self.skipped_in_a_row},
            "intervals": self.intervals,
            "best": {"value": self.best, "step": self.best_step} if self.best_step else None,
            "averaged": self.average.updates if self.average else 0,
            "world": self.place.world,
            "schedule": [{"stage": span.stage.name, "start": span.start, "end": span.end} for span in self.spans],
            **self.identity(),
            "shapes": {name: list(value.shape) for name, value in self.method.state_dict().items()},
            "rows": json.loads(results.to_json(self.rows)),
            "quarantine": dict(self.quarantine),
        }

    def identity(self) -> dict[str, Any]:
        """What makes this run this run: a checkpoint of another identity is not gone on with."""
        recipe = {name: value for name, value in to_dict(self.recipe).items() if name not in FREE}
        return {**describe(self.method), "recipe": recipe, "data": self.data}

    def restore(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Goes back to a checkpoint.

        Raises:
            DifferentRun: it was saved with another method, configuration, recipe or data; the sentence names the field.
        """
        for name, (old, new) in differences({k: facts[k] for k in self.identity()}, self.identity()).items():
            raise DifferentRun(
                f"the checkpoint was saved with {name}={old!r}, and now it is {new!r}: give the same to go on, "
                f"or choose another folder for a new run."
            )
        shapes = {name: list(value.shape) for name, value in self.method.state_dict().items()}
        for name, (old, new) in differences(facts["shapes"], shapes).items():
            raise DifferentRun(f"the checkpoint's weights do not fit the method: {name} was {old} and now is {new}.")
        self.method.load_state_dict(dict(weights))
        self.step, self.seconds, self.quarantine = facts["step"], facts["seconds"], dict(facts["quarantine"])
        self.paused, self.intervals = dict(facts["paused"]), facts["intervals"]
        self.skipped, self.skipped_in_a_row = facts["skipped"]["all"], facts["skipped"]["in_a_row"]
        if facts["best"]:
            self.best, self.best_step = facts["best"]["value"], facts["best"]["step"]
        self.rows = results.from_json(json.dumps(facts["rows"]))
        if self.average:
            self.average.updates = facts["averaged"]
            for name, copy in self.average.copies.items():
                copy.copy_(tensors[f"average/{name}"])
        if self.step > self.span.start:  # at the very start of a stage its optimiser is fresh
            self._waiting = dict(tensors)


def describe(method: Any) -> dict[str, Any]:
    """The id of a method and the fields of its Config."""
    config = method.config
    return {"method": method.card.id, "config": to_dict(config) if is_dataclass(config) else config}


def differences(old: Any, new: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two JSON-like values differ: dotted name -> (old, new)."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return {} if old == new else {name: (old, new)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*old, *new]):
        found.update(differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key)))
    return found


def seed_everything(seed: int, step: int, rank: int = 0) -> None:
    """Sets the generators of Python, numpy and torch (the CPU's and those of devices in use) from three numbers."""
    a, b, c = (int(word) for word in np.random.SeedSequence([seed, step, rank]).generate_state(3))
    random.seed(a)
    np.random.seed(b)
    # torch.manual_seed would also queue calls, each with a stack trace, for devices that are never used
    torch.default_generator.manual_seed(c)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(c)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(c)


def _restore(target: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives a fresh optimiser the state that `Run.tensors` returned, through torch's own loading (devices, types)."""
    fresh = target.state_dict()
    places = {name: i for i, name in enumerate(name for group in target.param_groups for name in group["names"])}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "optimiser":
            name, _, item = rest.rpartition("/")
            state.setdefault(places[name], {})[item] = value
        if kind == "group":
            index, _, item = rest.partition("/")
            fresh["param_groups"][int(index)][item] = value
    target.load_state_dict({"state": state, "param_groups": fresh["param_groups"]})
    for value, items in target.state.items():
        items.update({key: like(item, value) for key, item in items.items() if item.ndim and item.shape == value.shape})
