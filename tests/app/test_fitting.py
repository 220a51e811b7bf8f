"""Options that come from the data."""

from dataclasses import dataclass

import pytest

from diptych.app.fitting import fitted, nouns, ready
from diptych.app.sources import open_sources
from diptych.batch import MissingField
from diptych.methods import config_class
from diptych.recipe import Recipe
from diptych.world import open_world
from diptych.world.data import World
from diptych.world.knobs import Knobs


@dataclass(frozen=True)
class Config:
    answers: tuple[str, ...] = ()
    most_answers: int = 4
    entities: tuple[str, ...] = ()
    most_entities: int = 3


@dataclass(frozen=True)
class Detected:
    region_width: int = 0
    region_labels: int = 0
    region_attributes: int = 0


def test_answers_are_the_most_frequent_ones_of_the_questions() -> None:
    world = World(size=200)
    found = fitted("clip", Config(), world).answers
    said = [answer for i in range(200) for q in world.read(i, ("questions",)).questions for answer in q["answers"]]
    counts = [said.count(answer) for answer in found]
    assert len(found) == 4
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] >= max(said.count(answer) for answer in set(said) - set(found))


def test_sizes_of_regions_are_those_of_the_detector() -> None:
    world = World(size=20, knobs=Knobs(shapes=7, colours=4, textures=3))
    assert fitted("clip", Detected(), world) == Detected(7 + 4 + 3 + 2, 7, 4)  # two sizes
    assert fitted("clip", Detected(region_labels=1600), world).region_labels == 1600


def test_labels_without_a_distribution_are_those_that_occur() -> None:
    class Bare(World):
        has = frozenset({"region_labels"})

    assert fitted("clip", Detected(), Bare(size=40, knobs=Knobs(shapes=7))) == Detected(0, 7, 0)


def test_what_is_given_stays() -> None:
    given = Config(answers=("maybe",), entities=("dog",))
    assert fitted("clip", given, World(size=4)) == given


def test_entities_are_what_captions_name() -> None:
    world = World(size=300, knobs=Knobs(say=("colour",)))
    assert set(fitted("clip", Config(), world).entities) <= set(world.classes)


@pytest.mark.parametrize(
    ("caption", "heads"),
    [
        ("A red star left of two big dogs.", ["star", "dogs"]),
        ("the lightning bolt", ["bolt"]),
        ("it rains", []),
        ("a man and his old horse, near a house", ["man", "horse", "house"]),
    ],
)
def test_nouns_end_phrases_that_an_article_or_a_number_begins(caption: str, heads: list[str]) -> None:
    assert nouns(caption) == heads


def test_regions_are_found_in_the_sides_of_a_pair() -> None:
    @dataclass(frozen=True)
    class Seen:
        region_width: int = 0
        region_classes: int = 0

    alone, beside = (fitted("clip", Seen(), open_world(f"{kind}train=8")) for kind in ("", "pairs=true,"))
    assert alone == beside
    assert alone.region_width > alone.region_classes > 0


def test_data_must_have_what_the_stages_read() -> None:
    class Bare(World):
        has = frozenset({"image"})

    with pytest.raises(MissingField, match="clip needs text"):
        ready("clip", config_class("clip")(), Bare(size=4), Recipe())


def test_classes_are_those_of_the_parts_that_have_labels():
    @dataclass(frozen=True)
    class Config:
        classes: int = 0

    texts, pictures = "world:objects=1,text=true,shapes=5", "world:objects=1,shapes=5"
    assert fitted("limber", Config(), open_sources([pictures, texts])).classes == 5
    assert fitted("limber", Config(), open_sources([texts])).classes == 0
