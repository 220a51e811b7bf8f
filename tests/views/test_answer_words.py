from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diptych.views.answers import CONTRACTIONS, agreement, normalise, soft_scores

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Two Dogs.", "2 dogs"),
        ("an apple", "apple"),
        ("the man on a horse", "man on horse"),
        ("dont know", "don't know"),
        ("the girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("100,978", "100978"),
        ("red, white", "red white"),
        ("3.5 feet.", "3.5 feet"),
        ("black/white (mostly)", "black white mostly"),
        ("tic- tac-toe", "tic tactoe"),
        ("$5 & 50%", "$5 & 50%"),
        ("none", "0"),
        ("  t-shirt \n", "t shirt"),
        ("the", ""),
        ("U.S.", "us"),
        (".5 or 1.25.", ".5 or 1.25"),
        ("snow_man?", "snow man"),
    ],
)
def test_one_spelling(answer: str, expected: str) -> None:
    assert normalise(answer) == expected
    assert normalise(normalise(answer)) == expected


def test_the_official_script_gives_the_same() -> None:
    """446 answers, and 120 accuracies by ten people each, of GT-Vision-Lab/VQA."""
    with np.load(REFERENCE / "vqa_official.npz") as file:
        found = {name: file[name].tolist() for name in ("answers", "normalised", "said", "people", "accuracy")}
    assert len(found["answers"]) == 446
    assert [normalise(answer) for answer in found["answers"]] == found["normalised"]
    scores = [agreement(said, people) for said, people in zip(found["said"], found["people"], strict=True)]
    assert scores == pytest.approx(found["accuracy"])
    assert {round(score, 1) for score in scores} == {0.0, 0.3, 0.6, 0.9, 1.0}


def test_words_of_their_own_are_no_contractions() -> None:
    """ "well", "were", "ill", "its", "shed", "hell", "wed" and "id" mean something without an apostrophe."""
    assert not {"well", "were", "ill", "its", "shed", "hell", "shell", "wed", "id", "lets"} & set(CONTRACTIONS)
    assert CONTRACTIONS["couldnt've"] == CONTRACTIONS["couldn'tve"] == "couldn't've"


@pytest.mark.parametrize(("count", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_agreement_leaves_each_of_ten_people_out_once(count: int, score: float) -> None:
    answers = ["Yes"] * count + ["no", "maybe", "never"] * 4
    answers = answers[:10]
    assert agreement("yes", answers) == pytest.approx(score if count < 10 else 0.0)
    by_hand = [min(sum(a == "Yes" for j, a in enumerate(answers) if j != i) / 3, 1) for i in range(10)]
    assert agreement("Yes", answers) == pytest.approx(sum(by_hand) / 10) == pytest.approx(score)


def test_where_all_agree_to_the_letter_answers_are_compared_as_they_are() -> None:
    assert agreement("two", ["2"] * 10) == 0
    assert agreement("two", ["2"] * 9 + ["3"]) == 1
    assert agreement(" 2\n", ["2"] * 10) == 1


def test_soft_scores_join_spellings() -> None:
    scores = soft_scores(["two", "2", "Two.", "the two"] + ["3"] * 3 + ["four", "5", "6"])
    assert scores == pytest.approx({"2": 1.0, "3": 0.9, "4": 0.3, "5": 0.3, "6": 0.3})
    assert soft_scores(["A cat"]) == {"cat": 1.0}
    assert agreement("cat", ["cat"]) == 1
    assert soft_scores([]) == {}
