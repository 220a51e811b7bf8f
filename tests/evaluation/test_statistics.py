import math

import numpy as np
import pytest

from diptych.evaluation import statistics


def test_wilson_is_the_textbook_interval() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81 of 263 and 0 of 20
    assert np.round(statistics.wilson(81 / 263, 263), 4).tolist() == [0.2553, 0.3662]
    assert np.round(statistics.wilson(0, 20), 4).tolist() == [0.0, 0.1611]


def test_mean_agrees_with_the_normal_interval_of_a_large_sample() -> None:
    values = np.random.default_rng(0).normal(3, 2, 5000)
    estimate = statistics.mean(values)
    half = 1.96 * values.std() / math.sqrt(5000)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert estimate.n == 5000


def test_the_same_values_give_the_same_interval() -> None:
    values = np.random.default_rng(1).random(50)
    assert statistics.mean(values) == statistics.mean(values)
    assert statistics.mean(values) != statistics.mean(values, seed=1)


def test_all_right_is_not_certain() -> None:
    estimate = statistics.mean(np.ones(20))
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.8389, abs=1e-4)


def test_nothing_measured_is_not_a_number() -> None:
    for estimate in (statistics.mean([]), statistics.median([]), statistics.mean_per_class([], [])):
        assert math.isnan(estimate.value)
        assert estimate.n == 0


@pytest.mark.parametrize(
    ("draw", "truth", "n"),
    [
        (lambda rng, n: rng.normal(1, 3, n), 1.0, 60),
        (lambda rng, n: rng.random(n) < 0.3, 0.3, 100),
        (lambda rng, n: rng.random(n) < 0.97, 0.97, 60),  # few misses: Wilson
        (lambda rng, n: rng.exponential(2, n), 2.0, 150),
    ],
)
def test_means_cover_the_truth_at_their_level(draw, truth, n) -> None:
    rng = np.random.default_rng(2)
    estimates = statistics.means(np.stack([draw(rng, n) for _ in range(600)], axis=1).astype(float))
    covered = np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])
    assert 0.92 <= covered <= 0.985


def test_median_covers_the_truth_and_stays_a_rank() -> None:
    rng = np.random.default_rng(3)
    estimates = [statistics.median(rng.exponential(1, 80), seed=trial) for trial in range(200)]
    covered = np.mean([estimate.low <= math.log(2) <= estimate.high for estimate in estimates])
    assert 0.91 <= covered <= 0.99
    ranks = statistics.median([1, 2, 3, 10])
    assert ranks.value == 2
    assert ranks.low in (1, 2)
    assert ranks.high in (3, 10)


def test_clusters_are_drawn_together() -> None:
    rng = np.random.default_rng(4)
    values = np.repeat(rng.normal(size=200), 5)  # five captions a picture that say the same
    single = statistics.mean(values[::5])
    together = statistics.mean(values, clusters=np.repeat(np.arange(200), 5))
    apart = statistics.mean(values)
    assert together.high - together.low == pytest.approx(single.high - single.low, rel=0.05)
    assert apart.high - apart.low == pytest.approx((single.high - single.low) / math.sqrt(5), rel=0.1)


def test_few_hits_in_clusters_count_as_many_trials_as_their_variance_says() -> None:
    clusters = np.repeat(np.arange(50), 4)
    together, apart = np.zeros(200), np.zeros(200)
    together[:8] = 1  # two whole clusters
    apart[::25] = 1  # eight hits in as many clusters
    wide, narrow = statistics.mean(together, clusters=clusters), statistics.mean(apart, clusters=clusters)
    assert wide.value == narrow.value == 0.04
    assert (wide.low, wide.high) == pytest.approx(statistics.wilson(0.04, 50), abs=0.002)
    assert (narrow.low, narrow.high) == pytest.approx(statistics.wilson(0.04, 200))
    never = statistics.mean(np.zeros(200), clusters=clusters)
    assert (never.low, never.high) == statistics.wilson(0, 50)


