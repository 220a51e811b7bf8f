"""Power laws through a few budgets: what is known of them exactly, and how often their intervals hold the truth."""

import math

import numpy as np
import pytest

from diptych.evaluation import scaling

THREE = [20e3, 40e3, 80e3]
SIX = [1e3, 2e3, 4e3, 8e3, 16e3, 32e3]


def scattered(rng, law, budgets, seeds, sigma):
    """Budgets and errors of runs that scatter about a law by a factor."""
    x = np.repeat(budgets, seeds).astype(float)
    return x, law(x) * np.exp(rng.normal(0, sigma, len(x)))


def test_a_power_law_without_scatter_is_found_exactly():
    x = np.array(THREE)
    curve = scaling.fit(x, 7 * x**-0.21)
    assert curve.alpha == pytest.approx((0.21, 0.21, 0.21, 3))
    assert curve.floor[:1] == (0.0,)
    assert math.isnan(curve.floor.low)
    assert curve.explained == pytest.approx(1)
    assert curve.largest == 80e3
    value, low, high = curve.at([800e3])
    assert (value[0], low[0], high[0]) == pytest.approx((7 * 800e3**-0.21,) * 3)


def test_the_error_that_remains_is_found_from_five_budgets_on():
    x = np.array(SIX)
    curve = scaling.fit(x, 0.1 + 30 * x**-0.6, resamples=50)
    assert curve.alpha.value == pytest.approx(0.6, abs=1e-3)
    assert curve.floor.value == pytest.approx(0.1, abs=1e-3)
    assert curve.at([1e9])[0][0] == pytest.approx(0.1, abs=1e-3)
    assert scaling.fit(x[:4], 0.1 + 30 * x[:4] ** -0.6).floor.value == 0
    assert scaling.fit(x, 30 * x**-0.6, resamples=50).floor.value == 0


def test_runs_count_alike_whatever_their_budget():
    x = np.array([1e3, 1e3, 1e3, 2e3, 8e3, 8e3])
    error = np.array([0.9, 0.8, 0.85, 0.7, 0.5, 0.6])
    slope, height = np.polyfit(np.log(x), np.log(error), 1)
    curve = scaling.fit(x, error)
    assert curve.alpha.value == pytest.approx(-slope)
    assert curve.at([5e3])[0][0] == pytest.approx(math.exp(height) * 5e3**slope)


def test_the_interval_of_one_seed_is_students():
    x, error = np.array([1e3, 2e3, 4e3, 8e3]), np.array([0.8, 0.62, 0.5, 0.37])
    (slope, _), residual, *_ = np.polyfit(np.log(x), np.log(error), 1, full=True)
    away = np.log(x) - np.log(x).mean()
    half = 4.3027 * math.sqrt(float(residual[0]) / 2 / float(away @ away))  # t with two degrees of freedom
    curve = scaling.fit(x, error, resamples=20_000)
    assert (curve.alpha.low, curve.alpha.high) == pytest.approx((-slope - half, -slope + half), abs=0.05 * half)


def test_units_do_not_matter():
    rng = np.random.default_rng(0)
    x, error = scattered(rng, lambda x: 5 * x**-0.2, THREE, 3, 0.05)
    curve, other = scaling.fit(x, error), scaling.fit(1e12 * x, 3 * error)
    assert other.alpha == pytest.approx(curve.alpha)
    assert np.array(other.at([2e17])) == pytest.approx(3 * np.array(curve.at([2e5])))


