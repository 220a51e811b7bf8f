"""diptych: vision-language methods, each a short readable file, trained and compared head to head.

`diptych.train`, `diptych.evaluate` and `diptych.load` are the command line in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diptych import compat as _compat
from diptych.version import __version__

__all__ = ["__version__", "evaluate", "load", "train"]

_compat.install()

if TYPE_CHECKING:
    from diptych.app.api import evaluate, load, train


def __getattr__(name: str) -> Any:
    if name in __all__:  # torch is imported only when something is computed
        from diptych.app import api

        return getattr(api, name)
    raise AttributeError(f"module 'diptych' has no attribute {name!r}")