def test_mean_per_class_weighs_classes_alike() -> None:
    values = [1, 1, 1, 1, 1, 1, 0, 0, 0, 1]
    classes = [7, 7, 7, 7, 7, 7, 2, 2, 2, 2]
    estimate = statistics.mean_per_class(values, classes)
    assert estimate.value == pytest.approx((1 + 0.25) / 2)
    assert estimate.low < estimate.value < estimate.high


def seeds_and_samples(rng, seeds, n, *, between_seeds, between_samples, residual) -> np.ndarray:
    effects = rng.normal(0, between_seeds, (seeds, 1)) + rng.normal(0, between_samples, (1, n))
    return effects + rng.normal(0, residual, (seeds, n))


@pytest.mark.parametrize(
    "spread",
    [
        {"between_seeds": 1, "between_samples": 0.5, "residual": 0.5},
        {"between_seeds": 0, "between_samples": 1, "residual": 0},
        {"between_seeds": 0, "between_samples": 0, "residual": 1},
        {"between_seeds": 0.1, "between_samples": 1, "residual": 1},
    ],
    ids=["seeds differ", "samples differ", "noise", "all"],
)
def test_paired_difference_covers_the_truth_with_three_seeds(spread) -> None:
    rng = np.random.default_rng(5)
    hits = []
    for trial in range(250):
        difference = 0.3 + seeds_and_samples(rng, 3, 100, **spread)
        estimate = statistics.paired_difference(difference, np.zeros_like(difference), seed=trial, resamples=1000)
        hits.append(estimate.low <= 0.3 <= estimate.high)
    assert 0.915 <= np.mean(hits) <= 0.995


def test_paired_difference_takes_off_what_both_share() -> None:
    rng = np.random.default_rng(6)
    difficulty = rng.normal(0, 10, (1, 400))
    a = difficulty + rng.normal(0.2, 0.5, (3, 400))
    b = difficulty + rng.normal(0.0, 0.5, (3, 400))
    estimate = statistics.paired_difference(a, b)
    assert estimate.value == pytest.approx((a - b).mean())
    assert estimate.low > 0
    reverse = statistics.paired_difference(b, a)
    assert (reverse.low + estimate.high, reverse.high + estimate.low) == pytest.approx((0, 0), abs=0.02)


def test_paired_difference_of_one_seed_is_the_bootstrap_of_its_samples() -> None:
    values = np.random.default_rng(7).normal(1, 1, 300)
    paired, plain = statistics.paired_difference(values, np.zeros(300)), statistics.mean(values)
    assert (paired.low, paired.high) == pytest.approx((plain.low, plain.high), abs=0.02)


def test_paired_difference_wants_pairs() -> None:
    with pytest.raises(ValueError, match=r"one shape, not \(1, 3\) and \(1, 4\)"):
        statistics.paired_difference([1, 2, 3], [1, 2, 3, 4])


def test_chance_of_recall_by_counting() -> None:
    assert statistics.chance_of_recall([1], 10, 3) == pytest.approx(0.3)
    assert statistics.chance_of_recall([2], 4, 1) == pytest.approx(0.5)
    assert statistics.chance_of_recall([2], 4, 2) == pytest.approx(1 - 2 / 4 * 1 / 3)
    assert statistics.chance_of_recall([1, 3], 4, 1) == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert statistics.chance_of_recall([3], 4, 2) == 1.0  # only one is wrong


def test_chance_of_median_rank_by_drawing() -> None:
    assert statistics.chance_of_median_rank([1], 9) == 5
    assert statistics.chance_of_median_rank([1, 1], 100) == 50
    rng = np.random.default_rng(8)
    positives = rng.integers(1, 6, 40)
    drawn = [rng.permutation(200)[:m].min() + 1 for _ in range(400) for m in positives]
    assert statistics.chance_of_median_rank(positives, 200) == pytest.approx(np.median(drawn), abs=2)