@pytest.mark.parametrize(
    ("budgets", "seeds", "floor", "sigma", "repeats"),
    [(THREE, 3, 0.0, 0.05, 400), (THREE, 1, 0.0, 0.02, 400), (SIX, 3, 0.1, 0.03, 100), (SIX, 1, 0.1, 0.01, 100)],
    ids=["three seeds", "one seed", "a floor", "a floor, one seed"],
)
def test_intervals_hold_the_truth_at_their_level(budgets, seeds, floor, sigma, repeats):
    """Of the exponent, of the curve at ten times the largest budget, and of one more run there."""

    def law(x):
        return floor + 20 * x**-0.4

    rng, ahead = np.random.default_rng(1), 10 * budgets[-1]
    held = []
    for repeat in range(repeats):
        curve = scaling.fit(*scattered(rng, law, budgets, seeds, sigma), seed=repeat, resamples=200)
        run = law(ahead) * math.exp(rng.normal(0, sigma))
        of_alpha = curve.alpha.low <= 0.4 <= curve.alpha.high
        of_curve, of_a_run = (
            bounds[1][0] <= truth <= bounds[2][0]
            for bounds, truth in ((curve.at([ahead]), law(ahead)), (curve.of_a_run([ahead]), run))
        )
        held.append([of_alpha, of_curve, of_a_run])
    for share in np.mean(held, axis=0):
        assert 0.915 <= share <= 0.985


def test_drawing_three_seeds_with_replacement_would_not_do():
    """Why the bootstrap is parametric: of 300 intervals from resampled seeds far fewer than 95 % hold the exponent."""
    rng, log_x, held = np.random.default_rng(2), np.log(np.repeat(THREE, 3)), []
    away = log_x - log_x.mean()
    for _ in range(300):
        logs = -0.2 * log_x + rng.normal(0, 0.05, 9)
        picks = rng.integers(0, 3, (500, 9)) + np.repeat([0, 3, 6], 3)
        alphas = -(logs[picks] @ away) / (away @ away)
        held.append(np.percentile(alphas, 2.5) <= 0.2 <= np.percentile(alphas, 97.5))
    assert np.mean(held) < 0.88


def test_budgets_that_stray_from_the_line_widen_the_interval():
    x = np.repeat(THREE, 3)
    seeds = np.tile([-0.01, 0.0, 0.01], 3)
    straight = scaling.fit(x, np.exp(-0.2 * np.log(x) + seeds))
    bent = scaling.fit(x, np.exp(-0.2 * np.log(x) + seeds + np.repeat([0.0, 0.1, 0.0], 3)))
    assert bent.alpha.value == pytest.approx(straight.alpha.value)
    assert bent.alpha.high - bent.alpha.low > 5 * (straight.alpha.high - straight.alpha.low)
    assert bent.explained < straight.explained


def test_a_single_run_is_less_certain_than_the_mean_of_many():
    rng = np.random.default_rng(3)
    curve = scaling.fit(*scattered(rng, lambda x: 5 * x**-0.2, THREE, 20, 0.1))
    (_, low, high), (_, lowest, highest) = curve.at(THREE), curve.of_a_run(THREE)
    assert (np.log(highest / lowest) > 3 * np.log(high / low)).all()
    assert np.log(highest / lowest) == pytest.approx(2 * 1.96 * 0.1, rel=0.2)


def test_two_runs_have_a_line_and_no_interval():
    curve = scaling.fit([1e3, 4e3], [0.8, 0.4])
    assert curve.alpha.value == pytest.approx(0.5)
    assert math.isnan(curve.alpha.low)
    assert math.isnan(curve.explained)
    value, low, high = curve.of_a_run([16e3, 64e3])
    assert value == pytest.approx([0.2, 0.1])
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize("budgets", [THREE, SIX])
def test_what_does_not_change_has_exponent_zero(budgets):
    curve = scaling.fit(np.repeat(budgets, 2), np.full(2 * len(budgets), 0.7), resamples=50)
    assert curve.alpha[:3] == pytest.approx((0, 0, 0), abs=1e-9)
    assert math.isnan(curve.explained)
    assert curve.at([1e9])[0] == pytest.approx([0.7])


def test_what_has_no_curve_is_said():
    with pytest.raises(ValueError, match="at least two budgets"):
        scaling.fit([1e3, 1e3], [0.5, 0.6])
    for wrong in ([0.0, 0.5], [0.5, -1.0], [0.5, math.nan]):
        with pytest.raises(ValueError, match="positive"):
            scaling.fit([1e3, 2e3], wrong)
