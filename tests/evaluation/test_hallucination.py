"""POPE and CHAIR by hand, and the words by which objects are found in captions."""

from __future__ import annotations

import pytest
from evaluation_fakes import MemoryData
from fusion_fakes import numbered
from generation_fakes import Writer

from diptych.evaluation.embed import CannotEvaluate
from diptych.evaluation.tasks import evaluate
from diptych.evaluation.yes_no import objects
from diptych.views.nouns import Mentions


def judged(things: list[list[str]], says, task: str) -> dict[str, object]:
    of = MemoryData([{"regions": numbered(i), "text": "a", "tags": own} for i, own in enumerate(things)])
    return {row.metric: row for row in evaluate(Writer(says), of, [task])}


def test_mentions_are_found_by_name_plural_and_synonym_the_longest_first() -> None:
    find = Mentions(["lightning bolt", "boat", "fish", "cross", "moon", "crescent", "bolt"])
    assert find("Two ships, a fish and three crosses; a lightning bolt") == [
        "boat",
        "fish",
        "cross",
        "lightning bolt",
    ]
    assert find("a moon by a half moon, boathouses, BOATS and a bolt") == ["moon", "crescent", "boat", "bolt"]
    assert Mentions([])("a boat") == []


def test_chair_by_hand() -> None:
    captions = ["a star and a ship, and a boat", "two stars", "nothing of the kind", "a ring"]
    things = [["star", "ring"], ["star"], ["boat", "ring"], ["ring", "star"]]
    rows = judged(things, lambda seen, prompt: captions[seen[0]], "hallucination")
    assert rows["chair_i"].value == pytest.approx(2 / 5)  # two boats, of five mentions
    assert rows["chair_s"].value == 1 / 4
    assert rows["recall"].value == pytest.approx(3 / 7)
    assert rows["mentions"].value == 5 / 4
    # half the set away: nothing and "a ring" for the first two; "a star, a ship, a boat" and "two stars" for the others
    assert rows["chair_i"].chance == pytest.approx((0 + 1 + 1 + 0) / 5)
    assert rows["chair_s"].chance == pytest.approx((0 + 1 + 1 + 0) / 4)
    assert "mentions/1" in rows["chair_i"].how


def test_captions_that_name_nothing_are_not_judged() -> None:
    with pytest.raises(CannotEvaluate, match="no caption of writer speaks of an object of memory"):
        judged([["star"], ["ring"]], lambda seen, prompt: "a picture", "hallucination")
    with pytest.raises(CannotEvaluate, match="two samples or more whose tags name what is there; memory has 1"):
        judged([["star"], []], lambda seen, prompt: "a star", "hallucination")


THINGS = [{"star", "ring"}, {"star", "ring"}, {"star", "boat"}, {"tree"}, {"star"}, {"star", "fish"}, {"boat"}]


def test_objects_that_are_not_there_are_random_popular_or_beside_those_that_are() -> None:
    asked = list(objects(THINGS, range(len(THINGS))))
    for row, there in enumerate(THINGS):
        for setting in ("random", "popular", "adversarial"):
            own = [one for one in asked if (one.row, one.setting) == (row, setting)]
            assert {one.name for one in own if one.there} == there
            absent = [one.name for one in own if not one.there]
            assert len(set(absent)) == len(there)
            assert not set(absent) & there
    told = {(one.row, one.setting): one.name for one in asked if not one.there}
    assert told[3, "popular"] == "star"  # in 5 of 7
    assert told[6, "adversarial"] == "star"  # stands beside a boat
    assert told[4, "adversarial"] == "ring"  # stands beside a star twice; boat and fish once


def test_popes_figures_by_hand() -> None:
    """Says yes to stars, no to rings, and nothing to boats."""
    said = {"star": "Yes.", "ring": "No, there is not", "boat": ""}
    rows = judged([["star"], ["ring"], ["boat"]], lambda seen, prompt: said[prompt[:-1].split()[-1]], "yes_no")
    # popular: boat, ring, star in this order of frequency and name; so the others are asked for boat, boat and ring
    assert rows["accuracy_popular"].value == pytest.approx(2 / 6)  # star is there; ring is not beside the boat
    assert rows["precision_popular"].value == 1
    assert rows["recall_popular"].value == pytest.approx(1 / 3)
    assert rows["f1_popular"].value == pytest.approx(2 / (1 + 3))
    assert rows["yes_popular"].value == pytest.approx(1 / 6)
    assert [rows[f"{name}_popular"].chance for name in ("accuracy", "precision", "recall", "f1", "yes")] == [
        0.5,
        0.5,
        1.0,
        pytest.approx(2 / 3),
        0.5,
    ]
    assert rows["answered"].value < 1
    assert "'Is there {} {}?' pope/1" in rows["f1_random"].how


def test_where_all_samples_hold_the_same_nothing_can_be_missing() -> None:
    with pytest.raises(CannotEvaluate, match="not all the same; memory has none"):
        judged([["star"], ["star"]], lambda seen, prompt: "yes", "yes_no")
