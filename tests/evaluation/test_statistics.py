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


T_HALF = 4.3027 / math.sqrt(3)  # 97.5 % point of Student's t with 2 degrees of freedom, seeds one apart


def test_where_only_seeds_differ_it_is_the_t_test_of_three_numbers() -> None:
    a = np.repeat([[1.0], [2.0], [3.0]], 40, axis=1)
    zero = np.zeros_like(a)
    for estimate in (
        statistics.mean_over_seeds(a, resamples=200_000),
        statistics.mean_over_seeds([[1], [2], [3]], resamples=200_000),  # a figure a seed, no samples
        statistics.paired_difference(a, zero, resamples=200_000),
    ):
        assert (estimate.low, estimate.high) == pytest.approx((2 - T_HALF, 2 + T_HALF), abs=0.06)
    t = 2 * math.sqrt(3)  # P(|T| > t) = 1 - t / sqrt(2 + t^2) with two degrees of freedom
    assert statistics.permutation_test(a, zero) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=0.01)


def test_seeds_whose_means_agree_by_accident_are_not_certain() -> None:
    # means move in steps of 1/4: the variance of rounding, 1/4**2 / 12, over two seeds, times t(1) = 12.7
    estimate = statistics.paired_difference([[1, 0, 0, 0], [0, 1, 0, 0]], np.zeros((2, 4)))
    assert estimate.value == 0.25
    assert estimate.high - estimate.value == pytest.approx(12.706 * math.sqrt(1 / 16 / 12 / 2), rel=0.1)


def test_one_seed_of_hits_and_misses_is_the_exact_test_of_mcnemar() -> None:
    a, b = np.ones(50), np.ones(50)
    a[0], b[1:10] = 0, 0  # they disagree on ten, and a is right on nine
    exact = 2 * (1 + 10) / 2**10
    assert statistics.permutation_test(a, b) == pytest.approx(exact, abs=0.005)
    assert statistics.permutation_test(b, a) == pytest.approx(exact, abs=0.005)


def test_no_difference_at_all_has_p_one() -> None:
    values = np.random.default_rng(9).random((3, 40))
    assert statistics.permutation_test(values, values) == 1.0
    assert statistics.paired_difference(values, values)[:3] == (0.0, 0.0, 0.0)


def two_alike(rng, *, between_seeds, binary) -> tuple[np.ndarray, np.ndarray]:
    """Two methods of three seeds on the same 300 samples, some of which are harder, drawn from one distribution."""
    difficulty = rng.normal(0, 1, (1, 300))
    shape = {"between_seeds": between_seeds, "between_samples": 0, "residual": 1}
    a, b = (difficulty + seeds_and_samples(rng, 3, 300, **shape) for _ in range(2))
    return ((a > -0.5).astype(float), (b > -0.5).astype(float)) if binary else (a, b)


@pytest.mark.parametrize("binary", [False, True], ids=["continuous", "binary"])
@pytest.mark.parametrize("between_seeds", [0, 0.1])
def test_identical_methods_are_called_different_in_one_of_twenty_comparisons(between_seeds, binary) -> None:
    rng = np.random.default_rng(10)
    called = 0
    for trial in range(1000):
        a, b = two_alike(rng, between_seeds=between_seeds, binary=binary)
        called += statistics.permutation_test(a, b, seed=trial, resamples=500) < 0.05
    assert 28 <= called <= 74  # 99.9 % of what 1,000 draws of 0.05 give


def test_a_difference_of_one_standard_deviation_is_found() -> None:
    rng = np.random.default_rng(11)
    for trial in range(100):
        a, b = two_alike(rng, between_seeds=0.02, binary=False)
        assert statistics.permutation_test(a + 1, b, seed=trial, resamples=500) < 0.05
        assert statistics.paired_difference(a + 1, b, seed=trial, resamples=500).low > 0


def test_interval_and_test_say_the_same() -> None:
    rng = np.random.default_rng(12)
    sure = 0
    for _ in range(60):
        a, b = two_alike(rng, between_seeds=0.05, binary=True)
        b = np.minimum(b, rng.random((1, 300)) < 0.88)
        p = statistics.permutation_test(a, b, resamples=2000)
        estimate = statistics.paired_difference(a, b, resamples=2000)
        if abs(p - 0.05) > 0.02:  # draws of either kind leave that much room
            assert (p < 0.05) == (not estimate.low <= 0 <= estimate.high)
        sure += p < 0.03
    assert 10 <= sure <= 50  # both answers were met


