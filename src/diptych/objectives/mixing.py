"""Several tasks in one training: one of them each step, or all of them weighed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from diptych.batch import Terms


def one_task(ratios: Mapping[str, float], seed: int, step: int) -> str:
    """The task of a step, drawn in proportion to its ratio (UNITER).

    It depends on nothing but the arguments: equal in all processes and for all parts of an accumulated batch, and the
    same again in a run that was resumed.

    Args:
        ratios: task -> how often, such as {"itm": 2, "mlm": 2, "mrfr": 1, "mrc-kl": 1}; 0 is never.
        seed: of the run.
        step: number of the step, `Step.index`.

    Raises:
        ValueError: a ratio is negative, or none is above 0.
    """
    weights = np.array(list(ratios.values()), dtype=float)
    if not len(weights) or weights.min() < 0 or weights.sum() == 0:
        raise ValueError(f"Ratios of tasks must not be negative, and one must be above 0; these are {dict(ratios)}.")
    drawn = np.random.default_rng([seed, step]).choice(len(weights), p=weights / weights.sum())
    return list(ratios)[drawn]


def weighted(weights: Mapping[str, float], **losses: Tensor) -> Terms:
    """Loss terms, each times its weight; what has a weight of 0 is left out, and what has none counts once.

    Raises:
        ValueError: a weight is of a loss that there is not.
    """
    unknown = sorted(set(weights) - set(losses))
    if unknown:
        raise ValueError(f"There is no loss {unknown[0]!r} to be weighed: the losses are {', '.join(sorted(losses))}.")
    terms = Terms()
    terms.update({name: weights.get(name, 1.0) * loss for name, loss in losses.items() if weights.get(name, 1.0)})
    return terms
