"""CHAIR: objects that captions speak of and that are not there.

Rohrbach et al., Object Hallucination in Image Captioning, 2018, section 2.1. What is there is told by `tags`, which
the world knows exactly; a caption speaks of an object by its name, its plural or a synonym (`views.nouns`).
"""

from __future__ import annotations

import numpy as np

from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate
from diptych.evaluation.generation import Floats, caption_prompt
from diptych.evaluation.measures import Column, Measure, Result
from diptych.evaluation.statistics import Estimate
from diptych.views.nouns import Mentions

MENTIONS = "mentions/1"
"""name and version of what finds objects in captions"""
FIGURES = ("chair_i", "chair_s", "recall", "mentions")


def hallucination(bench: Bench) -> Result:
    """How much of what captions speak of is not there.

    chair_i: of all mentions of objects, the share of those that are not there. chair_s: the share of captions with one
    such or more. recall: of all objects that are there, the share that is mentioned. mentions: objects that a caption
    speaks of, in the mean; a caption that says nothing says nothing false. Chance is what the same captions score for
    other samples of the set.

    Raises:
        CannotEvaluate: fewer than two samples have tags, or no caption speaks of any object.
    """
    rows = [row for row, sample in enumerate(bench.samples) if sample.get("tags")]
    if len(rows) < 2:
        raise CannotEvaluate(
            f"hallucination needs two samples or more whose tags name what is there; {bench.data.name} has {len(rows)}."
        )
    there = [set(bench.samples[row]["tags"]) for row in rows]
    find = Mentions(name for some in there for name in some)
    captions = [bench.written[row] for row in rows]
    found = [find(caption) for caption in captions]
    if not any(found):
        raise CannotEvaluate(
            f"hallucination cannot run: no caption of {bench.method.card.id} speaks of an object of {bench.data.name}."
        )
    half = len(rows) // 2
    counts, elsewhere = _counts(found, there), _counts([*found[half:], *found[:half]], there)
    low, high = statistics.bootstrap(lambda drawn: _shares(drawn @ counts), len(rows))
    values, chance = _shares(counts.sum(0)), _shares(elsewhere.sum(0))
    measures = [
        Measure(name, Estimate(float(values[i]), float(low[i]), float(high[i]), len(rows)), float(chance[i]))
        for i, name in enumerate(FIGURES)
    ]
    false = [sorted(set(own) - objects) for own, objects in zip(found, there, strict=True)]
    table: dict[str, Column] = {
        "key": [bench.samples[row].key for row in rows],
        "question": [
            f"Not there: {', '.join(some) or 'nothing'}. There: {', '.join(sorted(objects))}"
            for some, objects in zip(false, there, strict=True)
        ],
        "answer": captions,
        "truth": [f"without {', '.join(some)}" if some else "" for some in false],
        "chair_s": np.array([bool(some) for some in false], np.float64),
        "right": np.array([not some for some in false], np.float64),
    }
    return Result(measures, table, caption_prompt(bench, MENTIONS))


def _counts(found: list[list[str]], there: list[set[str]]) -> Floats:
    """Of each caption (n, 6): mentions, false ones, whether there is one, objects there, those mentioned, one."""
    rows = []
    for own, objects in zip(found, there, strict=True):
        false = sum(name not in objects for name in own)
        rows.append((len(own), false, false > 0, len(objects), len(objects & set(own)), 1))
    return np.array(rows, np.float64)


def _shares(sums: Floats) -> Floats:
    """Sums (..., 6) of `_counts` -> (..., 4) `FIGURES`; without any mention no share of them is false."""
    mentions, false, any_false, objects, recalled, n = np.moveaxis(sums, -1, 0)
    return np.stack([false / np.maximum(mentions, 1), any_false / n, recalled / objects, mentions / n], axis=-1)
