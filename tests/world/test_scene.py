from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from diptych.world.scene import OPPOSITE, PREDICATES, Background, Object, Relation, Scene, holds, overlap

places = st.floats(0.0, 0.999, allow_nan=False)
objects = st.builds(Object, category=st.just("star"), x=places, y=places, z=places, radius=st.floats(0.05, 0.2))


def test_relations_of_a_hand_made_scene():
    left, right = Object("star", x=0.2, y=0.5, z=0.1), Object("ring", x=0.8, y=0.5, z=0.9)
    above = Object("fish", x=0.5, y=0.1, z=0.5)
    relations = Scene((left, right, above)).relations
    assert Relation(0, "left of", 1) in relations
    assert Relation(1, "right of", 0) in relations
    assert Relation(2, "above", 0) in relations
    assert Relation(0, "below", 2) in relations
    # nearer, but they do not overlap: the picture does not show which one is in front
    assert not any(predicate in ("in front of", "behind") for _, predicate, _ in relations)


def test_in_front_of_needs_a_visible_overlap():
    near, far = Object("star", x=0.5, z=0.1, radius=0.2), Object("ring", x=0.6, z=0.9, radius=0.2)
    assert holds("in front of", near, far)
    assert holds("behind", far, near)
    assert not holds("in front of", far, near)
    assert not holds("in front of", near, replace(far, x=0.9))


def test_close_centres_are_neither_left_nor_above():
    a, b = Object("star", x=0.5, y=0.5), Object("ring", x=0.55, y=0.52)
    assert not any(holds(predicate, a, b) for predicate in ("left of", "right of", "above", "below"))


@given(objects, objects)
def test_a_relation_excludes_its_opposite_and_is_mirrored_by_it(a, b):
    for predicate in PREDICATES:
        assert holds(predicate, a, b) == holds(OPPOSITE[predicate], b, a)
        assert not (holds(predicate, a, b) and holds(OPPOSITE[predicate], a, b))
    assert sum(holds(predicate, a, b) for predicate in PREDICATES[:4]) <= 1


@given(objects, objects)
def test_relations_agree_with_the_coordinates(a, b):
    if holds("left of", a, b):
        assert a.x < b.x
    if holds("above", a, b):
        assert a.y < b.y
    if holds("in front of", a, b):
        assert a.z < b.z
        assert overlap(a, b) > 0


def test_overlap_is_a_share_of_the_smaller_diameter():
    a = Object("star", x=0.3, y=0.5, radius=0.1)
    assert overlap(a, replace(a, x=0.5)) == pytest.approx(0.0)
    assert overlap(a, replace(a, x=0.4)) == pytest.approx(0.5)
    assert overlap(a, replace(a, x=0.55, radius=0.2)) == pytest.approx(0.25)
    assert overlap(a, replace(a, x=0.7)) < 0


@pytest.mark.parametrize(
    ("x", "y", "place"),
    [
        (0.1, 0.1, "at the top left"),
        (0.5, 0.5, "in the middle"),
        (0.9, 0.5, "on the right"),
        (0.34, 0.99, "at the bottom"),
        (1.0, 1.0, "at the bottom right"),
    ],
)
def test_places(x, y, place):
    assert Object("star", x=x, y=y).place == place


def test_a_scene_survives_json():
    scene = Scene((Object("star", "red", "plain", "large", 0.1, 0.2, 0.3, 0.15, -0.1),), Background("tiles"), (0,))
    assert Scene.from_dict(json.loads(json.dumps(scene.to_dict() | {"more": 1}))) == scene


def test_an_unknown_relation_is_an_error():
    with pytest.raises(ValueError, match="there is no relation 'near'"):
        holds("near", Object("star"), Object("ring"))
