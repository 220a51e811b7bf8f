from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diptych.objectives.regions import (
    classification,
    confident_classes,
    divergence,
    feature_regression,
    likeliest_object,
    smooth_feature_regression,
)

CHOSEN = torch.tensor([[True, False, False], [True, False, True]])
REAL = torch.tensor([[True, True, False], [True, True, True]])
LOGITS = torch.tensor([0.0, math.log(3)]).expand(2, 3, 2)  # probabilities 1/4 and 3/4
LABELS = torch.tensor([[0, 0, 0], [1, 1, 0]])


def test_squared_error_is_a_mean_over_chosen_regions_and_dimensions() -> None:
    target = torch.zeros(2, 3, 2)
    predicted = torch.full((2, 3, 2), 7.0)
    predicted[0, 0] = torch.tensor([1.0, 3.0])  # mean of squares 5
    predicted[1, 0], predicted[1, 2] = torch.tensor([2.0, 2.0]), torch.tensor([0.0, 0.0])  # 4 and 0
    assert_close(feature_regression(predicted, target, CHOSEN), torch.tensor(3.0))


def test_smooth_error_is_summed_over_chosen_and_divided_by_the_share_of_all_that_are_real() -> None:
    target = torch.zeros(2, 3, 2)
    predicted = torch.full((2, 3, 2), 7.0)
    predicted[0, 0] = torch.tensor([0.4, 3.0])  # 0.08 and 2.5: mean 1.29
    predicted[1, 0], predicted[1, 2] = torch.tensor([1.0, 1.0]), torch.tensor([-2.0, 0.0])  # 0.5 and 0.75
    expected = torch.tensor((1.29 + 0.5 + 0.75) / 5 / 0.15)
    assert_close(smooth_feature_regression(predicted, target, CHOSEN, REAL), expected)


def test_confident_labels_count_everywhere_or_only_where_chosen() -> None:
    confidence = torch.tensor([[0.5, 1.0, 9.0], [1.0, 0.25, 0.5]])
    wrong, right = math.log(4), math.log(4 / 3)
    every = 0.5 * wrong + wrong + right + 0.25 * right + 0.5 * wrong
    some = 0.5 * wrong + right + 0.5 * wrong
    found = confident_classes(LOGITS, LABELS, confidence, REAL)
    assert_close(found, torch.tensor(every / 5 / 0.15))
    assert_close(confident_classes(LOGITS, LABELS, confidence, REAL, CHOSEN), torch.tensor(some / 5 / 0.15))
    confidence[0, 0] *= 2  # twice as sure of one, twice its loss
    doubled = confident_classes(LOGITS, LABELS, confidence, REAL)
    assert_close(doubled - found, torch.tensor(0.5 * wrong / 5 / 0.15))


def test_region_losses_are_those_of_transformers_but_for_its_rounded_factor() -> None:
    """Its total less ours is (6.67 * 0.15 - 1) times the region losses, as the factor is 1 / 0.15 = 6.6667."""
    import transformers as hf

    config = hf.LxmertConfig(
        vocab_size=20, hidden_size=8, num_attention_heads=2, intermediate_size=16, l_layers=1, r_layers=1, x_layers=1,
        num_object_labels=5, num_attr_labels=4, visual_feat_dim=6, task_matched=False, task_mask_lm=False, task_qa=False
    )  # fmt: skip
    torch.manual_seed(0)
    model = hf.LxmertForPreTraining(config).eval()
    ids, features, boxes = torch.randint(20, (2, 4)), torch.randn(2, 3, 6), torch.rand(2, 3, 4)
    chosen, real = CHOSEN, torch.ones(2, 3, dtype=torch.bool)
    objects, attributes = torch.randint(5, (2, 3)), torch.randint(4, (2, 3))
    sure = torch.rand(2, 3)
    inputs = {"input_ids": ids, "visual_feats": features, "visual_pos": boxes}
    labels = {"obj": (objects, sure), "attr": (attributes, sure), "feat": (features, chosen.float())}
    theirs = model(**inputs, obj_labels=labels).loss
    scores = model.obj_predict_head(model.lxmert(**inputs).vision_output)
    mine = (
        confident_classes(scores["obj"], objects, sure, real)
        + confident_classes(scores["attr"], attributes, sure, real)
        + smooth_feature_regression(scores["feat"], features, chosen, real)
    )
    assert_close(theirs, mine * 6.67 * 0.15)


def test_classes_are_a_mean_over_chosen_regions() -> None:
    expected = torch.tensor((math.log(4) + math.log(4 / 3) + math.log(4)) / 3)
    assert_close(classification(LOGITS, LABELS, CHOSEN), expected)
    assert likeliest_object(torch.tensor([[[0.9, 0.02, 0.08], [0.1, 0.5, 0.4]]])).tolist() == [[2, 1]]


def test_divergence_is_a_mean_over_regions_and_classes_and_zero_for_the_same_opinion() -> None:
    opinion = torch.tensor([[[0.5, 0.5]] * 3, [[1.0, 0.0], [0.3, 0.7], [0.25, 0.75]]])
    half = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert_close(divergence(LOGITS, opinion, CHOSEN), torch.tensor((half + math.log(4) + 0.0) / 3 / 2))


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: feature_regression(x, torch.ones_like(x), torch.zeros(2, 3).bool()),
        lambda x: smooth_feature_regression(x, torch.zeros_like(x), torch.zeros(2, 3).bool(), torch.zeros(2, 3).bool()),
        lambda x: confident_classes(x, LABELS, torch.ones(2, 3), torch.zeros(2, 3).bool()),
        lambda x: classification(x, LABELS, torch.zeros(2, 3).bool()),
        lambda x: divergence(x, x.detach().softmax(-1), torch.zeros(2, 3).bool()),
    ],
)
def test_where_nothing_is_to_be_guessed_loss_and_gradient_are_zero(loss: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 3, 2).requires_grad_()
    value = loss(x)
    value.backward()
    assert value == 0
    assert torch.equal(x.grad, torch.zeros(2, 3, 2))
