"""Checks of the values of fields: after these nobody has to ask whether a box is a box."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diptych.data.decode import BrokenSample

_ROUNDED = 1e-3  # by which a source may lie beside a bound
_SHARES = 1e-2  # by which shares in half precision may miss 1 together
_LARGEST = 1 << 31


def checked(name: str, value: Any) -> Any:
    """The value of a field in its own type.

    Raises:
        BrokenSample: it is of another kind or shape, or out of its bounds.
    """
    check = _CHECKS.get(name)
    return check(name, value) if check else value


def text_of(name: str, value: Any) -> str:
    """A text; raises `BrokenSample` for anything else."""
    if not isinstance(value, str):
        raise BrokenSample("", f"{name} holds a {type(value).__name__} instead of text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BrokenSample("", f"{name} holds broken Unicode") from None
    return value


def texts_of(name: str, value: Any) -> list[str]:
    """A list of texts; raises `BrokenSample` for anything else."""
    if isinstance(value, Mapping):  # keywords by language: English, else the first
        value = value.get("en", next(iter(value.values()), []))
    if not isinstance(value, list):
        raise BrokenSample("", f"{name} is not a list of texts")
    return [text_of(name, item) for item in value]


def same_number(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises `BrokenSample` where arrays about regions, or about points, disagree on how many there are."""
    for kind in ("region", "point"):
        numbers = {name: len(value) if value.ndim else 0 for name, value in arrays.items() if name.startswith(kind)}
        if len(set(numbers.values())) > 1:
            said = ", ".join(f"{number:,} {name}" for name, number in sorted(numbers.items()))
            raise BrokenSample("", f"its {kind}s are not as many everywhere: {said}")


def within(name: str, value: Any, boxes: int, length: int = 0) -> list[tuple[Any, ...]]:
    """Rows that name one of `boxes` at their end, and spans of a text of `length` before it.

    Raises:
        BrokenSample: one of them leads outside.
    """
    found: list[tuple[Any, ...]] = checked(name, value)
    spans = name == "spans"
    if any(not 0 <= row[-1] < boxes or (spans and not 0 <= row[0] < row[1] <= length) for row in found):
        raise BrokenSample("", f"{name} lead outside of its {'text or of its ' if spans else ''}{boxes} boxes")
    return found


def _numbers(shape: tuple[int | None, ...], low: float = -math.inf, high: float = math.inf) -> Callable[..., Any]:
    """float32 of a shape (None is any length), between two bounds."""

    def check(name: str, value: Any) -> np.ndarray:
        try:
            array = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError, OverflowError):
            raise BrokenSample("", f"{name} does not hold numbers") from None
        array = array.reshape(0, 4) if name == "boxes" and array.size == 0 else array
        if len(shape) != array.ndim or any(
            want and want != have for want, have in zip(shape, array.shape, strict=True)
        ):
            raise BrokenSample("", f"{name} has the shape {array.shape}")
        if not np.isfinite(array).all():
            raise BrokenSample("", f"{name} holds numbers that are not finite")
        if (array < low - _ROUNDED).any() or (array > high + _ROUNDED).any():
            raise BrokenSample("", f"{name} holds numbers that are not in [{low:g}, {high:g}]")
        return array.clip(low, high) if math.isfinite(low) else array

    return check


