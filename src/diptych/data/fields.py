"""Members of a sample -> its fields, by the names and types of `batch.FIELDS`.

A field lies in a member of its own (`.webp`, `.txt`, `.masks.npz`) or under a key of the `.json` member; arrays may
also lie together in one `.npz` under their field's name. Everything from a file is checked here, so that nobody after
this has to ask whether a box is a box.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from diptych.batch import FIELDS, Sample
from diptych.data.decode import (
    NORMAL,
    BrokenSample,
    Limits,
    decode_audio,
    decode_image,
    decode_json,
    decode_npz,
    decode_text,
    decode_video,
    image_header,
)

_JSON_KEYS = {name: tuple(key for key in one.files if not key.startswith(".")) for name, one in FIELDS.items()}
_JSON_KEYS |= {"text": ("caption", "text"), "texts": ("texts",)}
_OWN = {ext[1:]: name for name, one in FIELDS.items() for ext in one.files if ext.startswith(".") and ext != ".ply"}
_ONE_OF_SEVERAL = re.compile(r"\d+\.(jpe?g|png|webp|gif|bmp)")
_ARRAYS = frozenset({"regions", "masks", "depth", "points", "labels", "camera", "boxes"})  # may lie in one .npz


@lru_cache(maxsize=4096)
def field_of(extension: str) -> str | None:
    """The field that a member with this extension holds by itself; None for `json`, `npz` and unknown ones."""
    return "images" if _ONE_OF_SEVERAL.fullmatch(extension) else _OWN.get(extension)


def wanted(extensions: Iterable[str], fields: Collection[str]) -> list[str]:
    """Which of a sample's members must be read for these fields."""
    there = list(extensions)
    own = set(fields)
    own |= {"text"} if own & {"texts", "spans"} else set()
    own |= {"label"} if "category" in own else set()
    need = {extension for extension in there if field_of(extension) in own}
    elsewhere = set(fields) - {field_of(extension) for extension in need} | own & {"texts", "category"}
    if any(_JSON_KEYS.get(name) for name in elsewhere):
        need.add("json")
    if elsewhere & _ARRAYS:
        need.add("npz")
    return [extension for extension in there if extension in need]


def decode_sample(
    key: str,
    members: Mapping[str, bytes],
    fields: Collection[str],
    *,
    classes: Sequence[str] = (),
    limits: Limits = NORMAL,
    side: int = 0,
) -> Sample:
    """Decodes the given fields, and no others, from the bytes of a sample's members (by extension).

    `classes` turns a category into a label and back; `side` is the hint of `decode_image`.

    Raises:
        BrokenSample: a field is absent, damaged, empty or larger than the limits.
    """
    source = _Source(members, classes, limits, side)
    try:
        return Sample(key, {name: source.value(name) for name in fields})
    except BrokenSample as error:
        raise BrokenSample(key, error.reason) from error


def fields_of(members: Mapping[str, bytes], *, classes: Sequence[str] = (), limits: Limits = NORMAL) -> set[str]:
    """The fields that these members hold; only `json` and `npz` are decoded for it.

    A category counts as a label too, for the data set can number its categories.

    Raises:
        BrokenSample: the json, the npz or the cls is damaged.
    """
    source = _Source(members, classes, limits, 0)
    found = {owner for owner in map(field_of, members) if owner}
    found |= {name for name in FIELDS if source.from_json(name) is not None or source.from_npz(name) is not None}
    found |= {"text", "texts"} if found & {"text", "texts"} else set()
    found -= {"category", "label"}
    found |= {"category", "label"} if source.category_or_none() is not None else set()
    return found | ({"label"} if source.number() is not None else set())


