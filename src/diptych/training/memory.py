"""How a training process holds its memory."""

from __future__ import annotations

import ctypes

# of glibc's malloc.h
_TRIM_THRESHOLD, _NO_TRIM = -1, -1
_MMAP_MAX, _NO_MMAP = -4, 0


def keep_freed() -> bool:
    """From now on memory that this process frees stays with it, where glibc allocates; whether it does.

    A training step needs again what the step before it freed. By default much of that goes back to the system, which
    hands it out again page by page, each filled with zeros: up to a third of the time of a step in a virtual machine.
    The price is that memory never falls below its peak, which a run reaches in each step anyway.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another C library, or Windows
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _NO_TRIM) and mallopt(_MMAP_MAX, _NO_MMAP))