def test_clusters_of_copies_count_once() -> None:
    rng = np.random.default_rng(13)
    a, b = rng.random((3, 80)), rng.random((3, 80))
    five_a, five_b, ids = np.repeat(a, 5, axis=1), np.repeat(b, 5, axis=1), np.repeat(np.arange(80), 5)
    mixed = rng.permutation(400)  # copies need not stand together
    kept = {"clusters": ids[mixed]}
    single = statistics.paired_difference(a, b)
    together = statistics.paired_difference(five_a[:, mixed], five_b[:, mixed], **kept)
    assert together[:3] == pytest.approx(single[:3])
    assert (single.n, together.n) == (80, 400)
    assert statistics.mean_over_seeds(five_a[:, mixed], **kept)[:3] == pytest.approx(statistics.mean_over_seeds(a)[:3])
    p = statistics.permutation_test(five_a[:, mixed], five_b[:, mixed], **kept)
    assert p == pytest.approx(statistics.permutation_test(a, b), abs=1e-3)


def test_one_seed_in_uneven_clusters_is_the_bootstrap_of_the_clusters() -> None:
    rng = np.random.default_rng(14)
    ids = np.repeat(np.arange(100), rng.integers(1, 9, 100))
    values = rng.normal(2, 1, 100)[ids] + rng.normal(0, 0.3, len(ids))
    linear, plain = statistics.mean_over_seeds(values, clusters=ids), statistics.mean(values, clusters=ids)
    assert linear.value == pytest.approx(plain.value)
    assert (linear.low, linear.high) == pytest.approx((plain.low, plain.high), abs=0.03)


@pytest.mark.parametrize(
    ("between_seeds", "clustered", "threshold", "at_most"),
    [(0, False, 0, 985), (0.2, False, 0, 985), (0.1, True, 0, 985), (0.1, True, None, 985), (0.1, False, -3.5, 998)],
    ids=["samples", "seeds", "clusters", "clusters of numbers", "few misses are met with caution"],
)
def test_mean_over_seeds_covers_the_truth(between_seeds, clustered, threshold, at_most) -> None:
    rng = np.random.default_rng(15)
    ids = np.arange(120) // 4 if clustered else np.arange(120)
    spread = math.sqrt(between_seeds**2 + 2)  # of one value: seed, sample or cluster, residual
    truth = 0.0 if threshold is None else 0.5 * math.erfc(threshold / spread / math.sqrt(2))
    covered = 0
    for trial in range(1000):
        shape = {"between_seeds": between_seeds, "between_samples": 0, "residual": 1}
        values = seeds_and_samples(rng, 3, 120, **shape) + rng.normal(0, 1, 120)[ids]
        values = values if threshold is None else (values > threshold).astype(float)
        estimate = statistics.mean_over_seeds(values, clusters=ids, seed=trial, resamples=500)
        covered += estimate.low <= truth <= estimate.high
    assert 920 <= covered <= at_most


@pytest.mark.parametrize("clustered", [False, True])
def test_paired_difference_covers_the_truth(clustered) -> None:
    rng = np.random.default_rng(16)
    ids = np.arange(160) // 4 if clustered else np.arange(160)
    covered = 0
    for trial in range(1000):
        shared = rng.normal(0, 1, 160) + 0.3 * rng.normal(0, 1, 160)[ids]
        a = shared + 0.2 + 0.6 * rng.normal(0, 1, 160)[ids] + rng.normal(0, 0.1, (3, 1)) + rng.normal(0, 0.5, (3, 160))
        b = shared + rng.normal(0, 0.1, (3, 1)) + rng.normal(0, 0.5, (3, 160))
        estimate = statistics.paired_difference(a, b, clusters=ids, seed=trial, resamples=500)
        covered += estimate.low <= 0.2 <= estimate.high
    assert 920 <= covered <= 985


def test_a_share_over_seeds_at_its_edge_is_not_certain() -> None:
    always = statistics.mean_over_seeds(np.ones((3, 20)))
    assert (always.value, always.low, always.high) == (1.0, statistics.wilson(1, 20)[0], 1.0)  # seeds add no samples
    never = statistics.mean_over_seeds(np.zeros((3, 20)), clusters=np.arange(20) // 2)
    assert (never.low, never.high) == pytest.approx(statistics.wilson(0, 10))
    uneven = np.ones((3, 50))
    uneven[0, :5] = 0  # one seed misses what the others find: t reaches above one
    assert statistics.mean_over_seeds(uneven).high == 1.0
    assert statistics.mean_over_seeds(uneven).low < statistics.wilson(uneven.mean(), 50)[0]


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.4, 0.9, 0.6]) == [1.0, 1.0, 1.0]
    assert statistics.holm([0.03]) == [0.03]
    assert statistics.holm([]) == []


def test_paired_difference_wants_pairs() -> None:
    with pytest.raises(ValueError, match=r"one shape, not \(1, 3\) and \(1, 4\)"):
        statistics.paired_difference([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="leave out samples without a value"):
        statistics.mean_over_seeds([[1, math.nan]])
    with pytest.raises(ValueError, match=r"one id a sample \(3\), not \(2,\)"):
        statistics.permutation_test([1, 2, 3], [1, 2, 4], clusters=[0, 1])


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
