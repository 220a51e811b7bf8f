"""Data sets by name, by path, held out, and mixed."""

import io
import json

import numpy as np
import pytest
from app_helpers import write_shards

from diptych.app import sources
from diptych.app.sources import UnknownSource, open_source, open_sources
from diptych.data.shards import ShardWriter, split_of


def test_a_folder_of_shards(shards):
    data = open_source(str(shards), "train")
    assert (len(data), data.name, data.split) == (40, "colours", "train")
    assert len(open_source(str(shards), "val")) == 20
    assert open_source(f"file://{shards}", "val").key(0) == open_source(str(shards), "val").key(0)


def test_weights_are_read_from_the_end(tmp_path):
    assert sources.weighted("a/b@2") == ("a/b", 2.0)
    assert sources.weighted("world:objects=3@0.5") == ("world:objects=3", 0.5)
    assert sources.weighted("s3://user@host/data") == ("s3://user@host/data", 1.0)
    (tmp_path / "odd@3").mkdir()
    assert sources.weighted(str(tmp_path / "odd@3")) == (str(tmp_path / "odd@3"), 1.0)


def test_data_sets_are_mixed_by_their_sizes_or_the_roots_of_them():
    sizes = (100, 400, 10_000)
    for rule, expected in (("sqrt", [1 / 13, 2 / 13, 10 / 13]), ("size", [2 / 210, 8 / 210, 200 / 210])):
        mixture = sources.open_sources([f"world:train={size},seed={size}@{rule}" for size in sizes])
        assert mixture.weights == pytest.approx(expected)
    assert sources.with_split("world@sqrt", "val") == ("world", "val")
    assert sources.open_sources("world:train=9@sqrt").name == "world"


def test_several_sources_are_mixed_by_weight(shards, tmp_path):
    other = write_shards(tmp_path / "other", [("train", 8)])
    mixed = open_sources([f"{shards}@1", f"{other}@3"], "train")
    order = mixed.order(0, 0, True)
    from_other = sum(mixed.key(int(index)).startswith("other/") for index in order)
    assert abs(from_other - 0.75 * len(order)) <= 2


def test_several_sources_in_one():
    joined = open_source("world:train=30,evaluation=4 + world:train=10,seed=2@3", "train")
    assert (joined.name, len(joined), joined.weights) == ("world + world2", 40, (0.25, 0.75))
    assert len(open_sources(" + ".join(["world:train=5"] * 40), "train").parts) == 40  # longer than any file's name
    assert sources.weighted("a + b@3") == ("a + b@3", 1.0)
    assert sources.with_split("a + b@gallery", "val") == ("a + b@gallery", "val")


def test_tasks_are_the_same_in_every_split():
    train, val = (open_source("starter#tasks3", split) for split in ("train", "val"))
    assert train.name == val.name == "starter in 3 tasks"
    assert [part.classes for part in train.parts] == [part.classes for part in val.parts]
    sizes = [len(part) for part in train.parts]
    assert len(train) == len(open_source("starter", "train"))
    assert max(sizes) < 1.5 * min(sizes)
    turned = open_source("starter#tasks3.reversed", "val")
    assert turned.names == val.names[::-1]
    assert turned.classes == val.classes


def test_no_source_is_an_error():
    with pytest.raises(UnknownSource, match="--data"):
        open_sources([], "train")


def test_a_data_set_without_val_holds_some_out(tmp_path, capsys):
    folder = write_shards(tmp_path / "whole", [("train", 200)])
    train, val = open_source(str(folder), "train"), open_source(str(folder), "val")
    keys = [{part.key(i) for i in range(len(part))} for part in (train, val)]
    assert keys[0] | keys[1] == {f"s{i:04d}" for i in range(200)}
    assert not keys[0] & keys[1]
    assert keys[1] == {key for key in keys[0] | keys[1] if split_of(key) == "val"}
    assert 5 < len(val) < 40
    assert val.split == "val"
    assert "held out" in capsys.readouterr().err


def test_the_world_takes_knobs():
    data = open_source("world:objects=3,train=50,evaluation=20,seed=4", "val")
    assert len(data) == 20
    assert data.seed == 4
    assert data.knobs.objects == (3, 3)
    with pytest.raises(ValueError, match="objects"):
        open_source("world:object=3", "train")


def test_a_mistyped_name_is_told(shards, monkeypatch):
    with pytest.raises(UnknownSource, match="'starter'"):
        open_source("startr")
    monkeypatch.chdir(shards.parent)
    with pytest.raises(UnknownSource, match="'colours'"):
        open_source("colors")


def test_a_file_and_a_folder_of_pictures_say_to_pack(tmp_path):
    (tmp_path / "table.csv").write_text("image,text\n")
    with pytest.raises(UnknownSource, match="diptych pack"):
        open_source(str(tmp_path / "table.csv"))
    with pytest.raises(FileNotFoundError, match="diptych pack"):
        open_source(str(tmp_path))


def test_a_split_that_is_not_there(shards):
    with pytest.raises(FileNotFoundError, match="'test'"):
        open_source(str(shards), "test")


def test_named_sources_are_told_from_paths():
    assert sources.is_named("starter")
    assert sources.is_named("world:objects=3")
    assert not sources.is_named("worlds")
    assert not sources.is_named("data/starter")


def test_the_world_shows_cut_outs_of_a_data_set(tmp_path):
    from PIL import Image

    folder = tmp_path / "cut"
    with ShardWriter(folder, "train") as writer:
        for number, name in enumerate(["boat", "drum", "kite", "opaque", "two words", "Boat"]):
            picture = np.zeros((12, 12, 4), np.uint8)
            picture[3:9, 3:9] = (40 * number, 200, 90, 255)
            picture[..., 3] |= 255 * (name == "opaque")
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "PNG")
            record = json.dumps({"texts": [name], "captions": {"en": name, "de": f"{name} auf Deutsch"}})
            writer.add(f"s{number}", {"png": buffer.getvalue(), "json": record.encode()})
    world = open_source(f"world:sprites={folder},objects=2,train=20", "train")
    assert world.classes == ("boat", "drum", "kite")
    sample = world.read(0, ("image", "text", "boxes"))
    assert len(sample.boxes) == 2
    assert any(name in sample.text for name in world.classes)
    with pytest.raises(ValueError, match="no cut-outs"):
        open_source(f"world:sprites={write_shards(tmp_path / 'plain')}", "train")


def test_the_starter_set_has_cut_outs():
    world = open_source("world:sprites=starter,train=10,shapes=1000", "train")
    assert len(world.classes) > 100
    assert world.read(0, ("image",)).image.size == (64, 64)


def test_parts_by_class():
    spec = "world:objects=1,shapes=5,train=100,evaluation=50"
    base, new = open_source(f"{spec}#base", "train"), open_source(f"{spec}#new", "val")
    assert (base.classes + new.classes, base.split, new.split) == (open_source(spec).classes, "train", "val")
    few = open_source(f"{spec}#base#2each.1", "train")
    assert (len(few), few.classes) == (6, base.classes)
    assert len(open_source(f"{spec}#base#2each.1", "val")) == len(open_source(f"{spec}#base", "val"))
    assert {few.key(i) for i in range(6)} != {open_source(f"{spec}#base#2each.2").key(i) for i in range(6)}
