from __future__ import annotations

import math

import torch
from torch.testing import assert_close

from diptych.objectives.captioning import gold_loss, gold_weights, log_chances, next_words, reward_loss
from diptych.objectives.masked import IGNORE


def test_each_position_is_followed_by_the_next_real_token() -> None:
    ids, mask = torch.tensor([[1, 5, 2, 0], [1, 7, 8, 2]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    assert next_words(ids, mask).tolist() == [[5, 2, IGNORE, IGNORE], [7, 8, 2, IGNORE]]


def test_gold_weights_by_hand() -> None:
    chances, real = torch.tensor([[0.8, 0.4, 0.6, 0.9]]), torch.tensor([[True, True, True, False]])
    # 0.8 x (0.8 + 0.4 + 0.6) / 3, 0.4 x (0.4 + 0.6) / 2, 0.6 x 0.6; the padding has the least
    assert_close(gold_weights(chances, real), torch.tensor([[0.48, 0.2, 0.36, 0.1]]))
    assert_close(gold_weights(chances, real, least=0.4), torch.tensor([[0.48, 0.4, 0.4, 0.4]]))


def test_gold_divides_by_words_and_officially_by_what_are_none() -> None:
    logits = torch.zeros(2, 4, 4)  # each word costs log 4
    labels = torch.tensor([[1, 2, 3, IGNORE], [1, 2, IGNORE, IGNORE]])
    weights = torch.tensor([[0.5, 0.25, 0.25, 9.0], [1.0, 0.5, 9.0, 9.0]])
    assert_close(gold_loss(logits, labels, weights), torch.tensor(math.log(4) * (1 / 3 + 0.75) / 2))
    assert_close(gold_loss(logits, labels, weights, official=True), torch.tensor(math.log(4) * (1 / 1 + 1.5 / 2) / 2))
    assert_close(log_chances(logits, labels)[0], torch.tensor([-math.log(4)] * 3 + [0.0]))


def test_captions_that_score_below_one_are_pushed_down_and_those_above_it_up() -> None:
    logits = torch.zeros(4, 2, 3, requires_grad=True)
    labels = torch.tensor([[0, 1], [0, IGNORE], [2, 2], [1, IGNORE]])
    loss = reward_loss(logits, labels, torch.tensor([[0.5, 1.5], [1.0, 0.0]]))
    assert_close(loss, torch.tensor(-math.log(3) * (50 - 50 + 0 + 100) / 2))
    loss.backward()
    assert logits.grad[0, 0, 0] > 0  # the gradient is descended: less likely
    assert logits.grad[1, 0, 0] < 0
    assert logits.grad[2].abs().max() == 0
