from __future__ import annotations

import re
from itertools import permutations
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from diptych.world import Knobs, Object, Scene, scene, vocabulary
from diptych.world.knobs import STYLES
from diptych.world.language import ENDINGS, FORMS, JOINTS, OPENERS, article, foils, plan, split, true, write
from diptych.world.scene import COLOURS, PLACES, SHAPES, SIZES, TEXTURES

KNOBS = [
    Knobs(),
    Knobs(say=("colour", "texture", "size"), named=3),
    Knobs(repeats=True, named=4, occlusion=0.6),
    Knobs(say=(), named=0, objects=(2, 3)),
]


def parse(text: str) -> tuple[list[dict[str, str]], list[tuple[int, str, int]]]:
    """What an English caption says, read from its letters alone: things, and relations between them."""
    nouns = "|".join(sorted(SHAPES, key=len, reverse=True))
    words = "|".join((*COLOURS, *TEXTURES, *SIZES))
    things, links, last = [], [], 0
    for match in re.finditer(rf"\ban? ((?:(?:{words}) )*)({nouns})\b( (?:{'|'.join(PLACES)})(?=\.))?", text):
        said = {"category": match[2]} | ({"place": match[3].strip()} if match[3] else {})
        for word in match[1].split():
            kind = "colour" if word in COLOURS else "texture" if word in TEXTURES else "size"
            assert kind not in said
            said[kind] = word
        between = text[last : match.start()].strip(" ,.")
        if things and between not in ("", "and", "There is") and text[last : match.start()] not in JOINTS:
            links.append((len(things) - 1, between.removeprefix("to the "), len(things)))
        things.append(said)
        last = match.end()
    assert text[last:] in ("", ".", *ENDINGS)
    return things, links


def really(scene: Scene, text: str) -> bool:
    """Whether a caption is true, by trying all objects for all that it names, with coordinates only."""
    things, links = parse(text)
    for chosen in permutations(scene.objects, len(things)):
        fits = all(
            getattr(thing, name) == word
            for thing, said in zip(chosen, things, strict=True)
            for name, word in said.items()
            if name != "place"
        )
        placed = all(
            where(thing) == said.get("place", where(thing)) for thing, said in zip(chosen, things, strict=True)
        )
        related = all(stands(chosen[a], predicate, chosen[b]) for a, predicate, b in links)
        if fits and placed and related:
            return True
    return False


def where(thing: Object) -> str:
    rows = [["top left", "top", "top right"], ["left", "middle", "right"], ["bottom left", "bottom", "bottom right"]]
    word = rows[int(thing.y * 3)][int(thing.x * 3)]
    return {"left": "on the left", "right": "on the right", "middle": "in the middle"}.get(word, f"at the {word}")


def stands(a: Object, predicate: str, b: Object) -> bool:
    x, y = b.x - a.x, b.y - a.y
    sideways = {"left of": (x, y), "right of": (-x, y), "above": (y, x), "below": (-y, x)}
    if predicate in sideways:
        along, across = sideways[predicate]
        return along >= 0.08 and along >= abs(across)
    touching = a.radius + b.radius - (x * x + y * y) ** 0.5 >= 0.4 * min(a.radius, b.radius)
    return touching and (a.z < b.z) == (predicate == "in front of")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(KNOBS), st.sampled_from(STYLES))
def test_captions_are_true_and_their_spans_name_their_objects(index, knobs, style):
    made = scene(0, index, knobs)
    caption = write(plan(made, style, knobs.say, Random(index)))
    assert really(made, caption.text)
    assert true(caption.plan, made)
    named = sorted(range(len(made.objects)) if style == "long" else made.focus)
    assert sorted(box for _, _, box in caption.spans) == named
    for start, end, box, role in caption.mentions:
        words = caption.text[start:end]
        if role == "phrase":
            assert words.endswith(made.objects[box].category)
            assert caption.text[:start].split()[-1].lower() in ("a", "an")
        else:
            assert words == getattr(made.objects[box], role)
    said = {"short": {"colour"}, "long": {"colour", "texture", "size"}}.get(style, set(knobs.say))
    assert {role for *_, role in caption.mentions} == said | {"phrase", "category"}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(KNOBS), st.sampled_from(STYLES))
def test_foils_are_false_and_differ_in_one_thing(index, knobs, style):
    made = scene(0, index, knobs)
    said = plan(made, style, knobs.say, Random(index))
    text = write(said).text
    kinds = set()
    for foil in foils(said, made, vocabulary(knobs), Random(index)):
        kinds.add(foil.kind)
        assert not really(made, foil.text)
        before, after = parse(text), parse(foil.text)
        changes = [
            (i, name, old, after[0][i][name])
            for i, thing in enumerate(before[0])
            for name, old in thing.items()
            if after[0][i][name] != old
        ]
        if foil.kind == "relation":
            assert changes == []
            assert sum(a != b for a, b in zip(before[1], after[1], strict=True)) == 1
        elif foil.kind.startswith("swap "):
            (_, a, old_a, new_a), (_, b, old_b, new_b) = changes
            assert a == b == foil.kind.removeprefix("swap ")
            assert (old_a, new_a) == (new_b, old_b)
        else:
            assert [name for _, name, _, _ in changes] == [foil.kind]
            assert before[1] == after[1]
    assert "category" in kinds
    assert ("colour" in kinds) == (style in ("short", "long") or "colour" in knobs.say)


