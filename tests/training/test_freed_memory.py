"""Memory that a training process keeps."""

from __future__ import annotations

import ctypes
import multiprocessing
import sys
from pathlib import Path

import pytest
import torch

from diptych.training import memory

MB = 2**20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def left(keep: bool) -> float:
    """Megabytes by which a process of its own has grown when it has filled 200 and freed them."""
    if keep:
        assert memory.keep_freed()
    before = resident()
    parts = [torch.ones(10 * MB // 4) for _ in range(20)]
    grown = resident() - before
    assert grown > 190 * MB
    del parts
    return (resident() - before) / MB


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's allocator")
def test_what_is_freed_stays() -> None:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        gone, kept = pool.map(left, [False, True], chunksize=1)
    assert gone < 20
    assert kept > 180


def test_another_allocator_is_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed()
