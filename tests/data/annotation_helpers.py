"""Tiny data sets in the public formats, as their authors lay them out."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
from shard_helpers import picture


def write(path: Path, content: bytes | str | dict | list) -> Path:
    """Bytes and text as they are, everything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, bytes | str) else json.dumps(content)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def photo(path: Path, size: tuple[int, int] = (20, 10)) -> Path:
    return write(path, picture(size, kind="JPEG"))


def visual_genome(root: Path) -> Path:
    """Two pictures in the two folders of the data set; the second is listed as in its first release, by `id`."""
    url = "https://cs.stanford.edu/people/rak248/{}/{}.jpg"
    about = [
        {"width": 20, "url": url.format("VG_100K_2", 1), "height": 10, "image_id": 1, "coco_id": None},
        {"width": 40, "url": url.format("VG_100K", 2), "height": 20, "image_id": 2, "coco_id": 7},
        {"width": 40, "url": url.format("VG_100K", 3), "height": 20, "image_id": 3, "coco_id": 8},
    ]
    write(root / "image_data.json", about)
    first = [
        {"region_id": 11, "width": 10, "height": 5, "image_id": 1, "phrase": "a clock  on the wall", "y": 5, "x": 10},
        {"region_id": 12, "width": 20, "height": 10, "image_id": 1, "phrase": "the street", "y": 0, "x": 0},
        {"region_id": 13, "width": 10, "height": 5, "image_id": 1, "phrase": "the street", "y": 0, "x": 5},
    ]
    second = [{"region_id": 21, "width": 10, "height": 10, "image_id": 2, "phrase": "a dog", "y": 0, "x": -5}]
    write(root / "region_descriptions.json", [{"regions": first, "id": 1}, {"regions": second, "image_id": 2}])
    photo(root / "VG_100K_2" / "1.jpg")
    photo(root / "VG_100K" / "2.jpg", (40, 20))
    return root


def vqa(root: Path) -> Path:
    """Two questions about one picture, one with ten answers, and one of a test set."""
    ten = ["net"] * 6 + ["fence", "mesh", "fence", "Net"]
    asked = [
        {"image_id": 42, "question": "What is behind him?", "question_id": 42000},
        {"image_id": 42, "question": "Is it sunny?", "question_id": 42001},
    ]
    head = {"info": {"year": 2017}, "license": {}, "data_subtype": "val2014", "data_type": "mscoco"}
    write(root / "v2_OpenEnded_mscoco_val2014_questions.json", head | {"task_type": "Open-Ended", "questions": asked})
    answered = {
        "question_type": "what is",
        "multiple_choice_answer": "net",
        "answers": [{"answer": a, "answer_confidence": "maybe", "answer_id": i + 1} for i, a in enumerate(ten)],
        "image_id": 42,
        "answer_type": "other",
        "question_id": 42000,
    }
    write(root / "v2_mscoco_val2014_annotations.json", head | {"annotations": [answered]})
    test = head | {"questions": [{"image_id": 7, "question": "Why?", "question_id": 70}]}
    write(root / "v2_OpenEnded_mscoco_test-dev2015_questions.json", test)
    photo(root / "val2014" / "COCO_val2014_000000000042.jpg")
    photo(root / "test2015" / "COCO_test2015_000000000007.jpg")
    return root


def gqa(root: Path) -> Path:
    """Two questions about one picture, with its scene."""
    types = {"detailed": "existAttrC", "semantic": "attr", "structural": "verify"}
    asked = {
        "05515938": {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "apple (1)"}],
            "question": "Is the apple red?",
            "imageId": "n16",
            "isBalanced": True,
            "answer": "yes",
            "types": types,
            "fullAnswer": "Yes, it is red.",
        },
        "05515939": {"question": "What is it on?", "imageId": "n16", "isBalanced": True, "types": types},
    }
    write(root / "questions1.2" / "val_balanced_questions.json", asked)
    objects = {
        "681267": {
            "name": "apple",
            "x": 5,
            "y": 0,
            "w": 5,
            "h": 5,
            "attributes": ["red", "ripe"],
            "relations": [{"object": "681262", "name": "on"}, {"object": "9", "name": "near"}],
        },
        "681262": {"name": "table", "x": 0, "y": 5, "w": 20, "h": 5, "attributes": [], "relations": []},
        "9": {"name": "dust", "x": 0, "y": 0, "w": 0, "h": 5, "attributes": [], "relations": []},
    }
    write(root / "sceneGraphs" / "val_sceneGraphs.json", {"n16": {"width": 20, "height": 10, "objects": objects}})
    photo(root / "images" / "n16.jpg")
    return root


def nlvr2(root: Path) -> Path:
    """Three statements of the development set, two of which share their sentence, and one of the training set."""
    rows = [
        {"identifier": f"dev-850-{pair}-{text}", "sentence": f"Sentence {text}.", "label": label, "left_url": "u"}
        for pair, text, label in ((0, 0, "True"), (1, 0, "False"), (0, 1, "False"))
    ]
    write(root / "dev.json", "".join(json.dumps(row) + "\n" for row in rows))
    row = {"directory": 35, "identifier": "train-10171-0-0", "sentence": "Two dogs.", "label": "False", "left_url": "u"}
    write(root / "train.json", json.dumps(row) + "\n")
    for name in ("dev/dev-850-0", "dev/dev-850-1", "train/35/train-10171-0"):
        for side in (0, 1):
            write(root / "images" / f"{name}-img{side}.png", picture((10 + side, 10)))
    return root


