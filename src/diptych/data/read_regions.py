"""Phrases about regions: Visual Genome's region descriptions, and referring expressions (RefCOCO, RefCOCO+, RefCOCOg).

Sources: Krishna et al., 2016 (arXiv:1602.07332) with the data's own readme; Yu et al., 2016 (arXiv:1608.00272), whose
`refs(unc).p` is a pickle and never opened: its objects as JSON are read (`refs*.json` beside `instances.json`), and so
are the `finetune_refcoco_*.json` that MDETR (arXiv:2104.12763) made of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.decode import BrokenSample
from diptych.data.kinds import files_in
from diptych.data.raw import Reading, Source, SourceError, list_words, read_json, split_in, split_name
from diptych.data.read_pictures import Picture, Where, box_of, dicts, list_of, size_of, source, words

_SUFFIX = re.compile(r"_\d+(?=\.\w+$)")  # of one reference, behind the picture's name in refs(unc).p
_DATASET = re.compile(r"refcoco[+g]?")


def pickled(path: Path) -> str:
    """What to do with a pickle."""
    return (
        f"{path.name} is a pickle, which can run any program when it is opened, and is never read: give its contents "
        "as JSON, either MDETR's finetune_refcoco_*.json, or the list of references as refs.json beside instances.json."
    )


# -------------------------------------------------------------------------------------------------- Visual Genome


def visual_genome(path: Path, reading: Reading) -> Source:
    """`region_descriptions.json` with `image_data.json` beside it: a box and a phrase for each region.

    The phrases are the captions of the picture as well, as UNITER and LXMERT use them.

    Raises:
        SourceError: one of the two files is missing or no list, or there is no folder with the pictures.
    """
    files = [path] if path.is_file() else files_in(path, "visual-genome")[1]
    about_pictures = files[0].with_name("image_data.json") if files else path / "image_data.json"
    if not files or not about_pictures.is_file():
        raise SourceError(f"{path} needs region_descriptions.json and, beside it, image_data.json of Visual Genome.")
    pictures: dict[Any, Picture] = {}
    broken: list[BrokenSample] = []
    for index, entry in enumerate(_rows(about_pictures)):
        number = _id(entry, "image_id", "id")
        size = size_of(entry) if isinstance(entry, dict) else None
        if number is None or size is None:
            broken.append(BrokenSample(f"{about_pictures.name}: [{index}]", "the entry has no image_id or no size"))
            continue
        folder = words(entry.get("url")).rpartition("/")[0].rpartition("/")[2]
        pictures[number] = Picture(f"{number}.jpg", "", folder, size)
    for index, entry in enumerate(_rows(files[0])):
        place = f"{files[0].name}: [{index}]"
        picture = pictures.get(_id(entry, "image_id", "id"))
        if picture is None:
            broken.append(BrokenSample(place, f"{about_pictures.name} does not list its picture"))
            continue
        broken += _describe(picture, list_of(entry.get("regions")), place)
    described = [picture for picture in pictures.values() if picture.boxes]
    regions = sum(len(picture.boxes) for picture in described)
    about = f"Visual Genome ({files[0].name}): {len(described):,} pictures, {regions:,} regions with phrases"
    return source("visual-genome", about, described, broken, Where(path, reading))


def _rows(file: Path) -> list[Any]:
    content = read_json(file)
    if not isinstance(content, list):
        raise SourceError(f"{file} is not of Visual Genome: it is no list.")
    return content


def _id(entry: Any, *keys: str) -> int | None:
    found = next((entry[key] for key in keys if key in entry), None) if isinstance(entry, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _describe(picture: Picture, regions: Sequence[Any], place: str) -> list[BrokenSample]:
    """Adds the regions to their picture; returns those that are none."""
    broken = []
    for index, region in enumerate(regions):
        region = region if isinstance(region, dict) else {}
        box = box_of(*(region.get(key) for key in ("x", "y", "width", "height")))
        phrase = words(region.get("phrase"))
        if box is None or not phrase:
            broken.append(BrokenSample(f"{place}.regions[{index}]", "the region has no phrase, or no box with an area"))
            continue
        picture.boxes.append(box)
        picture.phrases.append(phrase)
    picture.captions = list(dict.fromkeys(picture.phrases))
    return broken


# -------------------------------------------------------------------------------------------- referring expressions


def refcoco(path: Path, reading: Reading) -> Source:
    """RefCOCO, RefCOCO+ or RefCOCOg: the expressions of a picture, and the boxes that they choose from.

    With `refs*.json` these are all objects of COCO that are no crowds, with MDETR's files those that are meant.

    Raises:
        SourceError: no such file, several data sets in one folder, or no folder with the pictures.
    """
    files = [path] if path.is_file() else files_in(path, "refcoco")[1]
    if not files:
        pickles = sorted(path.glob("refs*.p"))
        raise SourceError(pickled(pickles[0]) if pickles else f"{path} holds no referring expressions as JSON.")
    contents = {file: read_json(file) for file in files}
    names = {file: _dataset(content, file) for file, content in contents.items()}
    if len(set(names.values())) > 1:
        raise SourceError(f"{path} holds several data sets ({list_words(file.name for file in files)}): give one file.")
    pictures: dict[tuple[str, Any], Picture] = {}
    broken: list[BrokenSample] = []
    for file, content in contents.items():
        if isinstance(content, list):
            _add_references(file, content, pictures, broken)
        else:
            _add_mdetr(file, content, pictures, broken)
    found = [picture for picture in pictures.values() if picture.more.get("expressions")]
    count = sum(len(picture.more["expressions"]) for picture in found)
    named = list_words(file.name for file in files)
    about = f"referring expressions ({named}): {len(found):,} pictures, {count:,} expressions"
    return source("refcoco", about, found, broken, Where(path, reading))


def _dataset(content: Any, file: Path) -> str:
    """refcoco, refcoco+ or refcocog for MDETR's files; another list of references is a data set of its own."""
    if isinstance(content, list):
        return file.name
    first = next(iter(dicts(content.get("images"))), {}) if isinstance(content, dict) else {}
    match = _DATASET.match(words(first.get("dataset_name")))
    if match is None:
        raise SourceError(f"{file} is neither a list of references nor one of MDETR's finetune_refcoco_*.json.")
    return match[0]


