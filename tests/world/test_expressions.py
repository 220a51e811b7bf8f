from __future__ import annotations

import re
from random import Random

import pytest

from diptych.world import Object, Scene, open_world
from diptych.world.expressions import expressions
from diptych.world.scene import COLOURS, PLACES, SIZES, TEXTURES, holds


def meant(scene: Scene, text: str) -> list[int]:
    """The objects that an expression fits, from its words and the scene's attributes alone."""
    found = re.fullmatch(r"the (.+?)(?: (left of|right of|above|below|in front of|behind) the (.+))?", text)
    assert found
    head, predicate, anchor = found.groups()
    place = next((p for p in sorted(PLACES, key=len, reverse=True) if head.endswith(p)), "")
    said = head.removesuffix(place).split()
    while said[0] in (*COLOURS, *TEXTURES, *SIZES):
        said = said[1:] + said[:1]
    attributes = [word for word in said if word in (*COLOURS, *TEXTURES, *SIZES)]
    category = " ".join(word for word in said if word not in attributes)
    fitting = [
        i
        for i, thing in enumerate(scene.objects)
        if thing.category == category
        and set(attributes) <= {thing.colour, thing.texture, thing.size}
        and place in ("", thing.place)
    ]
    if predicate:
        (other,) = meant(scene, f"the {anchor}")
        fitting = [i for i in fitting if holds(predicate, scene.objects[i], scene.objects[other])]
    return fitting


@pytest.mark.parametrize("knobs", ["", "repeats=true", "repeats=true,colours=4,occlusion=0.6"])
def test_every_expression_means_one_object(knobs):
    world = open_world(knobs)
    kinds = dict.fromkeys(("category", "attributes", "relation", "place"), 0)
    for index in range(150):
        made, said = world.scene(index), world.read(index, ["expressions"])["expressions"]
        assert {i for _, i in said} == set(range(len(made.objects)))
        for text, i in said:
            assert meant(made, text) == [i], text
            short = text == f"the {made.objects[i].category}"
            related = any(f" {predicate} " in text for predicate in ("of", "above", "below", "behind"))
            placed = not related and text.endswith(PLACES)
            kind = "category" if short else "relation" if related else "place" if placed else "attributes"
            kinds[kind] += 1
            rivals = sum(other.category == made.objects[i].category for other in made.objects) - 1
            assert short == (rivals == 0)
    assert all((count > 20) == bool(knobs or kind == "category") for kind, count in kinds.items()), kinds


def test_an_expression_says_no_more_than_it_must():
    stars = [
        Object("star", "red", "plain", "large", x=0.1, y=0.5),
        Object("star", "blue", "plain", "large", x=0.5, y=0.5),
        Object("star", "red", "striped", "large", x=0.9, y=0.5),
    ]
    said = [expressions(Scene((*stars, Object("ring", "red", x=0.5, y=0.9))), Random(seed)) for seed in range(30)]
    texts = [{text for one in said for text, i in one if i == k} for k in range(4)]
    assert texts[3] == {"the ring"}
    assert "the striped star" in texts[2]
    assert "the red striped star" not in texts[2]  # striped alone does it
    assert "the blue star" in texts[1]
    assert "the star in the middle" in texts[1]
    assert "the plain red star" in texts[0]  # no single word does it
    assert "the star left of the blue star" in texts[0]
    assert not any("ring" in text for text in texts[1])  # above the ring stand others that are not clearly elsewhere


def test_what_cannot_be_singled_out_is_left_out():
    twins = (Object("dog", x=0.5, y=0.5), Object("dog", x=0.55, y=0.55), Object("cat", x=0.1))
    assert expressions(Scene(twins), Random(0)) == [("the cat", 2)]
