"""Annotation files in JSON: COCO captions and instances, the Karpathy splits (`dataset_coco.json`), CoOp's splits.

Sources: the COCO data format (cocodataset.org, "Data format") and Karpathy and Fei-Fei, 2015 (arXiv:1412.2306), whose
split files list pictures with their sentences; its `restval` pictures count as training, as is usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.data.decode import BrokenSample
from diptych.data.kinds import files_in, is_coop_split
from diptych.data.raw import Reading, Source, SourceError, list_words, read_json, split_in, split_name
from diptych.data.read_pictures import Picture, Where, box_of, dicts, is_length, list_of, size_of, source, words

# ---------------------------------------------------------------------------------------------------------- COCO


def coco(path: Path, reading: Reading) -> Source:
    """COCO captions and instances: one file, or a folder with `annotations/`; files of one split are joined by picture.

    Boxes become x0, y0, x1, y1 in [0, 1] with the category's name as phrase; crowd regions are left out.

    Raises:
        SourceError: no such file, not valid JSON, or no folder with the pictures.
    """
    files = [path] if path.is_file() else files_in(path, "coco")[1]
    if path.is_file() and path.stem.startswith(("captions", "instances")):  # its partner describes the same pictures
        stem = (
            path.stem.replace("captions", "instances")
            if "captions" in path.stem
            else path.stem.replace("instances", "captions")
        )
        files += [partner for partner in [path.with_name(stem + path.suffix)] if partner.is_file()]
    if not files:
        raise SourceError(f"{path} holds no COCO annotations (annotations/*.json).")
    pictures: dict[tuple[str, str], Picture] = {}
    broken: list[BrokenSample] = []
    for file in files:
        _add_coco(file, pictures, broken)
    found = list(pictures.values())
    captions, boxes = sum(len(p.captions) for p in found), sum(len(p.boxes) for p in found)
    about = (
        f"COCO annotations ({list_words(file.name for file in files)}): {len(found):,} pictures, "
        f"{captions:,} captions, {boxes:,} boxes"
    )
    return source("coco", about, found, broken, Where(path, reading, with_captions=captions > 0))


def _add_coco(file: Path, pictures: dict[tuple[str, str], Picture], broken: list[BrokenSample]) -> None:
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise SourceError(f"{file} is no COCO file: it has no list of images.")
    split = split_in(file.stem)
    by_id: dict[Any, Picture] = {}
    for index, entry in enumerate(content["images"]):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(entry.get("id"), int | str):
            broken.append(BrokenSample(f"{file.name}: images[{index}]", "the entry has no id or no file_name"))
            continue
        picture = pictures.setdefault((split, name), Picture(name, split))
        picture.size = size_of(entry) or picture.size
        by_id[entry["id"]] = picture
    categories = {str(c.get("id")): str(c.get("name", c.get("id"))) for c in dicts(content.get("categories"))}
    for index, entry in enumerate(list_of(content.get("annotations"))):
        reason = _annotate(entry, by_id, categories)
        if reason:
            broken.append(BrokenSample(f"{file.name}: annotations[{index}]", reason))


def _annotate(entry: Any, by_id: Mapping[Any, Picture], categories: Mapping[str, str]) -> str:
    """Adds one annotation to its picture; returns what is wrong with it, or an empty string."""
    if not isinstance(entry, dict) or not isinstance(entry.get("image_id"), int | str):
        return "the entry has no image_id"
    picture = by_id.get(entry["image_id"])
    if picture is None:
        return f"it belongs to the picture {entry['image_id']!r}, which the file does not list"
    if "caption" in entry:
        caption = words(entry["caption"])
        picture.captions += [caption] if caption else []
        return "" if caption else "the caption is empty"
    box = list_of(entry.get("bbox"))
    if len(box) != 4 or not all(map(is_length, box)):
        return "the entry has neither a caption nor a bbox of four numbers"
    if entry.get("iscrowd"):
        picture.notes.append("a crowd region without single boxes was left out")
        return ""
    area = box_of(*box)
    if area is None:
        return "the box has no area"
    picture.boxes.append(area)
    category = str(entry.get("category_id", "object"))
    picture.phrases.append(categories.get(category, category))
    return ""


# ------------------------------------------------------------------------------------------------------ Karpathy


def karpathy(path: Path, reading: Reading) -> Source:
    """A Karpathy split file, or the folder that holds one.

    Raises:
        SourceError: no such file, not valid JSON, or no folder with the pictures.
    """
    files = [path] if path.is_file() else files_in(path, "karpathy")[1][:1]
    content = read_json(files[0]) if files else None
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise SourceError(f"{path} is no Karpathy split: it has no list of images.")
    pictures: list[Picture] = []
    broken: list[BrokenSample] = []
    for index, entry in enumerate(content["images"]):
        place = f"{files[0].name}: images[{index}]"
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            broken.append(BrokenSample(place, "the entry has no filename"))
            continue
        folder = entry.get("filepath")
        picture = Picture(name, split_name(str(entry.get("split", ""))), folder if isinstance(folder, str) else "")
        sentences = [_sentence(item) for item in dicts(entry.get("sentences"))]
        picture.captions = [text for text in sentences if text]
        broken += [BrokenSample(place, "a caption is empty") for text in sentences if not text]
        pictures.append(picture)
    captions = sum(len(picture.captions) for picture in pictures)
    about = f"a Karpathy split ({files[0].name}): {len(pictures):,} pictures, {captions:,} captions"
    return source("karpathy", about, pictures, broken, Where(path, reading, with_captions=True))


def _sentence(entry: Mapping[str, Any]) -> str:
    raw = entry.get("raw")
    return words(raw if isinstance(raw, str) else " ".join(str(token) for token in list_of(entry.get("tokens"))))


# ---------------------------------------------------------------------------------------------------------- CoOp


def coop(path: Path, reading: Reading) -> Source:
    """A split of CoOp's (`split_zhou_OxfordPets.json`): for train, val and test a list of [picture, label, class name].

    Classes are numbered as they are there.

    Raises:
        SourceError: no such file, not valid JSON, two names of one label, or no folder with the pictures.
    """
    files = [path] if path.is_file() else files_in(path, "coop")[1][:1]
    content = read_json(files[0]) if files else {}
    if not is_coop_split(content):
        raise SourceError(f"{path} is no split of CoOp's: it has no lists of [picture, label, class name].")
    pictures: list[Picture] = []
    broken: list[BrokenSample] = []
    names: dict[int, str] = {}
    for split, rows in content.items():
        for index, row in enumerate(list_of(rows)):
            picture = _of_class(row, split)
            if picture is None:
                broken.append(BrokenSample(f"{files[0].name}: {split}[{index}]", "it is no [picture, label, name]"))
                continue
            if names.setdefault(row[1], picture.more["category"]) != picture.more["category"]:
                raise SourceError(f"{files[0]} calls the label {row[1]} {names[row[1]]!r} and {row[2]!r}.")
            pictures.append(picture)
    classes = tuple(names[label] for label in sorted(names))
    about = f"a split of CoOp's ({files[0].name}): {len(pictures):,} pictures of {len(classes):,} classes"
    found = source("coop", about, pictures, broken, Where(path, reading))
    return replace(found, classes=classes)


def _of_class(row: Any, split: str) -> Picture | None:
    if not isinstance(row, list) or [*map(type, row)] != [str, int, str] or not words(row[2]):
        return None
    return Picture(row[0], split, more={"category": words(row[2])})