class _Source:
    """The members of one sample, decoded once each when a field asks for them."""

    def __init__(self, members: Mapping[str, bytes], classes: Sequence[str], limits: Limits, side: int) -> None:
        self.members, self.classes, self.limits, self.side = members, classes, limits, side
        self._record: dict[str, Any] | None = None
        self._arrays: dict[str, np.ndarray] | None = None

    def value(self, name: str) -> Any:
        special = _SPECIAL.get(name)
        if special:
            return special(self)
        value = self.own(name)
        value = self.from_npz(name) if value is None else value
        value = self.from_json(name) if value is None else value
        return _checked(name, self._present(name, value))

    def own(self, name: str) -> Any:
        """From a member that holds this field only; None if there is none."""
        for extension, data in self.members.items():
            if field_of(extension) == name:
                return self._media(name, extension, data)
        return None

    def record(self) -> dict[str, Any]:
        if self._record is None:
            self._record = decode_json(self.members["json"], self.limits) if "json" in self.members else {}
        return self._record

    def from_json(self, name: str) -> Any:
        record = self.record()
        return next((record[key] for key in _JSON_KEYS.get(name, ()) if record.get(key) is not None), None)

    def from_npz(self, name: str) -> Any:
        if self._arrays is None:
            self._arrays = decode_npz(self.members["npz"], self.limits) if "npz" in self.members else {}
        return _points(self._arrays) if name == "points" else self._arrays.get(name)

    def images(self) -> list[Any]:
        numbered = sorted((int(ext.split(".")[0]), ext) for ext in self.members if field_of(ext) == "images")
        if len(numbered) > self.limits.frames:
            raise BrokenSample("", f"it has {len(numbered)} pictures; the limit is {self.limits.frames}")
        sizes = [image_header(self.members[ext], self.limits)[1:] for _, ext in numbered]
        if sum(width * height for width, height in sizes) > 4 * self.limits.pixels:
            raise BrokenSample("", f"its pictures together have more than {4 * self.limits.pixels:,} pixels")
        found = [decode_image(self.members[ext], self.limits, self.side) for _, ext in numbered]
        return list(self._present("images", found or None))

    def text(self) -> str:
        captions = self._captions()
        return captions[0] if captions else self.texts()[0]

    def texts(self) -> list[str]:
        several = self.from_json("texts")
        found = self._captions() if several is None else _texts("texts", several)
        found = [text for text in found if text.strip()]
        if not found:
            raise BrokenSample("", "it has no text" if several is None else "the text is empty")
        return found

    def _captions(self) -> list[str]:
        own = self.own("text")
        caption = self.from_json("text") if own is None else own
        if caption is None:
            return []
        text = _text("text", caption).rstrip()
        if not text:
            raise BrokenSample("", "the text is empty")
        return [text]

    def category(self) -> str:
        return str(self._present("category", self.category_or_none()))

    def category_or_none(self) -> str | None:
        for key in ("category", "label"):
            value = self.record().get(key)
            if isinstance(value, str) and value:
                return _text("category", value)
        number = self.number()
        return self.classes[number] if number is not None and 0 <= number < len(self.classes) else None

    def label(self) -> int:
        number = self.number()
        if number is not None:
            return number
        category = self.category()
        if category not in self.classes:
            raise BrokenSample("", f"its category {category!r} is not one of the {len(self.classes)} classes")
        return self.classes.index(category)

    def number(self) -> int | None:
        value = self.record().get("label")
        if "cls" in self.members:
            text = decode_text(self.members["cls"], self.limits)
            if not re.fullmatch(r"-?\d{1,9}", text):
                raise BrokenSample("", "the cls is not a number")
            value = int(text)
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        if abs(value) >= 1 << 31:
            raise BrokenSample("", "its label is too large a number")
        return value

    def spans(self) -> list[tuple[int, int, int]]:
        found = _triples((int,))("spans", self._present("spans", self.from_json("spans")))
        length, boxes = len(self.text()), len(self.from_json("boxes") or ())
        if any(not (0 <= start < end <= length and 0 <= box < boxes) for start, end, box in found):
            raise BrokenSample("", f"spans lead outside of its text or of its {boxes} boxes")
        return found

    def phrases(self) -> list[str]:
        found = _texts("phrases", self._present("phrases", self.from_json("phrases")))
        boxes = self.from_json("boxes")
        if isinstance(boxes, list) and len(boxes) != len(found):
            raise BrokenSample("", f"it has {len(found)} phrases for {len(boxes)} boxes")
        return found

    def _media(self, name: str, extension: str, data: bytes) -> Any:
        if name == "image":
            return decode_image(data, self.limits, self.side)
        if name == "text":
            return decode_text(data, self.limits)
        if name == "audio":
            return decode_audio(data, self.limits)
        if name == "video":
            return decode_video(data, self.limits, extension)
        if extension.endswith("npz"):
            arrays = decode_npz(data, self.limits)
            found = _points(arrays) if name == "points" else arrays.get(name)
            return next(iter(arrays.values()), None) if found is None and len(arrays) == 1 else found
        raise BrokenSample("", f"no reader for .{extension}; use another format")

    def _present(self, name: str, value: Any) -> Any:
        if value is None:
            raise BrokenSample("", f"it has no {name}")
        return value


