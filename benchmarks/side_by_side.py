"""Time and memory of two forms of one computation, measured in one run, as ratios.

Times are taken in turn (one form, the other form, and again), so that a busy machine slows both alike, and the median
of the ratios is reported. Memory is the growth of the peak resident size of a fresh process on the CPU, and the peak
of the allocator on CUDA; both count what a step takes beside its inputs.
"""

from __future__ import annotations

import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch

Step = Callable[[], object]
Make = Callable[[str, torch.device], Step]
"""Builds the inputs of a form (its name, the device) and returns a function that runs one step."""


def report(title: str, make: Make, plain: str, other: str, repeats: int, device: str) -> None:
    """Prints seconds and peak memory of both forms, and the ratios other / plain."""
    place = torch.device(device)
    print(f"{title}; {_machine(place)}")
    # memory first: a child's peak starts at its parent's, so this process must still be small
    memory = {name: _peak(make, name, device) for name in (plain, other)}
    seconds = _times(make, (plain, other), repeats, place)
    for name in (plain, other):
        print(f"  {name:>8}: {statistics.median(seconds[name]):8.3f} s {memory[name] / 2**20:9.1f} MiB")
    pairs = zip(seconds[other], seconds[plain], strict=True)
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    print(f"  {other} / {plain}: time {ratio:.2f}, memory {memory[other] / memory[plain]:.3f}", flush=True)


def _times(make: Make, names: tuple[str, ...], repeats: int, place: torch.device) -> dict[str, list[float]]:
    steps = {name: make(name, place) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if place.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _peak(make: Make, name: str, device: str) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (make, name, device))


def _growth(make: Make, name: str, device: str) -> int:
    place = torch.device(device)
    step = make(name, place)
    if place.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    unit = 1 if sys.platform == "darwin" else 1024
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # the first product allocates the library's own buffers
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


def _machine(place: torch.device) -> str:
    kind = torch.cuda.get_device_name() if place.type == "cuda" else f"{platform.machine()} CPU"
    return f"{kind}, {torch.get_num_threads()} threads, torch {torch.__version__}"
