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


def mean_per_class(
    values: ArrayLike, classes: ArrayLike, *, clusters: ArrayLike | None = None, seed: int = 0
) -> Estimate:
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
    low, high = bootstrap(class_means, n, clusters=clusters, seed=seed)
    bounds = _share_bounds(numbers, clusters) if numbers.min() == numbers.max() else None
    return Estimate(value, *(bounds or (float(low), float(high))), n)


def mean_over_seeds(
    values: ArrayLike, *, clusters: ArrayLike | None = None, seed: int = 0, resamples: int = 10_000
) -> Estimate:
    """Mean of one method over seeds and samples, with a hierarchical interval.

    The samples are resampled, the same draw for all seeds, since all runs are judged on the same samples. The seeds
    are drawn from Student's t around their mean: resampling three seeds can never leave the range of three numbers,
    which holds the truth in only 75 % of cases. With one seed the interval speaks of that run only.

    What the runs differ by without pattern, sample by sample, is found in the spread of the seeds' means and in that
    of the samples' means. It is taken off the samples' (the split of Hillis, Statistics in Medicine 26, 2007, with
    readers for seeds). Taken off the seeds' it would make shorter intervals that are wrong too often: with three
    seeds, up to 9 % of them, since chance can hide the seeds' own variance. As it is, 95 % is kept in any mixture,
    and where the samples' own part vanishes the interval is Student's t of the seeds' means.

    Args:
        values: (S, n) values: seeds by samples. (n,) is one seed.
        clusters: (n,) ids; samples of one cluster (the captions of one picture) are drawn together.
        seed: of the draws.
        resamples: how many draws.

    Returns:
        The mean, the bounds and n = number of samples. A share's bounds stay between 0 and 1, and are never narrower
        than Wilson's where hits or misses are few.

    Raises:
        ValueError: not a table of finite numbers, or not one cluster id a sample.
    """
    table = _table(values)
    seeds, n = table.shape
    low, high = _bounds(_by_unit(table, clusters), seed, resamples)
    if np.isin(table, (0.0, 1.0)).all():
        ids = np.arange(n) if clusters is None else np.asarray(clusters)
        few = _share_bounds(table.ravel(), np.tile(ids, seeds)) or (low, high)
        low, high = max(0.0, min(low, few[0])), min(1.0, max(high, few[1]))
    return Estimate(float(table.mean()), low, high, n)


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, clusters: ArrayLike | None = None, seed: int = 0, resamples: int = 10_000
) -> Estimate:
    """Mean of a - b over seeds and samples, with the interval of `mean_over_seeds` (a difference is never a share).

    Args:
        a: (S, n) values of one method: seeds by samples. (n,) is one seed.
        b: (S, n) values of the other, same seeds and samples in the same order.
        clusters: (n,) ids; samples of one cluster (the captions of one picture) are drawn together.
        seed: of the draws.
        resamples: how many draws.

    Returns:
        The mean difference, the bounds and n = number of samples.

    Raises:
        ValueError: the two do not have the same shape, or are no tables of finite numbers.
    """
    difference = _paired(a, b)
    bounds = _bounds(_by_unit(difference, clusters), seed, resamples)
    return Estimate(float(difference.mean()), *bounds, difference.shape[1])


