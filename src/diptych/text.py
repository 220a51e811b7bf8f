"""Text that strangers wrote (keys, captions, names), made fit to be shown on a terminal or in one sentence."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """The text with control characters, which could move the cursor or rename the window, as visible escapes.

    Line ends stay, and broken Unicode becomes escapes too, so that the result can always be printed.
    """
    return "".join(c if _is_shown(c) else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str, most: int = 240) -> str:
    """The same on one line of at most `most` characters."""
    line = visible(" ".join(text[: 4 * most].split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def readable(name: str) -> str:
    """The name of a class as words: `traffic_signs/stop` -> `traffic signs stop`."""
    return " ".join(name.replace("_", " ").replace("/", " ").split())


def _is_shown(letter: str) -> bool:
    return letter.isprintable() or letter == "\n" or unicodedata.category(letter) == "Zs"
