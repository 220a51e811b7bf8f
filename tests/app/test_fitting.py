"""Options that come from the data."""

from dataclasses import dataclass

import pytest

from diptych.app.fitting import fitted, nouns, ready
from diptych.batch import MissingField
from diptych.methods import config_class
from diptych.recipe import Recipe
from diptych.world.data import World
from diptych.world.knobs import Knobs


@dataclass(frozen=True)
class Config:
    answers: tuple[str, ...] = ()
    most_answers: int = 4
    entities: tuple[str, ...] = ()
    most_entities: int = 3


def test_answers_are_the_most_frequent_ones_of_the_questions() -> None:
    world = World(size=200)
    found = fitted("clip", Config(), world).answers
    said = [answer for i in range(200) for q in world.read(i, ("questions",)).questions for answer in q["answers"]]
    counts = [said.count(answer) for answer in found]
    assert len(found) == 4
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] >= max(said.count(answer) for answer in set(said) - set(found))


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


def test_data_must_have_what_the_stages_read() -> None:
    class Bare(World):
        def __init__(self) -> None:
            super().__init__(size=4)
            self.has = frozenset({"image"})

    with pytest.raises(MissingField, match="clip needs text"):
        ready("clip", config_class("clip")(), Bare(), Recipe())
