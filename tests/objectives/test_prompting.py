"""Prompting entity modelling (ALPRO)."""

import math

import pytest
import torch
from torch.nn import functional as F

from diptych.objectives.prompting import IMAGE_PROMPTS, VIDEO_PROMPTS, entity_loss, mean_inside, pseudo_labels

TAU = torch.tensor(0.5)


@pytest.mark.shows("F", "alpro")
def test_there_are_twelve_templates_for_clips_and_for_pictures() -> None:
    assert len(set(VIDEO_PROMPTS)) == len(set(IMAGE_PROMPTS)) == 12
    assert "A video footage of the {}." in VIDEO_PROMPTS
    assert "A good photo of one {}." in IMAGE_PROMPTS


@pytest.mark.shows("F", "alpro")
def test_labels_are_the_softmax_of_similarities_by_the_temperature() -> None:
    crops = torch.tensor([[1.0, 0.0]])
    prompts = torch.tensor([[0.5, 0.0], [0.0, 0.5]])  # means of unit vectors are not normalised again
    found, counts = pseudo_labels(crops, prompts, TAU, 0.2)
    assert found[0].tolist() == pytest.approx([math.e / (math.e + 1), 1 / (math.e + 1)])
    assert counts.tolist() == [True]


@pytest.mark.shows("F", "alpro")
def test_prompts_may_differ_from_crop_to_crop() -> None:
    crops = F.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    prompts = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    kind = torch.tensor([0, 1, 0])
    found, _ = pseudo_labels(crops, prompts[kind], TAU, 0)
    for row in range(3):
        torch.testing.assert_close(found[row], pseudo_labels(crops[row : row + 1], prompts[kind[row]], TAU, 0)[0][0])


@pytest.mark.shows("F", "alpro")
def test_unsure_crops_do_not_count_and_the_released_rule_looks_at_the_index() -> None:
    prompts = torch.eye(4)
    crops = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0.5, 0.5, 0.5, 0.5]])
    _, counts = pseudo_labels(crops, prompts, torch.tensor(0.1), 0.5)
    assert counts.tolist() == [True, True, False]
    _, counts = pseudo_labels(crops, prompts, torch.tensor(0.1), 0.5, official=True)
    assert counts.tolist() == [False, True, False]  # the likeliest entity of the first and the last is number 0


@pytest.mark.shows("F", "alpro")
def test_a_certain_label_makes_it_cross_entropy() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2, 0, 1])
    found = entity_loss(logits, F.one_hot(labels, 4).float(), torch.tensor([True, True, True]))
    torch.testing.assert_close(found, F.cross_entropy(logits, labels))


def test_the_mean_is_over_crops_that_count_and_zero_without_any() -> None:
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.eye(4)[:2]
    one = entity_loss(logits, labels, torch.tensor([False, True]))
    torch.testing.assert_close(one, F.cross_entropy(logits[1:], torch.tensor([1])))
    none = entity_loss(logits, labels, torch.tensor([False, False]))
    none.backward()
    assert none == 0
    assert (logits.grad == 0).all()


@pytest.mark.shows("F", "alpro")
def test_tokens_inside_the_crop_are_averaged() -> None:
    tokens = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]).expand(2, 4, 1)
    inside = torch.tensor([[False, True, False, True], [False] * 4])
    assert mean_inside(tokens, inside).tolist() == [[3.0], [0.0]]
