"""Frozen dataclasses to and from plain dictionaries; unknown names are errors that name the nearest one."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from diptych.text import one_line

T = TypeVar("T")
IF_USED: Mapping[str, Any] = {"if_used": True}
"""metadata of a field that was added later: see `to_dict`"""
_LARGEST = 1 << 53


def nearest(name: str, known: Iterable[str], what: str) -> str:
    """One sentence: there is no such thing, and what was probably meant."""
    known = sorted(known)
    close = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}."
    return f"there is no {what} {one_line(name, 80)!r}; {hint}"


def to_dict(config: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON would return them (tuples as lists).

    Fields marked `IF_USED` are left out where they have their default, so that what was written before there was such
    a field still describes the same.
    """
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    for field in dataclasses.fields(config):
        if field.metadata.get("if_used") and getattr(config, field.name) == field.default:
            del plain[field.name]
    return plain


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """The inverse of `to_dict`.

    Raises:
        ValueError: a name that is not a field of `cls` (the message names the nearest), or a value of another type.
    """
    kinds = _kinds(cls)  # type: ignore[arg-type]
    known = {name: _tuples(value) for name, value in values.items()}
    for name, value in known.items():
        if name not in kinds:
            raise ValueError(nearest(name, kinds, f"field of {cls.__module__}.{cls.__name__} called"))
        if not _fits(value, kinds[name]):
            told = getattr(kinds[name], "__name__", "") if not get_args(kinds[name]) else str(kinds[name])
            raise ValueError(f"{name} is {one_line(repr(value), 80)}, which is no {told.replace('typing.', '')}.")
    return cls(**known)


@cache
def _kinds(cls: type) -> dict[str, Any]:
    kinds = get_type_hints(cls)
    return {field.name: kinds[field.name] for field in dataclasses.fields(cls)}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value out of a file is of the type that a field declares; types that are not known here fit."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        several = parts[-1] is Ellipsis
        inner = parts[:1] * len(value) if several and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
    if kind in (int, float):
        numbers = (int,) if kind is int else (int, float)
        whole = isinstance(value, int) and abs(value) >= _LARGEST  # JSON has integers that no tensor can hold
        return isinstance(value, numbers) and not isinstance(value, bool) and not whole
    return not isinstance(kind, type) or isinstance(value, kind)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
