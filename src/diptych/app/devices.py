"""Devices to plan for: those that are here, and a table of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from diptych.config import nearest
from diptych.training.precision import Precision, choose_device, native_bf16

USABLE = {"cpu": 0.7, "cuda": 0.9, "mps": 0.7}
"""share of the free memory that is planned with: gaps between allocations take the rest, and kernels on CUDA"""
SHARE = 0.35
"""share of the peak rate of the data sheet that training is assumed to reach on a device that is not here"""

# name -> title, memory in GiB, and the peak rate of dense matrix products in TFLOP/s for fp32 (without TF32, as torch
# computes them by default) and for bf16 with sums in fp32 (0: none); from the makers' data sheets
_SHEETS = {
    "h200": ("NVIDIA H200 (SXM)", 141, 67, 989),
    "h100": ("NVIDIA H100 (SXM)", 80, 67, 989),
    "a100": ("NVIDIA A100 (80 GB)", 80, 19.5, 312),
    "a100-40gb": ("NVIDIA A100 (40 GB)", 40, 19.5, 312),
    "l40s": ("NVIDIA L40S", 48, 91.6, 362),
    "l4": ("NVIDIA L4", 24, 30.3, 121),
    "a10": ("NVIDIA A10", 24, 31.2, 125),
    "v100": ("NVIDIA V100 (32 GB)", 32, 15.7, 0),
    "t4": ("NVIDIA T4", 16, 8.1, 0),
    "rtx5090": ("NVIDIA GeForce RTX 5090", 32, 104.8, 209.5),
    "rtx4090": ("NVIDIA GeForce RTX 4090", 24, 82.6, 165.2),
    "rtx3090": ("NVIDIA GeForce RTX 3090", 24, 35.6, 71),
}
NAMES = tuple(f"cuda:{name}" for name in _SHEETS)


@dataclass(frozen=True)
class Device:
    """A device to train on. `place` is how torch calls it here, or `cpu` for one that is not here.

    `memory` are the bytes that training may take, a share `usable` of those that are free. `rates` are the operations a
    second that a device that is not here is assumed to reach, by number format.
    """

    title: str
    place: str
    memory: float
    usable: float
    bf16: bool
    rates: Mapping[Precision, float] = field(default_factory=dict)

    @property
    def here(self) -> bool:
        """Whether time can be measured on it."""
        return not self.rates


def find(name: str) -> Device:
    """A device by its name: `auto`, `cpu`, `cuda`, `cuda:N` and `mps` are here, `cuda:h100` and the like need not be.

    Raises:
        ValueError: it is not here, or there is none of that name; the sentence says which there are.
    """
    if name in NAMES:
        title, gigabytes, fp32, bf16 = _SHEETS[name.partition(":")[2]]
        rates: dict[Precision, float] = {"fp32": SHARE * fp32 * 1e12, "bf16": SHARE * bf16 * 1e12}
        return Device(title, "cpu", USABLE["cuda"] * gigabytes * 2**30, USABLE["cuda"], bool(bf16), rates)
    kind, _, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise ValueError(nearest(name, ("auto", "cpu", "cuda", *NAMES), "device called"))
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"torch sees no CUDA device here: say which one you have in mind ({', '.join(NAMES)}).")
    device = choose_device(name)
    threads, usable = torch.get_num_threads(), USABLE[device.type]
    if device.type == "cuda":
        title, free = torch.cuda.get_device_name(device), float(torch.cuda.mem_get_info(device)[0])
    else:
        title, free = f"{device.type.upper()}, {threads} thread{'s' if threads > 1 else ''}", _available()
    return Device(title, str(device), usable * free, usable, native_bf16(device))


def _available() -> float:
    """Bytes of memory that this process may still take, of the machine and of its container."""
    found = [float("inf")]
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.is_file():
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
        found.append(1024.0 * int(line.split()[1]))
    if (group / "memory.max").is_file():
        limit = (group / "memory.max").read_text().strip()
        found += [float(limit) - int((group / "memory.current").read_text())] if limit != "max" else []
    return min(found)
