"""Region features that a detector left in files, alone and joined to the pictures of annotation files."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest
from annotation_helpers import REGIONS, cells, nlvr2, photo, table, vqa, write
from shard_helpers import npz

from diptych.data.dataset import ShardedData
from diptych.data.pack import Packing, pack
from diptych.data.raw import Reading, SourceError
from diptych.data.readers import recognise

ANY = Packing(max_broken=1.0)
SHARES = np.array([[0.5, 0.125, 0.375], [0, 0.75, 0.25]], np.float32)
UNITER = {
    "features": REGIONS["features"].astype(np.float16),
    "norm_bb": np.array([[0, 0, 0.5, 1, 0.5, 1], [0.25, 0.25, 1, 1, 0.75, 0.75]], np.float16),
    "conf": np.array([0.375, 0.75], np.float16),
    "soft_labels": SHARES.astype(np.float16),
}


def read(report, split, index=0):
    data = ShardedData(report.folder, split)
    return data.read(index, sorted(data.has))


def test_a_table_of_lxmert(tmp_path):
    file = table(tmp_path / "val2014_obj36.tsv", cells("COCO_val2014_000000000042"), cells("COCO_val2014_000000000043"))
    assert recognise(file).kind == recognise(tmp_path).kind == "regions"
    report = pack(file, tmp_path / "out")
    assert report.splits == {"val": 2}
    sample = read(report, "val")
    assert sample.key == "COCO_val2014_000000000042"
    assert sample.regions.tolist() == REGIONS["features"].tolist()
    assert sample.region_boxes.tolist() == [[0, 0, 0.5, 1], [0.25, np.float32(0.2), 1, 1]], (
        "21 pixels of 20 are cut off"
    )
    assert sample.region_labels.tolist() == [3, 0]
    assert sample.region_scores.tolist() == [0.5, 0.25]
    assert sample.region_attributes.tolist() == [7, 1]
    assert sample.region_attribute_scores.tolist() == [0.125, 1]


def test_a_table_of_bottom_up_attention(tmp_path):
    row = cells("42")
    file = table(tmp_path / "trainval.tsv", ["42", "20", "10", row[7], row[8], row[9]])
    report = pack(file, tmp_path / "out", packing=Packing(split="train"))
    assert report.has == ("region_boxes", "regions")
    assert read(report, "train").region_boxes[0].tolist() == [0, 0, 0.5, 1], "width comes before height"


def test_a_folder_of_uniter(tmp_path):
    write(tmp_path / "in" / "coco_val2014_000000000042.npz", npz(**UNITER))
    report = pack(tmp_path / "in", tmp_path / "out", packing=Packing(split="train"))
    sample = read(report, "train")
    assert sample.region_boxes.tolist() == [[0, 0, 0.5, 1], [0.25, 0.25, 1, 1]]
    assert sample.region_labels.tolist() == [1, 0], "of the classes without background"
    assert sample.region_scores.tolist() == [0.375, 0.75]
    assert sample.region_classes.tolist() == SHARES.tolist()


@pytest.mark.parametrize("name", ["COCO_val2014_000000000042", "coco_val2014_000000000042", "42", "vg_00042"])
def test_features_are_joined_to_pictures_by_name(tmp_path, name):
    root = vqa(tmp_path / "in")
    features = table(tmp_path / "f.tsv", cells("7"), cells(name), cells("COCO_val2014_000000000421"))
    report = pack(root, tmp_path / "out", Reading(regions=str(features)), ANY)
    assert {"image", "questions", "regions", "region_boxes"} <= set(report.has)
    assert read(report, "val").regions.tolist() == REGIONS["features"].tolist()


def test_pictures_may_be_absent_where_there_are_features(tmp_path):
    root = nlvr2(tmp_path / "in")
    for file in root.rglob("*.png"):
        file.unlink()
    for side in (0, 1):
        for stem in ("dev-850-0", "dev-850-1"):
            changed = {**UNITER, "conf": np.array([0.5, side])}
            write(tmp_path / "features" / f"nlvr2_{stem}-img{side}.npz", npz(**changed))
    reading = Reading(regions=str(tmp_path / "features"))
    report = pack(root / "dev.json", tmp_path / "out", reading)
    sides = read(report, "val").sides
    assert [set(side) & {"image", "regions"} for side in sides] == [{"regions"}, {"regions"}]
    assert [side.region_scores[1] for side in sides] == [0, 1]
    with pytest.raises(SourceError, match="None of the first 3 pictures"):
        recognise(root / "dev.json")


def test_a_number_that_two_entries_share_joins_neither(tmp_path):
    root = vqa(tmp_path / "in")
    features = table(tmp_path / "f.tsv", cells("a_42"), cells("b_42"))
    with pytest.raises(SourceError, match=r"Nothing of 2 samples can be packed .*no region features of COCO_"):
        pack(root, tmp_path / "out", Reading(regions=str(features)), ANY)


def test_files_without_features_say_what_is_needed(tmp_path):
    root = vqa(tmp_path / "in")
    for wrong in (root / "v2_mscoco_val2014_annotations.json", tmp_path / "none", root):
        with pytest.raises(SourceError, match=r"holds no region features: give a table .*\(\.tsv\), or a folder"):
            pack(root, tmp_path / "out", Reading(regions=str(wrong)))


def test_other_tables_are_tables(tmp_path):
    photo(tmp_path / "a.jpg")
    six = write(tmp_path / "t.tsv", "image\ttext\ta\tb\tc\td\na.jpg\thello\t1\t1\t1\t1\n")
    assert recognise(six).kind == "table"


def code(array):
    return base64.b64encode(np.asarray(array).tobytes()).decode()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"num_boxes": "3"}, "its region_labels have 16 bytes, which is not right for 3 regions"),
        ({"num_boxes": "1001"}, "the number of boxes is '1001' instead of a number from 1 to 1,000"),
        ({"num_boxes": "-2"}, "number of boxes is '-2'"),
        ({"num_boxes": "0"}, "number of boxes is '0'"),
        ({"img_w": "9999999"}, "the width is '9999999' instead of a number from 1 to 1,000,000"),
        ({"img_h": "ten"}, "height is 'ten'"),
        ({"boxes": code(np.zeros(7, np.float32))}, "its boxes have 28 bytes"),
        ({"features": ""}, "its regions have 0 bytes"),
        ({"features": code(np.zeros(3, np.float32))}, "its regions have 12 bytes"),
        ({"features": "!" * 32}, "its regions are no base64"),
        ({"features": "ab==" * 8}, "is not right|no base64"),
        ({"objects_conf": code(np.array([2, 0], np.float32))}, r"region_scores holds numbers that are not in \[0, 1\]"),
        ({"features": code(np.full(6, np.nan, np.float32))}, "regions holds numbers that are not finite"),
        ({"boxes": code(np.array([[9, 0, 1, 1]] * 2, np.float32))}, r"region_boxes are not x0, y0, x1, y1"),
    ],
)
def test_lines_that_are_wrong_are_named(tmp_path, changed, reason):
    file = table(tmp_path / "f.tsv", cells("good"), cells("bad", **changed), cells("other"))
    report = pack(file, tmp_path / "out", packing=Packing(split="train", max_broken=1.0))
    assert report.written == 2
    assert list(report.broken) == ["bad"]
    assert re.search(reason, report.broken["bad"])


def test_a_line_of_other_columns_is_named(tmp_path):
    file = table(tmp_path / "f.tsv", cells("good"), ["bad", "1", "2"])
    report = pack(file, tmp_path / "out", packing=Packing(split="train", max_broken=1.0))
    assert report.broken["bad"].startswith("f.tsv (line at byte ")
    assert "3 columns instead of 10 or 6" in report.broken["bad"]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": np.ones(3)}, "it has x instead of features and norm_bb"),
        (UNITER | {"norm_bb": np.ones((2, 3))}, r"norm_bb has the shape \(2, 3\)"),
        (UNITER | {"norm_bb": np.ones((1001, 6))}, "up to 1000 rows"),
        (UNITER | {"soft_labels": np.ones((2, 1))}, r"soft_labels has the shape \(2, 1\)"),
        (UNITER | {"conf": np.ones(3)}, "not as many everywhere"),
        (UNITER | {"features": np.ones(2)}, r"regions has the shape \(2,\)"),
    ],
)
def test_files_of_uniter_that_are_wrong_are_named(tmp_path, arrays, reason):
    write(tmp_path / "in" / "good.npz", npz(**UNITER))
    write(tmp_path / "in" / "bad.npz", npz(**arrays))
    report = pack(tmp_path / "in", tmp_path / "out", packing=Packing(split="train", max_broken=1.0))
    assert list(report.broken) == ["bad"]
    assert re.search(reason, report.broken["bad"])
