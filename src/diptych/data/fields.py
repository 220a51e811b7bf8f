"""Members of a sample -> its fields, by the names and types of `batch.FIELDS`.

A field lies in a member of its own (`.webp`, `.txt`, `.masks.npz`) or under a key of the `.json` member; arrays may
also lie together in one `.npz` under their field's name, as those about regions do in `.regions.npz`. Members whose
extension begins with 0 and 1 make up two samples inside the sample, its sides. Values are checked by `values`.
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
    image_header,
)
from diptych.data.geometry import decode_mesh, decode_points
from diptych.data.values import checked, same_number, text_of, texts_of, within
from diptych.data.video import Video

_JSON_KEYS = {name: tuple(key for key in one.files if not key.startswith(".")) for name, one in FIELDS.items()}
_JSON_KEYS |= {"text": ("caption", "text"), "texts": ("texts",)}
_OWNERS: dict[str, tuple[str, ...]] = {}  # extension -> the fields that a member with it holds, or may hold
for _name, _field in FIELDS.items():
    for _extension in _field.files:
        if _extension.startswith(".") and _extension != ".0.jpg":
            _OWNERS[_extension[1:]] = (*_OWNERS.get(_extension[1:], ()), _name)
_NUMBERED = re.compile(r"(\d{1,6})\.(.+)")
_TOGETHER = ("regions.npz", "points.npz")  # members in which arrays of several fields lie
_SEVERAL = {name for _extension in _TOGETHER for name in _OWNERS[_extension]}
_ARRAYS = frozenset({*_SEVERAL, "masks", "depth", "labels", "camera", "boxes"})  # may lie in one .npz
SHARED = frozenset({"json", "npz", "cls", *_TOGETHER})
"""Extensions of members that only a look inside tells the fields of."""


@lru_cache(maxsize=4096)
def _holds(extension: str) -> tuple[str, ...]:
    """The fields that a member with this extension holds, or may hold; none for `json`, `npz` and unknown ones."""
    numbered = _NUMBERED.fullmatch(extension)
    if numbered is None:
        return _OWNERS.get(extension, ())
    inside = numbered[2]
    if _OWNERS.get(inside) == ("image",):
        return "images", "sides"
    return ("sides",) if inside in _OWNERS or inside in SHARED else ()


def held(extensions: Iterable[str]) -> set[str]:
    """The fields that members with these extensions hold, without a look inside."""
    return {name for extension in extensions for name in _holds(extension)}


def field_of(extension: str) -> str | None:
    """The field that a member with this extension holds by itself; None for `json`, `npz` and unknown ones."""
    return next(iter(_holds(extension)), None)


def wanted(extensions: Iterable[str], fields: Collection[str]) -> list[str]:
    """Which of a sample's members must be read for these fields."""
    there = list(extensions)
    own = set(fields)
    own |= {"text"} if own & {"texts", "spans"} else set()
    own |= {"label"} if "category" in own else set()
    own |= {"boxes"} if own & {"spans", "expressions"} else set()
    need = {extension for extension in there if own & held([extension])}
    found = {field_of(extension) for extension in need if len(_holds(extension)) == 1}
    elsewhere = own - found | own & {"texts", "category"}
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
    """The fields that these members hold; of their contents only those of `SHARED` members are looked at.

    A category counts as a label too, for the data set can number its categories.

    Raises:
        BrokenSample: one of those is damaged.
    """
    source = _Source(members, classes, limits, 0)
    found = {name for extension in members if extension not in SHARED for name in _holds(extension)}
    found -= {"sides"} if source.numbers() != {0, 1} else set()
    found |= {name for name in FIELDS if source.from_json(name) is not None or source.from_arrays(name) is not None}
    found |= {"text", "texts"} if found & {"text", "texts"} else set()
    found -= {"category", "label"}
    found |= {"category", "label"} if source.category_or_none() is not None else set()
    return found | ({"label"} if source.number() is not None else set())


