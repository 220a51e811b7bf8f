from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest

from diptych.world import Knobs, Object, Scene, answers_of, open_world, scene, vocabulary
from diptych.world.questions import plural, questions
from diptych.world.scene import COLOURS, SHAPES

PLURALS = {
    "circles": "circle", "crosses": "cross", "fish": "fish", "houses": "house", "lightning bolts": "lightning bolt",
    "mushrooms": "mushroom", "hourglasses": "hourglass", "boats": "boat",
}  # fmt: skip


def called(scene: Scene, name: str) -> list[Object]:
    """The objects that go by a name such as `star` or `red star`."""
    first, _, rest = name.partition(" ")
    colour, category = (first, rest) if first in COLOURS and rest else ("", name)
    return [thing for thing in scene.objects if thing.category == category and colour in ("", thing.colour)]


def only(scene: Scene, name: str) -> Object:
    found = called(scene, name)
    assert len(found) == 1, f"{name} does not single out an object"
    return found[0]


def answer(scene: Scene, question: str) -> str:
    """The answer, from the words of the question and the scene's attributes alone."""
    yes = {True: "yes", False: "no"}
    if found := re.fullmatch(r"Is there an? (.+)\?", question):
        return yes[bool(called(scene, found[1]))]
    if question == "How many objects are there?":
        return str(len(scene.objects))
    if found := re.fullmatch(r"How many (\w+) objects are there\?", question):
        return str(sum(thing.colour == found[1] for thing in scene.objects))
    if found := re.fullmatch(r"How many (.+) are there\?", question):
        singular = PLURALS.get(found[1], found[1].removesuffix("s"))
        assert singular in SHAPES
        return str(sum(thing.category == singular for thing in scene.objects))
    if found := re.fullmatch(r"What colour is the (.+)\?", question):
        return only(scene, found[1]).colour
    if found := re.fullmatch(r"Is the (.+) (smaller|larger) than the (.+)\?", question):
        a, b = only(scene, found[1]), only(scene, found[3])
        assert max(a.radius, b.radius) > 1.3 * min(a.radius, b.radius)
        return yes[(a.radius < b.radius) == (found[2] == "smaller")]
    if found := re.fullmatch(r"Do the (.+) and the (.+) have the same colour\?", question):
        return yes[only(scene, found[1]).colour == only(scene, found[2]).colour]
    found = re.fullmatch(r"Is the (.+?) (left of|right of|above|below|in front of|behind) the (.+)\?", question)
    assert found, question
    a, b = only(scene, found[1]), only(scene, found[3])
    offset = {
        "left of": b.x - a.x,
        "right of": a.x - b.x,
        "above": b.y - a.y,
        "below": a.y - b.y,
        "in front of": b.z - a.z,
        "behind": a.z - b.z,
    }[found[2]]
    if found[2] not in ("in front of", "behind"):
        assert abs(offset) >= 0.08  # never asked where it is a matter of a pixel
    return yes[offset > 0]


@pytest.mark.parametrize("repeats", [False, True])
def test_answers_agree_with_the_scene(repeats):
    knobs = Knobs(repeats=repeats, occlusion=0.6)
    words, possible = vocabulary(knobs), answers_of(knobs)
    given: dict[str, Counter[str]] = {}
    for index in range(200):
        made = scene(0, index, knobs)
        asked = questions(made, words, knobs.asked, 2, Random(index))
        assert len({question["question"] for question in asked}) == len(asked)
        assert max(Counter(question["type"] for question in asked).values()) == 2
        for question in asked:
            assert question["answers"] == [answer(made, question["question"])], question
            assert question["answers"][0] in possible
            given.setdefault(question["type"], Counter())[question["answers"][0]] += 1
    assert set(given) == {"exist", "count", "colour", "relation", "compare"}
    for kind in ("exist", "relation", "compare"):
        assert 0.4 < given[kind]["yes"] / given[kind].total() < 0.6, kind
    assert max(given["count"].values()) < 0.45 * given["count"].total()
    assert len(given["colour"]) == 10


def test_no_form_of_a_question_gives_its_answer_away():
    knobs = Knobs(repeats=True)
    words = vocabulary(knobs)
    forms: dict[str, Counter[str]] = {}
    for index in range(300):
        for asked in questions(scene(0, index, knobs), words, ("exist", "count", "compare"), 3, Random(index)):
            form = " ".join(word for word in asked["question"].split() if word in _FORM_WORDS)
            forms.setdefault(form, Counter())[asked["answers"][0]] += 1
    assert len(forms) == 6
    for form, answers in forms.items():
        assert max(answers.values()) < 0.7 * answers.total(), form


_FORM_WORDS = {"Is", "there", "How", "many", "objects", "are", "smaller", "larger", "same"}


def test_many_different_questions_can_be_asked_of_one_scene():
    knobs = Knobs()
    asked = questions(scene(0, 0, knobs), vocabulary(knobs), knobs.asked, 1000, Random(0))
    assert len({question["question"] for question in asked}) == len(asked) > 100


def test_a_world_asks_the_types_that_are_wanted():
    world = open_world("questions=colour+count,each=4")
    asked = [question for index in range(20) for question in world.read(index, ["questions"])["questions"]]
    assert len(asked) == 20 * 8
    assert {question["type"] for question in asked} == {"colour", "count"}
    assert {question["answers"][0] for question in asked} <= set(world.answers)
    assert world.answers == ("red", "green", "blue", "yellow", "black", "white", "orange", "purple", "pink", "brown",
                             "0", "1", "2", "3", "4", "5", "6")  # fmt: skip


def test_questions_never_deny_held_out_pairs():
    knobs = Knobs()
    words = vocabulary(knobs)
    for index in range(100):
        for asked in questions(scene(0, index, knobs), words, ("exist",), 10, Random(index)):
            found = re.fullmatch(r"Is there an? (\w+) (.+)\?", asked["question"])
            assert found
            assert (found[2], found[1]) not in words.held_out


def test_plurals():
    assert all(plural(singular) == several for several, singular in PLURALS.items())


def test_questions_that_a_scene_does_not_allow_are_left_out():
    words = vocabulary(Knobs(objects=(1, 1)), ["dog", "cat"])
    alone = questions(Scene((Object("dog"),)), words, Knobs().asked, 5, Random(0))
    assert {question["type"] for question in alone} == {"exist", "count"}
    assert sorted(question["question"] for question in alone) == [
        "How many objects are there?", "Is there a cat?", "Is there a dog?"
    ]  # fmt: skip
