from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diptych.objectives.transport import (
    cosine_cost,
    transport_distance,
    transport_plan,
    word_region_alignment,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def all_of(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool)


def distance(text: Tensor, regions: Tensor, **options) -> Tensor:
    return transport_distance(text, regions, all_of(text), all_of(regions), **options)


def test_reference_values_of_the_papers_own_function() -> None:
    eye = torch.eye(2)[None]
    assert distance(eye, eye).item() < 1e-30
    assert_close(distance(eye, torch.tensor([[[1.0, 0], [1, 0]]])), torch.tensor([0.5]))
    text = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 1, 0]]])
    regions = torch.tensor([[[1.0, 0, 0], [0, 0, 1]]])
    cost = cosine_cost(text, regions)
    assert_close(cost[0].T, torch.tensor([[0, 1, 0.2929], [1, 1, 1]]), atol=1e-4, rtol=0)
    plan = transport_plan(cost, all_of(text), all_of(regions))[0].T
    assert_close(plan, torch.tensor([[0.3333, 6.5e-32, 0.16666], [6.3e-14, 0.3333, 0.16667]]), atol=5e-5, rtol=0)
    assert_close(plan[0, 1], torch.tensor(6.5e-32), rtol=0.01, atol=0)
    assert_close(plan[1, 0], torch.tensor(6.3e-14), rtol=0.01, atol=0)
    assert_close(distance(text, regions), torch.tensor([0.5488]), atol=5e-5, rtol=0)
    assert_close(plan.sum(1), torch.full((2,), 1 / 2), atol=2e-5, rtol=0)
    assert_close(plan.sum(0), torch.full((3,), 1 / 3))


def test_in_the_limit_of_many_iterations_the_plan_is_the_exact_one() -> None:
    pot = pytest.importorskip("ot")
    text, regions = draw(4, 6, 8), draw(4, 5, 8, seed=1)
    cost = cosine_cost(text, regions)
    plan = transport_plan(cost.double(), all_of(text), all_of(regions), beta=0.1, iterations=3000)
    for mine, costs in zip(plan, cost.double(), strict=True):
        exact = pot.emd([1 / 6] * 6, [1 / 5] * 5, costs.numpy())
        assert_close(mine, torch.from_numpy(exact), atol=1e-4, rtol=0)
    early = transport_plan(cost.double(), all_of(text), all_of(regions), beta=0.1, iterations=1)
    assert (early * cost).sum() > (plan * cost).sum() + 0.05


def test_the_first_iteration_is_one_of_sinkhorn() -> None:
    pot = pytest.importorskip("ot")
    cost = cosine_cost(draw(1, 6, 8), draw(1, 5, 8, seed=1)).double()
    plan = transport_plan(cost, torch.ones(1, 6).bool(), torch.ones(1, 5).bool(), beta=0.3, iterations=1)
    theirs = pot.sinkhorn(
        [1 / 6] * 6, [1 / 5] * 5, cost[0].numpy(), reg=0.3, numItermax=1, stopThr=0, warn=False
    )  # POT scales columns, then rows, beginning from the same ones
    assert_close(plan[0], torch.from_numpy(theirs))


def test_padding_changes_nothing_and_gets_nothing() -> None:
    text, regions = draw(2, 4, 8), draw(2, 3, 8, seed=1)
    expected = distance(text, regions)
    text = torch.cat([text, 1e3 * draw(2, 2, 8, seed=2)], 1).requires_grad_()
    regions = torch.cat([regions, torch.zeros(2, 1, 8)], 1).requires_grad_()
    masks = torch.arange(6).expand(2, 6) < 4, torch.arange(4).expand(2, 4) < 3
    found = transport_distance(text, regions, *masks)
    assert_close(found, expected)
    found.sum().backward()
    assert text.grad[:, 4:].abs().max() == 0
    assert regions.grad[:, 3:].abs().max() == 0
    assert text.grad[:, :4].abs().min(0).values.max() > 0


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
def test_one_word_costs_the_mean_over_the_regions(beta: float) -> None:
    text, regions = draw(3, 1, 8), draw(3, 5, 8, seed=1)
    assert_close(distance(text, regions, beta=beta), cosine_cost(text, regions).mean((1, 2)))


def test_a_pair_of_no_words_or_no_regions_costs_nothing() -> None:
    text, regions = draw(2, 4, 8).requires_grad_(), draw(2, 3, 8, seed=1)
    text_mask, region_mask = all_of(text), all_of(regions)
    text_mask[0], region_mask[1] = False, False
    found = transport_distance(text, regions, text_mask, region_mask)
    found.sum().backward()
    assert found.tolist() == [0, 0]
    assert torch.equal(text.grad, torch.zeros_like(text))


def test_the_gradient_is_that_of_the_cost_under_a_plan_that_stands_still() -> None:
    text, regions = draw(2, 4, 8).requires_grad_(), draw(2, 3, 8, seed=1).requires_grad_()
    found = torch.autograd.grad(distance(text, regions).sum(), (text, regions))
    cost = cosine_cost(text, regions)
    plan = transport_plan(cost, all_of(text), all_of(regions))
    assert not plan.requires_grad
    expected = torch.autograd.grad((plan * cost).sum(), (text, regions))
    for mine, other in zip(found, expected, strict=True):
        assert_close(mine, other)


def test_transport_is_in_float32_whatever_autocast_says() -> None:
    text, regions = draw(2, 4, 8), draw(2, 3, 8, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = distance(text, regions)
    assert torch.equal(found, distance(text, regions))
    assert found.dtype == torch.float32


def test_the_loss_by_hand_with_and_without_unmatched_pairs() -> None:
    values = torch.tensor([0.2, 0.6, 1.0, 0.4])
    matched = torch.tensor([True, False, False, True])
    assert_close(word_region_alignment(values, matched), torch.tensor((0.2 - 0.6 - 1.0 + 0.4) / 4))
    assert_close(word_region_alignment(values, matched, wra_negatives=False), torch.tensor(0.3))
    assert word_region_alignment(values, torch.zeros(4).bool(), wra_negatives=False) == 0
