from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from diptych.batch import FIELDS, MissingField
from diptych.world import SPLITS, Knobs, Sprite, World, fields, open_world
from diptych.world.language import true

SMALL = {"train": 64, "evaluation": 64}


def sprites(count: int = 8) -> list[Sprite]:
    rng = np.random.default_rng(0)
    return [
        Sprite(f"thing {i}", rng.integers(100, 256, (12, 12, 4), dtype=np.uint8), {"de": f"Ding {i}"})
        for i in range(count)
    ]


def equal(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return a.tobytes() == b.tobytes() if isinstance(a, Image.Image) else a == b


def test_every_field_is_known_and_of_its_kind():
    world = World(knobs=Knobs(**SMALL))
    sample = world.read(5, world.has)
    assert set(sample) == world.has <= set(FIELDS)
    assert sample.key == "world-0-train-000005"
    assert sample.image.mode == "RGB"
    assert sample.image.size == (64, 64)
    objects = len(sample.attributes)
    assert sample.boxes.shape == (objects, 4)
    assert sample.masks.shape == (objects, 64, 64)
    assert len(sample.phrases) == objects
    assert sample.text == sample.texts[0]
    assert len(sample.texts) == 4
    assert len(sample.sentences) == objects
    assert set(sample.tags) == {thing["category"] for thing in sample.attributes}
    assert {name for name, on in zip(world.classes, sample.labels, strict=True) if on} == set(sample.tags)
    assert len(sample.translations) == 12
    assert all(sample.text[start:end] in sample.phrases[box].replace("small ", "").replace("large ", "")
               for start, end, box in sample.spans)  # fmt: skip
    assert len(sample.negatives) == len(sample.scene["negatives"]) >= 4
    assert sample.text not in sample.negatives
    json.dumps([sample.scene, sample.attributes, sample.relations, sample.questions, sample.spans])
    assert json.loads(json.dumps(sample.scene)) == sample.scene
    assert json.dumps(world.read(np.int64(5), ["scene"])["scene"]) == json.dumps(sample.scene)


@pytest.mark.parametrize("split", SPLITS)
def test_a_sample_is_the_same_whenever_and_wherever_it_is_read(split):
    world, again = (World(split, knobs=Knobs(**SMALL)) for _ in range(2))
    for index in (40, 3, 17, 3):
        world.read(index, ["image"])
    copy = pickle.loads(pickle.dumps(world))
    for reader, names in ((again, sorted(world.has)), (copy, sorted(world.has, reverse=True))):
        a, b = world.read(17, world.has), reader.read(17, names)
        assert all(equal(a[name], b[name]) for name in world.has)
    alone = again.read(17, ["questions"])
    assert alone["questions"] == world.read(17, world.has)["questions"]


def test_seeds_and_splits_share_no_scene():
    seen = set()
    for seed in (0, 1):
        for split in ("train", "val", "test", "composition", "gallery"):
            world = World(split, 32, seed, Knobs())
            seen |= {world.scene(i) for i in range(len(world))}
    assert len(seen) == 2 * 5 * 32


def test_only_the_fields_asked_for_are_computed(monkeypatch):
    world = World(knobs=Knobs(**SMALL))

    def never(*args: object) -> None:
        raise AssertionError("computed for nothing")

    with monkeypatch.context() as patch:
        patch.setattr(fields, "draw", never)
        assert set(world.read(0, ["text", "translations", "questions", "scene"])) == {
            "text", "translations", "questions", "scene"
        }  # fmt: skip
        with pytest.raises(AssertionError, match="computed for nothing"):
            world.read(0, ["image"])
        assert set(world.read(0, ["boxes", "masks", "regions"])) == {"boxes", "masks", "regions"}
    for name in ("write", "translations", "questions", "foils"):
        monkeypatch.setattr(fields, name, never)
    assert set(world.read(0, ["image", "boxes", "masks", "tags"])) == {"image", "boxes", "masks", "tags"}


def test_a_field_that_is_not_there_is_one_sentence():
    with pytest.raises(MissingField, match="needs audio, which the split val of the world does not have"):
        World("val", knobs=Knobs(**SMALL)).read(0, ["image", "audio"])


@pytest.mark.parametrize(
    "text",
    [
        "gallery=16",
        "gallery=8,repeats=true,named=4",
        "gallery=8,caption=relations",
        "gallery=8,caption=short",
        "gallery=8,caption=long,named=1",
        "gallery=4,say=size,named=2",
        "gallery=8,repeats=true,say=texture,shapes=8",
    ],
)
def test_galleries_differ_in_one_attribute_of_one_named_object(text):
    world = open_world(f"evaluation=50,{text}", "gallery")
    size = world.knobs.gallery
    assert len(world) == 50 - 50 % size
    for first in range(0, min(len(world), 48), size):
        group = [world.scene(first + i) for i in range(size)]
        plans = [world.plan(group[i], first + i, world.knobs.caption) for i in range(size)]
        samples = [world.read(first + i, ["text", "spans"]) for i in range(size)]
        assert len({sample.text for sample in samples}) == size
        assert len({tuple(box for _, _, box in sample.spans) for sample in samples}) == 1  # named in the same order
        for i, other in enumerate(group):
            assert true(plans[i], other)
            assert not any(true(plans[j], other) for j in range(size) if j != i)
            assert other.background == group[0].background
            pairs = zip(group[0].objects, other.objects, strict=True)
            changed = [(k, a, b) for k, (a, b) in enumerate(pairs) if a != b]
            assert len(changed) == (i > 0)
            for k, a, b in changed:
                assert k in other.focus
                assert len(set(a.attributes.items()) - set(b.attributes.items())) == 1
                assert (a.x, a.y, a.z, a.angle) == (b.x, b.y, b.z, b.angle)
                assert (b.category, b.colour) not in world.words.held_out
        scenes = [world.read(first + i, ["scene"])["scene"] for i in range(size)]
        assert {scene["group"] for scene in scenes} == {first // size}


def test_hard_training_groups_meet_in_a_batch():
    world = open_world("train=40,hard=4")
    order = world.order(epoch=1, seed=3, shuffle=True)
    assert sorted(order) == list(range(40))
    groups = order.reshape(-1, 4)
    assert (groups // 4 == groups[:, :1] // 4).all()
    assert len({len(set(np.diff(row))) for row in groups}) == 1
    assert (order != world.order(2, 3, True)).any()
    assert (order == world.order(1, 3, True)).all()
    assert open_world("hard=4", "val").group_size == 1


def test_order_without_groups():
    world = World(size=100)
    assert world.order(0, 0, False).tolist() == list(range(100))
    order = world.order(0, 0, True)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(100))
    assert (order != np.arange(100)).any()


def test_single_objects_have_a_class():
    world = open_world("objects=1,named=1,train=20")
    sample = world.read(4, ["category", "label", "tags"])
    assert sample.tags == [sample.category]
    assert world.classes[sample.label] == sample.category
    assert "label" not in World().has


def test_held_out_pairs_are_named_in_composition():
    world = World("composition", 100)
    unseen = 0
    for index in range(50):
        sample = world.read(index, ["text", "attributes", "scene"])
        for i in sample.scene["focus"]:
            thing = sample.attributes[i]
            assert (thing["category"], thing["colour"]) in world.words.held_out
            assert f"{thing['colour']}" in sample.text
            unseen += 1
    assert unseen == 100


def test_a_world_of_cut_outs():
    world = World("gallery", 16, knobs=Knobs(gallery=4, say=("size",)), sprites=sprites())
    sample = world.read(1, world.has)
    assert sample.text.count("thing") == 2
    assert set(sample.translations) == {"de"}
    assert "Ding" in sample.translations["de"]
    assert all(set(attributes) == {"category", "size"} for attributes in sample.attributes)
    with pytest.raises(ValueError, match="composition needs held-out pairs"):
        World("composition", sprites=sprites())
    dyed = World("composition", knobs=Knobs(tint=True), sprites=sprites())
    assert dyed.read(0, ["attributes"])["attributes"][0]["colour"]


def test_errors():
    with pytest.raises(ValueError, match="did you mean 'composition'"):
        World("compositions")
    with pytest.raises(IndexError, match="has 10 scenes: there is no 10"):
        World(size=10).scene(10)
    with pytest.raises(ValueError, match="different variants for a group of 64"):
        open_world("gallery=64,shapes=7,colours=3,textures=1,evaluation=64", "gallery")
    with pytest.raises(ValueError, match="no whole group of 16"):
        World("gallery", size=10)


def test_what_is_made_is_kept_while_there_is_room(monkeypatch):
    world = open_world("pixels=32,train=4")
    monkeypatch.setattr(type(world), "room", property(lambda self: 2))
    first = [world.read(i, ("text", "image")) for i in range(4)]
    again = [world.read(i, ("image", "texts")) for i in range(4)]
    assert [one.image is two.image for one, two in zip(first, again, strict=True)] == [True, True, False, False]
    assert [one.image.tobytes() for one in first] == [two.image.tobytes() for two in again]
    copy = pickle.loads(pickle.dumps(world))  # to a worker
    assert copy.read(0, ("image",)).image is not first[0].image
