"""The checks that a raw sample must pass before it goes into a shard: every field is decoded once, within the limits.

What passes here can be read by the loader, since both decode with the same functions.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diptych.data.decode import BrokenSample, Limits, decode_image, image_header
from diptych.data.fields import SHARED, decode_sample, field_of, fields_of
from diptych.data.raw import JSON_KEYS, RawSample, encode_json, encode_text
from diptych.data.video import glance

if TYPE_CHECKING:
    from PIL.Image import Image

_LONGEST_KEY = 900  # letters; what a shard takes, with room for an extension
_CONVERTED = frozenset({"tif", "tiff", "avif"})  # PIL reads them, the loader does not


@dataclass(frozen=True)
class Checks:
    """What is checked and changed on the way into a shard."""

    classes: tuple[str, ...] = ()
    caption: str = ""
    """a caption for samples that have a class and none, with `{category}` in it"""
    max_side: int = 0
    quality: int = 90
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Checked:
    """A sample that is fit for a shard: its members, the decoded values of its fields, and what was changed."""

    raw: RawSample
    members: Mapping[str, bytes]
    values: Mapping[str, Any]
    """None for a field that is there and was not decoded"""
    notes: tuple[str, ...] = ()

    @property
    def category(self) -> str:
        """The class of the sample by name; empty if it has none."""
        return str(self.values.get("category") or "")


def check(raw: RawSample, checks: Checks) -> Checked | BrokenSample:
    """Decodes every field. A damaged field of the `.json` is left out; any other damage breaks the sample."""
    notes = list(raw.notes)
    try:
        if len(raw.key) > _LONGEST_KEY:
            raise BrokenSample(raw.key[:80], f"its name has {len(raw.key):,} letters; at most {_LONGEST_KEY} are kept")
        members = dict(_members(raw, checks, notes))
        if not members:
            raise BrokenSample(raw.key, "it has no member that holds a field")
        category = _category(raw.key, members, checks)
        if checks.caption and category and "text" not in fields_of(members, limits=checks.limits):
            words = category.replace("_", " ").replace("-", " ").replace("/", ", ")
            members["txt"] = encode_text(checks.caption.replace("{category}", words), raw.key)
            notes.append("a caption was made from the class")
        values = _decode_all(raw.key, members, checks, notes)
    except BrokenSample as broken:
        return BrokenSample(raw.key, broken.reason)
    return Checked(raw, members, values, tuple(notes))


def _members(raw: RawSample, checks: Checks, notes: list[str]) -> Iterator[tuple[str, bytes]]:
    for extension, data in raw.members.items():
        owner = field_of(extension)
        if extension.rpartition(".")[2] in _CONVERTED:
            number = extension.rpartition(".")[0]
            notes.append(f".{extension} pictures were converted to PNG")
            yield (number + ".png" if number else "png"), _encode(_convert(data, checks), "PNG", checks)
        elif owner in ("image", "images"):
            yield _smaller(extension, data, checks, notes)
        elif owner or extension in SHARED:
            yield extension, data
        else:
            notes.append(f".{extension} members hold no field and were left out")


def _smaller(extension: str, data: bytes, checks: Checks, notes: list[str]) -> tuple[str, bytes]:
    """The member unchanged, or drawn again where its picture is larger than `max_side`."""
    if not checks.max_side:
        return extension, data
    _, width, height = image_header(data, checks.limits)
    if max(width, height) <= checks.max_side:
        return extension, data
    picture = decode_image(data, checks.limits, checks.max_side)
    picture.thumbnail((checks.max_side, checks.max_side))
    notes.append(f"pictures were made smaller, to {checks.max_side} pixels")
    lossless = extension.endswith(("png", "gif", "bmp"))
    number = extension.rpartition(".")[0]  # of one of several pictures, `0.jpg`
    changed = (number + "." if number else "") + ("png" if lossless else "jpg")
    return changed, _encode(picture, "PNG" if lossless else "JPEG", checks)


def _convert(data: bytes, checks: Checks) -> Image:
    from PIL import Image as Pictures

    try:
        with Pictures.open(io.BytesIO(data), formats=("TIFF", "AVIF")) as opened:
            if opened.width * opened.height > checks.limits.pixels:
                size, most = f"{opened.width} x {opened.height} pixels", f"{checks.limits.pixels:,}"
                raise BrokenSample("", f"the picture has {size}; the limit is {most}")
            return opened.convert("RGB")
    except BrokenSample:
        raise
    except Exception as error:  # decoders raise anything on damaged bytes
        raise BrokenSample("", f"the picture cannot be decoded ({type(error).__name__}: {error})") from None


def _encode(picture: Image, form: str, checks: Checks) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **({"quality": checks.quality} if form == "JPEG" else {}))
    return out.getvalue()


def _category(key: str, members: Mapping[str, bytes], checks: Checks) -> str:
    """The class of the sample by name, or an empty string."""
    if "category" not in fields_of(members, classes=checks.classes, limits=checks.limits):
        return ""
    try:
        return str(decode_sample(key, members, ["category"], classes=checks.classes, limits=checks.limits).category)
    except BrokenSample:  # a number without a list of classes, or a label of another kind
        return ""


def _decode_all(key: str, members: dict[str, bytes], checks: Checks, notes: list[str]) -> dict[str, Any]:
    """Every field decoded; fields of the `.json` that cannot be read are taken out of it."""
    names = sorted(fields_of(members, classes=checks.classes, limits=checks.limits))
    numbered = "label" in names and not checks.classes and "cls" not in members  # a class that has no number yet
    names = [name for name in names if not (numbered and name == "label")]
    try:
        values = dict(decode_sample(key, members, names, classes=checks.classes, limits=checks.limits))
    except (BrokenSample, ModuleNotFoundError):
        values = _decode_each(key, members, names, checks, notes)
    if values.get("video"):
        glance(values["video"])  # opening it decoded no frame
    if numbered and ("category" in values or _has_number(members)):
        values["label"] = None
    return values


def _decode_each(
    key: str, members: dict[str, bytes], names: list[str], checks: Checks, notes: list[str]
) -> dict[str, Any]:
    """The slow way, which finds out what is damaged."""
    values: dict[str, Any] = {}
    for name in names:
        try:
            values[name] = decode_sample(key, members, [name], classes=checks.classes, limits=checks.limits)[name]
        except ModuleNotFoundError as error:
            notes.append(f"{name} was copied unchecked: {error}")
            values[name] = None
        except BrokenSample as broken:
            if not _take_out(key, members, name):
                raise
            notes.append(f"{name} was left out: {broken.reason}")
    return values


def _has_number(members: Mapping[str, bytes]) -> bool:
    value = json.loads(members["json"]).get("label") if "json" in members else None
    return isinstance(value, int)


def _take_out(key: str, members: dict[str, bytes], name: str) -> bool:
    """Removes a field from the `.json` member; False where it is not there, or where it is a caption or class."""
    from diptych.batch import FIELDS

    keys = set(FIELDS[name].files) & JSON_KEYS
    record = json.loads(members["json"]) if "json" in members else {}
    if name in ("text", "texts") or not keys & set(record):
        return False
    members["json"] = encode_json({k: v for k, v in record.items() if k not in keys}, key)
    return True
