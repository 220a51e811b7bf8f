"""Questions with options: the likeliest one, and the letter that is the likeliest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from diptych.evaluation import statistics
from diptych.evaluation.answering import Asked, columns, prompt, questions
from diptych.evaluation.embed import Bench, CannotEvaluate
from diptych.evaluation.generation import Ask, how, likeliest, own_prompt, spread
from diptych.evaluation.measures import Measure, Result
from diptych.views.answers import normalise

OPTIONS = "options/1"
"""name and version of `with_options`"""
OTHERS = 3  # options that are drawn beside the right one
MOST = 2000  # questions that are put, evenly spread over the data
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WAYS = ("likelihood", "letter", "blind")


@dataclass(frozen=True)
class Choice:
    """A question, its options, and which of them is right."""

    asked: Asked
    options: tuple[str, ...]
    right: int


def multiple_choice(bench: Bench) -> Result:
    """Share of questions whose right option is chosen.

    A question brings its options as `choices`; one without gets up to three that are answers to other questions of its
    type. accuracy_likelihood: the option that is the likeliest answer, by the sum over its tokens (InstructBLIP's
    ranking). accuracy_letter: the options stand in the prompt, and the likeliest letter counts. accuracy_blind: as
    likelihood, but nothing is seen: what the language alone knows.

    Raises:
        CannotEvaluate: no question has two options.
    """
    found = spread(bench, list(choices(bench)), MOST)
    if not found:
        raise CannotEvaluate(
            f"multiple_choice needs questions with `choices`, or of types with several answers; {bench.data.name} has "
            "none."
        )
    asking, lettered = prompt(bench), own_prompt(bench.method.prompts, "choice")
    plain = [(one.asked.row, asking.format(one.asked.question), one.options) for one in found]
    letters = [
        (one.asked.row, lettered.format(with_options(one.asked.question, one.options)), _LETTERS[: len(one.options)])
        for one in found
    ]
    chosen = {
        "likelihood": likeliest(bench, [[Ask((row,), text, option) for option in of] for row, text, of in plain]),
        "letter": likeliest(bench, [[Ask((row,), text, letter) for letter in of] for row, text, of in letters]),
        "blind": likeliest(bench, [[Ask((), text, option) for option in of] for _, text, of in plain]),
    }
    right = np.array([one.right for one in found])
    hits = np.stack([np.array(chosen[way]) == right for way in _WAYS], axis=1).astype(np.float64)
    estimates = statistics.means(hits, clusters=[one.asked.row for one in found])
    chance = float(np.mean([1 / len(one.options) for one in found]))
    names = [f"accuracy_{way}" for way in _WAYS]
    measures = [Measure(name, estimate, chance) for name, estimate in zip(names, estimates, strict=True)]
    table = {
        **columns(bench, [one.asked for one in found]),
        "options": [" | ".join(one.options) for one in found],
        "answer": [one.options[place] for one, place in zip(found, chosen["likelihood"], strict=True)],
        "right": hits[:, 0],
    }
    ways = f"{how(question=asking, choice=lettered)} with {OPTIONS}"
    return Result(measures, {**table, **dict(zip(names, hits.T, strict=True))}, ways)


def with_options(question: str, options: Sequence[str]) -> str:
    """`What colour is it? Options: (a) red (b) blue`."""
    listed = " ".join(f"({letter}) {option}" for letter, option in zip(_LETTERS, options, strict=False))
    return f"{question} Options: {listed}"


def choices(bench: Bench) -> Iterator[Choice]:
    """Every question with at least two options, in an order that is the same in every run."""
    asked = list(questions(bench))
    own = _own_options(bench)
    known: dict[str, dict[str, None]] = defaultdict(dict)  # in the order of their first use
    for one in asked:
        known[one.type][one.usual] = None
    for place, one in enumerate(asked):
        rng = Random(f"options/{place}/{one.question}")
        options = own.get((one.row, one.question))
        if options is None:
            others = [answer for answer in known[one.type] if answer != one.usual]
            options = [one.usual, *rng.sample(others, min(OTHERS, len(others)))]
            rng.shuffle(options)
        right = [index for index, option in enumerate(options) if normalise(option) == one.usual]
        if 2 <= len(options) <= len(_LETTERS) and len(right) == 1:
            yield Choice(one, tuple(options), right[0])


def _own_options(bench: Bench) -> dict[tuple[int, str], list[str]]:
    """The options that questions bring with them, by row and question."""
    return {
        (row, str(one.get("question"))): [str(option) for option in one["choices"]]
        for row, sample in enumerate(bench.samples)
        for one in sample.get("questions") or []
        if isinstance(one.get("choices"), list)
    }
