from __future__ import annotations

import pickle
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from diptych.batch import FIELDS
from diptych.world import Pairs, Scene, fields, open_world
from diptych.world.pairs import KINDS, SIDE_FIELDS
from diptych.world.scene import COLOURS, SHAPES

NUMBERS = {"a": 1, "an": 1, "two": 2, "three": 3}


def count(scene: Scene, noun: str) -> int:
    """How many objects of a scene are called `red circle`, `red object(s)`, or `stars`."""
    first, _, rest = noun.partition(" ")
    colour, category = (first, rest) if first in COLOURS else ("", noun)
    ends = "es" if category in ("crosses", "hourglasses") else "s"
    singular = category if category in SHAPES else category.removesuffix(ends)
    wanted = "" if singular == "object" else singular
    return sum(colour in ("", t.colour) and wanted in ("", t.category) for t in scene.objects)


def told(text: str) -> tuple[str, int, str]:
    """Kind, number and noun of a statement that counts what each side has."""
    if found := re.fullmatch(r"(both pictures|exactly one picture) contains? (?:exactly )?(\w+) (.+)", text):
        return found[1], NUMBERS[found[2]], found[3]
    found = re.fullmatch(r"both pictures show the same number of (.+)", text)
    if found:
        return "equal", 0, found[1]
    found = re.fullmatch(r"there are more (.+) in the (left|right) picture than in the (left|right) one", text)
    assert found, text
    assert {found[2], found[3]} == {"left", "right"}
    return f"more {found[2]}", 0, found[1]


def true(text: str, left: Scene, right: Scene) -> bool:
    """Whether a statement is true, from its words and the objects alone."""
    if found := re.fullmatch(r"the (.+) has the same colour in both pictures", text):
        (a,), (b,) = ([t.colour for t in side.objects if t.category == found[1]] for side in (left, right))
        return a == b
    kind, number, noun = told(text)
    a, b = count(left, noun), count(right, noun)
    if kind == "equal":
        return a == b
    if kind.startswith("more"):
        return a > b if kind.endswith("left") else b > a
    has = [n >= 1 if number == 1 else n == number for n in (a, b)]
    return sum(has) == (2 if kind == "both pictures" else 1)


@pytest.mark.parametrize("knobs", ["", "repeats=true", "objects=3", "objects=1"])
def test_statements_are_true_or_false_as_they_say(knobs):
    world = open_world(f"pairs=true,{knobs}")
    kinds = Counter()
    for index in range(400):
        pair, sample = world.item(index), world.read(index, ["text", "category", "label"])
        assert true(pair.text, *pair.sides) == pair.true, pair.text
        assert (sample.text, sample.category, sample.label) == (pair.text, str(pair.true), int(pair.true))
        assert world.classes[sample.label] == sample.category
        for side in pair.sides:
            pairs = [(thing.category, thing.colour) for thing in side.objects]
            assert len(set(pairs)) == len(pairs)
            assert not set(pairs) & world.words.held_out
            assert world.knobs.repeats or len({category for category, _ in pairs}) == len(pairs)
        kinds[pair.kind] += 1
    assert set(kinds) == set(KINDS)


def test_each_statement_is_once_true_and_once_false_of_nearly_the_same_pictures():
    world = open_world("pairs=true", "val")
    first = 0
    for base in range(0, 200, 2):
        a, b = world.item(base), world.item(base + 1)
        samples = [world.read(base + i, ["text", "group"]) for i in range(2)]
        assert samples[0].text == samples[1].text
        assert samples[0].group == samples[1].group
        assert {a.true, b.true} == {True, False}
        first += a.true
        if a.kind == "more":
            assert a.sides == b.sides[::-1]
            continue
        sides = [(one, other) for one, other in zip(a.sides, b.sides, strict=True) if one != other]
        assert len(sides) == 1  # so neither the text, nor the other side, nor both together can know
        (pair,) = sides
        objects = [(one, other) for one, other in zip(pair[0].objects, pair[1].objects, strict=True) if one != other]
        assert len(objects) == 1
        assert len(set(objects[0][0].attributes.items()) - set(objects[0][1].attributes.items())) == 1
    assert 0.35 < first / 100 < 0.65
    assert len({world.read(base, ["group"])["group"] for base in range(0, 200, 2)}) == 100


def test_one_side_alone_says_little():
    """The best guess from the kind, the number that is asked about and what one side has, whatever the other has."""
    world = open_world("pairs=true,train=4000")
    seen: dict[str, defaultdict] = {kind: defaultdict(Counter) for kind in KINDS}
    for index in range(2000):
        pair = world.item(index)
        if pair.kind == "colour":
            category = re.fullmatch(r"the (.+) has the same colour in both pictures", pair.text)[1]
            (known,) = (thing.colour for thing in pair.sides[0].objects if thing.category == category)
        else:
            kind, number, noun = told(pair.text)
            known = (kind, number, count(pair.sides[0], noun))
        seen[pair.kind][known][pair.true] += 1
    best = {
        kind: sum(max(counts.values()) for counts in cases.values()) / sum(c.total() for c in cases.values())
        for kind, cases in seen.items()
    }
    assert best["colour"] < 0.6  # the excess over 1/2 is that of the best of two numbers over few draws
    assert best["one"] < 0.6
    assert 0.7 < best["both"] < 0.8
    assert best["equal"] < 0.65
    assert best["more"] < 0.9


def test_sides_are_samples_whose_fields_are_made_when_asked_for(monkeypatch):
    world = open_world("pairs=true,region_noise=0")
    assert world.has <= set(FIELDS)
    sample = world.read(4, world.has)
    left, right = sample.sides
    assert [side.key for side in sample.sides] == [f"{sample.key}-left", f"{sample.key}-right"]
    assert set(left) == set(SIDE_FIELDS) <= set(FIELDS)
    assert left.image.size == right.image.size == (64, 64)
    assert len(left.boxes) == len(left.phrases) == len(left.regions)
    assert not np.array_equal(left.regions, right.regions)
    again = pickle.loads(pickle.dumps(open_world("pairs=true,region_noise=0").read(4, ["sides"]))).sides[0]
    assert again.image.tobytes() == left.image.tobytes()
    np.testing.assert_array_equal(again["region_boxes"], left.region_boxes)
    monkeypatch.setattr(fields, "draw", None)
    fresh = open_world("pairs=true").read(5, ["sides"]).sides[1]
    assert "image" in fresh
    assert "text" not in fresh
    assert fresh.regions.shape == (len(fresh.boxes), 37)


def test_pairs_are_the_same_in_any_order():
    world, again = (open_world("pairs=true") for _ in range(2))
    for index in (9, 2, 9):
        world.item(index)
    assert [world.item(index) for index in range(10)] == [again.item(index) for index in reversed(range(10))][::-1]
    assert sorted(world.order(0, 0, True)[:2] % 2) == [0, 1]
    assert open_world("pairs=true", "val").item(0) != world.item(0)


def test_new_compositions_are_what_statements_ask_about():
    world = open_world("pairs=true", "composition")
    for index in range(40):
        pair = world.item(index)
        assert pair.kind in ("both", "one", "colour")
        assert any(f"{colour} {category}" in pair.text for category, colour in world.words.held_out) or (
            pair.kind == "colour"
        )


def test_pairs_that_cannot_be_made_are_an_error():
    with pytest.raises(ValueError, match="no statement about two such pictures could be made"):
        open_world("pairs=true,objects=1,shapes=1,colours=1")
    assert isinstance(open_world("pairs=true"), Pairs)
