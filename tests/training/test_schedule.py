from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from diptych.recipe import Recipe, Stage
from diptych.training.schedule import due, plan, rate

RECIPE = Recipe(samples=100, batch=10, warmup=4.0, final_lr=0.0)


def test_stages_share_out_the_steps_without_a_gap() -> None:
    spans = plan(replace(RECIPE, samples=1009), [Stage("a", 1), Stage("b", 2), Stage("c", 1)])
    assert [(span.start, span.end) for span in spans] == [(0, 25), (25, 75), (75, 100)]
    assert spans[1].progress(25) == 0
    assert spans[1].progress(50) == 0.5


def test_a_stage_goes_on_in_the_data_that_an_earlier_one_has_begun() -> None:
    stages = [Stage("a", 0.3), Stage("b", 0.5, data="other"), Stage("c", 0.2)]
    a, b, c = plan(RECIPE, stages)
    assert [a.position(0, 10), a.position(2, 10)] == [0, 20]
    assert b.position(b.start, 10) == 0
    assert c.position(c.start + 1, 10) == 30 + 10


def test_too_short_a_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="less than one batch of 10"):
        plan(replace(RECIPE, samples=9), [Stage()])
    with pytest.raises(ValueError, match="stage 'b' gets none of the 10 steps"):
        plan(RECIPE, [Stage("a", 0.99), Stage("b", 0.01)])
    with pytest.raises(ValueError, match="no stages"):
        plan(RECIPE, [])


def test_warm_up_rises_to_the_peak_and_cosine_falls_from_it() -> None:
    found = [rate(RECIPE, step, 12) for step in range(12)]
    assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert found[8] == pytest.approx(0.5)  # half way down
    assert found[6] == pytest.approx((1 + 2**-0.5) / 2)
    assert all(early > late for early, late in pairwise(found[4:]))


def test_linear_constant_and_final_rate() -> None:
    assert rate(replace(RECIPE, schedule="linear"), 6, 12) == pytest.approx(0.75)
    assert rate(replace(RECIPE, schedule="linear", final_lr=0.2), 8, 12) == pytest.approx(0.6)
    assert [rate(replace(RECIPE, schedule="constant", final_lr=0.2), step, 12) for step in (4, 11)] == [1.0, 1.0]


def test_warm_up_as_a_share() -> None:
    recipe = replace(RECIPE, warmup=0.5)
    assert [rate(recipe, step, 8) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate(replace(RECIPE, warmup=0.0), 0, 8) == 1.0


@pytest.mark.shows("F", "clip2point")
def test_cycles_begin_at_the_peak_again_as_torchs_do() -> None:
    """`CosineAnnealingWarmRestarts` of 6 steps, three times over."""
    recipe = replace(RECIPE, warmup=0.0, cycles=3, lr=0.5, final_lr=0.1)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimiser, T_0=6, eta_min=0.05)
    for step in range(18):
        assert 0.5 * rate(recipe, step, 18) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimiser.step()
        theirs.step()


def test_warm_up_at_a_constant_rate() -> None:
    recipe = replace(RECIPE, warmup_lr=0.1)
    assert [rate(recipe, step, 12) for step in (0, 3, 4)] == [0.1, 0.1, 1.0]


@pytest.mark.shows("F", "coop", "maple")
@pytest.mark.parametrize(
    ("lr", "epochs", "expected"),
    [
        (0.002, 50, {0: 1e-5, 1: 0.002, 2: 0.00199803, 49: 7.8853e-6}),  # a log of CoOp's
        (0.0035, 5, {0: 1e-5, 1: 0.0035, 2: 0.0031658, 3: 0.0022908, 4: 0.0012092}),  # MaPLe
    ],
)
def test_rates_that_are_set_once_an_epoch(lr: float, epochs: int, expected: dict[int, float]) -> None:
    recipe = replace(RECIPE, lr=lr, epochs=epochs, warmup=1 / epochs, warmup_lr=1e-5 / lr)
    for epoch, value in expected.items():
        for step in (0, 6):
            assert lr * rate(recipe, 7 * epoch + step, 7 * epochs) == pytest.approx(value, rel=2e-5)


@pytest.mark.parametrize(("steps", "times"), [(10, 3), (937, 4), (7, 7), (5, 1)])
def test_events_are_as_many_as_asked_and_the_last_is_at_the_end(steps: int, times: int) -> None:
    events = [step for step in range(1, steps + 1) if due(step, steps, times)]
    assert len(events) == times
    assert events[-1] == steps
    gaps = [late - early for early, late in pairwise([0, *events])]
    assert max(gaps) - min(gaps) <= 1


def test_no_events_and_more_events_than_steps() -> None:
    assert not any(due(step, 10, 0) for step in range(1, 11))
    assert all(due(step, 10, 25) for step in range(1, 11))