class _Source:
    """The members of one sample, decoded once each when a field asks for them."""

    def __init__(self, members: Mapping[str, bytes], classes: Sequence[str], limits: Limits, side: int) -> None:
        self.members, self.classes, self.limits, self.side = members, classes, limits, side
        self._record: dict[str, Any] | None = None
        self._arrays: dict[str, dict[str, np.ndarray]] = {}

    def value(self, name: str) -> Any:
        special = _SPECIAL.get(name)
        if special:
            return special(self)
        return checked(name, self._present(name, self._found(name)))

    def _found(self, name: str) -> Any:
        value = self.own(name)
        value = self.from_arrays(name) if value is None else value
        return self.from_json(name) if value is None else value

    def own(self, name: str) -> Any:
        """From a member that holds this field only; None if there is none."""
        for extension, data in self.members.items():
            if extension not in SHARED and name in _holds(extension):
                return self._media(name, extension, data)
        return None

    def record(self) -> dict[str, Any]:
        if self._record is None:
            self._record = decode_json(self.members["json"], self.limits) if "json" in self.members else {}
        return self._record

    def from_json(self, name: str) -> Any:
        record = self.record()
        return next((record[key] for key in _JSON_KEYS.get(name, ()) if record.get(key) is not None), None)

    def arrays(self, extension: str) -> dict[str, np.ndarray]:
        """The arrays of one member by name; a lone one under no field's name is of the field that the member is for."""
        if extension not in self._arrays:
            arrays = decode_npz(self.members[extension], self.limits)
            same_number(arrays)
            owner = field_of(extension)
            if owner and len(arrays) == 1 and not set(arrays) & {*FIELDS, "xyz"}:
                arrays = {owner: next(iter(arrays.values()))}
            self._arrays[extension] = arrays
        return self._arrays[extension]

    def from_arrays(self, name: str) -> Any:
        """From a member that holds arrays of several fields; None if none does."""
        for extension in (*_TOGETHER, "npz"):
            if extension in self.members and (extension == "npz" or name in _OWNERS[extension]):
                arrays = self.arrays(extension)
                value = _points(arrays) if name == "points" else arrays.get(name)
                if value is not None:
                    return value
        return None

    def numbers(self) -> set[int]:
        """The numbers that extensions begin with."""
        return {int(ext.partition(".")[0]) for ext in self.members if "sides" in _holds(ext)}

    def sides(self) -> list[Sample]:
        if self.numbers() != {0, 1}:
            raise BrokenSample("", "it has no two sides, which are members such as 0.jpg and 1.jpg")
        return [self._side(f"{number}.") for number in (0, 1)]

    def _side(self, prefix: str) -> Sample:
        members = {ext.removeprefix(prefix): data for ext, data in self.members.items() if ext.startswith(prefix)}
        try:
            names = fields_of(members, limits=self.limits) - {"label"}
            return decode_sample(prefix[:-1], members, sorted(names), limits=self.limits, side=self.side)
        except BrokenSample as broken:
            raise BrokenSample("", f"of its side {prefix[:-1]}: {broken.reason}") from None

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
        found = self._captions() if several is None else texts_of("texts", several)
        found = [text for text in found if text.strip()]
        if not found:
            raise BrokenSample("", "it has no text" if several is None else "the text is empty")
        return found

    def _captions(self) -> list[str]:
        own = self.own("text")
        caption = self.from_json("text") if own is None else own
        if caption is None:
            return []
        text = text_of("text", caption).rstrip()
        if not text:
            raise BrokenSample("", "the text is empty")
        return [text]

    def category(self) -> str:
        return str(self._present("category", self.category_or_none()))

    def category_or_none(self) -> str | None:
        for key in ("category", "label"):
            value = self.record().get(key)
            if isinstance(value, str) and value:
                return text_of("category", value)
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

    def spans(self) -> list[tuple[Any, ...]]:
        value = self._present("spans", self.from_json("spans"))
        return within("spans", value, self._boxes(), len(self.text()))

    def expressions(self) -> list[tuple[Any, ...]]:
        return within("expressions", self._present("expressions", self.from_json("expressions")), self._boxes())

    def _boxes(self) -> int:
        boxes = self._found("boxes")
        return 0 if boxes is None else len(checked("boxes", boxes))

    def phrases(self) -> list[str]:
        found = texts_of("phrases", self._present("phrases", self.from_json("phrases")))
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
            return Video(data, self.limits, extension)
        if extension.endswith("npz"):
            return self.arrays(extension).get(name)
        if name == "points":
            return decode_points(data, self.limits, extension)
        if name == "mesh":
            return decode_mesh(data, self.limits, extension)
        raise BrokenSample("", f"no reader for .{extension}; use another format")

    def _present(self, name: str, value: Any) -> Any:
        if value is None:
            raise BrokenSample("", f"it has no {name}")
        return value


_SPECIAL: dict[str, Callable[[_Source], Any]] = {
    "images": _Source.images,
    "sides": _Source.sides,
    "text": _Source.text,
    "texts": _Source.texts,
    "category": _Source.category,
    "label": _Source.label,
    "spans": _Source.spans,
    "expressions": _Source.expressions,
    "phrases": _Source.phrases,
}


def _points(arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """(N, 3+): `points` as it is, or `xyz` with colours in [0, 1] behind it."""
    if "points" in arrays or "xyz" not in arrays:
        return arrays.get("points")
    xyz = arrays["xyz"].astype(np.float32)
    return np.concatenate([xyz, arrays["rgb"].astype(np.float32) / 255], axis=1) if "rgb" in arrays else xyz
