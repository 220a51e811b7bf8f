"""Answers to visual questions: one spelling for all that mean the same, and how right one is by ten people's answers.

The rules are those that the VQA challenge publishes (visualqa.org/evaluation.html): lower case; no periods except in
decimals; number words as digits; no articles; an apostrophe where a contraction lacks it; every other sign of
punctuation a space, except apostrophe and colon; commas between digits go without a space.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
ARTICLES = {"a", "an", "the"}

_ENDINGS = {  # ending -> what it is joined to; left out is what is a word without an apostrophe too: its, were, well
    "'t": "ain aren can couldn didn doesn don hadn hasn haven isn mightn mustn needn oughtn shan shouldn wasn weren "
    "won wouldn",
    "'ve": "could i might must should they we what who would you",
    "'re": "there they what who why you",
    "'d": "how it that there they what where who you",
    "'ll": "it that there they what who you",
    "'s": "here how someone somebody something that there what when where who why",
    "'m": "i",
    "'am": "ma",
    "'clock": "o",
    "'all": "y",
}
CONTRACTIONS = {
    (stem + ending).replace("'", ""): stem + ending for ending, stems in _ENDINGS.items() for stem in stems.split()
}

_PERIOD = re.compile(r"\.(?!\d)")
_COMMA = re.compile(r"(?<=\d),(?=\d)")
_SIGNS = re.compile(r"[^\w\s.':]|_")


def normalise(answer: str) -> str:
    """The answer in the one spelling by which answers are compared."""
    text = _SIGNS.sub(" ", _PERIOD.sub("", _COMMA.sub("", answer.lower())))
    words = (NUMBERS.get(word, word) for word in text.split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def agreement(answer: str, answers: Sequence[str]) -> float:
    """VQA accuracy: over each choice of all people but one, the mean of min(people who gave this answer / 3, 1).

    The official evaluation compares as given, without `normalise`, where all people agree to the letter; so does this.

    Args:
        answer: what the model says.
        answers: what people said, ten in VQA v2; with one, the score is whether it is the same.

    Returns:
        In [0, 1]; of ten people, 1, 2, 3 and 4 or more who agree give 0.3, 0.6, 0.9 and 1.
    """
    if len(set(answers)) > 1:
        answer, answers = normalise(answer), [normalise(other) for other in answers]
    return _score(sum(other == answer.strip() for other in answers), len(answers))


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """What each answer that people gave is worth as a target: its `agreement`, under its one spelling."""
    counts = Counter(normalise(answer) for answer in answers)
    return {answer: _score(count, len(answers)) for answer, count in counts.items()}


def _score(count: int, people: int) -> float:
    """The leave-one-out mean of min(n / 3, 1): n is count - 1 for each of `count` people, and count for the others."""
    if people < 2:
        return float(count)
    return (count * min((count - 1) / 3, 1) + (people - count) * min(count / 3, 1)) / people
