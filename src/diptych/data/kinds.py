"""Which format an annotation file is in, by a look at its beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.data.raw import SourceError, read_json

_MOST_FILES = 50  # .json files of a folder that are looked into; more of them are sidecars of pictures
_GLANCE = 1 << 16  # bytes of a file
_SMALL = 1 << 24  # bytes of a file that is read whole where its beginning says nothing

_MARKS: tuple[tuple[str, tuple[bytes, ...]], ...] = (
    ("conversations", (b'"conversations"', b'"from"', b'"value"')),
    ("conversations", (b'"messages"', b'"role"', b'"content"')),
    ("documents", (b'"text_list"', b'"image_info"')),
    ("documents", (b'"texts"', b'"images"', b"null")),
    ("msrvtt", (b'"videos"', b'"video_id"')),
    ("msrvtt", (b'"sentences"', b'"video_id"', b'"sen_id"')),
    ("msrvtt-qa", (b'"question"', b'"answer"', b'"video_id"')),
    ("didemo", (b'"video"', b'"description"', b'"times"')),
    ("refcoco", (b'"ref_id"', b'"ann_id"', b'"sentences"')),
    ("refcoco", (b'"dataset_name"', b'"refcoco')),
    ("vqa", (b'"questions"', b'"question_id"', b'"image_id"')),
    ("vqa", (b'"annotations"', b'"question_id"', b'"image_id"')),
    ("gqa", (b'"imageId"', b'"question"')),
    ("visual-genome", (b'"region_id"', b'"phrase"')),
    ("nlvr2", (b'"identifier"', b'"sentence"', b'"left_url"')),
    ("karpathy", (b'"sentences"', b'"images"')),
    ("p9d", (b'"cate_name"', b'"title"')),
    ("coco", (b'"images"',)),
    ("coco", (b'"annotations"', b'"image_id"')),
)
_COMMON = ("coco", "karpathy")  # whose files lie beside those of others, which build on their pictures


def marked(path: Path) -> str:
    """The format that the first bytes of a file speak of, or an empty string."""
    with path.open("rb") as file:
        start = file.read(_GLANCE)
    return next((kind for kind, marks in _MARKS if all(mark in start for mark in marks)), "")


def kind_of(path: Path) -> str:
    """The format of a JSON file by its contents; `table` for a list of objects, one a picture or caption.

    Raises:
        SourceError: it is none that is known.
    """
    kind = marked(path) or _inside(read_json(path))
    if not kind:
        raise SourceError(
            f"{path.name} is neither a COCO file (images, annotations), nor a Karpathy split (sentences), nor of "
            "CoOp, P9D, Visual Genome, RefCOCO, VQA, GQA, NLVR2, MSR-VTT, MSRVTT-QA or DiDeMo, nor conversations, nor "
            "a list of rows."
        )
    return kind


def files_in(folder: Path, kind: str = "") -> tuple[str, list[Path]]:
    """The annotation files of a folder, which are all of one kind: `annotations/*.json`, or `*.json` at its top.

    Without a `kind` it is that of the first file; files of COCO and of Karpathy come behind those of others.
    """
    for pattern in ("annotations/*.json", "*.json"):
        there = sorted(path for path in folder.glob(pattern) if path.is_file())
        kinds = {path: _quietly(path) for path in there} if len(there) <= _MOST_FILES else {}
        known = sorted((found in _COMMON, path) for path, found in kinds.items() if found and kind in ("", found))
        if known:
            first = kinds[known[0][1]]
            return first, [path for path in there if kinds[path] == first]
    return kind, []


def _quietly(path: Path) -> str:
    kind = marked(path)
    if kind or path.stat().st_size >= _SMALL:
        return kind
    try:
        return _inside(read_json(path)).replace("table", "")
    except SourceError:
        return ""


def is_coop_split(content: Any) -> bool:
    """Whether the first entries of each split are [picture, label, class name], and there is nothing but splits."""
    if not isinstance(content, dict) or not set(content) <= {"train", "val", "test"}:
        return False
    rows = [row for rows in content.values() if isinstance(rows, list) for row in rows[:10]]
    return bool(rows) and all(isinstance(row, list) and [*map(type, row)] == [str, int, str] for row in rows)


def _inside(content: Any) -> str:
    if is_coop_split(content):
        return "coop"
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        return "coco" if "annotations" in content else "karpathy"
    if isinstance(content, list) and any(isinstance(row, dict) for row in content[:10]):
        return "table"
    return ""
