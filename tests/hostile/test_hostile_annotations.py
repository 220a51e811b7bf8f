"""Annotation files and region features that a stranger made: refused by what they claim, in little memory."""

import json
import os

import numpy as np
import pytest
from annotation_helpers import cells, flickr30k, gqa, mdetr, nlvr2, refcoco, table, visual_genome, vqa, write
from hostile_helpers import ask, everything
from shard_helpers import npz, picture

from diptych.data.check import Checks
from diptych.data.decode import BrokenSample
from diptych.data.pack import checked
from diptych.data.raw import Reading, SourceError
from diptych.data.readers import recognise

MIB = 1 << 20


def pack(folder, source, *more, memory=1200, seconds=60):
    """Packs with everything allowed to be broken; nothing but the destination may appear or change."""
    before = everything(folder)
    said = ask("pack", source, folder / "out", "--max-broken", "1", *more, memory=memory, seconds=seconds)
    out = str(folder / "out")
    assert {path: data for path, data in everything(folder).items() if not path.startswith(out)} == before
    return said


def broken(folder):
    return json.loads((folder / "out" / "broken.json").read_text(encoding="utf-8"))


# --- XML --------------------------------------------------------------------------------------------------------------

LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
BOMBS = {
    "a billion laughs": f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><annotation>&l9;</annotation>',
    "a file": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
    "an address": '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><annotation/>',
    "hidden by its encoding": f'<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [{LAUGHS}]><a/>'.encode("utf-16"),
    "hidden without a mark": f"<!DOCTYPE a [{LAUGHS}]><a/>".encode("utf-16-be"),
    "in another case": '<!doctype a [<!entity x "y">]><annotation>&x;</annotation>',
    "deep": "<annotation>" * 80_000,
    "two million bytes": f"<annotation>{'x' * 2 * MIB}</annotation>",
    "many attributes": "<a " + " ".join(f'a{n}=""' for n in range(60_000)) + "/>",
    "nothing": "",
}


def test_xml_that_unfolds(tmp_path):
    root = flickr30k(tmp_path / "in")
    for name, bomb in BOMBS.items():
        write(root / "Sentences" / f"{name}.txt", "A dog .")
        write(root / "Annotations" / f"{name}.xml", bomb)
    assert "2 samples" in pack(tmp_path, root).well
    reasons = broken(tmp_path)
    assert set(reasons) == {f"Annotations/{name}.xml" for name in BOMBS}
    assert all("not UTF-8" in reasons[f"Annotations/hidden {how}.xml"] for how in ("by its encoding", "without a mark"))
    assert "root:" not in str(reasons)


def test_phrases_times_boxes(tmp_path):
    root = flickr30k(tmp_path / "in")
    box = "<object><name>1</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    size = "<size><width>20</width><height>10</height></size>"
    write(root / "Annotations" / "36979.xml", f"<annotation>{size}{box * 9_000}</annotation>")
    write(root / "Sentences" / "36979.txt", "[/EN#1/people a] " * 60_000 + "\n" + "x\n" * 5)
    assert "more than 200 boxes" in pack(tmp_path, root).sentence


@pytest.mark.parametrize("place", ["Sentences/1.txt", "Annotations/36979.xml", "flickr30k-images/36979.jpg"])
def test_links_to_private_files_are_not_read(tmp_path, place):
    root = flickr30k(tmp_path / "in")
    write(root / "Annotations" / "1.xml", (root / "Annotations" / "36979.xml").read_bytes())
    (root / place).unlink(missing_ok=True)
    (root / place).symlink_to("/etc/passwd")
    said = pack(tmp_path, root)
    assert "root:" not in said.text
    if said.code == 0:
        assert "leads out" in str(broken(tmp_path))


# --- region features --------------------------------------------------------------------------------------------------


CLAIMS = [
    ({"num_boxes": "999999999999"}, "number of boxes"),
    ({"num_boxes": "-1"}, "number of boxes"),
    ({"num_boxes": "9" * 5_000}, "number of boxes"),
    ({"img_w": "1e309"}, "width"),
    ({"num_boxes": "1", "features": "A" * 600_000}, "which is not right for 1 regions"),
    ({"features": "A" * 1_400_000}, "its regions have 1,050,000 bytes"),
    ({"features": "A" * 1_600_000}, "the line has more than 1,500,000 bytes"),
    ({"boxes": "\udcff" * 44}, "its boxes"),
]


def test_tables_that_claim_anything(tmp_path):
    rows = [cells("good"), *(cells(f"bad{n}", **changed) for n, (changed, _) in enumerate(CLAIMS))]
    (tmp_path / "f.tsv").write_bytes("\n".join(map("\t".join, rows)).encode("utf-8", "surrogateescape"))
    assert "1 samples" in pack(tmp_path, tmp_path / "f.tsv", "--bytes", "1000000").well
    reasons = broken(tmp_path)
    assert [reason in reasons[f"bad{n}"] for n, (_, reason) in enumerate(CLAIMS)] == [True] * len(CLAIMS)


