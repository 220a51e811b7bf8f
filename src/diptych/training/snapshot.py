"""A run at a moment, copied into memory of the CPU, so that it can be written while the run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diptych.training.distributed import whole
from diptych.training.state import Run


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint is written from.

    `weights` are those that train, by their names in the method's `state_dict`; a tied weight is one tensor under two
    names. `averaged` says for each of them that has an average under which name that is in `tensors`. Of the `method`
    only that is used which does not change: what it writes beside its weights.
    """

    method: Any
    facts: dict[str, Any]
    tensors: dict[str, Tensor]
    weights: dict[str, Tensor]
    averaged: dict[str, str]

    @property
    def exported(self) -> dict[str, Tensor]:
        """The weights to take away: the averaged ones where there are such."""
        copies = {
            average: self.tensors[average].to(self.weights[name].dtype) for name, average in self.averaged.items()
        }
        return self.weights | {name: copies[average] for name, average in self.averaged.items()}


def take(run: Run, before: Snapshot | None = None) -> Snapshot:
    """Copies all that a checkpoint needs; training stands still for so long.

    The copies lie in the memory of the snapshot `before` where shapes agree, and that one is void then.
    """
    values = run.trained.state_dict(keep_vars=True)  # a tied weight is one object under two names
    averages = {id(value): f"average/{name}" for name, value in run.average.parameters.items()} if run.average else {}
    taken = Snapshot(
        run.method,
        run.facts(),
        _copies(run.tensors(), before.tensors if before else {}),
        _copies(values, before.weights if before else {}),
        {name: averages[id(value)] for name, value in values.items() if id(value) in averages},
    )
    if run.place.device.type == "cuda":
        torch.cuda.synchronize(run.place.device)  # the copies are made in turn with the steps, not at once
    return taken


def take_part(run: Run) -> None:
    """What other processes do while the main one takes a snapshot: they hand in their shares of the weights."""
    for values in (run.tensors(), run.trained.state_dict(keep_vars=True)):
        for value in {id(value): value for value in values.values()}.values():
            whole(value.detach())


def _copies(values: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    made: dict[int, Tensor] = {}
    for name, value in values.items():
        if id(value) not in made:
            made[id(value)] = _copy(whole(value.detach()), before.get(name))
    return {name: made[id(value)] for name, value in values.items()}


def _copy(value: Tensor, memory: Tensor | None) -> Tensor:
    if memory is None or (memory.shape, memory.dtype) != (value.shape, value.dtype):
        memory = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
    return memory.copy_(value, non_blocking=True)
