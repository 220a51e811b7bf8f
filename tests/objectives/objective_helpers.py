"""Inputs, a gather that plays several processes in one, and instruments that see how large tensors get."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from diptych.batch import Gather

T = TypeVar("T")


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random unit vectors along the last dimension, ready for a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1).requires_grad_()


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def mask(lengths: Sequence[int], width: int) -> Tensor:
    return torch.arange(width)[None] < torch.tensor(lengths)[:, None]


def gradients(loss: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The loss and its gradient for each input, on fresh leaves."""
    leaves = [leaf(x) for x in inputs]
    value = loss(*leaves)
    value.backward()
    assert all(x.grad is not None for x in leaves)
    return [value.detach(), *[x.grad for x in leaves if x.grad is not None]]


class Rank(Gather):
    """Rank `rank` of `world` processes that live in this one: gathers from the parts that all of them hold."""

    def __init__(self, rank: int, world: int, parts: Sequence[Sequence[Tensor]]) -> None:
        self.rank, self.world = rank, world
        self.parts = parts  # each: what every rank would hand in, in order of rank

    def __call__(self, x: Tensor) -> Tensor:
        for part in self.parts:
            if part[self.rank].shape == x.shape and torch.equal(part[self.rank].to(x.dtype), x):
                return torch.cat([p.to(x.dtype) for p in part])
        raise AssertionError("gathered something that the test did not expect")


class Member(Gather):
    """One of several processes that are threads of this one."""

    def __init__(self, rank: int, slots: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.world = rank, len(slots)
        self._slots, self._barrier = slots, barrier

    def all(self, x: Tensor) -> list[Tensor]:
        """What each has as `x`."""
        self._slots[self.rank] = x.detach().clone()
        self._barrier.wait()
        found = list(self._slots)
        self._barrier.wait()
        return found

    def __call__(self, x: Tensor) -> Tensor:
        return _Gathered.apply(x, self)

    def shown(self, x: Tensor, rank: int) -> Tensor:
        return self.all(x)[rank]

    def handed(self, x: Tensor, rank: int) -> Tensor:
        parts = self.all(x)
        return sum(parts) if rank == self.rank else torch.full_like(x, torch.nan)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, member):  # type: ignore[no-untyped-def]
        ctx.member = member
        return torch.cat(member.all(x))

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return sum(ctx.member.all(grad)).chunk(ctx.member.world)[ctx.member.rank], None


def together(world: int, function: Callable[[Member], T]) -> list[T]:
    """What `function` returns in each of `world` threads, which gather from each other."""
    slots, barrier = [None] * world, threading.Barrier(world, timeout=60)
    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(lambda rank: function(Member(rank, slots, barrier)), range(world)))


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return out


def largest(loss: Callable[[], Tensor]) -> int:
    """Elements of the largest tensor that the loss and its backward pass make."""
    with Largest() as seen:
        loss().backward()
    return seen.elements


def saved(loss: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps between the loss and its backward pass; shared memory counts once."""
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss()
    return sum(kept.values())
