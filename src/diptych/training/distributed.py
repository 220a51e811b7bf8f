"""Several processes: who this one is, global negatives with exact gradients, and agreement on what happens next.

torchrun (or Ray) starts the processes; a run without them is a world of one, in which everything here is the identity.

The factor of the gradients: every process computes the mean loss over *its own rows* of the global batch, against
the rows of all. The loss of the whole batch is the mean of these over the processes, and DDP takes that mean of the
gradients. A row is a negative in the losses of all processes, so the backward of the gather **sums** what they send
back, with factor 1; the mean then is the gradient of the whole batch. (A loss that every process computes over all rows
alike would need the factor 1 / world in addition.)
"""

from __future__ import annotations

import atexit
import gc
import json
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diptych.batch import Batch, Gather, Step, Terms
from diptych.training.precision import choose_device


@dataclass(frozen=True)
class Place:
    """Where this process stands. `control` is a group on the CPU for small agreements, None in a world of one."""

    device: torch.device
    rank: int = 0
    world: int = 1
    control: Any = None

    @property
    def main(self) -> bool:
        """Whether this process writes files, logs and evaluates."""
        return self.rank == 0

    @property
    def gather(self) -> Gather:
        """What losses get for global negatives."""
        return DistributedGather(self) if self.world > 1 else Gather()

    def any(self, flag: bool) -> bool:
        """Whether it holds in some process; every process must ask."""
        return any(self.collect(flag)) if self.world > 1 else flag

    def equal_share(self, batch: Batch) -> Batch:
        """Cuts the batch to the length of the shortest of all processes.

        A broken sample makes one process's batch shorter, while the rows of a gather must be equally many everywhere.
        """
        if self.world == 1:
            return batch
        return rows(batch, 0, min(self.collect(batch.size)))

    def collect(self, value: Any) -> list[Any]:
        """The JSON-like value of every process, in order of rank; every process must call it."""
        if self.world == 1:
            return [value]
        mine = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(mine)]), group=self.control)
        longest = int(max(sizes))
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(texts, F.pad(mine, (0, longest - len(mine))), group=self.control)
        return [json.loads(bytes(text[: int(size)].tolist())) for text, size in zip(texts, sizes, strict=True)]

    def agree_on(self, method: nn.Module) -> None:
        """Gives every process the weights and buffers of the main one."""
        if self.world > 1:
            for value in method.state_dict().values():
                dist.broadcast(value, src=0)

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.world > 1:
            dist.barrier(group=self.control)


def join(device: str = "auto") -> Place:
    """Joins the processes that torchrun started, from its environment; a world of one where there are none.

    A process group that is already there (Ray Train makes one) is used. One that is made here stays until the process
    ends: to leave and join anew would race, as processes find each other by addresses of the group before.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    found = dist.is_available() and dist.is_initialized()
    if world == 1 and not found:
        return Place(choose_device(device))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if not found:
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return Place(chosen, dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))


class DistributedGather(Gather):
    """Rows of all processes, in order of rank, with the gradient of the whole batch (see the head of this file).

    Dimensions after the first that differ between processes (texts are padded to the longest of their batch) are
    padded with zeros, False in a mask, to the largest. The first must be equal everywhere.
    """

    def __init__(self, place: Place) -> None:
        self.rank, self.world = place.rank, place.world
        self._place = place

    def __call__(self, x: Tensor) -> Tensor:
        """(B, ...) -> (world * B, ...)."""
        shapes = self._place.collect(list(x.shape))
        if any(shape[:1] != shapes[0][:1] for shape in shapes):
            raise ValueError(f"gather needs equally many rows in every process, not {[shape[0] for shape in shapes]}.")
        for axis in range(1, x.ndim):
            lacking = max(shape[axis] for shape in shapes) - x.shape[axis]
            if lacking:
                x = F.pad(x, (0, 0) * (x.ndim - 1 - axis) + (0, lacking))
        gathered: Tensor = _AllGather.apply(x)  # type: ignore[no-untyped-call]
        return gathered


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        plain = x.to(torch.uint8) if x.dtype == torch.bool else x  # gloo does not send bool
        parts = [torch.empty_like(plain, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, plain.contiguous())
        return torch.cat(parts).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        mine = grad.new_empty(grad.shape[0] // dist.get_world_size(), *grad.shape[1:])
        dist.reduce_scatter_tensor(mine, grad.contiguous())
        return mine


class Loss(nn.Module):
    """A method whose `forward` is its loss: what DDP and torch.compile take hold of."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, step: Step) -> Terms:
        """Batch -> named loss terms."""
        terms: Terms = self.method.loss(batch, step)  # type: ignore[operator]
        return terms


def wrap(method: nn.Module, place: Place, *, compiled: bool = False) -> nn.Module:
    """The loss of a method, its gradients averaged over the processes."""
    loss = Loss(method)
    if compiled:
        loss.compile()
    if place.world == 1:
        return loss
    gc.collect()  # that of an earlier stage is in a cycle of references, and would go on averaging
    # a loss need not use every parameter of its method, such as the pooled vector under a token-wise similarity
    return nn.parallel.DistributedDataParallel(loss, find_unused_parameters=True)


def keep_local(loss: nn.Module, wanted: bool) -> AbstractContextManager[object]:
    """Within the context gradients are summed here only: for all but the last part of an accumulated batch."""
    if wanted and isinstance(loss, nn.parallel.DistributedDataParallel):
        return loss.no_sync()
    return nullcontext()


def split(batch: Batch, count: int) -> list[Batch]:
    """A batch in `count` parts of nearly equal length; fewer where it has fewer samples."""
    bounds = [batch.size * index // count for index in range(count + 1)]
    return [rows(batch, start, stop) for start, stop in pairwise(bounds) if start < stop]


def rows(batch: Batch, start: int, stop: int) -> Batch:
    """Some rows of a batch."""
    if start == 0 and stop >= batch.size:
        return batch
    return Batch({name: value[start:stop] for name, value in batch.items()}, batch.sample_keys[start:stop])
