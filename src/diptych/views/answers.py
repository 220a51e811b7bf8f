"""Answers to visual questions: one spelling for all that mean the same, and how right one is by ten people's answers.

The rules are those that the VQA challenge publishes (visualqa.org/evaluation.html), as its script applies them
(GT-Vision-Lab/VQA, vqaEval.py): lower case; no periods except before a digit; number words as digits; no articles; an
apostrophe where a contraction lacks one; most signs of punctuation a space, or nothing, by `_without`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
ARTICLES = {"a", "an", "the"}

_ENDINGS = {
    "'t": "ain aren can couldn didn doesn don hadn hasn haven isn mightn mustn needn oughtn shan shouldn wasn weren "
    "won wouldn",
    "'ve": "could might must not should they we what where who would you couldn't hadn't mightn't shouldn't wouldn't "
    "he'd it'd she'd somebody'd someone'd something'd there'd they'd we'd who'd you'd y'all'd",
    "'re": "there they what why you",
    "'d": "he how it someone something there they where who you",
    "'ll": "how it somebody someone something they what who why you y'all",
    "'s": "he how somebody someone that there what when where who why",
    "'am": "ma",
    "'clock": "o",
    "'all": "y",
}
_WORDS = ["'twas", "'ow's'at", *(stem + ending for ending, stems in _ENDINGS.items() for stem in stems.split())]
CONTRACTIONS = {word[:i] + word[i + 1 :]: word for word in _WORDS for i, letter in enumerate(word) if letter == "'"}
"""A word that lacks one of its apostrophes -> the word."""
CONTRACTIONS["somebody'd"] = "somebodyd"  # the wrong way round in the script too

_PERIOD = re.compile(r"\.(?!\d)")
_COMMA = re.compile(r"\d,\d")
_SIGNS = re.compile(r"[-;/\[\]\"{}()=+\\_><@`,?!]")


def normalise(answer: str) -> str:
    """The answer in the one spelling by which answers are compared."""
    words = (NUMBERS.get(word, word) for word in _PERIOD.sub("", _without(answer)).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _without(answer: str) -> str:
    """The answer without signs: a space for one that stands between letters, nothing for one that is beside a space.

    How a sign goes is decided once for the whole answer; where a comma stands between digits, none leaves a space.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    nothing = {sign for sign in set(_SIGNS.findall(text)) if f" {sign}" in text or f"{sign} " in text}
    commas = _COMMA.search(text) is not None
    return _SIGNS.sub(lambda sign: "" if commas or sign[0] in nothing else " ", text)


def agreement(answer: str, answers: Sequence[str]) -> float:
    """VQA accuracy: over each choice of all people but one, the mean of min(people who gave this answer / 3, 1).

    The official evaluation compares as given, without `normalise`, where all people agree to the letter; so does this.

    Args:
        answer: what the model says.
        answers: what people said, ten in VQA v2; with one, the score is whether it is the same.

    Returns:
        In [0, 1]; of ten people, 1, 2, 3 and 4 or more who agree give 0.3, 0.6, 0.9 and 1.
    """
    answer, answers = answer.strip(), [other.strip() for other in answers]
    if len(set(answers)) > 1:
        answer, answers = normalise(answer), [normalise(other) for other in answers]
    return _score(answers.count(answer), len(answers))


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """What each answer that people gave is worth as a target: its `agreement`, under its one spelling."""
    counts = Counter(normalise(answer) for answer in answers)
    return {answer: _score(count, len(answers)) for answer, count in counts.items()}


def _score(count: int, people: int) -> float:
    """The leave-one-out mean of min(n / 3, 1): n is count - 1 for each of `count` people, and count for the others."""
    if people < 2:
        return float(count)
    return (count * min((count - 1) / 3, 1) + (people - count) * min(count / 3, 1)) / people
