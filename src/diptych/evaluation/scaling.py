"""How an error falls with what was spent: power laws through a few budgets, and how sure they are.

The curve is E + A x^-alpha (Hestness et al., 2017, arXiv:1712.00409; E is the error that no budget removes). Two to
four budgets cannot tell E from a small alpha: there E is 0, and log error = log A - alpha log x is fitted by least
squares. From five budgets on E >= 0 is fitted as well. Runs scatter about the curve by a factor, so it is the logarithm
of the error whose squares are summed, and each budget counts by its number of runs.

The intervals are parametric bootstraps: every resample takes a scatter that the residuals allow (by its chi-squared
distribution), moves the mean of each budget by it, and is fitted anew. Drawing three seeds with replacement instead
would never leave the range of three numbers: intervals that say 95 % then hold the truth in about 80 % of cases.
Where the budgets stray further from the curve than their seeds explain, the larger scatter is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from diptych.evaluation.statistics import LEVEL, RESAMPLES, Estimate, Floats

FLOOR_FROM = 5  # budgets from which on the remaining error E is fitted
_ROUNDS, _POINTS = 6, 11  # of the search for E: each round looks five times as closely
_NEAREST = 0.99  # E is at most this share of the smallest error
_WIDEST = 10.0  # scatter of log errors: e^10 says "anything", and more would overflow


@dataclass(frozen=True, eq=False)
class Curve:
    """error(x) = floor + (error at `centre` above the floor) * (x / centre) ** -alpha."""

    alpha: Estimate
    """the exponent, with the number of runs; bounds are NaN where there are no runs to spare (two runs, two budgets)"""
    floor: Estimate
    """the error that no budget removes; 0 without bounds where it was not fitted"""
    explained: float
    """R^2: share of the variance of the budgets' mean log errors that the curve explains; NaN where it must be all"""
    largest: float
    """the largest budget: beyond it the curve is an extrapolation"""
    centre: float
    """geometric mean of the budgets"""
    _fitted: Floats = field(repr=False)  # (1, 3): log height at the centre, alpha, floor
    _drawn: Floats = field(repr=False)  # (R, 3): of each resample; none where there are no bounds
    _scatter: Floats = field(repr=False)  # (R,): of a single run about the resample's curve, in log error

    def at(self, x: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """The mean error of runs with budgets x (N,), and the bounds of its 95 % interval: (N,) each."""
        return self._bounded(x, np.zeros(len(self._drawn)))

    def of_a_run(self, x: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """The error of one run with budgets x (N,), and the bounds in which 95 % of such runs are expected."""
        return self._bounded(x, self._scatter)

    def _bounded(self, x: ArrayLike, scatter: Floats) -> tuple[Floats, Floats, Floats]:
        log_x = np.log(np.atleast_1d(np.asarray(x, np.float64)) / self.centre)
        value = np.exp(_log_error(self._fitted, log_x))[0]
        if not len(self._drawn):
            unknown = np.full_like(value, math.nan)
            return value, unknown, unknown
        low, high = np.exp(_percentiles(_log_error(self._drawn, log_x) + scatter[:, None]))
        return value, low, high


def fit(x: ArrayLike, error: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Curve:
    """Fits the curve of error over x.

    Args:
        x: (N,) what each run was given; runs of one budget have the same number.
        error: (N,) what came of it: positive, smaller is better.
        seed: of the draws.
        resamples: how many draws.

    Raises:
        ValueError: fewer than two budgets, or a number that has no logarithm.
    """
    given, errors = np.asarray(x, np.float64), np.asarray(error, np.float64)
    if not (np.isfinite(given) & np.isfinite(errors) & (given > 0) & (errors > 0)).all():
        raise ValueError("a power law needs positive budgets and errors: some are zero, negative or not numbers.")
    budgets, which, runs = np.unique(given, return_inverse=True, return_counts=True)
    if len(budgets) < 2:
        raise ValueError("a scaling curve needs at least two budgets.")
    centre = math.exp(float(np.log(budgets).mean()))
    log_x, logs = np.log(budgets / centre), np.log(errors)
    heights = np.bincount(which, logs) / runs  # (B,)
    with_floor = len(budgets) >= FLOOR_FROM
    fitted = _least_squares(log_x, heights[None], runs, with_floor)
    curve = _log_error(fitted, log_x)[0]
    astray = float((runs * (heights - curve) ** 2).sum())
    drawn, scatter = np.empty((0, 3)), np.empty(0)
    spare, spare_budgets = len(logs) - 2 - with_floor, len(budgets) - 2 - with_floor
    if spare > 0:
        variance = (astray + float(((logs - heights[which]) ** 2).sum())) / spare
        variance = max(variance, astray / spare_budgets) if spare_budgets else variance
        rng = np.random.default_rng(seed)
        sigma = np.minimum(np.sqrt(variance * spare / rng.chisquare(spare, resamples)), _WIDEST)
        moved = curve + sigma[:, None] * rng.standard_normal((resamples, len(budgets))) / np.sqrt(runs)
        drawn = _least_squares(log_x, moved, runs, with_floor)
        scatter = sigma * rng.standard_normal(resamples)
    variance_of_means = float((runs * (heights - np.average(heights, weights=runs)) ** 2).sum())
    return Curve(
        alpha=_estimate(fitted, drawn, 1, len(logs)),
        floor=_estimate(fitted, drawn if with_floor else drawn[:0], 2, len(logs)),
        explained=1 - astray / variance_of_means if spare_budgets and variance_of_means else math.nan,
        largest=float(budgets[-1]),
        centre=centre,
        _fitted=fitted,
        _drawn=drawn,
        _scatter=scatter,
    )


def _least_squares(log_x: Floats, heights: Floats, runs: ArrayLike, with_floor: bool) -> Floats:
    """Curves through log errors (R, B) of budgets log_x (B,): (R, 3) as log height at log_x = 0, alpha, floor."""
    weights = np.asarray(runs, np.float64)
    none = np.zeros(len(heights))
    if not with_floor:
        return _line(log_x, heights, weights, none)
    smallest = np.exp(heights.min(axis=1))
    low, high = none, np.full(len(heights), _NEAREST)
    for _ in range(_ROUNDS):
        shares = np.linspace(low, high, _POINTS)  # (G, R)
        tried = np.stack([_line(log_x, heights, weights, share * smallest) for share in shares])  # (G, R, 3)
        missed = np.stack([(weights * (_log_error(one, log_x) - heights) ** 2).sum(axis=1) for one in tried])
        best = missed.argmin(axis=0)
        every = np.arange(len(heights))
        low, high = shares[np.maximum(best - 1, 0), every], shares[np.minimum(best + 1, _POINTS - 1), every]
    return np.asarray(tried[best, every])


def _line(log_x: Floats, heights: Floats, weights: Floats, floor: Floats) -> Floats:
    """The line through log(error - floor), weighted so that, to first order, the squares are those of log errors."""
    above = np.exp(heights) - floor[:, None]  # (R, B)
    weight = weights * (above / np.exp(heights)) ** 2
    weight = weight / weight.sum(axis=1, keepdims=True)
    y = np.log(above)
    middle_x, middle_y = weight @ log_x, (weight * y).sum(axis=1)
    away = log_x - middle_x[:, None]
    alpha = -(weight * away * y).sum(axis=1) / (weight * away**2).sum(axis=1)
    return np.stack([middle_y + alpha * middle_x, alpha, floor], axis=1)


def _log_error(curves: Floats, log_x: Floats) -> Floats:
    """Curves (R, 3) at log_x (N,): (R, N)."""
    height, alpha, floor = (column[:, None] for column in curves.T)
    return np.asarray(np.log(floor + np.exp(height - alpha * log_x)))


def _estimate(fitted: Floats, drawn: Floats, column: int, n: int) -> Estimate:
    low, high = _percentiles(drawn[:, column]) if len(drawn) else (math.nan, math.nan)
    return Estimate(float(fitted[0, column]), float(low), float(high), n)


def _percentiles(values: Floats) -> Floats:
    return np.asarray(np.percentile(values, (50 * (1 - LEVEL), 50 * (1 + LEVEL)), axis=0))
