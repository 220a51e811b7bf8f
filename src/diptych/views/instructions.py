"""What people ask for in words: one bank of instructions a task, and the conversation that a sample's fields amount to.

Captions, questions, multiple choice and dialogues about pictures or clips all become turns, which `conversations` makes
into sequences. The instructions were written for this library. As InstructBLIP has it (arXiv 2305.06500, section 2.2
and appendix), there are 10 to 15 a task, and those for short answers say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from diptych.batch import Sample
from diptych.views.conversations import Turn, unmarked
from diptych.views.text import choose

Kind = Literal["caption", "detail", "video", "question", "choice", "yes_no"]

BANK: Mapping[Kind, tuple[str, ...]] = {
    "caption": (
        "Describe the picture briefly.",
        "Write a short caption for this picture.",
        "What does the picture show? Answer in one sentence.",
        "Give a one-line description of the picture.",
        "Sum up the picture in a few words.",
        "Say in short what can be seen here.",
        "Caption this.",
        "In a single sentence, what is in the picture?",
        "Name what the picture shows, in brief.",
        "Write one sentence about this picture.",
        "What would be a fitting short caption?",
        "Tell me briefly what you see.",
    ),
    "detail": (
        "Describe the picture in detail.",
        "Describe everything that can be seen in the picture.",
        "Give a full account of what the picture shows.",
        "What is in the picture? Leave nothing out.",
        "Go through the picture and describe each thing in it.",
        "Write a long and exact description of this picture.",
        "Explain the picture to somebody who cannot see it.",
        "List all that is there, and say what each thing looks like.",
        "Tell me all about the picture.",
        "Describe what is shown, with every detail that you notice.",
        "Write a paragraph about the content of the picture.",
        "What do you see? Be thorough.",
    ),
    "video": (
        "Describe briefly what happens in the clip.",
        "What happens in this video?",
        "Write a short caption for this clip.",
        "Sum up the video in one sentence.",
        "Say in short what goes on here.",
        "Tell what happens, from beginning to end.",
        "Give a one-line account of the events in the video.",
        "In a few words, what does the clip show?",
        "What takes place in the video? Answer in one sentence.",
        "Write one sentence about what happens.",
        "Name the events of the clip in their order.",
        "Tell me briefly what you see happen.",
    ),
    "question": (
        "{} Answer with a word or a short phrase.",
        "{} Give a short answer.",
        "{} Answer briefly.",
        "Question: {} Short answer:",
        "Q: {} A brief answer:",
        "{} Reply in as few words as possible.",
        "Look closely and answer in short: {}",
        "Answer this with a word or two: {}",
        "{} A word or two will do.",
        "Here is a question. {} Keep the answer short.",
        "{} Say it briefly.",
        "Give a short reply to the question: {}",
    ),
    "choice": (
        "{}\nAnswer with the letter of the right option.",
        "{}\nWhich option is right? Give its letter.",
        "{}\nChoose one of the options and reply with its letter.",
        "Question: {}\nThe letter of the answer is:",
        "Pick the right answer by its letter.\n{}",
        "{}\nOnly one of them is right. Name its letter.",
        "{}\nReply with the letter alone.",
        "Choose the letter of the best answer.\n{}",
        "{}\nSay which letter stands before the right answer.",
        "One of these options is true.\n{}\nGive its letter.",
    ),
    "yes_no": (
        "{} Answer yes or no.",
        "{} Yes or no?",
        "{} Reply with yes or no.",
        "{} Say yes if it is so, else no.",
        "Answer the question with yes or no: {}",
        "Question: {} Answer with yes or no:",
        "{} A yes or a no will do.",
        "Is it so or not? {} Answer yes or no.",
        "{} Give your answer as yes or no.",
        "Look closely. {} Answer with a yes or a no.",
    ),
}
"""Task -> instructions, the first of which is used in evaluation. `{}` is the question."""
LONG = 30
"""words; a caption that has more is asked for by an instruction for details"""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_YES_NO = {"yes", "no"}


def instruction(kind: Kind, rng: np.random.Generator | None, question: str = "") -> str:
    """One of a task's instructions, about a question where the task has one: random in training, else the first."""
    return choose(BANK[kind], rng).replace("{}", question)


def with_options(question: str, options: Sequence[str]) -> str:
    """A question, then each option in a line of its own behind its letter: `A. red`.

    Raises:
        ValueError: there are more options than letters.
    """
    if len(options) > len(LETTERS):
        raise ValueError(f"a question has {len(options)} options, and there are {len(LETTERS)} letters for them.")
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))])


def instructed(sample: Sample, rng: np.random.Generator | None, questions: int = 1) -> list[Turn]:
    """The conversation that a sample amounts to: its own, or questions with their answers, or an asked-for caption.

    Where it has several of these, one of them is drawn in training; evaluation takes the first, in this order.

    Args:
        sample: with `conversation`, `questions` of which one has an answer, `texts` or `text`; `video` if it is a clip.
        rng: None in evaluation, where nothing is random.
        questions: at most so many of its questions, one after the other.

    Raises:
        ValueError: it has none of these.
    """
    asked = [one for one in sample["questions"] if one["answers"]] if "questions" in sample else []
    captions = [*sample["texts"]] if "texts" in sample else [sample["text"]] if "text" in sample else []
    kinds = ["conversation"] * ("conversation" in sample) + ["questions"] * bool(asked) + ["captions"] * bool(captions)
    if not kinds:
        raise ValueError(f"sample {sample.key!r} has neither a conversation, nor an answered question, nor a caption.")
    kind = choose(kinds, rng)
    if kind == "conversation":
        return [Turn(turn["role"], turn["text"]) for turn in sample["conversation"]]
    if kind == "questions":
        chosen = range(len(asked)) if rng is None else rng.permutation(len(asked)).tolist()
        return [turn for number in chosen[:questions] for turn in question_turns(asked[number], rng)]
    caption = choose(captions, rng)
    brief: Kind = "video" if "video" in sample else "caption"
    wanted: Kind = "detail" if len(caption.split()) > LONG else brief
    return [Turn("user", instruction(wanted, rng)), Turn("assistant", unmarked(caption))]


def question_turns(asked: Mapping[str, Any], rng: np.random.Generator | None) -> list[Turn]:
    """A question of the field `questions` and its answer, as two turns.

    With `choices` it is multiple choice, answered by a letter; else any of its answers is one in training, and in
    evaluation the most frequent.
    """
    question, answers = unmarked(asked["question"]), asked["answers"]
    answer = max(answers, key=answers.count) if rng is None else choose(answers, rng)
    options = asked.get("choices", ())
    if answer in options:
        words = instruction("choice", rng, with_options(question, options))
        return [Turn("user", words), Turn("assistant", LETTERS[options.index(answer)])]
    kind: Kind = "yes_no" if set(answers) <= _YES_NO else "question"
    return [Turn("user", instruction(kind, rng, question)), Turn("assistant", unmarked(answer))]
