"""What keeps the past, by hand."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Gather
from diptych.objectives import continual
from diptych.objectives.continual import (
    Elastic,
    become,
    divergence,
    feature_distillation,
    move,
    topology_loss,
    word_distillation,
)
from diptych.objectives.contrastive import info_nce
from diptych.objectives.queue import Queue, queue_info_nce

ONE = torch.tensor(1.0)


def units(rows: int, width: int = 8, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


# -- the momentum model ------------------------------------------------------------------------------------------------


@pytest.mark.shows("F", "ctp")
def test_an_average_of_three_has_coefficients_that_sum_to_one_and_ends_as_an_average_of_two() -> None:
    kept, live, past = (torch.tensor([value]) for value in (1.0, 10.0, 100.0))
    move(kept, live, past, 0.9, 0.5)
    assert kept.item() == pytest.approx(0.9 * 1 + 0.05 * 10 + 0.05 * 100)
    one, three = (torch.tensor([1.0]) for _ in range(2))
    move(three, live, live, 0.9, 0.5)  # the live model is that of the task before
    move(one, live, past, 0.9)
    torch.testing.assert_close(three, one)
    assert one.item() == pytest.approx(0.9 + 1)
    same = live.clone()
    move(same, live, live, 0.9, 0.5)
    torch.testing.assert_close(same, live)


@pytest.mark.shows("F", "ctp")
def test_contrast_with_a_momentum_model_that_is_the_live_one_and_an_empty_queue_is_plain_contrast() -> None:
    image, text = units(5), units(5, seed=1)
    scale = torch.tensor(1 / 0.07)
    empty = units(0), units(0)
    found = queue_info_nce(image, text, scale, (image, text), empty)
    torch.testing.assert_close(found, info_nce(image, text, scale))
    more = queue_info_nce(image, text, scale, (image, text), (units(3, seed=2), units(3, seed=3)))
    assert more > found  # targets are one-hot: whatever the queue holds is wrong


@pytest.mark.shows("F", "ctp")
def test_after_enough_steps_all_that_a_queue_holds_is_the_momentum_models() -> None:
    queue = Queue(1024, 8)
    for step in range(math.ceil(1024 / 512)):
        queue.push(units(512, seed=step))
    assert int(queue.pushed) % 1024 == 0
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(1024))
    assert torch.equal(queue.filled, torch.cat([units(512, seed=0), units(512, seed=1)]))


# -- topology ----------------------------------------------------------------------------------------------------------


@pytest.mark.shows("F", "ctp")
def test_two_pairs_have_the_divergence_of_the_sheet() -> None:
    now, before = torch.eye(2), torch.eye(2) / 2
    by_hand = 0.6225 * math.log(0.6225 / 0.7311) + 0.3775 * math.log(0.3775 / 0.2689)
    assert divergence(now, before).item() == pytest.approx(0.0280, abs=5e-5)
    assert divergence(now, before).item() == pytest.approx(by_hand, abs=1e-4)
    theirs = F.kl_div(now.log_softmax(1), before.softmax(1), reduction="batchmean")
    torch.testing.assert_close(divergence(now, before), theirs)
    # as features: images of both models are the axes, texts of the model before half as long
    axes = torch.eye(2)
    cross = topology_loss((axes, axes), (axes, axes / 2), ONE, same_modal=False)
    torch.testing.assert_close(cross, divergence(now, before))  # image to text and text to image are alike


@pytest.mark.shows("F", "ctp")
def test_what_has_not_changed_costs_nothing_at_all() -> None:
    image, text = units(6).requires_grad_(), units(6, seed=1).requires_grad_()
    scale = torch.tensor(1 / 0.07)
    found = topology_loss((image, text), (image, text), scale)
    assert found.item() == 0
    found.backward()
    assert image.grad.abs().max() < 1e-5
    other = topology_loss((image, text), (units(6, seed=2), text), scale)
    assert other > 0.1
    assert other.isfinite()


@pytest.mark.shows("F", "ctp")
def test_same_modal_topology_does_not_hang_on_what_stands_for_similarity_to_oneself(monkeypatch) -> None:
    now, before = (units(4), units(4, seed=1)), (units(4, seed=2), units(4, seed=3))
    scale = torch.tensor(1 / 0.07)
    found = []
    for value in (-1000.0, -500.0, -50.0):
        monkeypatch.setattr(continual, "ITSELF", value)
        found.append(topology_loss(now, before, scale))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    others = ~torch.eye(4, dtype=torch.bool)  # and is what it is with that column left out
    parts = [
        divergence(*((x @ x.T)[others].view(4, 3) * scale for x in (new, old)))
        for new, old in zip(now, before, strict=True)
    ]
    torch.testing.assert_close(found[0] - topology_loss(now, before, scale, same_modal=False), sum(parts) / 2)


@dataclass
class Half(Gather):
    """The second of two processes, with the rows of the first at hand."""

    first: dict[int, Tensor] = field(default_factory=dict)
    rank: int = 1
    world: int = 2

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([self.first[int(1e6 * float(x.detach()[0, 0]))], x])


def test_the_halves_of_two_processes_average_to_the_whole_batch() -> None:
    now, before = (units(4), units(4, seed=1)), (units(4, seed=2), units(4, seed=3))
    firsts = {int(1e6 * float(x[2, 0])): x[:2] for x in (*now, *before)}
    second = topology_loss(tuple(x[2:] for x in now), tuple(x[2:] for x in before), ONE, Half(firsts))
    order = [2, 3, 0, 1]  # the other half first: then it is the second process's
    swapped = [tuple(x[order] for x in side) for side in (now, before)]
    firsts = {int(1e6 * float(x[2, 0])): x[:2] for x in (*swapped[0], *swapped[1])}
    first = topology_loss(tuple(x[:2] for x in now), tuple(x[:2] for x in before), ONE, Half(firsts))
    torch.testing.assert_close((first + second) / 2, topology_loss(now, before, ONE))


# -- words, features, weights ------------------------------------------------------------------------------------------


@pytest.mark.shows("F", "ctp")
def test_words_on_which_both_models_agree_cost_the_entropy_of_what_they_say() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]], requires_grad=True)
    entropy = (-0.25 * math.log(0.25) - 0.75 * math.log(0.75) + math.log(2)) / 2
    found = word_distillation(logits, logits)
    assert found.item() == pytest.approx(entropy)
    found.backward()
    torch.testing.assert_close(logits.grad, torch.zeros(2, 2))  # cross-entropy is least there
    sure = word_distillation(logits, torch.tensor([[0.0, 100.0], [0.0, 100.0]]))
    assert sure.item() == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)
    assert word_distillation(logits[:0], logits[:0]).item() == 0


@pytest.mark.shows("F", "ctp")
def test_learning_without_forgetting_compares_channels_at_the_temperature() -> None:
    image, text = torch.tensor([[0.07 * math.log(3.0), 0.0]]), torch.zeros(1, 2)
    found = feature_distillation((text, text), (image, text), torch.tensor(1 / 0.07))
    assert found.item() == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2)
    assert feature_distillation((image, text), (image, text), torch.tensor(1 / 0.07)).item() == 0


@pytest.mark.shows("F", "ctp")
def test_weights_are_held_by_the_mean_square_of_their_gradients_over_the_tasks() -> None:
    live = nn.Linear(2, 1, bias=False)
    live.weight.data = torch.tensor([[1.0, 2.0]])
    elastic = Elastic(live)
    assert elastic.penalty(live).item() == 0
    for progress, gradient in ((0.0, 100.0), (0.5, 1.0), (0.75, 3.0)):  # the first half does not count
        live.weight.grad = torch.tensor([[gradient, 0.0]])
        elastic.add(live, progress)
    with torch.no_grad():
        live.weight.copy_(torch.tensor([[5.0, 5.0]]))
        elastic.settle(live, 1)  # F = (1 + 9) / 2, 0
        assert elastic.importance.weight.tolist() == [[5.0, 0.0]]
        live.weight.copy_(torch.tensor([[7.0, 9.0]]))
    assert elastic.penalty(live).item() == pytest.approx(5 * 2**2 / 2)
    elastic.penalty(live).backward()
    live.weight.grad = torch.tensor([[0.0, 2.0]])
    elastic.add(live, 0.9)
    elastic.settle(live, 2)
    assert elastic.importance.weight.tolist() == [[2.5, 2.0]]  # the mean of both tasks
    assert elastic.squares.weight.tolist() == [[0.0, 0.0]]
    assert elastic.penalty(live).item() == 0
    assert not any(value.requires_grad for value in elastic.parameters())


def test_a_copy_becomes_what_the_live_model_is() -> None:
    live, copy = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    become(copy, live)
    assert torch.equal(copy[0].weight, live[0].weight)
    assert copy[0].weight is not live[0].weight


def test_elastic_weights_refuse_to_be_shared_out() -> None:
    live = nn.Linear(2, 1)
    elastic = Elastic(live)
    live.weight.full_tensor = lambda: live.weight  # what tells a weight of fsdp
    with pytest.raises(ValueError, match="parallel=ddp"):
        elastic.penalty(live)