def test_a_swap_that_happens_to_be_true_is_no_foil():
    twins = [Object("star", colour, x=x) for x, colour in ((0.2, "red"), (0.8, "blue"))]
    made = Scene(tuple(twins), focus=(0, 1))
    said = plan(made, "partial", ("colour",), Random(0))
    kinds = [foil.kind for foil in foils(said, made, vocabulary(Knobs()), Random(0))]
    assert "swap colour" not in kinds  # "a blue star and a red star" is true as well
    assert "colour" in kinds


def test_each_phrase_needs_an_object_of_its_own():
    one = Scene((Object("star", "red"), Object("ring", "red")), focus=(0,))
    two = Scene((Object("star", "red"), Object("star", "red")), focus=(0, 1))
    said = plan(two, "partial", ("colour",), Random(0))
    assert write(said).text == "a red star and a red star"
    assert true(said, two)
    assert not true(said, one)


HAND = Scene(
    (
        Object("circle", "orange", "striped", "large", x=0.2, y=0.5),
        Object("star", "blue", "plain", "small", x=0.8, y=0.5),
        Object("fish", "red", "shiny", "large", x=0.5, y=0.9),
    ),
    focus=(0, 1),
)


@pytest.mark.parametrize(
    ("style", "say", "either"),
    [
        ("short", (), ("an orange circle and a blue star", "a blue star and an orange circle")),
        (
            "partial",
            ("colour", "texture"),
            ("an orange striped circle and a plain blue star", "a plain blue star and an orange striped circle"),
        ),
        (
            "relations",
            ("size", "colour"),
            (
                "a large orange circle to the left of a small blue star",
                "a small blue star to the right of a large orange circle",
            ),
        ),
    ],
)
def test_captions_of_a_hand_made_scene(style, say, either):
    found = {write(plan(HAND, style, say, Random(i))).text for i in range(20)}
    assert found == set(either)


def test_a_long_caption_has_a_sentence_for_each_object():
    said = plan(HAND, "long", (), Random(0))
    assert sorted(write(part).text for part in split(said)) == [
        "There is a large orange striped circle on the left.",
        "There is a large shiny red fish at the bottom.",
        "There is a small plain blue star on the right.",
    ]
    assert write(said).text == " ".join(write(part).text for part in split(said))


def test_three_named_objects_read_well():
    made = Scene(HAND.objects, focus=(0, 1, 2))
    texts = {write(plan(made, "short", (), Random(i))).text for i in range(40)}
    assert "an orange circle, a blue star and a red fish" in texts
    assert len(texts) == 6
    related = {write(plan(made, "relations", ("colour",), Random(i))).text for i in range(60)}
    assert "an orange circle to the left of a blue star, and a red fish" in related


def test_a_split_of_relations_keeps_pairs_together():
    made = Scene(HAND.objects, focus=(0, 1, 2))
    for i in range(20):
        said = plan(made, "relations", ("colour",), Random(i))
        parts = split(said)
        assert sum(len(part.phrases) for part in parts) == 3
        assert all(true(part, made) for part in parts)


@pytest.mark.parametrize(
    ("noun", "expected"),
    [("orange circle", "an"), ("hourglass", "an"), ("house", "a"), ("unicorn", "a"), ("umbrella", "an"), ("UFO", "a")],
)
def test_articles(noun, expected):
    assert article(noun) == expected


def test_cut_outs_are_named_without_what_they_lack():
    made = Scene((Object("apple", size="small"), Object("dog", size="large")), focus=(0, 1))
    assert write(plan(made, "short", (), Random(1))).text in ("an apple and a dog", "a dog and an apple")
    sized = write(plan(made, "partial", ("size", "colour"), Random(1))).text
    assert sized in ("a small apple and a large dog", "a large dog and a small apple")


def test_varied_captions_say_the_same_in_many_ways():
    made = scene(3, 5, Knobs())
    plans = [plan(made, "varied", ("colour",), Random(seed)) for seed in range(400)]
    assert len({said.form for said in plans}) > 200
    assert len(OPENERS) * len(JOINTS) * len(ENDINGS) == FORMS
    for said in plans[:20]:
        caption = write(said)
        things = [made.objects[box] for box in made.focus]
        assert sorted(caption.text[start:end] for start, end, _ in caption.spans) == sorted(
            f"{thing.colour} {thing.category}" for thing in things
        )
        assert 20 <= len(caption.text.split()) <= 40
        opener, ending = (next(part for part in parts if part in caption.text) for parts in (OPENERS, ENDINGS))
        assert caption.text.startswith(opener)
        assert caption.text.endswith(ending)
