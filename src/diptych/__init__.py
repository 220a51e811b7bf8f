"""diptych: vision-language methods, each a short readable file, trained and compared head to head.

`diptych.train`, `diptych.evaluate`, `diptych.load`, `diptych.caption`, `diptych.ask` and `diptych.Chat` are the command
line in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diptych import compat as _compat
from diptych.version import __version__

__all__ = ["Chat", "__version__", "ask", "caption", "evaluate", "load", "train"]

_TALKING = ("Chat", "ask", "caption")

_compat.install()

if TYPE_CHECKING:
    from diptych.app.api import evaluate, load, train
    from diptych.app.talking import Chat, ask, caption


def __getattr__(name: str) -> Any:
    if name in __all__:  # torch is imported only when something is computed
        from diptych.app import api, talking

        return getattr(talking if name in _TALKING else api, name)
    raise AttributeError(f"module 'diptych' has no attribute {name!r}")
