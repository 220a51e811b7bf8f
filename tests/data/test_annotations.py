"""Annotation files in their authors' formats, made by hand at tiny size, go into shards and come out as fields."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from annotation_helpers import flickr30k, gqa, mdetr, nlvr2, photo, refcoco, visual_genome, vqa, write

from diptych.batch import Sample
from diptych.data.dataset import ShardedData
from diptych.data.pack import Packing, PackReport, pack
from diptych.data.raw import Reading, SourceError
from diptych.data.readers import recognise
from diptych.views.answers import soft_scores

ANY = Packing(max_broken=1.0)


def contents(report: PackReport) -> dict[str, dict[str, Sample]]:
    """Split -> key -> sample with all its fields."""
    found: dict[str, dict[str, Sample]] = {}
    for split in report.splits:
        data = ShardedData(report.folder, split)
        found[split] = {data.key(i): data.read(i, sorted(data.has)) for i in range(len(data))}
    return found


def packed(source: Path, out: Path, **reading: str) -> dict[str, dict[str, Sample]]:
    return contents(pack(source, out, Reading(**reading), ANY))


def edited(file: Path, change) -> None:
    """The JSON of a file, changed."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


MAKERS = {
    "visual-genome": visual_genome,
    "vqa": vqa,
    "gqa": lambda root: gqa(root) / "questions1.2",
    "nlvr2": nlvr2,
    "refcoco": refcoco,
    "flickr30k": flickr30k,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_folders_are_recognised_by_their_files(tmp_path, kind):
    source = recognise(MAKERS[kind](tmp_path / "in"))
    assert source.kind == kind
    assert len(list(source.samples())) == source.total


# --- Visual Genome ----------------------------------------------------------------------------------------------------


def test_regions_of_visual_genome(tmp_path):
    found = packed(visual_genome(tmp_path / "in"), tmp_path / "out")
    samples = {key: sample for split in found.values() for key, sample in split.items()}
    assert set(samples) == {"VG_100K_2/1", "VG_100K/2"}, "the third has no regions"
    first = samples["VG_100K_2/1"]
    assert first.phrases == ["a clock on the wall", "the street", "the street"]
    assert first.boxes.tolist() == [[0.5, 0.5, 1, 1], [0, 0, 1, 1], [0.25, 0, 0.75, 0.5]]
    assert first.texts == ["a clock on the wall", "the street"]
    assert samples["VG_100K/2"].boxes.tolist() == [[0, 0, 0.125, 0.5]], "what lies outside is cut off"


def test_bad_entries_of_visual_genome_are_named(tmp_path):
    root = visual_genome(tmp_path / "in")

    def change(content):
        content[0]["regions"][0]["width"] = 0
        content[0]["regions"][1]["phrase"] = 7
        content.append({"id": 99, "regions": []})
        content.append(None)

    edited(root / "region_descriptions.json", change)
    edited(root / "image_data.json", lambda content: content.append({"image_id": 4, "width": "20", "height": 10}))
    report = pack(root, tmp_path / "out", packing=ANY)
    assert report.written == 2
    assert report.broken == {
        "image_data.json: [3]": "the entry has no image_id or no size",
        "region_descriptions.json: [0].regions[0]": "the region has no phrase, or no box with an area",
        "region_descriptions.json: [0].regions[1]": "the region has no phrase, or no box with an area",
        "region_descriptions.json: [2]": "image_data.json does not list its picture",
        "region_descriptions.json: [3]": "image_data.json does not list its picture",
    }
    (root / "image_data.json").unlink()
    with pytest.raises(SourceError, match=r"needs region_descriptions\.json and, beside it, image_data\.json"):
        recognise(root)


# --- VQA --------------------------------------------------------------------------------------------------------------


def test_questions_of_vqa_have_ten_answers(tmp_path):
    found = packed(vqa(tmp_path / "in"), tmp_path / "out")
    assert set(found) == {"val", "test"}
    sample = found["val"]["val2014/COCO_val2014_000000000042"]
    first, second = sample.questions
    assert first["question"] == "What is behind him?"
    assert (first["type"], first["question_type"], first["id"]) == ("other", "what is", 42000)
    assert first["answers"] == ["net"] * 6 + ["fence", "mesh", "fence", "Net"]
    assert soft_scores(first["answers"]) == pytest.approx({"net": 1.0, "fence": 0.6, "mesh": 0.3})
    assert second["answers"] == []
    assert found["test"]["test2015/COCO_test2015_000000000007"].questions[0]["question"] == "Why?"


@pytest.mark.parametrize("name", ["v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"])
def test_one_file_of_vqa_finds_its_partner(tmp_path, name):
    root = vqa(tmp_path / "in")
    found = packed(root / name, tmp_path / "out")
    (sample,) = found["val"].values()
    assert [len(one["answers"]) for one in sample.questions] == [10, 0]


def test_answers_alone_are_no_data(tmp_path):
    root = vqa(tmp_path / "in")
    for file in root.glob("*questions.json"):
        file.unlink()
    with pytest.raises(SourceError, match="has answers and no questions"):
        recognise(root)


def test_bad_questions_are_named(tmp_path):
    root = vqa(tmp_path / "in")
    file = root / "v2_OpenEnded_mscoco_val2014_questions.json"
    bad = [
        {"image_id": -1, "question": "a?"},
        {"image_id": 42},
        5,
        {"image_id": 42, "question": "b?", "question_id": []},
    ]
    edited(file, lambda content: content["questions"].extend(bad))
    report = pack(file, tmp_path / "out", packing=ANY)
    assert set(report.broken) == {f"{file.name}: questions[{n}]" for n in (2, 3, 4)}
    assert len(contents(report)["val"]["val2014/COCO_val2014_000000000042"].questions) == 3
    edited(file, lambda content: content.update(questions={}))
    with pytest.raises(SourceError, match="neither a COCO file"):
        recognise(file)
    edited(file, lambda content: content.update(questions={"question_id": 1, "image_id": 2}))
    with pytest.raises(SourceError, match="has no list of questions"):
        recognise(file)


# --- GQA --------------------------------------------------------------------------------------------------------------


def test_questions_of_gqa_with_their_scene(tmp_path):
    report = pack(gqa(tmp_path / "in") / "questions1.2", tmp_path / "out", packing=ANY)
    sample = contents(report)["val"]["n16"]
    assert [one["answers"] for one in sample.questions] == [["yes"], []]
    assert (sample.questions[0]["type"], sample.questions[0]["semantic"]) == ("verify", "attr")
    assert sample.phrases == ["apple", "table"]
    assert sample.boxes.tolist() == [[0.25, 0, 0.5, 0.5], [0, 0.5, 1, 1]]
    assert sample.attributes == [{"attributes": ["red", "ripe"]}, {"attributes": []}]
    assert sample.relations == [(0, "on", 1)], "one to an object without an area is left out"
    assert report.notes == {"an object without a name or without an area was left out": 1}
    assert "with scene graphs" in report.about


def test_gqa_without_scenes_and_with_bad_entries(tmp_path):
    root = gqa(tmp_path / "in")
    (root / "sceneGraphs" / "val_sceneGraphs.json").unlink()
    file = root / "questions1.2" / "val_balanced_questions.json"
    bad = {"a": 5, "b": {"imageId": "../x", "question": "?"}, "c": {"imageId": "n16"}}
    edited(file, lambda content: content.update(bad))
    report = pack(file, tmp_path / "out", packing=ANY)
    assert set(report.broken) == {f"{file.name}: {name}" for name in bad}
    assert "without scene graphs" in report.about
    assert "boxes" not in report.has


# --- NLVR2 ------------------------------------------------------------------------------------------------------------


def test_statements_about_two_pictures(tmp_path):
    root = nlvr2(tmp_path / "in")
    report = pack(root, tmp_path / "out", packing=ANY)
    assert report.classes == ("False", "True")
    assert {"sides", "text", "category", "label", "group"} <= set(report.has)
    found = contents(report)
    assert set(found["val"]) == {"dev-850-0-0", "dev-850-1-0", "dev-850-0-1"}
    assert {key: sample.label for key, sample in found["val"].items()} == {
        "dev-850-0-0": 1,
        "dev-850-1-0": 0,
        "dev-850-0-1": 0,
    }
    groups = {key: sample.group for key, sample in found["val"].items()}
    assert groups["dev-850-0-0"] == groups["dev-850-1-0"] != groups["dev-850-0-1"]
    sample = found["train"]["train-10171-0-0"]
    assert sample.text == "Two dogs."
    assert [side.image.width for side in sample.sides] == [10, 11]
    assert packed(root / "dev.json", tmp_path / "one", images=str(root / "images"))["val"].keys() == groups.keys()


def test_bad_statements_are_named(tmp_path):
    root = nlvr2(tmp_path / "in")
    rows = [
        {"identifier": "dev-850-0-2", "sentence": "x", "label": "maybe"},
        {"identifier": "dev/850/0/2", "sentence": "x", "label": "True"},
        {"identifier": "dev-850-0-2", "sentence": " ", "label": "True"},
        {"identifier": "dev-9-0-2", "sentence": "no picture", "label": "True"},
    ]
    with (root / "dev.json").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    report = pack(root / "dev.json", tmp_path / "out", packing=ANY)
    assert set(report.broken) == {"dev.json:4", "dev.json:5", "dev.json:6", "dev-9-0-2", "dev.json:8"}
    assert "missing" in report.broken["dev-9-0-2"]
    assert report.written == 3


def test_a_test_set_without_labels_has_no_classes(tmp_path):
    row = {"identifier": "test1-0-0-0", "sentence": "x", "left_url": "u"}
    write(tmp_path / "in" / "test1.json", json.dumps(row) + "\n")
    for side in (0, 1):
        photo(tmp_path / "in" / f"test1-0-0-img{side}.png")
    report = pack(tmp_path / "in", tmp_path / "out", packing=ANY)
    assert report.splits == {"test": 1}
    assert "category" not in report.has


# --- referring expressions --------------------------------------------------------------------------------------------

EXPRESSIONS = [("right guy", 1), ("man on right", 1), ("the left one", 0)]


def test_references_choose_among_the_objects_of_coco(tmp_path):
    report = pack(refcoco(tmp_path / "in"), tmp_path / "out", packing=ANY)
    assert report.splits == {"testa": 1}
    sample = contents(report)["testa"]["train2014/COCO_train2014_000000000042"]
    assert sample.expressions == EXPRESSIONS
    assert sample.boxes.tolist() == [[0, 0, 0.5, 1], [0.5, 0, 1, 0.5]]
    assert sample.phrases == ["person", "person"]
    assert report.notes == {"a crowd, or an object without an area, was left out": 1}


def test_expressions_of_mdetr_are_joined_by_picture(tmp_path):
    found = packed(mdetr(tmp_path / "in") / "finetune_refcoco_testA.json", tmp_path / "out")
    sample = found["testa"]["COCO_train2014_000000000042"]
    assert sample.expressions == [("right guy", 0), ("man on right", 0), ("the left one", 1)]
    assert sample.boxes.tolist() == [[0.5, 0, 1, 0.5], [0, 0, 0.5, 1]], "what is meant, each once"


def test_a_folder_of_splits_and_a_folder_of_several_data_sets(tmp_path):
    root = mdetr(mdetr(tmp_path / "in", "train"), "val")
    assert set(packed(root, tmp_path / "out")) == {"train", "val"}
    edited(root / "finetune_refcoco_val.json", lambda content: content["images"][0].update(dataset_name="refcoco+"))
    with pytest.raises(SourceError, match="holds several data sets"):
        recognise(root)


def test_pickles_are_refused_with_what_to_do(tmp_path):
    file = write(tmp_path / "in" / "refs(unc).p", b"\x80\x02]q\x00.")
    for source in (file, file.parent):
        with pytest.raises(SourceError, match=r"refs\(unc\)\.p is a pickle, .* never read: give its contents as JSON"):
            recognise(source)


def test_bad_references_are_named(tmp_path):
    root = refcoco(tmp_path / "in")
    good = json.loads((root / "refs(unc).json").read_text())[0]
    bad = [good | {"image_id": 1}, good | {"ann_id": 7}, good | {"sentences": []}, None]
    edited(root / "refs(unc).json", lambda content: content.extend(bad))
    report = pack(root, tmp_path / "out", packing=ANY)
    assert set(report.broken) == {f"refs(unc).json: [{n}]" for n in (2, 3, 4, 5)}
    (root / "instances.json").unlink()
    with pytest.raises(SourceError, match=r"put instances\.json, which has their boxes, beside it"):
        recognise(root)
    file = mdetr(tmp_path / "two") / "finetune_refcoco_testA.json"
    edited(file, lambda content: content["annotations"].pop())
    assert pack(file, tmp_path / "out2", packing=ANY).broken == {
        f"{file.name}: images[2]": "the entry has no file_name, caption, size, or box with an area"
    }


# --- Flickr30k Entities -----------------------------------------------------------------------------------------------


def test_phrases_of_captions_lead_to_their_boxes(tmp_path):
    found = packed(flickr30k(tmp_path / "in"), tmp_path / "out")["test"]
    first, second = found["36979_0"], found["36979_1"]
    assert first.text == "Two men carry a box outside ."
    assert [(first.text[start:end], box) for start, end, box in first.spans] == [
        ("Two men", 0),
        ("Two men", 1),
        ("a box", 2),
    ]
    assert np.allclose(first.boxes, [[0, 0, 0.5, 0.5], [0.5, 0, 1, 1], [0.1, 0, 0.6, 1]])
    assert first.phrases == ["Two men", "Two men", "a box"]
    assert second.text == "Somebody with something near hats ."
    assert [(second.text[start:end], box) for start, end, box in second.spans] == [("hats", 0)]


@pytest.mark.parametrize(
    ("file", "change", "place", "reason"),
    [
        ("Sentences/36979.txt", ("[/EN#2/other a box]", "[/EN#2 a box]"), "Sentences/36979.txt:1", "not written as"),
        ("Sentences/36979.txt", ("a box]", "]"), "Sentences/36979.txt:1", "not written as"),
        ("Annotations/36979.xml", ("<xmax>11<", "<xmax>1<"), "Annotations/36979.xml", "no area (1, 1, 1, 6)"),
        ("Annotations/36979.xml", ("<xmax>11<", "<xmax>eleven<"), "Annotations/36979.xml", "is 'eleven' instead"),
        ("Annotations/36979.xml", ("<width>20</width>", ""), "Annotations/36979.xml", "size/width is ''"),
        ("Annotations/36979.xml", ("</annotation>", ""), "Annotations/36979.xml", "it is no XML"),
        (
            "Annotations/36979.xml",
            ("<annotation>", "<!DOCTYPE a><annotation>"),
            "Annotations/36979.xml",
            "document type",
        ),
    ],
)
def test_bad_files_of_flickr30k_are_named(tmp_path, file, change, place, reason):
    root = flickr30k(tmp_path / "in")
    write(root / "Sentences" / "1.txt", "A dog .\n")
    write(root / "Annotations" / "1.xml", (root / "Annotations" / "36979.xml").read_text())
    photo(root / "flickr30k-images" / "1.jpg")
    (root / file).write_text((root / file).read_text().replace(*change))
    report = pack(root, tmp_path / "out", packing=ANY)
    assert list(report.broken) == [place]
    assert reason in report.broken[place]
    assert report.written >= 1


# --- CoOp -------------------------------------------------------------------------------------------------------------


def coop_split(root: Path, **more) -> Path:
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
        photo(root / "images" / name)
    rows = {
        "train": [["a/1.jpg", 1, "Zebra Finch"], ["b/1.jpg", 0, "beagle"]],
        "val": [],
        "test": [["a/2.jpg", 1, "Zebra Finch"]],
    }
    return write(root / "split_zhou_Pets.json", rows | more)


@pytest.mark.shows("L", "coop", "maple")
def test_splits_of_coop_have_its_classes_in_its_order(tmp_path):
    report = pack(coop_split(tmp_path / "in"), tmp_path / "out", Reading(), ANY)
    found = contents(report)
    assert {split: {key: (one.category, one.label) for key, one in of.items()} for split, of in found.items()} == {
        "train": {"a/1": ("Zebra Finch", 1), "b/1": ("beagle", 0)},
        "test": {"a/2": ("Zebra Finch", 1)},
    }
    assert ShardedData(report.folder, "train").classes == ("beagle", "Zebra Finch")
    assert recognise(tmp_path / "in").kind == "coop"


def test_odd_rows_of_such_splits_are_broken_and_two_names_of_a_label_refused(tmp_path):
    good = [["a/1.jpg", 0, "beagle"]] * 10  # as far as files are looked into
    odd = [["a/1.jpg"], ["a/1.jpg", True, "x"], [1, 0, "x"], ["a/1.jpg", 0, " "], "a/1.jpg", ["../../a", 0, "beagle"]]
    source = recognise(coop_split(tmp_path / "odd", train=good + odd, test=[]))
    reasons = [getattr(item, "reason", "") for item in source.samples()]
    assert sum("no [picture, label, name]" in reason for reason in reasons) == 5
    assert len([reason for reason in reasons if not reason]) == 10
    with pytest.raises(SourceError, match="calls the label 0 'beagle' and 'cat'"):
        recognise(coop_split(tmp_path / "two", train=[["a/1.jpg", 0, "beagle"], ["b/1.jpg", 0, "cat"]]))
    with pytest.raises(SourceError, match="no split of CoOp's"):
        recognise(write(tmp_path / "none.json", {"train": []}), Reading(kind="coop"))
