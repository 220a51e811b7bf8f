"""Questions about what is seen: is the answer that the method chooses, or writes, one that people gave?"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from diptych.card import AnswersQuestions, Generates
from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate, paired
from diptych.evaluation.generation import SHORT, Ask, how, own_prompt, short, spread, written
from diptych.evaluation.measures import Column, Measure, Result
from diptych.views.answers import agreement, normalise

LONGEST = 12  # tokens of a written answer
_TYPES = 12  # types of questions that have figures of their own, the most frequent ones


@dataclass(frozen=True)
class Asked:
    """A question about the sample of row `row`, and the answers that people gave."""

    row: int
    question: str
    answers: tuple[str, ...]
    type: str

    @property
    def usual(self) -> str:
        """The answer that most people gave, the first of equally frequent ones, in its one spelling."""
        return Counter(normalise(answer) for answer in self.answers).most_common(1)[0][0]


def vqa(bench: Bench) -> Result:
    """Accuracy of answers in [0, 1], for all questions and for each of the most frequent types.

    accuracy: the soft accuracy of VQA (`views.answers.agreement`). exact: the answer is, in its one spelling, the one
    that most people gave. Chance is what the best constant answer of each type scores on these very questions, which
    is its most frequent one. Questions about one sample are resampled together.

    Raises:
        CannotEvaluate: no sample has a question with an answer.
    """
    asked = some_questions(bench, "vqa")
    return judged(bench, asked, replies(bench, asked))


def video_qa(bench: Bench) -> Result:
    """The same about clips, where what happens, in which order and which way counts as much as what is there.

    balanced: the mean over the types of their accuracies, so that no type counts for more because it is asked more
    often.
    """
    asked = some_questions(bench, "video_qa")
    result = judged(bench, asked, replies(bench, asked))
    rows, types = [one.row for one in asked], [one.type for one in asked]
    usual = constant_answers(asked)
    guessed = statistics.mean_per_class([scores(usual[one.type], one)[0] for one in asked], types)
    balanced = statistics.mean_per_class(result.samples["accuracy"], types, clusters=rows)
    return replace(result, measures=[Measure("balanced", balanced, guessed.value), *result.measures])


def judged(bench: Bench, asked: Sequence[Asked], said: Sequence[str]) -> Result:
    """The figures of answers to questions."""
    usual = constant_answers(asked)
    values = np.array([scores(answer, one) for answer, one in zip(said, asked, strict=True)])  # (n, 2)
    guessed = np.array([scores(usual[one.type], one) for one in asked])
    rows, types = np.array([one.row for one in asked]), np.array([one.type for one in asked])
    estimates = statistics.means(values, clusters=rows)
    measures = [Measure(*of) for of in zip(_SCORES, estimates, guessed.mean(0).tolist(), strict=True)]
    table = dict(zip(_SCORES, values.T, strict=True))
    frequent = [name for name, _ in Counter(types.tolist()).most_common(_TYPES) if name]
    for name in frequent if len(set(types)) > 1 else ():
        of = types == name
        metric = f"accuracy_{re.sub(r'[^0-9a-z]+', '_', name.lower()).strip('_')}"
        estimate = statistics.mean(values[of, 0], clusters=rows[of])
        measures.append(Measure(metric, estimate, float(guessed[of, 0].mean())))
        table[metric] = np.where(of, values[:, 0], np.nan)
    asking: dict[str, Column] = {**columns(bench, asked), "answer": said}
    return Result(measures, {**asking, **table}, "" if _chooses(bench.method) else how(SHORT, question=prompt(bench)))


def columns(bench: Bench, asked: Sequence[Asked]) -> dict[str, Column]:
    """What a table of samples says of questions."""
    return {
        "key": [bench.samples[one.row].key for one in asked],
        "question": [one.question for one in asked],
        "type": [one.type for one in asked],
        "truth": [one.usual for one in asked],
    }


_SCORES = ("accuracy", "exact")


def scores(answer: str, asked: Asked) -> tuple[float, float]:
    """The soft accuracy of an answer, and whether it is the one that most people gave."""
    return agreement(answer, asked.answers), float(normalise(answer) == asked.usual)


def questions(bench: Bench) -> Iterator[Asked]:
    """The questions of all samples that have an answer."""
    for row, sample in enumerate(bench.samples):
        for one in sample.get("questions") or []:
            answers = tuple(str(answer) for answer in one.get("answers") or ())
            if answers and str(one.get("question", "")).strip():
                yield Asked(row, str(one["question"]), answers, str(one.get("type") or ""))


def some_questions(bench: Bench, task: str) -> list[Asked]:
    """The questions of all samples, or as many as a method that writes is asked.

    Raises:
        CannotEvaluate: no sample has a question with an answer.
    """
    asked = list(questions(bench))
    if not asked:
        raise CannotEvaluate(f"{task} needs questions with answers; no sample of {bench.data.name} has one.")
    return asked if _chooses(bench.method) else spread(bench, asked, len(asked))


def prompt(bench: Bench) -> str:
    """How the method that writes wants to be asked."""
    return own_prompt(bench.method.prompts, "question")


def replies(bench: Bench, asked: Sequence[Asked]) -> list[str]:
    """The method's answer to each question: chosen from its list, where it has one, else written."""
    if _chooses(bench.method):
        return _chosen(bench, asked)
    asks = [Ask((one.row,), prompt(bench).format(one.question)) for one in asked]
    return [short(answer) for answer in written(bench, asks, LONGEST)]


def _chooses(method: Any) -> bool:
    return isinstance(method, AnswersQuestions) and bool(method.answers or not isinstance(method, Generates))


def _chosen(bench: Bench, asked: Sequence[Asked]) -> list[str]:
    """The likeliest answer of the method's list; an empty one where its logits are not numbers."""
    known = bench.method.answers
    texts = {text: place for place, text in enumerate(dict.fromkeys(one.question for one in asked))}
    pairs = np.array([(one.row, texts[one.question]) for one in asked])
    said = []
    for _, image, question in paired(bench.encoded_images, bench.encoded_texts(list(texts)), pairs, bench.device):
        logits = bench.method.answer(image, question).float()  # (B, A)
        best = torch.where(logits.isnan().any(1), -1, logits.argmax(1)).tolist()
        said += [known[place] if place >= 0 else "" for place in best]
    return said


def constant_answers(asked: Sequence[Asked]) -> dict[str, str]:
    """The most frequent answer to each type of questions."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for one in asked:
        counts[one.type][one.usual] += 1
    return {name: of.most_common(1)[0][0] for name, of in counts.items()}