def permutation_test(
    a: ArrayLike, b: ArrayLike, *, clusters: ArrayLike | None = None, seed: int = 0, resamples: int = 10_000
) -> float:
    """Probability of a mean difference at least as large as that of a and b, if both methods were the same.

    If they are, each sample's difference could as well have had the other sign: signs are flipped, the same for all
    seeds. Flips of samples alone would take one lucky training for a better method, and flips of three seeds never
    give less than 0.25; so the seeds come in as in `mean_over_seeds`, drawn from Student's t, with the same variances:
    test and interval agree. With one seed and values 0 or 1 this is McNemar's exact test.

    Two identical methods are called different (p < 0.05) in 5 % of comparisons, however much the seeds differ.
    Methods that are better at different samples and equal in the mean: in 2 % to 5 %.

    Args:
        a: (S, n) values of one method: seeds by samples. (n,) is one seed.
        b: (S, n) values of the other, same seeds and samples in the same order.
        clusters: (n,) ids; the signs of one cluster (the captions of one picture) are flipped together.
        seed: of the draws.
        resamples: how many draws; p is at least 1 / (resamples + 1).

    Returns:
        The two-sided p-value.

    Raises:
        ValueError: the two do not have the same shape, or are no tables of finite numbers.
    """
    difference = _by_unit(_paired(a, b), clusters)
    by_unit = difference.mean(axis=0)
    kept, error = _spread(difference)
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS // len(by_unit))
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    heads = [rng.integers(0, 2, (rows, len(by_unit)), dtype=np.int8) @ by_unit for rows in sizes]
    flipped = (2 * np.concatenate(heads) - by_unit.sum()) / len(by_unit)
    null = kept * flipped + error * _student(len(difference), seed, resamples)
    as_large = np.abs(null) >= abs(by_unit.mean()) * (1 - 1e-9)  # ties are ties, whatever the rounding
    return float((1 + as_large.sum()) / (resamples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, adjusted so that one false finding among all is as rare as it would be in one.

    Step-down: the k-th smallest of m is multiplied by m - k + 1 and is at least its predecessor (Holm, A Simple
    Sequentially Rejective Multiple Test Procedure, 1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]


def _table(values: ArrayLike) -> Floats:
    """Values (S, n) or (n,) -> (S, n)."""
    table = np.atleast_2d(np.asarray(values, np.float64))
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise ValueError("this needs a table (seeds, samples) of finite numbers; leave out samples without a value.")
    return table


def _paired(a: ArrayLike, b: ArrayLike) -> Floats:
    """The difference a - b (S, n)."""
    first, second = np.atleast_2d(np.asarray(a, np.float64)), np.atleast_2d(np.asarray(b, np.float64))
    if first.shape != second.shape:
        raise ValueError(f"pairs need two tables (seeds, samples) of one shape, not {first.shape} and {second.shape}.")
    return _table(first - second)


def _by_unit(table: Floats, clusters: ArrayLike | None) -> Floats:
    """Table (S, n) -> (S, U): what each cluster brings to a seed's mean.

    Rows keep their means, and their spread over clusters is that of the mean as a ratio of sums: large clusters count
    for more. Without clusters, each sample is its own.
    """
    if clusters is None:
        return table
    _, inverse = np.unique(np.asarray(clusters), return_inverse=True)
    if inverse.shape != (table.shape[1],):
        raise ValueError(f"clusters needs one id a sample ({table.shape[1]}), not {inverse.shape}.")
    sizes = np.bincount(inverse)
    totals = np.stack([np.bincount(inverse, weights=row) for row in table])
    means = table.mean(axis=1, keepdims=True)
    return np.asarray(means + (totals - means * sizes) / sizes.mean())


def _spread(table: Floats) -> tuple[float, float]:
    """Where the uncertainty of the mean of a table (S, U) comes from.

    Returns:
        The share of the units' spread (a standard deviation) that is their own and not left-over noise of the runs,
        and the standard error that comes from the seeds, noise included. A seed's mean of hits and misses moves in
        steps, and so may agree with another's by accident: the variance of rounding to such a step is added.
    """
    seeds = len(table)
    if seeds == 1:
        return 1.0, 0.0
    by_seed, by_unit = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    noise = float(((table - by_seed - by_unit + table.mean()) ** 2).sum()) / (seeds * (seeds - 1))
    units = float(((by_unit - table.mean()) ** 2).sum())
    kept = math.sqrt(max(0.0, 1 - noise / units)) if units > 0 else 0.0
    gaps = np.diff(np.sort(table.round(9), axis=1), axis=1)
    step = min(gaps[gaps > 0], default=0.0) / table.shape[1]
    return kept, math.sqrt((float(by_seed.var(ddof=1)) + step**2 / 12) / seeds)


def _student(seeds: int, seed: int, resamples: int) -> Floats:
    """Draws from Student's t with S - 1 degrees of freedom; one seed has no spread that they could scale."""
    if seeds == 1:
        return np.zeros(resamples)
    return np.random.default_rng([seed, seeds]).standard_t(seeds - 1, size=resamples)


def _bounds(table: Floats, seed: int, resamples: int) -> tuple[float, float]:
    """Bounds of the mean of a table (S, U)."""
    seeds, units = table.shape
    by_unit = table.mean(axis=0)
    kept, error = _spread(table)
    drawn = np.concatenate([counts @ by_unit for counts in _draws(units, None, seed, resamples)]) / units
    values = by_unit.mean() + kept * (drawn - by_unit.mean()) + error * _student(seeds, seed, resamples)
    low, high = np.percentile(values, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return float(low), float(high)


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
