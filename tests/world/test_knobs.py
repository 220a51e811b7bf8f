from __future__ import annotations

import pytest

from diptych.world import Knobs, open_world, parse_knobs


def test_parsing_keeps_the_other_defaults():
    knobs = parse_knobs("objects=3-4, named=0.5,say=colour+size,repeats=true,caption=long,noise=0.1,tint=no")
    assert knobs == Knobs(
        objects=(3, 4), named=0.5, say=("colour", "size"), repeats=True, caption="long", noise=0.1, tint=False
    )
    assert parse_knobs("objects=4").objects == (4, 4)
    assert parse_knobs("say=none").say == ()
    assert parse_knobs("") == Knobs()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("object=4", "did you mean 'objects'"),
        ("objects", "objects needs a value"),
        ("objects=", "objects needs a value"),
        ("objects=many", "objects=many is not understood: it must be a whole number"),
        ("noise=loud", "it must be a number"),
        ("repeats=perhaps", "say true or false"),
        ("objects=4,objects=5", "given twice"),
        ("objects=5-3", "a range such as 3-5"),
        ("grid=2,objects=5", "grid=2 has 4 cells for 5 objects"),
        ("say=color", "did you mean 'colour'"),
        ("questions=color", "did you mean 'colour'"),
        ("caption=relation", "did you mean 'relations'"),
        ("palette=200", "palette must be between -180 and 180"),
        ("colours=100", "colours must be between 1 and 12"),
        ("pixels=1", "pixels must be between 8 and 4096"),
        ("gallery=1", "gallery must be between 2 and 10000"),
        ("shapes=3", "a scene of 6 different objects needs as many categories"),
    ],
)
def test_errors_say_what_to_do(text, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        open_world(text)


@pytest.mark.parametrize(("named", "count", "expected"), [(2, 6, 2), (9, 6, 6), (0, 6, 6), (0.5, 5, 3), (0.1, 3, 1)])
def test_how_many_objects_are_named(named, count, expected):
    assert Knobs(named=named).focus(count) == expected


def test_worlds_of_other_palettes_show_the_same_scenes_in_other_hues():
    one, other = (open_world(f"train=5,noise=0,palette={degrees}") for degrees in (0, 120))
    mine, turned = (world.read(0, ("image", "text")) for world in (one, other))
    assert mine.text == turned.text
    assert mine.image.split()[0].tobytes() == turned.image.split()[1].tobytes()


def test_a_world_from_text_takes_a_seed():
    assert open_world("seed=7,train=10").seed == 7
    assert len(open_world("train=10")) == 10
    assert len(open_world("train=10,evaluation=5", "val")) == 5
