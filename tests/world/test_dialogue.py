"""What is said and asked for language models: dialogues, more types of questions, options, texts alone."""

import re
from collections import Counter

import pytest

from diptych.views.instructions import BANK
from diptych.world import open_world
from diptych.world.generate import companion
from diptych.world.questions import singled
from diptych.world.scene import COLOURS, PLACES


def asked(world, count=60):
    """(scene, question) of each question about the first scenes."""
    return [(world.scene(i), one) for i in range(count) for one in world.read(i, ("questions",)).questions]


def test_every_dialogue_is_true_of_its_scene():
    world = open_world("")
    lengths, openings = Counter(), Counter()
    for index in range(60):
        scene, talk = world.scene(index), world.read(index, ("conversation",)).conversation
        names = {name: i for i, name in singled(scene).items()}
        assert [turn["role"] for turn in talk] == ["user", "assistant"] * (len(talk) // 2)
        thing = None
        for question, answer in zip(talk[::2], talk[1::2], strict=True):
            said, reply = question["text"], answer["text"]
            if said in BANK["detail"]:
                assert reply.count(".") == len(scene.objects)
            elif said == "How many things are in the picture?":
                assert reply == f"There are {('five', 'six')[len(scene.objects) - 5]}."
            elif found := re.fullmatch(r"Is there an? (.+)\?", said):
                there = found[1] in names
                thing = scene.objects[names[found[1]]] if there else thing
                assert reply.startswith("Yes, there is a" if there else "No, there is none.")
                assert there or found[1] not in {one.category for one in scene.objects}
            else:
                values = {
                    "Where is it?": thing.place,
                    "What colour is it?": thing.colour,
                    "Is it small or large?": thing.size,
                    "What does its surface look like?": thing.texture,
                }
                assert reply == f"It is {values[said]}."
        lengths[len(talk) // 2] += 1
        openings[talk[0]["text"] in BANK["detail"]] += 1
    assert set(lengths) <= {5, 8}
    assert min(openings.values()) > 15


def test_cells_are_asked_for_by_row_and_column():
    world = open_world("objects=9,grid=3,shapes=9,colours=4,composition=0,questions=cell,each=9")
    given = Counter()
    for scene, one in asked(world, 20):
        row, column = map(int, re.fullmatch(r"What colour is row (\d), column (\d)\?", one["question"]).groups())
        (thing,) = (t for t in scene.objects if (int(t.y * 3), int(t.x * 3)) == (row - 1, column - 1))
        assert one["answers"] == [thing.colour]
        given[row, column] += 1
    assert set(given.values()) == {20}
    assert len(given) == 9
    assert world.answers == world.words.colours


def test_places_are_told():
    world = open_world("questions=place,each=9")
    for scene, one in asked(world, 20):
        name = re.fullmatch(r"Where is the (.+)\?", one["question"])[1]
        (thing,) = (t for t in scene.objects if t.category == name)
        assert one["answers"] == [thing.place]
    assert world.answers == PLACES


@pytest.mark.parametrize("kind", ["presence", "company"])
def test_presence_is_asked_for_as_often_of_what_is_there_as_of_what_is_not(kind):
    world = open_world(f"questions={kind},each=2,company=0.7")
    given = Counter()
    for scene, one in asked(world, 150):
        name = re.fullmatch(r"Is there an? (.+) in it\?", one["question"])[1]
        there = {thing.category for thing in scene.objects}
        assert one["answers"] == ["yes" if name in there else "no"]
        given[one["answers"][0]] += 1
        if kind == "company":
            assert companion(name, world.words.categories) in there
    assert 0.45 < given["yes"] / given.total() < 0.55


def test_companions_are_often_there():
    shares = []
    for company in (0, 0.7):
        world = open_world(f"company={company}")
        sets = [{thing.category for thing in world.scene(i).objects} for i in range(200)]
        assert all(len(world.scene(i).objects) == len(sets[i]) for i in range(200))
        with_it = [companion(one, world.words.categories) in there for there in sets for one in there]
        shares.append(sum(with_it) / len(with_it))
    assert shares[0] < 0.3
    assert shares[1] > 0.5


def test_choices_hold_the_answer_anywhere():
    world = open_world("questions=colour+count+exist+place,choices=4")
    places = Counter()
    for _, one in asked(world):
        if one["type"] == "exist":
            assert "choices" not in one
            continue
        assert len(one["choices"]) == len(set(one["choices"])) == 4
        places[one["choices"].index(one["answers"][0])] += 1
    assert min(places.values()) > 0.15 * places.total()
    two = open_world("video=true,questions=order+direction,choices=9").read(0, ("questions",)).questions
    assert {len(one["choices"]) for one in two if one["type"] == "direction"} == {4}
    with pytest.raises(ValueError, match="two or more"):
        open_world("choices=1")


COLOUR = re.compile(rf"\b(?:{'|'.join(COLOURS)})\b")


def test_texts_are_in_the_words_of_the_world_and_about_no_picture():
    texts, world = open_world("text=true,questions=exist+colour"), open_world("")
    assert texts.has == {"text"}
    said = [texts.read(i, ("text",)).text for i in range(300)]
    assert len(set(said)) == len(said)
    shown = [world.read(i, ("texts", "conversation")) for i in range(300)]
    captions = {text for sample in shown for text in sample.texts if len(text) > 100}
    assert not set(said) & captions
    assert sum("?" in text for text in said) == pytest.approx(230, abs=35)  # 1 - (1/2 + 1/4 + 1/8 + 1/16) / 4
    assert texts.scene(0) != world.scene(0)
    assert (
        texts.read(7, ("text",)).text
        == said[7]
        == open_world("text=true,questions=exist+colour").read(7, ("text",)).text
    )
    alone = open_world("objects=1,text=true,questions=colour,composition=0")
    repeated = [COLOUR.findall(alone.read(i, ("text",)).text) for i in range(100)]
    assert all(len(set(colours)) <= 1 for colours in repeated)  # what stands in front tells what follows
    assert sum(len(colours) > 1 for colours in repeated) > 50
    gallery = open_world("text=true", "gallery")
    assert (gallery.group_size, len(gallery)) == (1, 1000)