def _numbers_of_classes(least: int) -> Callable[[str, Any], np.ndarray]:
    """int64 (R,), not below `least`."""

    def check(name: str, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise BrokenSample("", f"{name} is no row of whole numbers, but {array.dtype} of the shape {array.shape}")
        if array.size and not (least <= array.min() and array.max() < _LARGEST):
            raise BrokenSample("", f"{name} holds numbers below {least} or above {_LARGEST - 1:,}")
        return array.astype(np.int64)

    return check


def _points(name: str, value: Any) -> np.ndarray:
    """(N, 3+), of one point or more."""
    points: np.ndarray = _numbers((None, None))(name, value)
    if points.shape[0] < 1 or points.shape[1] < 3:
        raise BrokenSample("", f"{name} have the shape {points.shape}, not (N, 3) or more columns")
    return points


def _boxes(name: str, value: Any) -> np.ndarray:
    boxes = _numbers((None, 4))(name, value)
    inside = (boxes >= -_ROUNDED).all() and (boxes <= 1 + _ROUNDED).all()
    if not inside or (boxes[:, 2:] < boxes[:, :2]).any():
        raise BrokenSample("", f"{name} are not x0, y0, x1, y1 in [0, 1]")
    return boxes.clip(0, 1)


def _distributions(name: str, value: Any) -> np.ndarray:
    shares = _numbers((None, None), 0, 1)(name, value)
    if (np.abs(shares.sum(axis=1) - 1) > _SHARES).any():
        raise BrokenSample("", f"{name} holds a row that does not sum to 1")
    return np.asarray(shares)


def _masks(name: str, value: Any) -> np.ndarray:
    masks = np.asarray(value)
    if masks.ndim != 3:
        raise BrokenSample("", f"masks have the shape {masks.shape}")
    return masks.astype(bool)


def _translations(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not value:
        raise BrokenSample("", "captions are not texts by language")
    return {text_of(name, language): text_of(name, text) for language, text in value.items()}


def _objects(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise BrokenSample("", f"{name} is not a list of objects")
    return [dict(item) for item in value]


def _questions(name: str, value: Any) -> list[dict[str, Any]]:
    """Each with a `question`, its `answers` (none in a test set) and its `type`; what else there is stays."""
    found = [{"answers": [], "type": "", **item} for item in _objects(name, value)]
    for item in found:
        if not text_of("a question", item.get("question")).strip():
            raise BrokenSample("", "a question is empty")
        item["answers"] = texts_of("answers", item["answers"])
        text_of("the type of a question", item["type"])
    return found


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BrokenSample("", f"{name} is not an object")
    return dict(value)


def _chances(name: str, value: Any) -> dict[str, Any]:
    """`by`, the model; `ids` and `chances`: for each caption its tokens, and how likely each of them is."""
    found = _object(name, value)
    ids, chances = found.get("ids"), found.get("chances")
    if not isinstance(ids, list) or not isinstance(chances, list) or not _paired(ids, chances):
        raise BrokenSample("", f"{name} are not as many as tokens")
    return {
        "by": text_of("the model of chances", found.get("by")),
        "ids": [_numbers_of_classes(0)("tokens", np.array(row, np.int64 if not row else None)) for row in ids],
        "chances": [_numbers((None,), 0, 1)(name, row) for row in chances],
    }


def _paired(first: list[Any], second: list[Any]) -> bool:
    """Whether two lists hold lists of the same lengths."""
    return len(first) == len(second) and all(
        isinstance(one, list) and isinstance(other, list) and len(one) == len(other)
        for one, other in zip(first, second, strict=True)
    )


def _rows(what: str, *kinds: type | tuple[type, ...]) -> Callable[[str, Any], list[tuple[Any, ...]]]:
    """Tuples with a value of one of the kinds at each place."""

    def check(name: str, value: Any) -> list[tuple[Any, ...]]:
        found = value if isinstance(value, list) else [value]
        for row in found:
            fits = isinstance(row, list | tuple) and len(row) == len(kinds)
            if not fits or not all(
                isinstance(part, kind) and not isinstance(part, bool) for part, kind in zip(row, kinds, strict=True)
            ):
                raise BrokenSample("", f"{name} is not a list of {what}")
            for part in row:
                if isinstance(part, str):
                    text_of(name, part)
        return [tuple(row) for row in found]

    return check


def _moments(name: str, value: Any) -> list[tuple[float, float, str]]:
    found = _rows("start, end and text", (int, float), (int, float), str)(name, value)
    if any(not 0 <= start < end < _LARGEST or not text.strip() for start, end, text in found):
        raise BrokenSample("", "a moment is empty, or begins before 0 or after its end")
    return [(float(start), float(end), text) for start, end, text in found]


def _conversation(name: str, value: Any) -> list[dict[str, str]]:
    turns = _objects(name, value)
    if not turns or any(turn.get("role") not in _ROLES for turn in turns):
        raise BrokenSample("", f"a turn of its conversation is said by none of {', '.join(_ROLES)}")
    return [{"role": str(turn["role"]), "text": text_of("a turn", turn.get("text"))} for turn in turns]


_ROLES = ("user", "assistant", "system", "text")
_WORD = (int, str)
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "sentences": texts_of,
    "translations": _translations,
    "tags": texts_of,
    "labels": _numbers((None,)),
    "boxes": _boxes,
    "tracks": _numbers((None, None, 4), 0, 1),
    "spans": _rows("triples", int, int, int),
    "expressions": _rows("pairs of text and box index", str, int),
    "regions": _numbers((None, None)),
    "region_boxes": _boxes,
    "region_labels": _numbers_of_classes(0),
    "region_scores": _numbers((None,), 0, 1),
    "region_attributes": _numbers_of_classes(-1),
    "region_attribute_scores": _numbers((None,), 0, 1),
    "region_classes": _distributions,
    "masks": _masks,
    "attributes": _objects,
    "relations": _rows("triples", _WORD, _WORD, _WORD),
    "questions": _questions,
    "conversation": _conversation,
    "chances": _chances,
    "group": text_of,
    "negatives": texts_of,
    "moments": _moments,
    "depth": _numbers((None, None)),
    "points": _points,
    "point_labels": _numbers_of_classes(-1),
    "point_objects": _numbers_of_classes(-1),
    "object_names": texts_of,
    "view": _numbers((3,)),
    "camera": _numbers((4, 4)),
    "scene": _object,
}
