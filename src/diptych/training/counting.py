"""Operations and bytes of a pass over a batch, counted on a copy of the method.

The method itself is left as it was, and so are all random numbers. A large method is counted on a copy whose tensors
have shapes and no numbers: nothing is computed then, and a model of any size takes seconds.
"""

from __future__ import annotations

import itertools
import random
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from diptych.batch import Batch, Embed, Step
from diptych.recipe import Stage
from diptych.training import optimiser, precision
from diptych.training.precision import Precision

T = TypeVar("T")
AT_ONCE = Embed()
_LARGE = 2.5e9  # samples times parameters from which on counting without computing is quicker than computing
# on a CPU, oneDNN lays the inputs and outputs of convolutions out anew, in memory that torch does not see
_RELAID = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
_copies = itertools.count(1)


def flops(method: Any, batch: Batch, stage: Stage, embed: Embed = AT_ONCE) -> float:
    """Floating-point operations of a forward and backward pass, by torch's counter; features come as `embed` has it.

    Products of matrices and convolutions count, and attention as the products that it is.
    """
    # each kernel of attention counts otherwise (recomputed products, or none at all): plain products count everywhere
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        method.loss(batch, Step(stage=stage.name, embed=embed)).total.backward()
    return float(counter.get_total_flops())


def _convolution_backward(*args: Any, **_: Any) -> int:
    """Each gradient takes as much as the convolution; torch's formula forgets its groups (pytorch/pytorch#183405)."""
    result, inputs, weight, transposed, wanted = (args[place] for place in (0, 1, 2, 7, 10))
    return sum(wanted[:2]) * conv_flop_count(inputs, weight, result, transposed)


_FORMULAS = {torch.ops.aten.convolution_backward: _convolution_backward}


class Held(NamedTuple):
    """Bytes alive in a pass, without weights and their gradients: its `course`, of which `forward` moments belong to
    the forward pass, and what is left `after` it (and not counted in the backward part of the course).
    """

    course: list[int]
    forward: int
    after: int

    @property
    def landmarks(self) -> list[int]:
        """The peak of the forward pass, its end, and the peak of the backward pass."""
        forward, backward = self.course[: self.forward], self.course[self.forward :]
        return [max(forward), backward[0], max(backward)]


def held(method: Any, batch: Batch, stage: Stage, chosen: Precision, embed: Embed = AT_ONCE) -> Held:
    """Bytes that a forward and backward pass holds: the batch, what is saved, and what exists for a moment only."""
    live = _Live([*method.parameters(), *method.buffers()])

    def drop(parameter: Tensor) -> None:
        live.forget(parameter.grad)
        parameter.grad = None

    hooks = [value.register_post_accumulate_grad_hook(drop) for value in method.parameters() if value.requires_grad]
    for value in batch.values():
        live.add(value)
    with live:
        with precision.autocast(next(method.parameters()).device, chosen):
            loss = method.loss(batch, Step(stage=stage.name, embed=embed)).total
        forward = len(live.course)
        live.course.append(live.now)  # the first moment of the backward pass, with nothing new
        loss.backward()
    for hook in hooks:
        hook.remove()
    after = live.now - size_of([loss, *batch.values()])
    return Held(live.course[:forward] + [held - after for held in live.course[forward:]], forward, after)


def size_of(values: Iterable[Any]) -> int:
    """Bytes of the tensors among some values."""
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))


class _Live(TorchDispatchMode):
    """Counts the bytes of storages that come to be within the context: those alive `now`, and in the `course` of it."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = 0
        self.course: list[int] = []  # bytes alive after each new storage
        self._born = {value.untyped_storage()._cdata: -1 for value in known}  # storage -> its place in the course

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            self.add(value)
        if func in _RELAID and args[0].device.type == "cpu":
            self.course.append(self.now + size_of([*args[:2], *tree_leaves(result)]))
        return result

    def add(self, value: Any) -> None:
        """Counts the storage of a tensor, once, until it is freed."""
        if not isinstance(value, Tensor) or value.untyped_storage()._cdata in self._born:
            return
        storage = value.untyped_storage()
        self._born[storage._cdata] = len(self.course)
        self.now += storage.nbytes()
        self.course.append(self.now)
        weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def forget(self, value: Any) -> None:
        """Takes the storage of a tensor, which is about to be freed, out of the course."""
        storage = value.untyped_storage()
        for moment in range(self._born[storage._cdata], len(self.course)):
            self.course[moment] -= storage.nbytes()

    def _remove(self, which: int, size: int) -> None:
        self._born.pop(which)
        self.now -= size


def on_copy(
    method: nn.Module,
    stage: Stage,
    device: torch.device,
    batches: Sequence[Batch],
    count: Callable[[nn.Module, Batch, Stage], T],
    again: Sequence[Batch] = (),
    *,
    compute: bool = True,
) -> list[T]:
    """What `count` says of each of the batches, in turn, of a copy of the method that trains what the stage trains.

    Where that would take long, where the method is on the meta device, or where `compute` is False, the tensors have no
    numbers, unless the method looks at them. Then `again`, what another epoch makes of `batches`, counts like these.

    Raises:
        NotImplementedError: the method is on the meta device, and looks at its numbers.
    """
    with undisturbed():
        values = list(method.parameters())
        work = sum(value.numel() for value in values) * sum(batch.size for batch in batches)
        if not compute or work > _LARGE or values[0].is_meta:
            try:
                found = _on_empty_copy(method, stage, device, batches, count)
                return found + found[: len(again)]
            except RuntimeError:  # so torch says that there are no numbers; any other fault comes again below
                pass
        copy = _prepared(real_copy(method, device), stage)
        return [count(copy, batch.to(device), stage) for batch in (*batches, *again)]


def _on_empty_copy(
    method: nn.Module,
    stage: Stage,
    device: torch.device,
    batches: Sequence[Batch],
    count: Callable[[nn.Module, Batch, Stage], T],
) -> list[T]:
    """The same on tensors that have shapes and no numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        copy = _prepared(_empty_copy(method, device), stage)
        return [count(copy, _empty(batch, device), stage) for batch in batches]


def real_copy(method: nn.Module, device: torch.device) -> nn.Module:
    """A copy on the device whose weights differ by a hair: what is remembered by weights is neither found nor left."""
    copy = deepcopy(method)
    with torch.no_grad():
        for value in copy.parameters():
            value.mul_(1 + 1e-4 * next(_copies))
    return copy.to(device)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within the context random numbers may be drawn; afterwards all generators are as they were."""
    state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def _prepared(method: nn.Module, stage: Stage) -> nn.Module:
    names = optimiser.trainable(method, stage)
    for name, value in method.named_parameters():
        value.requires_grad_(name in names)
    return method.train()


def _empty_copy(method: nn.Module, device: torch.device) -> nn.Module:
    values: dict[int, Any] = {id(value): torch.empty_like(value, device=device) for value in method.buffers()}
    for value in method.parameters():
        values[id(value)] = nn.Parameter(torch.empty_like(value, device=device), value.requires_grad)
    with unset_fake_temporarily():  # tensors that the method does not register keep their numbers
        return deepcopy(method, values)


def _empty(batch: Batch, device: torch.device) -> Batch:
    values = {
        name: torch.empty_like(value, device=device) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
    return Batch(values, batch.sample_keys)
