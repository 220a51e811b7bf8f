"""What `torch.compile` leaves alone, without what `torch.compiler.disable` costs at import."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def never_compiled(function: F) -> F:
    """`torch.compiler.disable`, asked for when somebody compiles: it imports the compiler, which takes seconds."""
    import torch

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]
