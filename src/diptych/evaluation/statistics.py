"""How sure a figure is: bootstrap intervals of per-sample values, and paired differences over seeds.

All intervals are percentile bootstraps (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13) with a
fixed seed, so that the same values give the same interval. Where a share rests on fewer than ten hits or ten misses
the bootstrap is too narrow (twenty hits of twenty would be "1.00 to 1.00"); the Wilson score interval stands there
(Brown, Cai and DasGupta, Interval Estimation for a Binomial Proportion, 2001).

A resample is written as counts: `counts[r, i]` says how often sample i was drawn in resample r. A statistic maps the
counts (R, n) to its R values, which makes means, medians and class means one matrix operation each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
LEVEL = 0.95
_CELLS = 4_000_000  # counts held at a time: 32 MB
_FEW = 10  # hits or misses below which the bootstrap of a share is too narrow

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]


class Estimate(NamedTuple):
    """A figure with its 95 % interval and the number of values that it rests on."""

    value: float
    low: float
    high: float
    n: int


def wilson(share: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson score interval of a share that was measured on n independent trials."""
    if n == 0:
        return math.nan, math.nan
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(
    statistic: Statistic, n: int, *, clusters: ArrayLike | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[Floats, Floats]:
    """Percentile bounds of a statistic of n samples.

    Args:
        statistic: counts (R, n) -> values (R,) or (R, M) for M figures at once.
        n: number of samples.
        clusters: (n,) ids; samples of one cluster (the captions of one picture) are drawn together.
        seed: of the draws.
        resamples: how many.

    Returns:
        low and high, each of the shape of one value: () or (M,).
    """
    values = np.concatenate([statistic(counts) for counts in _draws(n, clusters, seed, resamples)])
    tail = 50 * (1 - LEVEL)
    low, high = np.nanpercentile(values, (tail, 100 - tail), axis=0)
    return low, high


def means(values: ArrayLike, *, clusters: ArrayLike | None = None, seed: int = 0) -> list[Estimate]:
    """Mean of each column of values (n, M), with its interval; one set of draws serves all columns."""
    table = np.asarray(values, dtype=np.float64)
    n, columns = table.shape
    if n == 0:
        return [Estimate(math.nan, math.nan, math.nan, 0)] * columns
    low, high = bootstrap(lambda counts: _weighted_means(counts, table), n, clusters=clusters, seed=seed)
    estimates = []
    for column in range(columns):
        bounds = _share_bounds(table[:, column], clusters) or (float(low[column]), float(high[column]))
        estimates.append(Estimate(float(table[:, column].mean()), *bounds, n))
    return estimates


def mean(values: ArrayLike, *, clusters: ArrayLike | None = None, seed: int = 0) -> Estimate:
    """Mean of values (n,), with its interval."""
    return means(np.asarray(values, dtype=np.float64)[:, None], clusters=clusters, seed=seed)[0]


def median(values: ArrayLike, *, clusters: ArrayLike | None = None, seed: int = 0) -> Estimate:
    """Lower median of values (n,) (a rank stays a whole number), with its interval."""
    ordered = np.asarray(values, dtype=np.float64)
    n = len(ordered)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    order = np.argsort(ordered, kind="stable")
    ordered = ordered[order]

    def weighted_median(counts: Floats) -> Floats:
        heaped = np.cumsum(counts[:, order], axis=1)
        return ordered[np.argmax(2 * heaped >= heaped[:, -1:], axis=1)]

    low, high = bootstrap(weighted_median, n, clusters=clusters, seed=seed)
    return Estimate(float(ordered[(n - 1) // 2]), float(low), float(high), n)


def mean_per_class(values: ArrayLike, classes: ArrayLike, *, seed: int = 0) -> Estimate:
    """Mean over classes of the mean of values (n,) within the class, with its interval."""
    numbers = np.asarray(values, dtype=np.float64)
    n = len(numbers)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    _, labels = np.unique(np.asarray(classes), return_inverse=True)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))

    def class_means(counts: Floats) -> Floats:
        drawn = counts[:, order]
        sizes = np.add.reduceat(drawn, starts, axis=1)
        sums = np.add.reduceat(drawn * numbers[order], starts, axis=1)
        present = sizes > 0  # a class may be missing from a resample
        return (sums / np.maximum(sizes, 1)).sum(axis=1) / present.sum(axis=1)

    value = float(class_means(np.ones((1, n)))[0])
    low, high = bootstrap(class_means, n, seed=seed)
    bounds = _share_bounds(numbers, None) if numbers.min() == numbers.max() else None
    return Estimate(value, *(bounds or (float(low), float(high))), n)


def paired_difference(a: ArrayLike, b: ArrayLike, *, seed: int = 0, resamples: int = 10_000) -> Estimate:
    """Mean of a - b over seeds and samples, with a hierarchical interval.

    The samples are resampled, the same draw for all seeds, since all runs are judged on the same samples. The seeds
    are drawn from Student's t around their mean: resampling three seeds can never leave the range of three numbers,
    which holds the truth in only 75 % of cases. What the seeds differ by merely because finitely many samples were
    judged is taken off their variance first. With one seed the interval speaks of that pair of runs only.

    Args:
        a: (S, n) values of one method: seeds by samples. (n,) is one seed.
        b: (S, n) values of the other, same seeds and samples in the same order.
        seed: of the draws.
        resamples: how many draws.

    Returns:
        The mean difference, the bounds and n = number of samples.

    Raises:
        ValueError: the two do not have the same shape.
    """
    first, second = np.atleast_2d(np.asarray(a, np.float64)), np.atleast_2d(np.asarray(b, np.float64))
    if first.shape != second.shape or first.ndim != 2 or first.size == 0:
        raise ValueError(
            f"a paired difference needs two tables (seeds, samples) of one shape, not {first.shape} and {second.shape}."
        )
    difference = first - second  # (S, n)
    seeds, n = difference.shape
    by_sample = difference.mean(axis=0)
    rng = np.random.default_rng(seed)
    values = np.concatenate([c @ by_sample / n for c in _draws(n, None, int(rng.integers(2**31)), resamples)])
    if seeds > 1:
        values = values + math.sqrt(_seed_variance(difference) / seeds) * rng.standard_t(seeds - 1, size=resamples)
    low, high = np.percentile(values, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return Estimate(float(difference.mean()), float(low), float(high), n)


def _seed_variance(difference: Floats) -> float:
    """Variance between seeds in the two-way table (S, n), without the share that the residuals put into it."""
    seeds, n = difference.shape
    by_seed = difference.mean(axis=1, keepdims=True)
    if n == 1:
        return float(by_seed.var(ddof=1))
    residual = difference - by_seed - difference.mean(axis=0, keepdims=True) + difference.mean()
    residual_variance = float((residual**2).sum()) / ((seeds - 1) * (n - 1))
    return max(0.0, float(by_seed.var(ddof=1)) - residual_variance / n)


def _weighted_means(counts: Floats, table: Floats) -> Floats:
    """Counts (R, n), table (n, M) -> (R, M)."""
    return (counts @ table) / counts.sum(axis=1, keepdims=True)


def _share_bounds(values: Floats, clusters: ArrayLike | None) -> tuple[float, float] | None:
    """Wilson bounds where values are 0 or 1 and hits or misses are few; None where the bootstrap serves."""
    if not np.isin(values, (0.0, 1.0)).all():
        return None
    share = float(values.mean())
    n = len(values) if clusters is None else _independent(values, np.asarray(clusters))
    return wilson(share, n) if min(share, 1 - share) * n < _FEW else None


def _independent(values: Floats, clusters: NDArray[np.generic]) -> int:
    """How many independent trials would give a share its variance (Kish's effective sample size)."""
    _, inverse = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(inverse)
    share = float(values.mean())
    if len(sizes) < 2 or share in (0.0, 1.0):
        return len(sizes)
    residuals = np.bincount(inverse, weights=values) - share * sizes
    variance = float((residuals**2).sum()) * len(sizes) / (len(sizes) - 1) / len(values) ** 2
    effective = share * (1 - share) / variance if variance > 0 else len(values)
    return round(min(max(effective, len(sizes)), len(values)))


def _draws(n: int, clusters: ArrayLike | None, seed: int, resamples: int) -> Iterator[Floats]:
    """Counts (R, n) in chunks, `resamples` rows in all."""
    inverse = None if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    units = n if inverse is None else int(inverse.max()) + 1
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS // max(n, units))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        picks = rng.integers(0, units, size=(rows, units)) + np.arange(rows)[:, None] * units
        counts = np.bincount(picks.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float64)
        yield counts if inverse is None else counts[:, inverse]


def chance_of_recall(positives: Sequence[int] | NDArray[np.int64], gallery: int, k: int) -> float:
    """Mean probability that the first k of a random order of the gallery hold one of a query's positives.

    positives: (n,) how many right answers each query has. With m of N: 1 - C(N - m, k) / C(N, k).
    """
    wrong = gallery - np.asarray(positives, dtype=np.float64)
    missed = np.ones_like(wrong)
    for drawn in range(min(k, gallery)):
        missed = missed * np.maximum(wrong - drawn, 0) / (gallery - drawn)
    return float((1 - missed).mean()) if len(missed) else math.nan


def chance_of_median_rank(positives: Sequence[int] | NDArray[np.int64], gallery: int) -> float:
    """Median, over queries and random orders of the gallery, of the rank of a query's first right answer."""
    sizes, queries = np.unique(np.asarray(positives, dtype=np.int64), return_counts=True)
    if len(sizes) == 0:
        return math.nan

    def found_by(rank: int) -> float:
        """Share of queries whose first right answer stands at this rank or before."""
        found = [1 - _none_drawn(int(m), gallery, rank) for m in sizes]
        return float(np.average(found, weights=queries))

    low, high = 1, gallery
    while low < high:
        middle = (low + high) // 2
        if found_by(middle) >= 0.5 - 1e-12:
            high = middle
        else:
            low = middle + 1
    return float(low)


def _none_drawn(right: int, gallery: int, drawn: int) -> float:
    """Probability that none of `right` items is among `drawn` of the gallery: C(N - m, r) / C(N, r)."""
    if drawn > gallery - right:
        return 0.0
    wrong = gallery - right
    kept, all_kept = math.lgamma(wrong - drawn + 1), math.lgamma(gallery - drawn + 1)
    return math.exp(math.lgamma(wrong + 1) - kept - math.lgamma(gallery + 1) + all_kept)
