"""Several processes: who this one is, global negatives with exact gradients, and how the work is shared out.

torchrun (or Ray) starts the processes; a run without them is a world of one, in which everything here is the identity.

The factor of the gradients: every process computes the mean loss over *its own rows* of the global batch, against
the rows of all. The loss of the whole batch is the mean of these over the processes, and DDP takes that mean of the
gradients. A row is a negative in the losses of all processes, so the backward of the gather **sums** what they send
back, with factor 1; the mean then is the gradient of the whole batch. (A loss that every process computes over all rows
alike would need the factor 1 / world in addition.)

With `ddp` every process holds the whole method and trains it. With `fsdp` what trains is a copy of which each process
holds a share, and the method itself waits in the memory of the CPU until weights are brought back into it.
"""

from __future__ import annotations

import atexit
import copy
import gc
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diptych.batch import Batch, Gather, Step, Terms
from diptych.training.precision import choose_device

LONG = timedelta(days=7)
"""how long processes may wait for each other: whether they still wait for something the watchdog knows better"""


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

    def agree_on(self, values: Iterable[Tensor]) -> None:
        """Gives every process the values of the main one."""
        for value in values if self.world > 1 else ():
            dist.broadcast(value, src=0, group=self.control if value.device.type == "cpu" else None)

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
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=LONG)
        atexit.register(dist.destroy_process_group)
    return Place(chosen, dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=LONG))


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

    def shown(self, x: Tensor, rank: int) -> Tensor:
        """What process `rank` has as `x`, in all processes."""
        found = x.contiguous() if rank == self.rank else torch.empty_like(x, memory_format=torch.contiguous_format)
        dist.broadcast(found, rank)
        return found

    def handed(self, x: Tensor, rank: int) -> Tensor:
        """The sum of `x` over all processes, in process `rank`; `x` is overwritten."""
        dist.reduce(x, rank)
        return x


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
        # torch 2.13 has it by a new name, and warns of the old one
        getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)(mine, grad.contiguous())
        return mine


class Loss(nn.Module):
    """A method whose `forward` is its loss: what DDP, FSDP and torch.compile take hold of."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method
        self.sharded = False
        """whether FSDP has taken hold of it"""

    def forward(self, batch: Batch, step: Step) -> tuple[Tensor, Terms]:
        """Batch -> the sum of the loss terms, and these by name."""
        terms: Terms = self.method.loss(batch, step)  # type: ignore[operator]
        return terms.total, terms


@runtime_checkable
class KeepsWhole(Protocol):
    """A method with frozen parts that one process may call while others do not, such as towers that are remembered."""

    def whole(self) -> list[nn.Module]:
        """The parts that are not to be shared out among processes."""
        ...


def wrap(method: nn.Module, place: Place, parallel: Literal["ddp", "fsdp"], *, compiled: bool = False) -> nn.Module:
    """The loss of a method, its gradients averaged over the processes; `.method` of `unwrapped` it is what trains."""
    shared = parallel == "fsdp" and place.world > 1
    loss = Loss(copy.deepcopy(method).to(place.device) if shared else method)
    if compiled:
        loss.compile()
    if place.world == 1:
        return loss
    if shared:
        return _shard(loss, place)
    gc.collect()  # that of an earlier stage is in a cycle of references, and would go on averaging
    # a loss need not use every parameter of its method, such as the pooled vector under a token-wise similarity
    return nn.parallel.DistributedDataParallel(loss, find_unused_parameters=True)


def unwrapped(loss: nn.Module) -> nn.Module:
    """The method that trains by the loss that `wrap` returned."""
    trained: nn.Module = loss.module.method if isinstance(loss, nn.parallel.DistributedDataParallel) else loss.method  # type: ignore[union-attr, assignment]
    return trained


def _shard(loss: Loss, place: Place) -> nn.Module:
    """Shares out weights among the processes: block by block, and the rest as one.

    Left whole are scalars, which cannot be cut, and what the method asks for.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # takes longer to import than all else that training needs

    mesh = init_device_mesh(place.device.type, (place.world,))
    left = loss.method.whole() if isinstance(loss.method, KeepsWhole) else []
    uncut = {value for part in left for value in part.parameters()}
    uncut |= {value for value in loss.parameters() if not value.ndim}
    for block in _blocks(loss.method, set(left)):
        fully_shard(block, mesh=mesh, ignored_params=uncut)
    fully_shard(loss, mesh=mesh, ignored_params=uncut)
    loss.sharded = True
    # as DDP does: buffers are those of the main process
    loss.register_forward_pre_hook(lambda module, _: place.agree_on(module.buffers()))
    return loss


def _blocks(module: nn.Module, without: set[nn.Module]) -> Iterator[nn.Module]:
    """The layers of towers: members of a list or sequence that holds several of one class; not what lies in them."""
    children = [child for child in module.children() if child not in without]
    kinds = [type(child) for child in children]
    for child in children:
        listed = isinstance(module, nn.ModuleList | nn.Sequential) and kinds.count(type(child)) > 1
        if listed and any(True for _ in child.parameters()):
            yield child
        else:
            yield from _blocks(child, without)


def whole(value: Tensor) -> Tensor:
    """A tensor with all of its parts, where it is shared out among the processes; every process must ask."""
    full: Tensor = value.full_tensor() if _in_parts(value) else value  # type: ignore[attr-defined]
    return full


def like(value: Tensor, example: Tensor) -> Tensor:
    """A whole tensor on the device of the example, and shared out as that is."""
    value = value.to(example.device)
    if not _in_parts(example):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = example.device_mesh, example.placements  # type: ignore[attr-defined]
    return distribute_tensor(value, mesh, placements, src_data_rank=None)  # nobody sends, since all processes hold it


def _in_parts(value: Tensor) -> bool:
    """Whether a tensor is shared out; none is before FSDP has imported what shares out."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


@contextmanager
def part_of_batch(loss: nn.Module, last: bool) -> Iterator[None]:
    """Within the context one part of a batch is computed; gradients are averaged over the processes in the last one."""
    if isinstance(loss, nn.parallel.DistributedDataParallel) and not last:
        with loss.no_sync():
            yield
        return
    sharded = isinstance(loss, Loss) and loss.sharded
    if sharded:
        loss.set_requires_gradient_sync(last)  # type: ignore[operator]
    yield
    if sharded and last:
        _average_scalars(loss)


def _average_scalars(loss: nn.Module) -> None:
    """What FSDP does for all other parameters: the mean of their gradients over the processes."""
    scalars = [value for value in loss.parameters() if value.requires_grad and not value.ndim]
    if not scalars:
        return
    zero = scalars[0].new_zeros(())
    found = [zero if value.grad is None else value.grad for value in scalars]
    found += [zero if value.grad is None else zero + 1 for value in scalars]  # whether there is a gradient
    sums = torch.stack(found)
    dist.all_reduce(sums)
    for value, gradient, count in zip(scalars, *sums.split(len(scalars)), strict=True):
        value.grad = gradient / dist.get_world_size() if count else None


def split(batch: Batch, count: int) -> list[Batch]:
    """A batch in `count` parts of nearly equal length; fewer where it has fewer samples."""
    bounds = [batch.size * index // count for index in range(count + 1)]
    return [rows(batch, start, stop) for start, stop in pairwise(bounds) if start < stop]


def rows(batch: Batch, start: int, stop: int) -> Batch:
    """Some rows of a batch."""
    if start == 0 and stop >= batch.size:
        return batch
    return Batch({name: value[start:stop] for name, value in batch.items()}, batch.sample_keys[start:stop])
