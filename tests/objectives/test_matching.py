from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diptych.objectives.matching import (
    given_pairs,
    hard_negatives,
    hard_pairs,
    matching_loss,
    matching_score,
    random_others,
    random_pairs,
    triplet_loss,
)

MANY = 20_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(count: float, share: float, of: int) -> bool:
    return abs(count - share * of) < 4 * math.sqrt(of * share * (1 - share))


@pytest.mark.parametrize("replace", ["image", "text"])
def test_one_side_is_replaced_by_that_of_another_sample(replace: str) -> None:
    pairs = random_pairs(MANY, "cpu", replace, generator=seeded())
    own = torch.arange(MANY)
    kept, other = (pairs.text, pairs.image) if replace == "image" else (pairs.image, pairs.text)
    assert torch.equal(kept, own)
    assert torch.equal(other == own, pairs.matched)
    assert close(pairs.matched.sum().item(), 0.5, MANY)


def test_every_other_sample_is_as_likely() -> None:
    counts = torch.zeros(5, 5)
    generator = seeded()
    for _ in range(3000):
        counts[range(5), random_pairs(5, "cpu", share=1.0, generator=generator).image] += 1
    assert counts.diagonal().sum() == 0
    assert all(close(n, 0.25, 3000) for n in counts[counts > 0].tolist())


def test_of_two_samples_each_is_the_others_negative_and_one_alone_stays_matched() -> None:
    pairs = random_pairs(2, "cpu", share=1.0, generator=seeded())
    assert pairs.image.tolist() == [1, 0]
    assert pairs.matched.tolist() == [False, False]
    alone = random_pairs(1, "cpu", share=1.0, generator=seeded())
    assert (alone.image.tolist(), alone.text.tolist(), alone.matched.tolist()) == ([0], [0], [True])


def test_balanced_pairs_are_half_and_half_in_random_order() -> None:
    drawn = [random_pairs(7, "cpu", balanced=True, generator=seeded(seed)) for seed in range(200)]
    assert {int(pairs.matched.sum()) for pairs in drawn} == {3}
    assert all(0 < sum(bool(pairs.matched[i]) for pairs in drawn) < 200 for i in range(7))
    assert all(torch.equal(pairs.matched, pairs.image == pairs.text) for pairs in drawn)


def test_negatives_are_drawn_with_the_softmax_of_the_others() -> None:
    logits = torch.tensor([[9.0, math.log(1), math.log(2), math.log(5)]]).repeat(MANY, 1)
    positives = torch.tensor([[True, False, False, False]]).expand(MANY, 4)
    drawn, found = hard_negatives(logits, positives, seeded())
    counts = drawn.bincount(minlength=4).tolist()
    assert found.all()
    assert counts[0] == 0
    assert all(close(counts[i], share, MANY) for i, share in ((1, 1 / 8), (2, 2 / 8), (3, 5 / 8)))


def test_a_positive_that_outshines_all_others_by_far_leaves_them_as_likely_as_they_are() -> None:
    """exp(-1000) is 0 in float32, so positives have to go before the softmax and not after it."""
    logits = torch.tensor([[1000.0, 0.0, 0.0]]).repeat(MANY, 1)
    drawn, _ = hard_negatives(logits, torch.tensor([[True, False, False]]).expand(MANY, 3), seeded())
    assert close((drawn == 1).sum().item(), 0.5, MANY)


def test_three_pairs_a_sample_of_which_the_first_are_matched() -> None:
    logits = torch.randn(6, 6, generator=seeded(1)).requires_grad_()
    pairs = hard_pairs(logits, logits.T, generator=seeded())
    own = list(range(6))
    assert pairs.image[:6].tolist() == pairs.text[:6].tolist() == own
    assert pairs.text[6:12].tolist() == own
    assert pairs.image[12:].tolist() == own
    assert torch.equal(pairs.image == pairs.text, pairs.matched)
    assert pairs.matched.tolist() == [True] * 6 + [False] * 12


