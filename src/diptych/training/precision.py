"""On which device, and in which number format."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def choose_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """`auto` is the CUDA device of this process where there is one, else the CPU.

    Raises:
        ValueError: the device that was asked for is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device 'cuda' was asked for, but torch sees no CUDA device: use --device cpu.")
        device = torch.device("cuda", device.index if device.index is not None else local_rank)
        torch.cuda.set_device(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' was asked for, but torch sees none: use --device cpu.")
    return device


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware.

    Emulation is no use: on a CPU without AVX512-BF16 or AMX a bf16 matrix product takes about 100 times as long as
    one in fp32. (oneDNN calls bf16 supported from AVX512 on, which is why it is not asked.)
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16"))
    return False


def choose(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """What `auto` means on this device; a bf16 that would be emulated is taken with a warning."""
    native = native_bf16(device)
    if precision == "auto":
        return "bf16" if native else "fp32"
    if precision == "bf16" and not native:
        warnings.warn(
            f"{device} has no bf16 arithmetic: precision='bf16' will be far slower than 'fp32'.", stacklevel=2
        )
    return precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Runs matrix products in bf16 and keeps weights, reductions and softmax in fp32; nothing for `fp32`."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