COCO_OBJECTS = {
    "images": [{"id": 42, "file_name": "COCO_train2014_000000000042.jpg", "width": 20, "height": 10}],
    "annotations": [
        {"id": 5, "image_id": 42, "bbox": [0, 0, 10, 10], "category_id": 1, "iscrowd": 0},
        {"id": 6, "image_id": 42, "bbox": [10, 0, 10, 5], "category_id": 1, "iscrowd": 0},
        {"id": 7, "image_id": 42, "bbox": [0, 0, 20, 10], "category_id": 2, "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "cup"}],
}


def refcoco(root: Path) -> Path:
    """Two references to objects of one picture, in the objects of refs(unc).p as JSON."""

    def reference(number, annotation, *sentences):
        said = [{"tokens": s.split(), "raw": s.upper(), "sent_id": number * 10, "sent": s} for s in sentences]
        name = f"COCO_train2014_000000000042_{number}.jpg"
        more = {"sent_ids": [], "file_name": name, "image_id": 42, "split": "testA", "category_id": 1}
        return more | {"ref_id": number, "ann_id": annotation, "sentences": said}

    references = [reference(0, 6, "right guy", "man on right"), reference(1, 5, "the left one")]
    write(root / "refs(unc).json", references)
    write(root / "instances.json", COCO_OBJECTS)
    photo(root / "train2014" / "COCO_train2014_000000000042.jpg")
    return root


def mdetr(root: Path, split: str = "testA") -> Path:
    """The same as MDETR writes it: an entry of `images` for each expression."""
    texts = (("right guy", 6), ("man on right", 6), ("the left one", 5))
    boxes = {item["id"]: item["bbox"] for item in COCO_OBJECTS["annotations"]}
    images = [
        {
            "file_name": "COCO_train2014_000000000042.jpg",
            "height": 10,
            "width": 20,
            "id": number,
            "original_id": 42,
            "caption": text,
            "dataset_name": "refcoco",
            "tokens_negative": [[0, len(text)]],
        }
        for number, (text, _) in enumerate(texts)
    ]
    annotations = [
        {
            "area": 50,
            "iscrowd": 0,
            "image_id": number,
            "category_id": 1,
            "id": number,
            "bbox": boxes[meant],
            "original_id": meant,
            "tokens_positive": [[0, 3]],
        }
        for number, (_, meant) in enumerate(texts)
    ]
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    write(root / f"finetune_refcoco_{split}.json", content | {"categories": COCO_OBJECTS["categories"]})
    photo(root / "images" / "COCO_train2014_000000000042.jpg")
    return root


XML = """<annotation><filename>36979.jpg</filename>
<size><width>20</width><height>10</height><depth>3</depth></size>
<object><name>1</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>11</xmax><ymax>6</ymax></bndbox></object>
<object><name>1</name><bndbox><xmin>11</xmin><ymin>1</ymin><xmax>21</xmax><ymax>11</ymax></bndbox></object>
<object><name>2</name><name>3</name><bndbox><xmin>3</xmin><ymin>1</ymin><xmax>13</xmax><ymax>11</ymax></bndbox></object>
<object><name>4</name><nobndbox>0</nobndbox><scene>1</scene></object>
</annotation>"""


def flickr30k(root: Path) -> Path:
    """A picture with two captions."""
    lines = [
        "[/EN#1/people Two men] carry [/EN#2/other a box] [/EN#4/scene outside] .",
        "Somebody with [/EN#0/notvisual something] near [/EN#3/clothing/bodyparts hats] .",
    ]
    write(root / "Sentences" / "36979.txt", "\n".join(lines) + "\n")
    write(root / "Annotations" / "36979.xml", XML)
    write(root / "test.txt", "36979\n")
    photo(root / "flickr30k-images" / "36979.jpg")
    return root


REGIONS = {
    "objects_id": np.array([3, 0], np.int64),
    "objects_conf": np.array([0.5, 0.25], np.float32),
    "attrs_id": np.array([7, 1], np.int64),
    "attrs_conf": np.array([0.125, 1], np.float32),
    "boxes": np.array([[0, 0, 10, 10], [5, 2, 21, 10]], np.float32),
    "features": np.arange(6, dtype=np.float32).reshape(2, 3),
}


def cells(name: str, **changed: str) -> list[str]:
    """A line of a table of LXMERT, for a picture of 20 x 10 pixels."""
    code = {column: base64.b64encode(array.tobytes()).decode() for column, array in REGIONS.items()}
    row = {"img_id": name, "img_h": "10", "img_w": "20"} | code
    row |= {"num_boxes": "2"} | changed
    order = "img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features"
    return [row[column] for column in order.split()]


def table(path: Path, *rows: list[str]) -> Path:
    return write(path, "".join("\t".join(row) + "\n" for row in rows))
