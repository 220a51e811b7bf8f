"""What annotation files say of pictures, and where these and their region features are.

A reader of a format collects a `Picture` for each sample; `source` finds the files that it names and makes members of
all that is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from diptych.data.decode import BrokenSample, image_header
from diptych.data.raw import (
    Item,
    RawSample,
    Reading,
    Source,
    SourceError,
    confined,
    encode_json,
    encode_text,
    image_extension,
    key_of,
    list_words,
    read_file,
    split_in,
)
from diptych.data.region_files import RegionFiles

_FARTHEST = 1e9  # pixels
_LOOKED_AT = 20  # pictures that are looked for in a folder before it is ruled out
_BESIDE = ("annotations", "questions")  # how folders begin that lie beside those of the pictures

Box = tuple[float, float, float, float]


@dataclass
class Picture:
    """One picture and what all files together say of it."""

    name: str
    split: str
    folder: str = ""
    """the folder that it usually lies in"""
    size: tuple[float, float] = (0.0, 0.0)
    captions: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    """x, y, width, height in pixels"""
    phrases: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    """other values of the `.json` member"""
    notes: list[str] = field(default_factory=list)
    key: str = ""
    """of the sample; else that of the picture's name"""
    second: str = ""
    """the other picture of a statement about two, of which `name` is the first"""


def list_of(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def dicts(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; none if it is something else."""
    return [item for item in list_of(value) if isinstance(item, dict)]


def words(value: Any) -> str:
    """A text with single spaces; empty for anything but text."""
    return " ".join(value.split()) if isinstance(value, str) else ""


def is_length(value: Any) -> bool:
    """Whether it is a number of pixels; JSON also has NaN, and numbers that no float can hold."""
    return isinstance(value, int | float) and abs(value) < _FARTHEST


def box_of(*values: Any) -> Box | None:
    """x, y, width and height, if they are that and the box has an area."""
    if len(values) != 4 or not all(map(is_length, values)) or not (values[2] > 0 and values[3] > 0):
        return None
    return (values[0], values[1], values[2], values[3])


def size_of(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """`width` and `height` of an entry."""
    width, height = entry.get("width"), entry.get("height")
    if is_length(width) and is_length(height) and width > 0 and height > 0:  # type: ignore[operator]
        return float(width), float(height)  # type: ignore[arg-type]
    return None


@dataclass(frozen=True)
class Where:
    """Where the pictures are looked for, and whether each must have a caption."""

    path: Path
    reading: Reading
    with_captions: bool = False

    def roots(self) -> list[Path]:
        """Folders that may hold the pictures: the one that was named, else the usual ones around the file."""
        if self.reading.images:
            return [Path(self.reading.images).expanduser()]
        base = self.path if self.path.is_dir() else self.path.parent
        around = [base, base.parent] if base.name.lower().startswith(_BESIDE) else [base]
        return [place / inside for place in around for inside in ("", "images")]

    @cached_property
    def regions(self) -> RegionFiles | None:
        """The region features that were named, if any."""
        return RegionFiles(Path(self.reading.regions).expanduser()) if self.reading.regions else None


Root = tuple[Path, bool] | None
"""A folder, and whether each picture's own folder comes below it; None where there are features only."""


def source(kind: str, about: str, pictures: Sequence[Picture], broken: Sequence[BrokenSample], where: Where) -> Source:
    """The samples of pictures, behind the entries that were broken.

    Raises:
        SourceError: there is no picture, or no folder that holds them; the message says what to do.
    """
    if not pictures:
        examples = "; ".join(f"{item.key}: {item.reason}" for item in broken[:3])
        raise SourceError(f"{where.path} lists no pictures{f' ({examples})' if examples else ''}.")
    roots = {}
    for split in dict.fromkeys(picture.split for picture in pictures):
        roots[split] = _root([p for p in pictures if p.split == split], where)

    def samples() -> Iterator[Item]:
        yield from broken
        for picture in pictures:
            yield _sample(picture, roots[picture.split], where)

    return Source(kind, about, samples, len(pictures) + len(broken))


def _root(pictures: Sequence[Picture], where: Where) -> Root:
    """The folder in which pictures of one split are found.

    Raises:
        SourceError: none of the first pictures is in any of the places, nor are there features of them.
    """
    first = pictures[:_LOOKED_AT]
    roots = where.roots()
    for root in roots:
        for candidate, own in _places(root, pictures[0].split):
            if any(_exists(candidate, p.folder if own else "", p.name) for p in first):
                return candidate, own
    if where.regions and any(where.regions.has(picture.name) for picture in first):
        return None
    raise SourceError(
        f"None of the first {len(first)} pictures of {where.path.name} (such as {pictures[0].name!r}) is in "
        f"{list_words(str(root) for root in roots)}: name their folder with --images."
    )


def _places(root: Path, split: str) -> Iterator[tuple[Path, bool]]:
    yield root, True
    yield root, False
    if split and root.is_dir():
        for below in sorted(root.iterdir()):
            if below.is_dir() and split_in(below.name) == split:
                yield from ((below, True), (below, False))


def _exists(root: Path, folder: str, name: str) -> bool:
    try:
        return bool(confined(root, f"{folder}/{name}" if folder else name, name))
    except BrokenSample:
        return False


def _sample(picture: Picture, root: Root, where: Where) -> Item:
    own = picture.folder if root and root[1] else ""
    key = picture.key or key_of(f"{own}/{picture.name}" if own else picture.name)
    try:
        if where.with_captions and not picture.captions:
            raise BrokenSample(key, "it has no caption")
        members: dict[str, bytes] = {}
        for number, name in enumerate([picture.name, picture.second] if picture.second else [picture.name]):
            prefix = f"{number}." if picture.second else ""
            members |= {prefix + ext: data for ext, data in _seen(name, own, root, where, key).items()}
        captions = [encode_text(text, key).decode() for text in picture.captions]
        members |= {"txt": captions[0].encode()} if captions else {}
        values = _boxes(picture, members, where, key) | picture.more
        values |= {"texts": captions} if len(captions) > 1 else {}
        members |= {"json": encode_json(values, key)} if values else {}
    except BrokenSample as broken:
        return BrokenSample(key, broken.reason)
    return RawSample(key, picture.split, members, tuple(dict.fromkeys(picture.notes)))


def _seen(name: str, folder: str, root: Root, where: Where, key: str) -> dict[str, bytes]:
    """The members with a picture, its region features, or both."""
    members = {}
    if root:
        path = confined(root[0], f"{folder}/{name}" if folder else name, key)
        data = read_file(path, key, where.reading.limits.bytes)
        members[image_extension(data, name)] = data
    if where.regions:
        members["regions.npz"] = where.regions.read(name, key, where.reading.limits)
    return members


def _boxes(picture: Picture, members: Mapping[str, bytes], where: Where, key: str) -> dict[str, Any]:
    if not picture.boxes:
        return {}
    width, height = picture.size
    if not width:
        image = next((data for ext, data in members.items() if ext != "regions.npz"), b"")
        width, height = image_header(image, where.reading.limits)[1:]
    return {"boxes": [_corners(box, width, height) for box in picture.boxes], "phrases": picture.phrases}


def _corners(box: Box, width: float, height: float) -> list[float]:
    """x, y, width, height in pixels -> x0, y0, x1, y1 in [0, 1], to 6 digits."""
    x, y, w, h = box
    corners = (x / width, y / height, (x + w) / width, (y + h) / height)
    return [round(min(max(value, 0.0), 1.0), 6) for value in corners]
