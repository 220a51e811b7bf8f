"""Weighted cross-entropy and PRIOR's weights: the checks of its sheet that need no model."""

import pytest
import torch
from torch.nn import functional as F

from diptych.objectives.masked import IGNORE
from diptych.objectives.weighted import prior_weights, shuffled_weights, weighted_cross_entropy


def scores(losses: list[float]) -> torch.Tensor:
    """Logits over two words by which the first costs so much."""
    return torch.stack([torch.zeros(len(losses)), (torch.tensor(losses).exp() - 1).log()], 1)


@pytest.mark.shows("F", "prior")
def test_weights_and_loss_by_hand() -> None:
    weights = prior_weights(torch.tensor([[0.9, 0.1, 0.5]]), torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(weights, torch.tensor([[0.2, 1.8, 1.0]]))
    loss = weighted_cross_entropy(scores([0.2, 1.0, 0.6]), torch.zeros(3, dtype=torch.long), weights[0])
    assert loss.item() == pytest.approx(2.44 / 3)


@pytest.mark.shows("F", "prior")
@pytest.mark.parametrize(
    ("loss", "chance", "factor", "shown"), [(0.72, 0.03, 3.2, 2.24), (0.13, 0.88, 3.2, 0.05), (0.47, 0.11, 1.5, 0.63)]
)
def test_the_papers_figure(loss: float, chance: float, factor: float, shown: float) -> None:
    """k / sum w is one factor of all tokens of a caption: here of ten, the other nine as hard as the figure's."""
    others = (10 / factor - (1 - chance)) / 9
    weights = prior_weights(torch.tensor([[chance] + 9 * [1 - others]]), torch.ones(1, 10, dtype=torch.bool))
    assert weights[0, 0].item() == pytest.approx((1 - chance) * factor)
    assert weights[0, 0].item() * loss == pytest.approx(shown, abs=0.006)


@pytest.mark.shows("F", "prior")
def test_equal_chances_are_plain_cross_entropy() -> None:
    logits, labels = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    labels[0, :2] = labels[1, 3:] = IGNORE
    weights = prior_weights(torch.full((2, 5), 0.3), labels != IGNORE)
    torch.testing.assert_close(weights, (labels != IGNORE).float())
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    for chosen in (weights, None):
        found = weighted_cross_entropy(
            logits.flatten(0, 1), labels.flatten(), None if chosen is None else weights.flatten()
        )
        assert found.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.shows("F", "prior")
def test_no_exponent_is_plain_cross_entropy_exactly() -> None:
    chances = torch.rand(3, 6)
    chances[0, 0] = 1.0  # 0 ** 0 is 1
    real = torch.rand(3, 6) < 0.7
    assert torch.equal(prior_weights(chances, real, gamma=0.0), real.float())


@pytest.mark.shows("F", "prior")
def test_weights_have_mean_one_in_each_sample_whatever_surrounds_it() -> None:
    chances, real = torch.rand(4, 9), torch.zeros(4, 9, dtype=torch.bool)
    for row, (begin, end) in enumerate([(0, 9), (2, 3), (4, 9), (0, 5)]):
        real[row, begin:end] = True
    weights = prior_weights(chances, real, gamma=2.0)
    assert (weights[~real] == 0).all()
    torch.testing.assert_close(weights.sum(1) / real.sum(1), torch.ones(4))
    torch.testing.assert_close(prior_weights(chances[:, 4:], real[:, 4:], 2.0)[2], weights[2, 4:])


@pytest.mark.shows("F", "prior")
def test_a_certain_reference_prefers_nothing() -> None:
    real = torch.tensor([[True, True, False], [False, False, False]])
    assert torch.equal(prior_weights(torch.ones(2, 3), real), real.float())


@pytest.mark.shows("F", "prior")
def test_weights_scale_the_loss_and_have_no_gradient() -> None:
    logits, labels = torch.randn(4, 7), torch.tensor([1, 2, IGNORE, 3])
    weights = torch.tensor([0.5, 1.5, 9.0, 1.0], requires_grad=True)
    logits.requires_grad_()
    loss = weighted_cross_entropy(logits, labels, weights)
    loss.backward()
    assert weights.grad is None
    assert (logits.grad[2] == 0).all()
    assert weighted_cross_entropy(logits, labels, 2 * weights).item() == pytest.approx(2 * loss.item())


def test_nothing_to_guess_costs_nothing() -> None:
    logits = torch.randn(2, 7, requires_grad=True)
    loss = weighted_cross_entropy(logits, torch.full((2,), IGNORE), torch.ones(2))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_shuffled_weights_stay_in_their_sample() -> None:
    torch.manual_seed(0)
    real = torch.tensor([[False, True, True, True, True, False], [True, True, False, False, False, False]])
    weights = torch.arange(12.0).view(2, 6) * real
    found = shuffled_weights(weights, real)
    assert not torch.equal(found, weights)
    assert torch.equal(found.sort(1).values, weights.sort(1).values)
    assert (found[~real] == 0).all()