def test_of_two_samples_hard_negatives_are_forced() -> None:
    pairs = hard_pairs(torch.tensor([[0.0, -500.0], [-500.0, 0.0]]), torch.zeros(2, 2))
    assert pairs.image.tolist() == [0, 1, 1, 0, 0, 1]
    assert pairs.text.tolist() == [0, 1, 0, 1, 1, 0]


def test_negatives_may_come_from_a_queue_and_never_from_the_same_picture() -> None:
    logits = torch.full((2, 5), -1e4)  # two of the batch, three of a queue
    logits[:, 4] = 0
    pairs = hard_pairs(logits, logits)
    assert pairs.image.tolist() == [0, 1, 4, 4, 0, 1]
    assert pairs.text.tolist() == [0, 1, 0, 1, 4, 4]
    positives = torch.zeros(2, 5, dtype=torch.bool)
    positives[:, [0, 1, 2, 4]] = True
    pairs = hard_pairs(logits, logits, (positives, positives))
    assert pairs.image[2:4].tolist() == pairs.text[4:].tolist() == [3, 3]


def test_who_has_no_negative_gets_none() -> None:
    pairs = hard_pairs(torch.zeros(1, 1), torch.zeros(1, 1))
    assert (pairs.image.tolist(), pairs.text.tolist(), pairs.matched.tolist()) == ([0], [0], [True])
    positives = torch.tensor([[True, True], [True, False]])
    pairs = hard_pairs(torch.zeros(2, 2), torch.zeros(2, 2), (positives, positives))
    assert pairs.image.tolist() == [0, 1, 1, 1]
    assert pairs.text.tolist() == [0, 1, 1, 1]


def test_given_negatives_stand_behind_the_batch() -> None:
    pairs = given_pairs(torch.tensor([True, False, True]))
    assert pairs.image.tolist() == [0, 1, 2, 0, 2]
    assert pairs.text.tolist() == [0, 1, 2, 3, 5]
    assert pairs.matched.tolist() == [True, True, True, False, False]
    swapped = given_pairs(torch.tensor([True, False, True]), replace="image")
    assert torch.equal(swapped.image, pairs.text)
    assert torch.equal(swapped.text, pairs.image)


def test_loss_and_score_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0], [0.0, 0.0]])  # p(matched) = 3/4, 1/4, 1/2
    matched: Tensor = torch.tensor([True, True, False])
    assert_close(matching_loss(logits, matched), torch.tensor((math.log(4 / 3) + math.log(4) + math.log(2)) / 3))
    assert_close(matching_score(logits), torch.tensor([math.log(3), -math.log(3), 0.0]))
    assert matching_score(torch.tensor([-60.0, 60.0])) > matching_score(torch.tensor([-50.0, 60.0]))


def test_others_are_never_the_own_nor_twice_and_each_is_as_likely() -> None:
    drawn = torch.stack([random_others(5, 3, "cpu", seeded(seed)) for seed in range(1000)])  # (1000, 5, 3)
    assert not (drawn == torch.arange(5)[:, None]).any()
    assert all(len(set(row)) == 3 for row in drawn.flatten(0, 1).tolist())
    counts = drawn[:, 0].flatten().bincount(minlength=5)[1:]
    assert all(close(count, 0.25, 3000) for count in counts.tolist())
    assert random_others(3, 9, "cpu").shape == (3, 2)
    assert random_others(1, 9, "cpu").shape == (1, 0)


def test_triplets_lose_what_others_come_closer_than_the_margin() -> None:
    zero = torch.zeros(2, requires_grad=True)  # a sigmoid of 1/2
    others = torch.tensor([[0.0, -1e4], [math.log(0.4 / 0.6), 1e4]])  # sigmoids of 0.5, 0; 0.4, 1
    loss = triplet_loss(zero, others)
    assert_close(loss, torch.tensor((0.2 + 0 + 0.1 + 0.7) / 4))
    loss.backward()
    assert_close(zero.grad, torch.tensor([-0.25, -0.5]) / 4)  # 1/4 is the slope of the sigmoid
    none = triplet_loss(zero, torch.zeros(2, 0))
    assert none == 0
