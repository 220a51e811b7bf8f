"""Forms of one computation, measured in one run: time in turn, memory in a process of its own, the machine's own limit.

Times are taken in turn (one form, the next, the limit, and again), so that a busy machine slows all alike, and what is
reported is the median over the turns of the ratio within a turn. Memory is what the tensors of a step take beside its
inputs: on the CPU the growth of the peak resident size of a fresh process that keeps no gaps, on CUDA the allocator's.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from diptych.training.logs import forget_peak, memory_gb

Step = Callable[[], object]
Clock = Callable[[], float]
Of = Literal["time", "speed", "memory", "share"]
_THRESHOLD = "MALLOC_MMAP_THRESHOLD_"  # read by glibc when a process begins


@dataclass(frozen=True)
class Form:
    """One way to compute the same. `make` builds the inputs and returns what is timed: one step.

    It must be picklable (a function of a module, `functools.partial` of one). `memory` measures the bytes of a step in
    another way than by the growth of a process; where it is False memory is of no interest.
    """

    make: Callable[[], Step]
    memory: Callable[[], int] | bool = True


@dataclass(frozen=True)
class Limit:
    """What the machine allows: `seconds` measures how long a step would take if nothing else cost time."""

    what: str
    seconds: Callable[[], float]


@dataclass(frozen=True)
class Aim:
    """What is to be reached: a figure of `form` over that of `peer`, or the figure as it is where there is no peer.

    `of` is a form's `time` (seconds a step), `speed` (units a second), `memory` (bytes beside the inputs) or `share`
    (of the machine's limit). The first two of a turn are compared with each other.
    """

    of: Of
    form: str
    peer: str = ""
    at_most: float = math.inf
    at_least: float = 0.0


@dataclass(frozen=True)
class Case:
    """Forms that are compared: the first is ours.

    `units` are the things that a step handles, by the name `unit`; `repeats` are the turns, one to warm up left out.
    Forms that change how their process works, by how it holds its memory, are timed `apart`: each in its own process.
    """

    title: str
    forms: Mapping[str, Form]
    aims: Sequence[Aim] = ()
    unit: str = "samples"
    units: float = 1.0
    repeats: int = 5
    limit: Limit | None = None
    apart: bool = False


@dataclass(frozen=True)
class Measured:
    """What a form took: medians over the turns, and bytes beside the inputs; NaN where it was of no interest."""

    seconds: float
    bytes: float = math.nan
    share: float = math.nan
    """of the machine's limit"""


@dataclass(frozen=True)
class Outcome:
    """An aim and what came of it: the median over the turns, the smallest and the largest."""

    aim: Aim
    value: float
    low: float
    high: float

    @property
    def reached(self) -> bool:
        """Whether the figure is on the right side of what was aimed at; NaN is not."""
        return self.aim.at_least <= self.value <= self.aim.at_most


@dataclass(frozen=True)
class Result:
    """A case that was measured; `limit` says what the machine's limit was, if there was one."""

    title: str
    unit: str
    units: float
    forms: Mapping[str, Measured]
    outcomes: Sequence[Outcome] = ()
    limit: str = ""


def measure(case: Case, device: str = "cpu", clock: Clock = time.perf_counter) -> Result:
    """Measures a case on a device (`cpu`, `cuda`), on which its forms were made to run."""
    sizes = {name: _bytes(form, device) for name, form in case.forms.items()}
    seconds, limits = _turns(case, device, clock)
    shares = {name: [limit / spent for limit, spent in zip(limits, own, strict=True)] for name, own in seconds.items()}
    figures: dict[Of, dict[str, list[float]]] = {
        "time": seconds,
        "speed": {name: [case.units / spent for spent in own] for name, own in seconds.items()},
        "memory": {name: [size] for name, size in sizes.items()},
        "share": shares,
    }
    return Result(
        title=case.title,
        unit=case.unit,
        units=case.units,
        forms={
            name: Measured(statistics.median(own), sizes[name], statistics.median(shares[name]))
            for name, own in seconds.items()
        },
        outcomes=[_outcome(aim, figures[aim.of]) for aim in case.aims],
        limit=case.limit.what if case.limit else "",
    )


def _outcome(aim: Aim, figures: Mapping[str, Sequence[float]]) -> Outcome:
    found = list(figures[aim.form])
    if aim.peer:
        found = [ours / max(theirs, 1e-12) for ours, theirs in zip(found, figures[aim.peer], strict=True)]
    return Outcome(aim, statistics.median(found), min(found), max(found))


def _turns(case: Case, device: str, clock: Clock) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of each form in each turn, and those that the machine's limit allows in that turn."""
    seconds: dict[str, list[float]] = {name: [] for name in case.forms}
    limits = []
    with ExitStack() as processes:
        turns = {name: _turn(form, case.apart, device, clock, processes) for name, form in case.forms.items()}
        for turn in turns.values():  # warms up
            turn()
        for _ in range(case.repeats):
            for name, turn in turns.items():
                seconds[name].append(turn())
            limits.append(case.limit.seconds() if case.limit else math.nan)
    return seconds, limits


def _turn(form: Form, apart: bool, device: str, clock: Clock, processes: ExitStack) -> Callable[[], float]:
    """What takes one step of a form and returns its seconds, here or in a process that lives as long as `processes`."""
    if not apart:
        return partial(timed, form.make(), device, clock)
    pool = multiprocessing.get_context("spawn").Pool(1, _prepare, (form.make,))
    processes.callback(pool.join)
    processes.callback(pool.terminate)
    return partial(pool.apply, _timed_here, (device,))


_prepared: list[Step] = []
"""the step of the form whose process this is"""


def _prepare(make: Callable[[], Step]) -> None:
    _prepared[:] = [make()]


def _timed_here(device: str) -> float:
    return timed(_prepared[0], device)


def timed(step: Step, device: str = "cpu", clock: Clock = time.perf_counter) -> float:
    """Seconds that a step takes, on CUDA until the device has done it."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    began = clock()
    step()
    wait()
    return clock() - began


# -- memory ------------------------------------------------------------------------------------------------------------


def _bytes(form: Form, device: str) -> float:
    if form.memory is False:
        return math.nan
    if callable(form.memory):
        return form.memory()
    with gapless(), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(growth, (form.make, device))


@contextmanager
def gapless() -> Iterator[None]:
    """Processes that begin within give blocks above 64 kB back as soon as they are free (where glibc allocates)."""
    before = os.environ.get(_THRESHOLD)
    os.environ[_THRESHOLD] = "65536"
    try:
        yield
    finally:
        os.environ.pop(_THRESHOLD)
        if before is not None:
            os.environ[_THRESHOLD] = before


def growth(make: Callable[[], Step], device: str = "cpu") -> int:
    """Bytes by which one step raises the peak of this process, which should be a fresh one."""
    place, step = torch.device(device), make()
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # the first product allocates the library's own buffers
    forget_peak(place)
    before = memory_gb(place)
    step()
    return round(1e9 * (memory_gb(place) - before))


# -- the machine -------------------------------------------------------------------------------------------------------


def machine(device: str = "cpu") -> dict[str, str]:
    """Of what kind it is."""
    if device.startswith("cuda"):
        return {"device": torch.cuda.get_device_name(device)}
    threads = torch.get_num_threads()
    return {"device": f"{_processor()}, {os.cpu_count()} cores, {threads} thread{'s' if threads > 1 else ''}"}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def matrix_rate(size: int = 2048, device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of a large square matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _usual(lambda: torch.mm(a, b), device)


def copy_rate(megabytes: int = 256, device: str = "cpu") -> float:
    """Bytes a second that are read and written when a large tensor is copied."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _usual(lambda: target.copy_(source), device)


def _usual(step: Step, device: str) -> float:
    """Median seconds of five times, after one to warm up."""
    step()
    return statistics.median(timed(step, device) for _ in range(5))
