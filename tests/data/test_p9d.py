"""P9D as its authors lay it out, at tiny size."""

import pytest
from annotation_helpers import photo, write

from diptych.app import measure
from diptych.app.sources import open_source
from diptych.data.dataset import ShardedData
from diptych.data.pack import Packing, pack
from diptych.data.raw import Reading, SourceError
from diptych.data.readers import recognise


def product(title, category, industry=None):
    named = {"industry_name": industry} if industry else {}
    return {"title": title, "cate_name": category, "image_link": "https://example.org/1.jpg", **named}


def p9d(root):
    """Two industries, the later one of the paper first in the file, and an `industry_name` in the three other files."""
    train = {
        "食品/保健": {"7": product("坚果 礼盒", "坚果"), "8": product("红茶", "茶叶")},
        "家居用品": {"1": product("收纳盒", "收纳"), "2": product("毛巾", "毛巾"), "3": product("", "毛巾")},
    }
    write(root / "json" / "train.json", train)
    for name, id, about in (
        ("test", "11", product("浴巾", "毛巾", "家居用品")),
        ("query", "12", product("绿茶", "茶叶", "食品/保健")),
        ("gallery", "13", product("花茶", "茶叶", "食品/保健")),
    ):
        write(root / "json" / f"{name}.json", {id: about})
        photo(root / "gallery_images" / f"{id}.jpg")
    for id in ("1", "2", "7", "8"):
        photo(root / "train_images" / f"{id}.jpg")
    return root


@pytest.fixture
def folder(tmp_path):
    assert recognise(p9d(tmp_path / "P9D")).kind == "p9d"
    return pack(tmp_path / "P9D", tmp_path / "out", Reading(), Packing(max_broken=1.0)).folder


def test_products_become_pairs_with_the_category_of_their_industry(folder):
    found = {}
    for split in ("train", "test", "query", "gallery"):
        data = ShardedData(folder, split)
        for index in range(len(data)):
            sample = data.read(index, ("text", "category"))
            found[data.key(index)] = (sample.text, sample.category)
    assert found == {
        "train/7": ("坚果 礼盒", "食品／保健/坚果"),
        "train/8": ("红茶", "食品／保健/茶叶"),
        "train/1": ("收纳盒", "家居用品/收纳"),
        "train/2": ("毛巾", "家居用品/毛巾"),
        "test/11": ("浴巾", "家居用品/毛巾"),
        "query/12": ("绿茶", "食品／保健/茶叶"),
        "gallery/13": ("花茶", "食品／保健/茶叶"),
    }


def test_industries_are_tasks_in_the_papers_order_and_in_the_opposite_one(folder):
    data = open_source(f"{folder}#tasks", "train")
    assert [name.split(" ")[-1] for name in data.names] == ["家居用品", "食品／保健"]
    assert [[part.read(i, ("text",)).text for i in range(len(part))] for part in data.parts] == [
        ["收纳盒", "毛巾"],
        ["坚果 礼盒", "红茶"],
    ]
    assert open_source(f"{folder}#tasks.reversed", "train").names == data.names[::-1]
    with pytest.raises(ValueError, match="has no sample of the classes of '食品／保健'"):
        open_source(f"{folder}#tasks", "test")


def test_queries_are_judged_beside_the_gallery(folder):
    (one,) = measure.judged([f"{folder}@query"], "val")
    assert [(data.split, data.key(0)) for data in (one.data, one.train)] == [
        ("query", "query/12"),
        ("gallery", "gallery/13"),
    ]


def test_a_single_file_stands_for_all_and_odd_entries_are_told(tmp_path):
    root = p9d(tmp_path / "P9D")
    source = recognise(root / "json" / "train.json")
    reasons = [(item.key, item.reason) for item in source.samples() if hasattr(item, "reason")]
    assert (source.kind, source.total) == ("p9d", 8)
    assert reasons == [("train.json: 3", "it has no title, cate_name or industry")]
    write(root / "json" / "test.json", {"4": 5, "5": {"title": "x", "cate_name": "y"}, "6": None})
    reasons = [item.key for item in recognise(root).samples() if hasattr(item, "reason")]
    assert reasons == ["train.json: 3", "test.json: 4", "test.json: 5", "test.json: 6"]
    with pytest.raises(SourceError, match=r"holds none of train\.json"):
        recognise(tmp_path, Reading(kind="p9d"))
