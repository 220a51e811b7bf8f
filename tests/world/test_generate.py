from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings, strategies as st

from diptych.world import Knobs, scene, vocabulary
from diptych.world.generate import changed
from diptych.world.scene import COLOURS, SHAPES, overlap

knob_sets = st.builds(
    Knobs,
    objects=st.sampled_from([(1, 1), (2, 4), (5, 6), (8, 9)]),
    repeats=st.booleans(),
    colours=st.integers(3, 12),
    textures=st.integers(1, 5),
    sizes=st.integers(1, 2),
    grid=st.sampled_from([0, 3, 4]),
    occlusion=st.floats(0, 0.6),
    named=st.sampled_from([0, 0.5, 2]),
    composition=st.sampled_from([0, 0.1, 0.34]),
)


def test_a_scene_depends_on_nothing_but_its_arguments():
    knobs = Knobs()
    forwards = [scene(3, i, knobs) for i in range(20)]
    backwards = [scene(3, i, knobs) for i in reversed(range(20))][::-1]
    assert forwards == backwards
    assert len(set(forwards)) == 20
    assert scene(4, 0, knobs) != forwards[0]
    assert scene(3, 0, knobs, "val") != forwards[0]


@settings(max_examples=40, deadline=None)
@given(knob_sets, st.integers(0, 10**6), st.sampled_from(["train", "composition"]))
def test_scenes_keep_to_the_knobs(knobs, index, split):
    words = vocabulary(knobs)
    if split == "composition" and len({category for category, _ in words.held_out}) < knobs.objects[1]:
        return
    made = scene(0, index, knobs, split, words)
    count = len(made.objects)
    assert knobs.objects[0] <= count <= knobs.objects[1]
    assert len(made.focus) == len(set(made.focus)) == knobs.focus(count)
    pairs = [(thing.category, thing.colour) for thing in made.objects]
    assert len(set(pairs)) == count
    categories = Counter(thing.category for thing in made.objects)
    if knobs.repeats:
        # held-out pairs may be too few to repeat a category, if every object must have one
        assert count == 1 or (split == "composition" and len(made.focus) == count) or max(categories.values()) >= 2
    else:
        assert max(categories.values()) == 1
    for i, thing in enumerate(made.objects):
        assert thing.category in SHAPES[: knobs.shapes]
        assert thing.colour in COLOURS[: knobs.colours]
        assert thing.texture in words.textures
        assert bool(thing.size) == (knobs.sizes == 2)
        assert thing.radius < min(thing.x, thing.y, 1 - thing.x, 1 - thing.y)
        assert (pairs[i] in words.held_out) == (split == "composition" and i in made.focus)
    for a, b in combinations(made.objects, 2):
        assert overlap(a, b) <= (0 if knobs.grid else knobs.occlusion) + 1e-9
        assert a.z != b.z
        if a.size == "small" and b.size == "large":
            assert a.radius < 0.75 * b.radius


def test_a_grid_gives_each_object_a_cell_of_its_own():
    for index in range(50):
        cells = [(int(3 * thing.x), int(3 * thing.y)) for thing in scene(0, index, Knobs(grid=3)).objects]
        assert len(set(cells)) == len(cells)


def test_held_out_pairs_leave_every_category_and_colour_in_training():
    for share in (0.05, 0.1, 0.2, 0.34, 0.5):
        words = vocabulary(Knobs(composition=share))
        kept = {(a, b) for a in words.categories for b in words.colours} - words.held_out
        assert {a for a, _ in kept} == set(words.categories)
        assert {b for _, b in kept} == set(words.colours)
        assert len(words.held_out) / (len(words.categories) * len(words.colours)) == pytest.approx(share, abs=0.03)
    assert vocabulary(Knobs(composition=0)).held_out == frozenset()


def test_held_out_pairs_never_occur_in_training_and_always_in_composition():
    words = vocabulary(Knobs())
    for index in range(400):
        for split in ("train", "val", "test"):
            made = scene(0, index, Knobs(), split, words)
            assert not any((thing.category, thing.colour) in words.held_out for thing in made.objects)
        unseen = scene(0, index, Knobs(), "composition", words)
        assert all((unseen.objects[i].category, unseen.objects[i].colour) in words.held_out for i in unseen.focus)


def test_no_attribute_is_told_by_another():
    """Colours, textures and sizes are about as frequent in every category: nothing can be guessed from the shape."""
    things = [thing for index in range(2000) for thing in scene(0, index, Knobs(composition=0)).objects]
    for name, expected in (("colour", 10), ("texture", 5), ("size", 2)):
        counts = Counter((thing.category, getattr(thing, name)) for thing in things)
        mean = len(things) / (20 * expected)
        assert len(counts) == 20 * expected
        assert all(abs(n - mean) < 5 * math.sqrt(mean) for n in counts.values())


def test_objects_in_focus_are_like_the_others():
    made = [scene(0, index, Knobs()) for index in range(1500)]
    named = [one.objects[i] for one in made for i in one.focus]
    others = [thing for one in made for i, thing in enumerate(one.objects) if i not in one.focus]
    for measure in (lambda thing: thing.radius, lambda thing: thing.z, lambda thing: (thing.x - 0.5) ** 2):
        a, b = ([measure(thing) for thing in group] for group in (named, others))
        spread = math.sqrt(sum((value - sum(a) / len(a)) ** 2 for value in a)) / len(a)
        assert abs(sum(a) / len(a) - sum(b) / len(b)) < 4 * spread


def test_cut_outs_have_no_texture_and_a_colour_only_if_dyed():
    names = [f"thing {i}" for i in range(10)]
    plain = scene(0, 0, Knobs(), words=vocabulary(Knobs(), names))
    assert {thing.colour for thing in plain.objects} == {thing.texture for thing in plain.objects} == {""}
    dyed = scene(0, 0, Knobs(tint=True), words=vocabulary(Knobs(tint=True), names))
    assert all(thing.colour in COLOURS and thing.category in names for thing in dyed.objects)


def test_impossible_vocabularies_are_errors():
    with pytest.raises(ValueError, match="no 4 objects of 2 categories and 1 colours"):
        scene(0, 0, Knobs(objects=(4, 4), repeats=True, shapes=2, colours=1))


def test_a_change_of_size_needs_room():
    knobs = Knobs(objects=(6, 6), occlusion=0.0)
    grown = shrunk = 0
    for index in range(40):
        base = scene(0, index, knobs)
        for i, thing in enumerate(base.objects):
            other = changed(base, i, "size", "small" if thing.size == "large" else "large", knobs)
            grown += other is not None and thing.size == "small"
            shrunk += other is not None and thing.size == "large"
            assert other is not None or thing.size == "small"
            if other is not None:
                assert all(overlap(a, b) <= 1e-9 for a, b in combinations(other.objects, 2))
    assert shrunk > grown > 0
