import re

import numpy as np
import pytest

from diptych.batch import Sample
from diptych.views.conversations import Turn
from diptych.views.instructions import BANK, instructed, instruction, question_turns, with_options

ASKED = {"question": "What colour is it?", "answers": ["red"], "type": "colour"}


def rngs(count=40):
    return [np.random.default_rng(seed) for seed in range(count)]


def said(*turns):
    return [(turn.role, turn.text) for turn in turns]


def test_every_task_has_ten_to_fifteen_instructions_of_its_own():
    for kind, bank in BANK.items():
        assert 10 <= len(bank) <= 15
        assert len(set(bank)) == len(bank)
        places = 1 if kind in ("question", "choice", "yes_no") else 0
        assert all(text.count("{}") == places for text in bank)
    assert all(re.search(r"(?i)short|brief|word", text) for text in BANK["question"])
    assert not set(BANK["caption"]) & set(BANK["detail"])


def test_training_draws_any_instruction_and_evaluation_takes_the_first():
    assert instruction("caption", None) == BANK["caption"][0]
    assert {instruction("caption", rng) for rng in rngs(200)} == set(BANK["caption"])
    assert instruction("question", None, "Why {0} {}?") == "Why {0} {}? Answer with a word or a short phrase."


def test_a_caption_is_asked_for_by_what_it_is():
    short, long = "a red star", " ".join(["word"] * 31)
    assert said(*instructed(Sample("a", {"text": short}), None)) == [
        ("user", BANK["caption"][0]),
        ("assistant", short),
    ]
    assert instructed(Sample("a", {"text": long}), None)[0].text == BANK["detail"][0]
    assert instructed(Sample("a", {"texts": [short], "video": []}), None)[0].text == BANK["video"][0]
    several = Sample("a", {"text": "one", "texts": ["one", "two"]})
    assert {instructed(several, rng)[1].text for rng in rngs()} == {"one", "two"}


def test_a_question_gets_the_instruction_of_its_answer():
    assert question_turns(ASKED, None) == [
        Turn("user", "What colour is it? Answer with a word or a short phrase."),
        Turn("assistant", "red"),
    ]
    yes = question_turns({"question": "Is it red?", "answers": ["yes", "no", "yes"]}, None)
    assert yes == [Turn("user", "Is it red? Answer yes or no."), Turn("assistant", "yes")]
    choice = question_turns({**ASKED, "choices": ["blue", "red", "pink"]}, None)
    assert choice[0].text == (
        "What colour is it?\nA. blue\nB. red\nC. pink\nAnswer with the letter of the right option."
    )
    assert choice[1].text == "B"


def test_answers_are_drawn_in_training_and_the_most_frequent_is_right():
    people = {"question": "Who?", "answers": ["he", "she", "she"]}
    assert question_turns(people, None)[1].text == "she"
    assert {question_turns(people, rng)[1].text for rng in rngs()} == {"he", "she"}


def test_a_sample_with_several_things_gives_each_of_them():
    talk = [{"role": "user", "text": "hi"}, {"role": "assistant", "text": "yo"}]
    sample = Sample("a", {"conversation": talk, "questions": [ASKED], "text": "a red star"})
    assert said(*instructed(sample, None)) == [("user", "hi"), ("assistant", "yo")]
    assert {instructed(sample, rng)[-1].text for rng in rngs()} == {"yo", "red", "a red star"}


def test_several_questions_follow_one_another():
    asked = [{"question": f"{number}?", "answers": [str(number)]} for number in range(5)]
    turns = instructed(Sample("a", {"questions": asked}), None, questions=3)
    assert [turn.text for turn in turns if turn.role == "assistant"] == ["0", "1", "2"]
    drawn = instructed(Sample("a", {"questions": asked}), np.random.default_rng(0), questions=9)
    assert sorted(turn.text for turn in drawn if turn.role == "assistant") == list("01234")


def test_questions_without_an_answer_are_not_learnt():
    open_question = {"question": "Why?", "answers": []}
    assert instructed(Sample("a", {"questions": [open_question, ASKED]}), None)[1].text == "red"
    with pytest.raises(ValueError, match="'a' has neither a conversation"):
        instructed(Sample("a", {"questions": [open_question]}), None)


def test_there_are_as_many_options_as_letters():
    assert with_options("Which?", [str(n) for n in range(26)]).endswith("Z. 25")
    with pytest.raises(ValueError, match="27 options"):
        with_options("Which?", [""] * 27)


def test_a_marker_in_a_caption_or_a_question_is_no_place_for_a_picture():
    odd = {"question": "<image> what?", "answers": ["a <image>"]}
    assert [turn.text for turn in question_turns(odd, None)] == [f" what?{BANK['question'][0][2:]}", "a "]
    assert instructed(Sample("a", {"text": "one <image><image>"}), None)[1].text == "one "
