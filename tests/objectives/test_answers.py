from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from diptych.objectives.answers import AnswerHead, answer_loss, sample_answers, soft_answer_loss
from diptych.objectives.masked import IGNORE

LOGITS = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])


def test_soft_loss_is_a_sum_over_answers_and_a_mean_over_questions() -> None:
    scores = torch.tensor([[0.9, 0.0], [0.3, 1.0]])
    first = -0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4) + math.log(2)
    second = 2 * math.log(2)
    assert_close(soft_answer_loss(LOGITS, scores), torch.tensor((first + second) / 2))
    assert_close(soft_answer_loss(LOGITS, scores, torch.tensor([True, False])), torch.tensor(first))
    mean = nn.functional.binary_cross_entropy_with_logits(LOGITS, scores)
    assert_close(soft_answer_loss(LOGITS, scores), mean * 2)  # the papers' "mean times the number of answers"


def test_answers_are_drawn_in_proportion_to_their_scores() -> None:
    many = 20_000
    scores = torch.tensor([[0.3, 0.0, 0.9]]).repeat(many, 1)
    scores[0] = 0
    drawn = sample_answers(scores, torch.Generator().manual_seed(0))
    assert drawn[0] == IGNORE
    counts = drawn[1:].bincount(minlength=3)
    assert counts[1] == 0
    assert abs(counts[0] - many / 4) < 4 * math.sqrt(many * 3 / 16)


def test_loss_of_one_answer_leaves_out_unmatched_pairs_and_questions_without_one() -> None:
    answers = torch.tensor([0, 1])
    assert_close(answer_loss(LOGITS, answers), torch.tensor((math.log(4 / 3) + math.log(2)) / 2))
    assert_close(answer_loss(LOGITS, answers, torch.tensor([False, True])), torch.tensor(math.log(2)))
    assert_close(answer_loss(LOGITS, torch.tensor([0, IGNORE])), torch.tensor(math.log(4 / 3)))


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: soft_answer_loss(x, torch.ones(2, 2), torch.zeros(2).bool()),
        lambda x: answer_loss(x, torch.full((2,), IGNORE)),
        lambda x: answer_loss(x, torch.tensor([0, 1]), torch.zeros(2).bool()),
    ],
)
def test_a_batch_without_answers_has_neither_loss_nor_gradient(loss) -> None:
    logits = LOGITS.clone().requires_grad_()
    value = loss(logits)
    value.backward()
    assert value == 0
    assert torch.equal(logits.grad, torch.zeros(2, 2))


def test_heads_are_those_of_the_papers() -> None:
    with torch.device("meta"):
        lxmert, fiber = AnswerHead(768, 9500), AnswerHead(1536, 3129, hidden=1536, norm_first=True)
    assert [type(part) for part in lxmert.transform] == [nn.Linear, nn.GELU, nn.LayerNorm]
    assert [type(part) for part in fiber.transform] == [nn.Linear, nn.LayerNorm, nn.GELU]
    assert lxmert.transform[0].weight.shape == (1536, 768)
    assert fiber.answers.weight.shape == (3129, 1536)


def test_known_answers_are_taken_over_row_by_row() -> None:
    old, new = AnswerHead(4, 3), AnswerHead(4, 4)
    fresh = new.answers.weight.detach().clone()
    assert new.load_answers(old, ["blue", "two", "red", "cat"], ["red", "yes", "two"]) == 2
    x = torch.randn(5, 4)
    assert_close(new(x)[:, [2, 1]], old(x)[:, [0, 2]])
    assert torch.equal(new.answers.weight[[0, 3]], fresh[[0, 3]])
