"""POPE: is an object there, asked of objects that are there and of as many that are not.

Li et al., Evaluating Object Hallucination in Large Vision-Language Models, 2023, section 5: what is not there is drawn
at random, from what is most frequent in the data, or from what most often stands beside what is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate
from diptych.evaluation.generation import YES_NO, Ask, Floats, how, own_prompt, spread, written, yes_no as read
from diptych.evaluation.measures import Column, Measure, Result
from diptych.evaluation.statistics import Estimate
from diptych.views.nouns import article

QUESTION = "Is there {} {}?"
VERSION = "pope/1"
"""of the question and of how objects are drawn"""
SETTINGS = ("random", "popular", "adversarial")
MOST = 500  # samples that are asked about, as in the paper, evenly spread
EACH = 3  # objects of a sample that are there, and as many that are not
LONGEST = 8  # tokens of an answer
FIGURES = ("accuracy", "precision", "recall", "f1", "yes")
_ALWAYS_YES = (0.5, 0.5, 1.0, 2 / 3)


class Object(NamedTuple):
    """An object that is asked for: the row of the sample, its name, the setting, and whether it is there."""

    row: int
    name: str
    setting: str
    there: bool


def yes_no(bench: Bench) -> Result:
    """accuracy, precision, recall, F1 (of "yes") and the share of "yes", for each of the three ways to draw objects.

    Chance is what always saying yes scores, and for the share of yes that of the truth, a half. answered: the share of
    answers that are not empty; an empty one is wrong.

    Raises:
        CannotEvaluate: no sample has tags, or all samples have the same.
    """
    things = [set(sample.get("tags") or []) for sample in bench.samples]
    known = set().union(*things)
    open_rows = [row for row, some in enumerate(things) if some and some != known]
    asked = list(objects(things, spread(bench, open_rows, MOST)))
    if not asked:
        raise CannotEvaluate(
            f"yes_no needs samples whose tags name what is there, and not all the same; {bench.data.name} has none."
        )
    prompt = own_prompt(bench.method.prompts, "yes_no")
    texts = [QUESTION.format(article(one.name), one.name) for one in asked]
    asks = [Ask((one.row,), prompt.format(text)) for one, text in zip(asked, texts, strict=True)]
    answers = written(bench, asks, LONGEST)
    said = np.array([read(answer) for answer in answers])
    there, rows = np.array([one.there for one in asked]), np.array([one.row for one in asked])
    measures: list[Measure] = []
    right = (said == np.where(there, "yes", "no")).astype(np.float64)
    table: dict[str, Column] = {
        "key": [bench.samples[one.row].key for one in asked],
        "setting": [one.setting for one in asked],
        "question": texts,
        "written": answers,
        "answer": said.tolist(),
        "truth": np.where(there, "yes", "no").tolist(),
        "right": right,
    }
    for setting in SETTINGS:
        of = np.array([one.setting == setting for one in asked])
        measures += _figures(setting, said[of], there[of], rows[of])
        table[f"accuracy_{setting}"] = np.where(of, right, np.nan)
    measures.append(Measure("answered", statistics.mean(said != "", clusters=rows)))
    return Result(measures, table, f"{how(YES_NO, yes_no=prompt)}, {QUESTION!r} {VERSION}")


def objects(things: Sequence[set[str]], rows: Sequence[int]) -> Iterator[Object]:
    """What is asked of the samples in `rows`, given the names of all that is there in each sample."""
    counts = Counter(name for some in things for name in some)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    beside = {name: Counter(other for some in things if name in some for other in some) for name in names}
    for row in rows:
        rng, there = Random(f"pope/{row}"), things[row]
        absent = [name for name in names if name not in there]
        asked = rng.sample(sorted(there), min(EACH, len(there), len(absent)))
        drawn = {
            "random": rng.sample(absent, len(asked)),
            "popular": absent[: len(asked)],
            "adversarial": _adversarial(asked, absent, beside),
        }
        for setting, missing in drawn.items():
            yield from (Object(row, name, setting, True) for name in asked)
            yield from (Object(row, name, setting, False) for name in missing)


def _adversarial(asked: Sequence[str], absent: Sequence[str], beside: dict[str, Counter[str]]) -> list[str]:
    """For each object that is there the absent one that most often stands beside it, none twice."""
    found: list[str] = []
    for name in asked:
        left = [other for other in absent if other not in found]
        found.append(max(left, key=lambda other: beside[name][other]))
    return found


def _figures(
    setting: str, said: NDArray[np.str_], there: NDArray[np.bool_], rows: NDArray[np.int64]
) -> Iterator[Measure]:
    yes, no = said == "yes", said == "no"
    cells = np.stack([yes & there, yes & ~there, no & ~there, yes, there, np.ones_like(yes)], axis=1).astype(float)
    low, high = statistics.bootstrap(lambda counts: _shares(counts @ cells), len(cells), clusters=rows)
    values = _shares(cells.sum(0))
    for place, name in enumerate(FIGURES):
        estimate = Estimate(float(values[place]), float(low[place]), float(high[place]), len(cells))
        chance = float(there.mean()) if name == "yes" else _ALWAYS_YES[place]
        yield Measure(f"{name}_{setting}", estimate, chance)


def _shares(sums: Floats) -> Floats:
    """Sums (..., 6) of right yes, wrong yes, right no, yes, there, all -> (..., 5) `FIGURES`."""
    hits, false, rejected, yes, there, n = np.moveaxis(sums, -1, 0)
    precision, recall = hits / np.maximum(hits + false, 1), hits / np.maximum(there, 1)
    f1 = 2 * hits / np.maximum(yes + there, 1)
    return np.stack([(hits + rejected) / n, precision, recall, f1, yes / n], axis=-1)
