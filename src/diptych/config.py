"""Frozen dataclasses to and from plain dictionaries; unknown names are errors that name the nearest one."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def nearest(name: str, known: Iterable[str], what: str) -> str:
    """One sentence: there is no such thing, and what was probably meant."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}."
    return f"there is no {what} {name!r}; {hint}"


def to_dict(config: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON would return them (tuples as lists)."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """The inverse of `to_dict`.

    Raises:
        ValueError: a name that is not a field of `cls`; the message names the nearest field.
    """
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise ValueError(nearest(name, names, f"field of {cls.__module__}.{cls.__name__} called"))
    return cls(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