_SPECIAL: dict[str, Callable[[_Source], Any]] = {
    "images": _Source.images,
    "text": _Source.text,
    "texts": _Source.texts,
    "category": _Source.category,
    "label": _Source.label,
    "spans": _Source.spans,
    "phrases": _Source.phrases,
}


def _points(arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """(N, 3+): `points` as it is, or `xyz` with colours in [0, 1] behind it."""
    if "points" in arrays or "xyz" not in arrays:
        return arrays.get("points")
    xyz = arrays["xyz"].astype(np.float32)
    return np.concatenate([xyz, arrays["rgb"].astype(np.float32) / 255], axis=1) if "rgb" in arrays else xyz


# --- checks -----------------------------------------------------------------------------------------------------------


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BrokenSample("", f"{name} holds a {type(value).__name__} instead of text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BrokenSample("", f"{name} holds broken Unicode") from None
    return value


def _texts(name: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):  # keywords by language: English, else the first
        value = value.get("en", next(iter(value.values()), []))
    if not isinstance(value, list):
        raise BrokenSample("", f"{name} is not a list of texts")
    return [_text(name, item) for item in value]


def _numbers(shape: tuple[int | None, ...]) -> Callable[[str, Any], np.ndarray]:
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
        return array

    return check


def _boxes(name: str, value: Any) -> np.ndarray:
    boxes = _numbers((None, 4))(name, value)
    tolerance = 1e-3  # of rounding in the source
    inside = (boxes >= -tolerance).all() and (boxes <= 1 + tolerance).all()
    if not inside or (boxes[:, 2:] < boxes[:, :2]).any():
        raise BrokenSample("", "boxes are not x0, y0, x1, y1 in [0, 1]")
    return boxes.clip(0, 1)


def _masks(name: str, value: Any) -> np.ndarray:
    masks = np.asarray(value)
    if masks.ndim != 3:
        raise BrokenSample("", f"masks have the shape {masks.shape}")
    return masks.astype(bool)


def _translations(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not value:
        raise BrokenSample("", "captions are not texts by language")
    return {_text(name, language): _text(name, text) for language, text in value.items()}


def _objects(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise BrokenSample("", f"{name} is not a list of objects")
    return [dict(item) for item in value]


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BrokenSample("", f"{name} is not an object")
    return dict(value)


def _triples(kinds: tuple[type, ...]) -> Callable[[str, Any], list[tuple[Any, Any, Any]]]:
    def triple(name: str, item: Any) -> tuple[Any, Any, Any]:
        if not isinstance(item, list | tuple) or len(item) != 3 or not all(isinstance(part, kinds) for part in item):
            raise BrokenSample("", f"{name} is not a list of triples")
        return item[0], item[1], item[2]

    def check(name: str, value: Any) -> list[tuple[Any, Any, Any]]:
        return [triple(name, item) for item in (value if isinstance(value, list) else [value])]

    return check


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "sentences": _texts,
    "translations": _translations,
    "tags": _texts,
    "labels": _numbers((None,)),
    "boxes": _boxes,
    "regions": _numbers((None, None)),
    "masks": _masks,
    "attributes": _objects,
    "relations": _triples((int, str)),
    "questions": _objects,
    "conversation": _objects,
    "negatives": _texts,
    "depth": _numbers((None, None)),
    "points": _numbers((None, None)),
    "camera": _numbers((4, 4)),
    "scene": _object,
}


def _checked(name: str, value: Any) -> Any:
    check = _CHECKS.get(name)
    return check(name, value) if check else value
