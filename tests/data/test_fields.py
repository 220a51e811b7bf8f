"""Regions, sides, referring expressions, groups and moments: members -> values, and values -> members."""

from __future__ import annotations

import json

import numpy as np
import pytest
from shard_helpers import drawing, encoded, npz, picture, write_set

from diptych.batch import FIELDS, Sample
from diptych.data.check import Checked, Checks, check
from diptych.data.dataset import ShardedData
from diptych.data.decode import BrokenSample, Limits
from diptych.data.fields import decode_sample, field_of, fields_of, wanted
from diptych.data.freeze import encode
from diptych.data.inspect import inspect
from diptych.data.mixture import Mixture
from diptych.data.pack import pack
from diptych.data.raw import RawSample
from diptych.data.shards import ShardWriter

REGIONS = {
    "regions": np.arange(6, dtype=np.float32).reshape(2, 3),
    "region_boxes": np.array([[0, 0, 0.5, 1], [0.25, 0, 1, 0.5]], np.float32),
    "region_labels": np.array([4, 0]),
    "region_scores": np.array([0.5, 1], np.float32),
    "region_attributes": np.array([-1, 7]),
    "region_attribute_scores": np.array([0, 0.25], np.float32),
    "region_classes": np.array([[0.5, 0, 0.5], [0, 1, 0]], np.float32),
}


def record(**values):
    return {"json": json.dumps(values).encode()}


def value(name, members, **options):
    return decode_sample("k", members, [name], **options)[name]


# --- regions ----------------------------------------------------------------------------------------------------------


def test_regions_lie_together_in_one_member():
    members = {"jpg": b"", "regions.npz": npz(**REGIONS)}
    assert fields_of(members) == {"image", *REGIONS}
    sample = decode_sample("k", members, tuple(REGIONS))
    for name, array in REGIONS.items():
        assert np.array_equal(sample[name], array)
        assert sample[name].dtype == (np.int64 if array.dtype.kind == "i" else np.float32)
    assert wanted(["jpg", "json", "regions.npz"], ["region_labels"]) == ["regions.npz"]


def test_a_member_of_regions_need_not_hold_all():
    members = {"regions.npz": npz(regions=REGIONS["regions"]), "npz": npz(region_scores=REGIONS["region_scores"])}
    assert fields_of(members) == {"regions", "region_scores"}
    assert wanted(list(members), ["region_scores"]) == list(members)
    assert value("region_scores", members).tolist() == [0.5, 1]
    assert value("regions", {"regions.npz": npz(arr_0=np.ones((4, 2)))}).shape == (4, 2)
    with pytest.raises(BrokenSample, match="no region_boxes"):
        value("region_boxes", members)


def test_half_precision_is_good_enough_for_shares():
    shares = np.random.default_rng(0).dirichlet(np.full(1601, 0.05), 36).astype(np.float16)
    found = value("region_classes", {"regions.npz": npz(region_classes=shares)})
    assert np.array_equal(found, shares.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("regions", np.ones(3), r"regions has the shape \(3,\)"),
        ("regions", np.full((1, 2), np.nan), "not finite"),
        ("region_boxes", np.array([[0, 0, 2, 1.0]]), r"region_boxes are not x0, y0, x1, y1 in \[0, 1\]"),
        ("region_boxes", np.array([[0.5, 0, 0.4, 1]]), r"in \[0, 1\]"),
        ("region_labels", np.array([0.5]), "no row of whole numbers, but float64"),
        ("region_labels", np.array([[1]]), "whole numbers"),
        ("region_labels", np.array([-1]), "below 0"),
        ("region_labels", np.array([1 << 31]), "above 2,147,483,647"),
        ("region_attributes", np.array([-2]), "below -1"),
        ("region_scores", np.array([1.5]), r"not in \[0, 1\]"),
        ("region_attribute_scores", np.array([-0.5]), r"not in \[0, 1\]"),
        ("region_classes", np.array([[0.5, 0.1]]), "does not sum to 1"),
        ("region_classes", np.array([[1.5, -0.5]]), r"not in \[0, 1\]"),
        ("region_classes", np.array([1.0]), "shape"),
    ],
)
def test_regions_of_the_wrong_kind_are_broken(name, array, reason):
    with pytest.raises(BrokenSample, match=reason):
        value(name, {"regions.npz": npz(**{name: array})})


def test_all_arrays_speak_of_the_same_regions():
    arrays = npz(regions=np.ones((3, 2)), region_boxes=np.ones((2, 4)), depth=np.ones((5, 5)))
    for extension in ("regions.npz", "npz"):
        with pytest.raises(BrokenSample, match="not as many everywhere: 2 region_boxes, 3 regions"):
            value("regions", {extension: arrays})