def _coco_picture(name: str, split: str, size: tuple[float, float]) -> Picture:
    """A picture of COCO, which lies in the folder that its name speaks of: COCO_train2014_... in train2014."""
    folder = name.split("_")[1] if name.startswith("COCO_") and name.count("_") > 1 else ""
    return Picture(name, split, folder, size, more={"expressions": []})


def _add_references(
    file: Path, references: Sequence[Any], pictures: dict[tuple[str, Any], Picture], broken: list[BrokenSample]
) -> None:
    beside = file.with_name("instances.json")
    if not beside.is_file():
        raise SourceError(f"{file.name} names objects by number: put instances.json, which has their boxes, beside it.")
    content = read_json(beside)
    content = content if isinstance(content, dict) else {}
    sizes = {_id(image, "id"): image for image in dicts(content.get("images"))}
    names = {_id(one, "id"): words(one.get("name")) for one in dicts(content.get("categories"))}
    objects: dict[Any, list[dict[str, Any]]] = {}
    for item in dicts(content.get("annotations")):
        objects.setdefault(_id(item, "image_id"), []).append(item)
    places: dict[tuple[str, Any], dict[Any, int]] = {}
    for index, entry in enumerate(references):
        entry = entry if isinstance(entry, dict) else {}
        number, split = _id(entry, "image_id"), split_name(words(entry.get("split")))
        image = sizes.get(number)
        if number is None or image is None:
            broken.append(BrokenSample(f"{file.name}: [{index}]", "instances.json does not list its picture"))
            continue
        key = (split, number)
        if key not in pictures:
            name = words(image.get("file_name")) or _SUFFIX.sub("", words(entry.get("file_name")))
            pictures[key] = _coco_picture(name, split, size_of(image) or (0.0, 0.0))
            places[key] = _add_objects(pictures[key], objects.get(number, []), names)
        place = places[key].get(_id(entry, "ann_id"))
        texts = [words(item.get("sent")) or words(item.get("raw")) for item in dicts(entry.get("sentences"))]
        if place is None or not any(texts):
            reason = "the reference has no sentence, or instances.json no box for it"
            broken.append(BrokenSample(f"{file.name}: [{index}]", reason))
            continue
        pictures[key].more["expressions"] += [(text, place) for text in texts if text]


def _add_objects(picture: Picture, items: Sequence[Mapping[str, Any]], names: Mapping[Any, str]) -> dict[Any, int]:
    """Adds the objects of a picture; returns their places among its boxes by their numbers."""
    places = {}
    for item in items:
        box = box_of(*list_of(item.get("bbox")))
        if box is None or item.get("iscrowd"):
            picture.notes.append("a crowd, or an object without an area, was left out")
            continue
        places[_id(item, "id")] = len(picture.boxes)
        picture.boxes.append(box)
        picture.phrases.append(names.get(_id(dict(item), "category_id")) or "object")
    return places


def _add_mdetr(
    file: Path, content: Mapping[str, Any], pictures: dict[tuple[str, Any], Picture], broken: list[BrokenSample]
) -> None:
    """Every entry of `images` is one expression; its one annotation is what it means."""
    names = {_id(one, "id"): words(one.get("name")) for one in dicts(content.get("categories"))}
    split = split_in(file.stem) or split_name(file.stem.rpartition("_")[2])
    meant = {_id(item, "image_id"): item for item in dicts(content.get("annotations"))}
    places: dict[tuple[str, Any], dict[Any, int]] = {}
    for index, entry in enumerate(dicts(content.get("images"))):
        name, text, size = words(entry.get("file_name")), words(entry.get("caption")), size_of(entry)
        item = meant.get(_id(entry, "id"), {})
        box = box_of(*list_of(item.get("bbox")))
        if not name or not text or size is None or box is None:
            reason = "the entry has no file_name, caption, size, or box with an area"
            broken.append(BrokenSample(f"{file.name}: images[{index}]", reason))
            continue
        picture = pictures.setdefault((split, name), _coco_picture(name, split, size))
        known = places.setdefault((split, name), {})
        number = _id(item, "original_id", "id")
        if number is None or number not in known:
            known[number] = len(picture.boxes)
            picture.boxes.append(box)
            picture.phrases.append(names.get(_id(item, "category_id")) or "object")
        picture.more["expressions"].append((text, known[number]))
