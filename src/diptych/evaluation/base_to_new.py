"""Base-to-new generalisation: classes that an adaptation has seen, classes that it has not, and both in one figure.

Source: Zhou et al., Conditional Prompt Learning for Vision-Language Models, 2022, section 4.1. Of the classes in their
order the first ceil(C / 2) are base and the others new; a picture is classified among the classes of its own half.
"""

from __future__ import annotations

import numpy as np

from diptych.data.classes import halves
from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate
from diptych.evaluation.measures import Measure, Result
from diptych.evaluation.zero_shot import labelled, ranked

HALVES = ("base", "new")


def base_to_new(bench: Bench) -> Result:
    """Base and new: the share of pictures whose class is first in its half; harmonic_mean of both, in [0, 1].

    The harmonic mean has a value for each picture, whose mean it is: its change with the picture's (the derivative),
    so that it has an interval, and two methods can be compared picture by picture.

    Raises:
        CannotEvaluate: nobody asked for it by name, or a half has fewer than two classes or no picture.
    """
    if not bench.asked:
        raise CannotEvaluate("base_to_new is about models that learned one half of the classes: ask for it by name.")
    rows = labelled(bench)
    counts = [len(names) for names in halves(bench.classes).values()]
    new = np.arange(len(bench.classes)) >= counts[0]  # (C,)
    ranks, predicted = ranked(bench, rows, groups=new)
    is_new, right = new[bench.labels[rows]], (ranks == 1).astype(np.float64)
    if min(counts) < 2 or is_new.all() or not is_new.any():
        raise CannotEvaluate(
            f"base_to_new needs two classes and a picture in either half; {bench.data.name} has {counts[0]} and "
            f"{counts[1]} classes, and {int(is_new.sum())} of {len(rows)} pictures are of new ones."
        )
    table = {"base": np.where(is_new, np.nan, right), "new": np.where(is_new, right, np.nan)}
    table["harmonic_mean"] = harmonic_values(right, is_new)
    chances = [1 / count for count in counts]
    chance = dict(zip(table, (*chances, harmonic_mean(*chances)), strict=True))
    measures = [
        Measure(name, statistics.mean(values[~np.isnan(values)]), chance[name]) for name, values in table.items()
    ]
    names = np.array(bench.classes, dtype=object)
    keys = [bench.samples[row].key for row in rows]
    told = {"key": keys, "category": names[bench.labels[rows]], "predicted": names[predicted]}
    return Result(measures, {**told, **table})


def harmonic_mean(base: float, new: float) -> float:
    """2 b n / (b + n); 0 if either is 0."""
    return 2 * base * new / (base + new) if base and new else 0.0


def harmonic_values(right: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """Values (N,) whose mean is the harmonic mean of the two halves' means of `right` (N,).

    Each is that mean, and how far the picture moves it from what its half is on average: to first order, which for
    many pictures is all there is.
    """
    means = [right[is_new == side].mean() for side in (False, True)]
    whole = harmonic_mean(*means)
    values = np.full(len(right), whole)
    for side, own, other in ((False, *means), (True, *means[::-1])):
        inside = is_new == side
        slope = 2 * other**2 / (own + other) ** 2 if own + other else 0.0  # of the harmonic mean, by this half's mean
        values[inside] += slope * (right[inside] - own) * len(right) / inside.sum()
    return values
