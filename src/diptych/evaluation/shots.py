"""Few-shot questions (LiMBeR, 2022; Tsimpoukelli et al., 2021): solved ones stand before the one that is asked."""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger
from random import Random

import numpy as np

from diptych.card import TooLong
from diptych.evaluation import statistics
from diptych.evaluation.answering import LONGEST, Asked, columns, constant_answers, prompt, scores, some_questions
from diptych.evaluation.embed import Bench, CannotEvaluate
from diptych.evaluation.generation import SHORT, Ask, how, short, spread, written
from diptych.evaluation.measures import Column, Measure, Result

log = getLogger("diptych.evaluation")

VERSION = "shots/1"
"""of how solved questions are drawn and written"""
SHOTS = (0, 1, 2, 4)
MOST = 1000  # questions that are asked, evenly spread over the data
MARKER = "<image>"  # where in a prompt something is seen, as in `views.conversations`


def vqa_shots(bench: Bench) -> Result:
    """accuracy_0_shots, accuracy_1_shots and so on: soft accuracy with so many solved questions before the own one.

    The solved ones are about other samples of the same set, drawn once for each question, and shown with their
    samples; the four of four begin with the two of two. A method that cannot read so many has no figure for
    them. Chance is that of `vqa`.

    Raises:
        CannotEvaluate: no sample has a question with an answer, or fewer than five have.
    """
    asked = some_questions(bench, "vqa_shots")
    rows = sorted({one.row for one in asked})
    if len(rows) <= max(SHOTS):
        raise CannotEvaluate(
            f"vqa_shots needs more than {max(SHOTS)} samples with questions; {bench.data.name} has {len(rows)}."
        )
    by_row = {row: [one for one in asked if one.row == row] for row in rows}
    asked = spread(bench, asked, MOST)
    usual = constant_answers(asked)
    chance = float(np.mean([scores(usual[one.type], one)[0] for one in asked]))
    table: dict[str, Column] = {**columns(bench, asked)}
    measures = []
    solved = [_drawn(one, place, rows, by_row) for place, one in enumerate(asked)]
    for shots in SHOTS:
        asks = [_ask(prompt(bench), one, before[:shots]) for one, before in zip(asked, solved, strict=True)]
        try:
            table[f"answer_{shots}"] = said = [short(answer) for answer in written(bench, asks, LONGEST)]
        except TooLong as error:
            if not shots:
                raise
            log.info("no more solved questions before the own one: %s", error)
            break
        metric = f"accuracy_{shots}_shots"
        table[metric] = values = np.array([scores(answer, one)[0] for answer, one in zip(said, asked, strict=True)])
        measures.append(Measure(metric, statistics.mean(values, clusters=[one.row for one in asked]), chance))
        last = shots
    table |= {"answer": table[f"answer_{last}"], "right": table[f"accuracy_{last}_shots"]}
    return Result(measures, table, f"{how(SHORT, question=prompt(bench))} with {VERSION}")


def _drawn(one: Asked, place: int, rows: Sequence[int], by_row: dict[int, list[Asked]]) -> list[Asked]:
    """Solved questions for one: about as many other samples, of its own type where a sample has such."""
    rng, found = Random(f"shots/{place}"), []
    for row in rng.sample([row for row in rows if row != one.row], max(SHOTS)):
        alike = [other for other in by_row[row] if other.type == one.type]
        found.append(rng.choice(alike or by_row[row]))
    return found


def _ask(asking: str, one: Asked, before: Sequence[Asked]) -> Ask:
    solved = [f"{MARKER}{asking.format(other.question)} {other.usual}" for other in before]
    text = "\n".join([*solved, f"{MARKER}{asking.format(one.question)}"]) if solved else asking.format(one.question)
    return Ask((*(other.row for other in before), one.row), text)