def test_a_line_without_an_end(tmp_path):
    file = table(tmp_path / "f.tsv", cells("good"))
    with file.open("ab") as opened:
        opened.truncate(200 * MIB)
    assert "it is no table" in pack(tmp_path, file).sentence


def test_arrays_of_another_size_or_kind(tmp_path):
    good = {"features": np.zeros((2, 3), np.float32), "norm_bb": np.zeros((2, 6), np.float32)}
    files = {
        "bomb": npz(features=np.zeros((9, MIB))),
        "flags": npz(features=good["features"], norm_bb=np.ones((2, 6), bool)),
        "complex": npz(**good | {"soft_labels": np.ones((2, 3), complex)}),
        "scalar": npz(features=np.float32(1), norm_bb=np.float32(1)),
        "none": npz(features=np.zeros((0, 3)), norm_bb=np.zeros((0, 4)), soft_labels=np.zeros((0, 3))),
        "text": b"PK\x03\x04 no archive",
    }
    for name, data in (files | {"good": npz(**good)}).items():
        write(tmp_path / "in" / f"{name}.npz", data)
    (tmp_path / "in" / "link.npz").symlink_to("/etc/passwd")
    pack(tmp_path, tmp_path / "in")
    assert {"bomb", "complex", "scalar", "text", "link"} <= set(broken(tmp_path)) <= {*files, "link"}


def test_a_pipe_is_no_table(tmp_path):
    root = vqa(tmp_path / "in")
    os.mkfifo(tmp_path / "f.tsv")
    assert "no region features" in pack(tmp_path, root, "--regions", tmp_path / "f.tsv", seconds=10).sentence


# --- annotation files -------------------------------------------------------------------------------------------------

MAKERS = {"vg": visual_genome, "vqa": vqa, "gqa": gqa, "nlvr2": nlvr2, "refcoco": refcoco, "mdetr": mdetr}
KINDS = {"vg": "visual-genome", "mdetr": "refcoco"} | {kind: kind for kind in ("vqa", "gqa", "nlvr2", "refcoco")}
WRONG = ["null", "[]", "{}", '"x"', "-1", "1e999", "NaN", "9" * 400, "true", '"../../../etc/passwd"', '"\\ud800"']


def leaves(content, path=()):
    """The places of all values in a JSON file, and of those that hold others."""
    yield path
    for key, item in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(item, dict | list):
            yield from leaves(item, (*path, key))
        else:
            yield (*path, key)


@pytest.mark.parametrize("kind", MAKERS)
def test_any_value_may_be_anything(tmp_path, kind):
    """Each value of each file becomes something else: whole samples, or one sentence, and no other end."""
    root = MAKERS[kind](tmp_path / "in")
    reading = Reading(images=str(root))
    for file in sorted(root.rglob("*.json")):
        text = file.read_text()
        lines = text.splitlines() if kind == "nlvr2" else [text]
        content = json.loads(lines[0])
        for number, path in enumerate(list(leaves(content))):
            changed = json.loads(lines[0])
            wrong = WRONG[number % len(WRONG)]
            place = changed
            for step in path[:-1]:
                place = place[step]
            if path:
                place[path[-1]] = "HERE"
            made = json.dumps(changed if path else "HERE").replace('"HERE"', wrong)
            file.write_text("\n".join([made, *lines[1:]]))
            try:
                source = recognise(root if kind != "gqa" else root / "questions1.2", reading)
                for item in checked(source.samples(), Checks(source.classes)):
                    assert "passwd" not in getattr(getattr(item, "raw", None), "key", "")
                    assert not isinstance(item, BrokenSample) or item.reason
            except SourceError:
                continue
        file.write_text(text)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("content", [b"[" * 100_000, b"", b"\xff\xfe\0", b"7", b"{}", b"[]"])
def test_files_that_are_nothing(tmp_path, kind, content):
    root = MAKERS[kind](tmp_path / "in")
    for file in root.rglob("*.json"):
        file.write_bytes(content)
        with pytest.raises(SourceError):
            recognise(file, Reading(kind=KINDS[kind]))


def test_names_that_lead_out_are_not_followed(tmp_path):
    root = mdetr(tmp_path / "in")
    write(tmp_path / "private.jpg", picture((20, 10), kind="JPEG"))
    file = root / "finetune_refcoco_testA.json"
    content = json.loads(file.read_text())
    names = ["COCO_train2014_000000000042.jpg", "../../private.jpg", str(tmp_path / "private.jpg")]
    for entry, name in zip(content["images"], names, strict=True):
        entry["file_name"] = name
    write(file, content)
    assert "1 samples" in pack(tmp_path, file).well
    assert all("leads out" in reason for reason in broken(tmp_path).values())
    assert len(broken(tmp_path)) == 2