# --- sides ------------------------------------------------------------------------------------------------------------


def side(number):
    return {
        f"{number}.png": picture((number + 2, 1)),
        f"{number}.regions.npz": npz(**REGIONS),
        f"{number}.json": json.dumps({"boxes": [[0, 0, 1, 1]]}).encode(),
    }


def test_two_sides_are_samples_of_their_own():
    members = side(0) | side(1) | {"txt": b"both are grey"} | record(category="True", group="g")
    assert fields_of(members) >= {"images", "sides", "text", "category", "group"}
    first, second = value("sides", members)
    assert set(first) == {"image", "boxes", *REGIONS}
    assert [one.image.width for one in (first, second)] == [2, 3]
    assert np.array_equal(second.regions, REGIONS["regions"])
    assert wanted(sorted(members), ["sides"]) == sorted(side(0) | side(1))
    assert [field_of(name) for name in ("0.regions.npz", "1.json", "0.0.jpg", "0.pkl")] == [
        "sides",
        "sides",
        None,
        None,
    ]


@pytest.mark.parametrize("numbers", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_other_numbers_of_pictures_are_no_sides(numbers):
    members = {f"{number}.png": picture() for number in numbers}
    assert fields_of(members) == {"images"}
    with pytest.raises(BrokenSample, match="no two sides"):
        value("sides", members)


def test_damage_in_a_side_says_which():
    with pytest.raises(BrokenSample, match="of its side 1: the picture is damaged"):
        value("sides", side(0) | side(1) | {"1.png": b"no picture"})
    with pytest.raises(BrokenSample, match="of its side 0: the npz has"):
        value("sides", side(0) | side(1), limits=Limits(bytes=200))


# --- expressions, groups, moments, questions --------------------------------------------------------------------------


def test_expressions_mean_boxes():
    boxes = [[0, 0, 1, 1], [0, 0, 0.5, 1]]
    members = record(boxes=boxes, expressions=[["the left one", 1], ["all of it", 0], ["the left", 1]], group="a-1")
    assert value("expressions", members) == [("the left one", 1), ("all of it", 0), ("the left", 1)]
    assert value("group", members) == "a-1"
    elsewhere = record(expressions=[["x", 1]]) | {"npz": npz(boxes=np.array(boxes))}
    assert wanted(["npz", "json", "jpg"], ["expressions"]) == ["npz", "json"]
    assert value("expressions", elsewhere) == [("x", 1)]


def test_moments_are_in_seconds():
    assert value("moments", record(moments=[[0, 5, "a dog runs"], [2.5, 30, "it rains"]])) == [
        (0.0, 5.0, "a dog runs"),
        (2.5, 30.0, "it rains"),
    ]


def test_questions_without_answers_are_those_of_a_test_set():
    asked = [{"question": "what?", "id": 3}, {"question": "where?", "answers": ["a", "a", "b"], "type": "other"}]
    assert value("questions", record(questions=asked)) == [
        {"question": "what?", "id": 3, "answers": [], "type": ""},
        {"question": "where?", "answers": ["a", "a", "b"], "type": "other"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("expressions", [["x", 1]], "expressions lead outside of its 1 boxes"),
        ("expressions", [["x", -1]], "outside"),
        ("expressions", [["x", 0, 0]], "not a list of pairs of text and box index"),
        ("expressions", [["x", True]], "pairs"),
        ("expressions", [[0, "x"]], "pairs"),
        ("expressions", ["xy"], "pairs"),
        ("group", 5, "group holds a int instead of text"),
        ("moments", [[0, 5]], "not a list of start, end and text"),
        ("moments", [[5, 5, "x"]], "after its end"),
        ("moments", [[-1, 5, "x"]], "before 0"),
        ("moments", [[0, 5, " "]], "is empty"),
        ("moments", [[0, "5", "x"]], "start, end and text"),
        ("questions", [{"answers": ["x"]}], "a question holds a NoneType instead of text"),
        ("questions", [{"question": " "}], "a question is empty"),
        ("questions", [{"question": "x", "answers": "yes"}], "answers is not a list of texts"),
        ("questions", [{"question": "x", "answers": [1]}], "answers holds a int"),
        ("questions", [{"question": "x", "type": 1}], "type of a question holds a int"),
    ],
)
def test_values_of_the_wrong_kind_are_broken(name, content, reason):
    with pytest.raises(BrokenSample, match=reason):
        value(name, record(boxes=[[0, 0, 1, 1]], **{name: content}))


def test_numbers_that_are_none_break_moments():
    with pytest.raises(BrokenSample, match="after its end"):
        value("moments", {"json": b'{"moments": [[0, NaN, "x"]]}'})
    with pytest.raises(BrokenSample, match="after its end"):
        value("moments", {"json": b'{"moments": [[0, 1e999, "x"]]}'})


# --- all the way ------------------------------------------------------------------------------------------------------


def everything():
    """A sample with a value of each of the fields above."""
    members = side(0) | side(1) | {"png": picture((5, 4)), "txt": b"both", "regions.npz": npz(**REGIONS)}
    json_member = record(
        boxes=[[0, 0, 1, 1]],
        expressions=[["it", 0]],
        group="g",
        moments=[[0, 5, "x"]],
        questions=[{"question": "q?", "answers": ["yes"], "type": "exist"}],
    )
    return members | json_member


def plain(sample):
    """Values that can be compared."""
    if isinstance(sample, Sample):
        return {name: plain(sample[name]) for name in sample}
    if isinstance(sample, list | tuple):
        return [plain(item) for item in sample]
    return sample.tobytes() if hasattr(sample, "tobytes") else sample


def test_what_is_written_is_what_was_read():
    members = everything()
    names = sorted(fields_of(members))
    sample = decode_sample("k", members, names)
    again = encode("k", sample)
    assert fields_of(again) == set(names)
    assert plain(decode_sample("k", again, names)) == plain(sample)


def test_damaged_values_of_the_json_are_left_out_and_damaged_arrays_break_the_sample():
    members = everything() | record(boxes=[[0, 0, 1, 1]], expressions=[["it", 1]], group="g")
    found = check(RawSample("k", "", members), Checks())
    assert isinstance(found, Checked)
    assert "expressions" not in found.values
    assert found.notes == ("expressions was left out: expressions lead outside of its 1 boxes",)
    arrays = npz(**REGIONS | {"region_scores": np.array([0, 2.0])})
    broken = check(RawSample("k", "", members | {"regions.npz": arrays}), Checks())
    assert isinstance(broken, BrokenSample)
    assert broken.reason == "region_scores holds numbers that are not in [0, 1]"


def test_pictures_of_sides_are_made_smaller():
    members = {f"{number}.jpg": picture((400, 200), kind="JPEG") for number in (0, 1)}
    found = check(RawSample("k", "", members), Checks(max_side=100))
    assert [one.image.size for one in value("sides", found.members)] == [(100, 50)] * 2


def write(folder, count):
    with ShardWriter(folder, "train") as writer:
        for number in range(count):
            writer.add(f"k{number}", everything())
    return ShardedData(folder)


def test_shards_are_packed_inspected_mixed_and_read_as_they_are(tmp_path):
    data = write(tmp_path / "raw", 3)
    names = fields_of(everything())
    assert data.has == names <= set(FIELDS)
    assert data.coverage["sides"] == 1.0
    report = pack(data, tmp_path / "packed")
    assert set(report.has) == names
    packed = ShardedData(tmp_path / "packed")
    assert plain(packed.read(1, sorted(names))) == plain(data.read(1, sorted(names)))
    assert set(inspect(tmp_path / "packed").has) == names
    mixed = Mixture([(data, 1.0), (packed, 1.0)], ("a", "b"))
    assert mixed.has == names
    assert plain(mixed.read(4, ["sides"])) == plain(data.read(1, ["sides"]))


def test_sides_of_few_samples_are_not_promised(tmp_path):
    write_set(tmp_path, 10, first=5)
    with ShardWriter(tmp_path, "val") as writer:
        for number in range(4):
            writer.add(f"k{number}", {"0.png": picture(), "txt": b"x"} | ({"1.png": picture()} if number else {}))
    assert ShardedData(tmp_path).has == {"image", "text", "texts", "category", "label"}
    data = ShardedData(tmp_path, "val")
    assert data.coverage["sides"] == 0.75
    assert data.coverage["images"] == 1.0
    assert "sides" not in data.has


def test_pictures_of_sides_are_looked_at(tmp_path):
    with ShardWriter(tmp_path, "train") as writer:
        for number in (0, 1):
            writer.add(f"k{number}", {f"{side}.png": encoded(drawing(number * side)) for side in (0, 1)})
    found = inspect(tmp_path)
    assert (found.width.count, found.width.middle) == (4, 96)
    assert found.pictures.exact == [["k0, side 0", "k0, side 1", "k1, side 0"]]
    assert found.shown[0].image.size == (220, 91), "192 x 192 pixels twice and a gap of 22, made smaller"
