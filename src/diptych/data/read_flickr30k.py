"""Flickr30k Entities (Plummer et al., 2015, arXiv:1505.04870): five captions a picture whose phrases have boxes.

`Sentences/ID.txt` has a caption a line, with phrases as `[/EN#283585/people A young child]`; `Annotations/ID.xml` has
the boxes of each number, in pixels counted from 1. `train.txt`, `val.txt` and `test.txt` list the pictures of a split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

from diptych.data.decode import TEXT_BYTES, BrokenSample
from diptych.data.raw import Reading, Source, SourceError, confined, key_of, read_file
from diptych.data.read_pictures import Box, Picture, Where, box_of, source

_PHRASE = re.compile(r"\[/EN#(\d{1,12})((?:/\w+)+) ([^\[\]]*)\]")
_MOST = 200  # captions of a picture, and boxes of a caption
_SPLITS = ("train", "val", "test")
_DECLARATION = re.compile(rb"<!\s*(DOCTYPE|ENTITY)|\0", re.IGNORECASE)  # zeros are UTF-16, which could hide one


def is_here(folder: Path) -> bool:
    """Whether a folder has captions and boxes of Flickr30k Entities."""
    return (folder / "Sentences").is_dir() and (folder / "Annotations").is_dir()


def flickr30k(path: Path, reading: Reading) -> Source:
    """The folder with `Sentences` and `Annotations`: a sample a caption, whose spans lead to the boxes of its phrases.

    Raises:
        SourceError: one of the folders is missing, or there is no folder with the pictures.
    """
    if not is_here(path):
        raise SourceError(f"{path} is not of Flickr30k Entities: it needs the folders Sentences and Annotations.")
    splits = {name: split for split in _SPLITS for name in _listed(path / f"{split}.txt")}
    pictures: list[Picture] = []
    broken: list[BrokenSample] = []
    for file in sorted((path / "Sentences").glob("*.txt")):
        try:
            pictures += _captions(path, file.stem, splits.get(file.stem, ""))
        except BrokenSample as one:
            broken.append(one)
    boxes = sum(len(picture.boxes) for picture in pictures)
    about = f"Flickr30k Entities: {len(pictures):,} captions, {boxes:,} boxes of their phrases"
    return source("flickr30k", about, pictures, broken, Where(path, reading))


def _listed(file: Path) -> list[str]:
    if not file.is_file():
        return []
    try:
        return read_file(file, file.name, 64 * TEXT_BYTES).decode("utf-8", "replace").split()
    except BrokenSample as broken:
        raise SourceError(f"{file} lists no pictures: {broken.reason}.") from None


def _captions(root: Path, name: str, split: str) -> Iterator[Picture]:
    place = f"Sentences/{name}.txt"
    size, boxes = _boxes(root, f"Annotations/{name}.xml")
    text = read_file(confined(root, place, place), place, TEXT_BYTES).decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.splitlines()):
        if not line.strip():
            continue
        caption, phrases = _parse(line, f"{place}:{number + 1}")
        picture = Picture(f"{name}.jpg", split, "flickr30k-images", size, [caption], key=key_of(f"{name}_{number}.x"))
        spans = []
        every = ((start, end, box) for start, end, entity in phrases for box in boxes.get(entity, []))
        named = list(islice(every, _MOST + 1))
        if len(named) > _MOST or number >= _MOST:
            raise BrokenSample(f"{place}:{number + 1}", f"there are more than {_MOST} boxes or captions")
        for start, end, box in named:
            spans.append((start, end, len(picture.boxes)))
            picture.boxes.append(box)
            picture.phrases.append(caption[start:end])
        picture.more = {"spans": spans} if spans else {}
        yield picture


def _parse(line: str, place: str) -> tuple[str, list[tuple[int, int, str]]]:
    """The caption without its marks, and (start, end, number) of each phrase in it."""
    caption, phrases, before = "", [], 0
    for match in _PHRASE.finditer(line):
        caption += line[before : match.start()]
        phrases.append((len(caption), len(caption) + len(match[3]), match[1]))
        caption, before = caption + match[3], match.end()
    caption += line[before:]
    if "[/EN#" in caption or any(start == end for start, end, _ in phrases):
        raise BrokenSample(place, "a phrase is not written as [/EN#number/type words]")
    return caption.rstrip(), phrases


def _boxes(root: Path, place: str) -> tuple[tuple[float, float], Mapping[str, list[Box]]]:
    """Size of the picture, and the boxes by number, as x, y, width and height counted from 0.

    Raises:
        BrokenSample: it is no XML, declares entities (which can unfold to any size), or has a box without an area.
    """
    data = read_file(confined(root, place, place), place, TEXT_BYTES)
    if _DECLARATION.search(data):
        raise BrokenSample(place, "it declares a document type or entities, or is not UTF-8")
    try:
        read = ElementTree.fromstring(data.decode("utf-8"))
    except (ElementTree.ParseError, ValueError) as error:
        raise BrokenSample(place, f"it is no XML ({error})") from None
    width, height = _whole(read, place, "size/width"), _whole(read, place, "size/height")
    found: dict[str, list[Box]] = {}
    for thing in read.findall("object"):
        if thing.find("bndbox") is None:  # the whole scene, or not to be seen
            continue
        x0, y0, x1, y1 = (_whole(thing, place, f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax"))
        box = box_of(x0 - 1, y0 - 1, x1 - x0, y1 - y0)
        if box is None:
            raise BrokenSample(place, f"a box has no area ({x0}, {y0}, {x1}, {y1})")
        for name in thing.findall("name"):
            found.setdefault((name.text or "").strip(), []).append(box)
    return (width, height), found


def _whole(element: ElementTree.Element, place: str, path: str) -> int:
    text = (element.findtext(path) or "").strip()
    if not re.fullmatch(r"\d{1,6}", text):
        raise BrokenSample(place, f"{path} is {text[:20]!r} instead of a number of pixels")
    return int(text)
