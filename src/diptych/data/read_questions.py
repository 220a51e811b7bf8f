"""Questions and statements about pictures: VQA, GQA and NLVR2.

Sources: Goyal et al., 2016 (arXiv:1612.00837) and visualqa.org, "Download"; Hudson and Manning, 2019
(arXiv:1902.09506) with the data's readme; Suhr et al., 2018 (arXiv:1811.00491) and lil-lab/nlvr, nlvr2/README.md, whose
files have the ending of JSON and a JSON object a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.data.decode import BrokenSample
from diptych.data.kinds import files_in, marked
from diptych.data.raw import Reading, Source, SourceError, list_words, read_json, split_in, split_name
from diptych.data.read_pictures import Picture, Where, box_of, dicts, list_of, size_of, source, words
from diptych.data.read_rows import json_lines

_BESIDE = ("Annotations", "annotations", "Questions", "questions")
_IDENTIFIER = re.compile(r"([A-Za-z]+\d?)-(\d+)-(\d+)-(\d+)")
_TRUTHS = {"true": "True", "false": "False"}


def _objects(file: Path, key: str) -> list[Any]:
    content = read_json(file)
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise SourceError(f"{file} has no list of {key}.")
    return found


# ------------------------------------------------------------------------------------------------------------ VQA


def vqa(path: Path, reading: Reading) -> Source:
    """VQA: the questions of a picture with the ten answers of each, where a file of annotations has them.

    One file of questions or annotations, whose partner is looked for beside it, or a folder with those of some splits.

    Raises:
        SourceError: no file of questions, not valid JSON, or no folder with the pictures.
    """
    files = _vqa_files(path)
    asked = [file for file in files if _asks(file)]
    if not asked:
        raise SourceError(f"{path} has answers and no questions: put the file of questions beside it.")
    broken: list[BrokenSample] = []
    answers: dict[str, dict[str, Any]] = {}
    for file in files:
        if file not in asked:
            answers |= {str(entry.get("question_id")): entry for entry in dicts(_objects(file, "annotations"))}
    pictures: dict[tuple[str, Any], Picture] = {}
    for file in asked:
        _add_vqa(file, answers, pictures, broken)
    found = list(pictures.values())
    count = sum(len(picture.more["questions"]) for picture in found)
    about = (
        f"VQA ({list_words(file.name for file in files)}): {len(found):,} pictures, {count:,} questions, "
        f"{'with' if answers else 'without'} answers"
    )
    return source("vqa", about, found, broken, Where(path, reading))


def _asks(file: Path) -> bool:
    """Whether it is a file of questions, not of answers."""
    with file.open("rb") as opened:
        return b'"questions"' in opened.read(1 << 16)


def _vqa_files(path: Path) -> list[Path]:
    """The files themselves; to one file comes its partner, which speaks of the same part: train2014, val2014, ..."""
    if path.is_dir():
        return files_in(path, "vqa")[1]
    part = _part(path)
    folders = [path.parent, *(path.parent.parent / name for name in _BESIDE)]
    near = sorted({file for folder in folders if part and folder.is_dir() for file in folder.glob("*.json")})
    partners = [file for file in near if _part(file) == part and file.is_file() and marked(file) == "vqa"]
    return [path, *(file for file in partners if _asks(file) != _asks(path))][:2]


def _part(file: Path) -> str:
    """`train2014`, `test-dev2015`, ... in a name."""
    match = re.search(r"(train|val|test)(-dev)?\d{4}", file.stem)
    return match[0] if match else ""


def _add_vqa(
    file: Path, answers: Mapping[str, Any], pictures: dict[tuple[str, Any], Picture], broken: list[BrokenSample]
) -> None:
    part = _part(file)
    split = split_in(part or file.stem)
    folder = part.replace("-dev", "")
    for index, entry in enumerate(_objects(file, "questions")):
        entry = entry if isinstance(entry, dict) else {}
        number, question = entry.get("image_id"), words(entry.get("question"))
        known = answers.get(str(entry.get("question_id")), {})
        replies = [words(item.get("answer")) for item in dicts(known.get("answers"))]
        if not isinstance(number, int) or not 0 <= number < 10**12 or not question or not all(replies):
            reason = "the entry has no image_id or no question, or an answer of it is empty"
            broken.append(BrokenSample(f"{file.name}: questions[{index}]", reason))
            continue
        name = f"COCO_{folder or split}_{number:012d}.jpg"
        picture = pictures.setdefault((split, number), Picture(name, split, folder, more={"questions": []}))
        asked = {"question": question, "answers": replies, "type": words(known.get("answer_type"))}
        more = {"question_type": words(known.get("question_type")), "id": entry.get("question_id")}
        picture.more["questions"].append(asked | more)


# ------------------------------------------------------------------------------------------------------------ GQA


def gqa(path: Path, reading: Reading) -> Source:
    """GQA: the questions of a picture by structural type, and the boxes, names, attributes and relations of its scene.

    A file of questions or a folder of such; `SPLIT_sceneGraphs.json` is looked for beside it and in `sceneGraphs`.

    Raises:
        SourceError: no such file, not valid JSON, or no folder with the pictures.
    """
    files = [path] if path.is_file() else files_in(path, "gqa")[1]
    if not files:
        raise SourceError(f"{path} holds no questions of GQA.")
    pictures: dict[tuple[str, str], Picture] = {}
    broken: list[BrokenSample] = []
    scenes = 0
    for file in files:
        split = split_name(re.split(r"[^a-z]", file.stem.lower())[0])
        _add_gqa(file, split, pictures, broken)
    for split in dict.fromkeys(split for split, _ in pictures):
        graphs = _scene_graphs(files[0], split)
        scenes += bool(graphs)
        for (own, number), picture in pictures.items():
            if own == split and isinstance(graphs.get(number), dict):
                _add_scene(picture, graphs[number])
    found = list(pictures.values())
    count = sum(len(picture.more["questions"]) for picture in found)
    about = (
        f"GQA ({list_words(file.name for file in files)}): {len(found):,} pictures, {count:,} questions, "
        f"{'with' if scenes else 'without'} scene graphs"
    )
    return source("gqa", about, found, broken, Where(path, reading))


def _add_gqa(file: Path, split: str, pictures: dict[tuple[str, str], Picture], broken: list[BrokenSample]) -> None:
    content = read_json(file)
    if not isinstance(content, dict):
        raise SourceError(f"{file} is no file of GQA's questions: it is no object.")
    for number, entry in content.items():
        entry = entry if isinstance(entry, dict) else {}
        image, question = words(entry.get("imageId")), words(entry.get("question"))
        if not re.fullmatch(r"\w{1,40}", image) or not question:
            broken.append(BrokenSample(f"{file.name}: {number}", "the entry has no imageId or no question"))
            continue
        picture = pictures.setdefault((split, image), Picture(f"{image}.jpg", split, more={"questions": []}))
        types = entry.get("types")
        types = types if isinstance(types, dict) else {}
        answer = words(entry.get("answer"))
        asked = {"question": question, "answers": [answer] if answer else [], "type": words(types.get("structural"))}
        picture.more["questions"].append(asked | {"semantic": words(types.get("semantic")), "id": number})


def _scene_graphs(file: Path, split: str) -> dict[str, Any]:
    near = (file.parent, file.parent / "sceneGraphs", file.parent.parent / "sceneGraphs")
    found = [path for path in (folder / f"{split}_sceneGraphs.json" for folder in near) if path.is_file()]
    content = read_json(found[0]) if found else {}
    return content if isinstance(content, dict) else {}


def _add_scene(picture: Picture, graph: Mapping[str, Any]) -> None:
    objects = graph.get("objects")
    objects = objects if isinstance(objects, dict) else {}
    picture.size = size_of(graph) or (0.0, 0.0)
    places: dict[str, int] = {}
    attributes = []
    for number, item in objects.items():
        item = item if isinstance(item, dict) else {}
        box = box_of(*(item.get(key) for key in ("x", "y", "w", "h")))
        if box is None or not words(item.get("name")):
            picture.notes.append("an object without a name or without an area was left out")
            continue
        places[number] = len(picture.boxes)
        picture.boxes.append(box)
        picture.phrases.append(words(item.get("name")))
        attributes.append({"attributes": [word for word in map(words, list_of(item.get("attributes"))) if word]})
    relations = [
        (places[number], words(relation.get("name")), places[words(relation.get("object"))])
        for number in places
        for relation in dicts(objects[number].get("relations"))
        if words(relation.get("object")) in places
    ]
    picture.more |= {"attributes": attributes, "relations": relations} if places else {}


# ---------------------------------------------------------------------------------------------------------- NLVR2


def nlvr2(path: Path, reading: Reading) -> Source:
    """NLVR2: two pictures, a statement, and whether it is true; statements of one set share a group.

    The pictures of `dev-850-0-1` are `dev-850-0-img0.png` and `dev-850-0-img1.png`; consistency is judged over all
    pairs of pictures with one sentence, whose identifiers differ in the third part only (nlvr2/eval/metrics.py).

    Raises:
        SourceError: no such file, or no folder with the pictures.
    """
    files = [path] if path.is_file() else files_in(path, "nlvr2")[1]
    pictures: list[Picture] = []
    broken: list[BrokenSample] = []
    for file in files:
        for row in json_lines(file):
            one = row if isinstance(row, BrokenSample) else _statement(*row)
            (broken if isinstance(one, BrokenSample) else pictures).append(one)  # type: ignore[arg-type]
    about = f"NLVR2 ({list_words(file.name for file in files)}): {len(pictures):,} statements about two pictures"
    found = source("nlvr2", about, pictures, broken, Where(path, reading, with_captions=True))
    return Source(found.kind, found.about, found.samples, found.total, ("False", "True"))


def _statement(place: str, row: Mapping[str, Any]) -> Picture | BrokenSample:
    identifier, sentence = words(row.get("identifier")), words(row.get("sentence"))
    match = _IDENTIFIER.fullmatch(identifier)
    truth = _TRUTHS.get(str(row.get("label", "")).lower(), "")
    if match is None or not sentence or ("label" in row and not truth):
        return BrokenSample(place, "the row has no identifier such as dev-850-0-1, no sentence, or an unknown label")
    part, group, pair, text = match.groups()
    first, second = (f"{part}-{group}-{pair}-img{side}.png" for side in (0, 1))
    more = {"group": f"{part}-{group}-{text}"} | ({"category": truth} if truth else {})
    split = split_in(part)
    folder = f"{part}/{row['directory']}" if isinstance(row.get("directory"), int) else part
    return Picture(first, split, folder, captions=[sentence], more=more, key=identifier, second=second)
