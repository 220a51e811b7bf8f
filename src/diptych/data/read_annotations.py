"""Annotation files in JSON: COCO captions and instances, and the Karpathy splits (`dataset_coco.json`).

Sources: the COCO data format (cocodataset.org, "Data format") and Karpathy and Fei-Fei, 2015 (arXiv:1412.2306), whose
split files list pictures with their sentences; its `restval` pictures count as training, as is usual.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
    key_of,
    list_words,
    members_of,
    read_file,
    read_json,
    split_in,
    split_name,
)

_MOST_FILES = 50  # .json files of a folder that are looked into; more of them are sidecars of pictures
_FARTHEST = 1e9  # pixels
_LOOKED_AT = 20  # pictures that are looked for in a folder before it is ruled out


@dataclass
class _Picture:
    """One picture and what all files together say of it."""

    name: str
    split: str
    folder: str = ""
    size: tuple[float, float] = (0.0, 0.0)
    captions: list[str] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)  # x, y, width, height in pixels
    phrases: list[str] = field(default_factory=list)
    crowds: int = 0


def files_in(folder: Path) -> list[Path]:
    """The COCO or Karpathy files of a folder: `annotations/*.json`, or `*.json` at its top."""
    for pattern in ("annotations/*.json", "*.json"):
        there = sorted(path for path in folder.glob(pattern) if path.is_file())
        found = [path for path in there if _opening(path) in ("coco", "karpathy")] if len(there) <= _MOST_FILES else []
        if found:
            return found
    return []


def kind_of(path: Path) -> str:
    """`coco` or `karpathy`, by the contents; `table` for a list of objects, one a picture or caption.

    Raises:
        SourceError: it is none of them.
    """
    kind = _opening(path, thorough=True)
    if not kind:
        raise SourceError(
            f"{path.name} is neither a COCO file (images, annotations), nor a Karpathy split (sentences), "
            "nor a list of rows."
        )
    return kind


def _opening(path: Path, *, thorough: bool = False) -> str:
    """A look at the keys of a JSON file: cheap for the large files of COCO, thorough where that says nothing."""
    with path.open("rb") as file:
        start = file.read(1 << 16)
    if b'"sentences"' in start and b'"images"' in start:
        return "karpathy"
    if b'"images"' in start or (b'"annotations"' in start and b'"image_id"' in start):
        return "coco"
    if thorough or path.stat().st_size < 1 << 24:
        content = read_json(path) if thorough else _load_quietly(path)
        if isinstance(content, dict) and isinstance(content.get("images"), list):
            return "coco" if "annotations" in content else "karpathy"
        if isinstance(content, list) and any(isinstance(row, dict) for row in content[:10]):
            return "table"
    return ""


def _load_quietly(path: Path) -> Any:
    try:
        return read_json(path)
    except SourceError:
        return None


# ---------------------------------------------------------------------------------------------------------- COCO


def coco(path: Path, reading: Reading) -> Source:
    """COCO captions and instances: one file, or a folder with `annotations/`; files of one split are joined by picture.

    Boxes become x0, y0, x1, y1 in [0, 1] with the category's name as phrase; crowd regions are left out.

    Raises:
        SourceError: no such file, not valid JSON, or no folder with the pictures.
    """
    files = [path] if path.is_file() else files_in(path)
    if path.is_file() and path.stem.startswith(("captions", "instances")):  # its partner describes the same pictures
        stem = (
            path.stem.replace("captions", "instances")
            if "captions" in path.stem
            else path.stem.replace("instances", "captions")
        )
        files += [partner for partner in [path.with_name(stem + path.suffix)] if partner.is_file()]
    if not files:
        raise SourceError(f"{path} holds no COCO annotations (annotations/*.json).")
    pictures: dict[tuple[str, str], _Picture] = {}
    broken: list[BrokenSample] = []
    for file in files:
        _add_coco(file, pictures, broken)
    found = list(pictures.values())
    captions, boxes = sum(len(p.captions) for p in found), sum(len(p.boxes) for p in found)
    about = (
        f"COCO annotations ({list_words(file.name for file in files)}): {len(found):,} pictures, "
        f"{captions:,} captions, {boxes:,} boxes"
    )
    return _source("coco", about, found, broken, _Where(path, reading, with_captions=captions > 0))


def _add_coco(file: Path, pictures: dict[tuple[str, str], _Picture], broken: list[BrokenSample]) -> None:
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise SourceError(f"{file} is no COCO file: it has no list of images.")
    split = split_in(file.stem)
    by_id: dict[Any, _Picture] = {}
    for index, entry in enumerate(content["images"]):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(entry.get("id"), int | str):
            broken.append(BrokenSample(f"{file.name}: images[{index}]", "the entry has no id or no file_name"))
            continue
        picture = pictures.setdefault((split, name), _Picture(name, split))
        picture.size = _size(entry) or picture.size
        by_id[entry["id"]] = picture
    categories = {str(c.get("id")): str(c.get("name", c.get("id"))) for c in _dicts(content.get("categories"))}
    for index, entry in enumerate(_list(content.get("annotations"))):
        reason = _annotate(entry, by_id, categories)
        if reason:
            broken.append(BrokenSample(f"{file.name}: annotations[{index}]", reason))


def _annotate(entry: Any, by_id: Mapping[Any, _Picture], categories: Mapping[str, str]) -> str:
    """Adds one annotation to its picture; returns what is wrong with it, or an empty string."""
    if not isinstance(entry, dict) or not isinstance(entry.get("image_id"), int | str):
        return "the entry has no image_id"
    picture = by_id.get(entry["image_id"])
    if picture is None:
        return f"it belongs to the picture {entry['image_id']!r}, which the file does not list"
    if "caption" in entry:
        caption = entry["caption"]
        if not isinstance(caption, str) or not caption.strip():
            return "the caption is empty"
        picture.captions.append(" ".join(caption.split()))
        return ""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_length, box)):
        return "the entry has neither a caption nor a bbox of four numbers"
    if entry.get("iscrowd"):
        picture.crowds += 1
        return ""
    if not (box[2] > 0 and box[3] > 0):
        return "the box has no area"
    picture.boxes.append((box[0], box[1], box[2], box[3]))
    category = str(entry.get("category_id", "object"))
    picture.phrases.append(categories.get(category, category))
    return ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in _list(value) if isinstance(item, dict)]


def _size(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    width, height = entry.get("width"), entry.get("height")
    if _is_length(width) and _is_length(height) and width > 0 and height > 0:  # type: ignore[operator]
        return float(width), float(height)  # type: ignore[arg-type]
    return None


def _is_length(value: Any) -> bool:
    """Whether it is a number of pixels; JSON also has NaN, and numbers that no float can hold."""
    return isinstance(value, int | float) and abs(value) < _FARTHEST


# ------------------------------------------------------------------------------------------------------ Karpathy


def karpathy(path: Path, reading: Reading) -> Source:
    """A Karpathy split file, or the folder that holds one.

    Raises:
        SourceError: no such file, not valid JSON, or no folder with the pictures.
    """
    files = [path] if path.is_file() else files_in(path)[:1]
    content = read_json(files[0]) if files else None
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise SourceError(f"{path} is no Karpathy split: it has no list of images.")
    pictures: list[_Picture] = []
    broken: list[BrokenSample] = []
    for index, entry in enumerate(content["images"]):
        place = f"{files[0].name}: images[{index}]"
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            broken.append(BrokenSample(place, "the entry has no filename"))
            continue
        folder = entry.get("filepath")
        picture = _Picture(name, split_name(str(entry.get("split", ""))), folder if isinstance(folder, str) else "")
        sentences = [_sentence(item) for item in _dicts(entry.get("sentences"))]
        picture.captions = [text for text in sentences if text]
        broken += [BrokenSample(place, "a caption is empty") for text in sentences if not text]
        pictures.append(picture)
    captions = sum(len(picture.captions) for picture in pictures)
    about = f"a Karpathy split ({files[0].name}): {len(pictures):,} pictures, {captions:,} captions"
    return _source("karpathy", about, pictures, broken, _Where(path, reading, with_captions=True))


def _sentence(entry: Mapping[str, Any]) -> str:
    raw = entry.get("raw")
    if not isinstance(raw, str):
        raw = " ".join(str(token) for token in _list(entry.get("tokens")))
    return " ".join(raw.split())


# ------------------------------------------------------------------------------------------------------- samples


@dataclass(frozen=True)
class _Where:
    """Where the pictures are looked for, and whether each must have a caption."""

    path: Path
    reading: Reading
    with_captions: bool

    def roots(self) -> list[Path]:
        """Folders that may hold the pictures: the one that was named, else the usual ones around the file."""
        if self.reading.images:
            return [Path(self.reading.images).expanduser()]
        base = self.path if self.path.is_dir() else self.path.parent
        around = [base, base.parent] if base.name == "annotations" else [base]
        return [place / inside for place in around for inside in ("", "images")]


def _source(kind: str, about: str, pictures: Sequence[_Picture], broken: list[BrokenSample], where: _Where) -> Source:
    if not pictures:
        raise SourceError(f"{where.path} lists no pictures.")
    roots = {}
    for split in dict.fromkeys(picture.split for picture in pictures):
        roots[split] = _root([p for p in pictures if p.split == split], where)

    def samples() -> Iterator[Item]:
        yield from broken
        for picture in pictures:
            yield _sample(picture, *roots[picture.split], where)

    return Source(kind, about, samples, len(pictures) + len(broken))


def _root(pictures: Sequence[_Picture], where: _Where) -> tuple[Path, bool]:
    """The folder in which pictures of one split are found, and whether each one's own folder comes below it.

    Raises:
        SourceError: none of the first pictures is in any of the places.
    """
    first = pictures[:_LOOKED_AT]
    roots = where.roots()
    for root in roots:
        for candidate, own in _places(root, pictures[0].split):
            if any(_exists(candidate, p.folder if own else "", p.name) for p in first):
                return candidate, own
    raise SourceError(
        f"None of the first {len(first)} pictures of {where.path.name} (such as {pictures[0].name!r}) is in "
        f"{list_words(str(root) for root in roots)}: name their folder with --images."
    )


def _places(root: Path, split: str) -> Iterator[tuple[Path, bool]]:
    yield root, True
    yield root, False
    if split and root.is_dir():
        yield from (
            (below, False) for below in sorted(root.iterdir()) if below.is_dir() and split_in(below.name) == split
        )


def _exists(root: Path, folder: str, name: str) -> bool:
    try:
        return bool(confined(root, f"{folder}/{name}" if folder else name, name))
    except BrokenSample:
        return False


def _sample(picture: _Picture, root: Path, own_folder: bool, where: _Where) -> Item:
    name = f"{picture.folder}/{picture.name}" if own_folder and picture.folder else picture.name
    key = key_of(name)
    try:
        if where.with_captions and not picture.captions:
            raise BrokenSample(key, "it has no caption")
        image = read_file(confined(root, name, key), key, where.reading.limits.bytes)
        meta: dict[str, Any] = {}
        if picture.boxes:
            try:
                width, height = picture.size if picture.size[0] else image_header(image, where.reading.limits)[1:]
            except BrokenSample as broken:
                raise BrokenSample(key, broken.reason) from None
            meta = {"boxes": [_corners(box, width, height) for box in picture.boxes], "phrases": picture.phrases}
        members = members_of(image, name, picture.captions, meta, key)
    except BrokenSample as broken:
        return broken
    notes = ("a crowd region without single boxes was left out",) if picture.crowds else ()
    return RawSample(key, picture.split, members, notes)


def _corners(box: tuple[float, float, float, float], width: float, height: float) -> list[float]:
    """x, y, width, height in pixels -> x0, y0, x1, y1 in [0, 1], to 6 digits."""
    x, y, w, h = box
    corners = (x / width, y / height, (x + w) / width, (y + h) / height)
    return [round(min(max(value, 0.0), 1.0), 6) for value in corners]
