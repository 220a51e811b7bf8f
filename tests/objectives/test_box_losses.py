from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from diptych.objectives.grounding import (
    anchors,
    assign,
    best_boxes,
    centredness,
    decode,
    encode,
    focal_loss,
    grounding_loss,
    overlaps,
    phrase_scores,
)


def test_anchors_are_squares_of_their_levels_strides() -> None:
    found = anchors([(2, 2), (1, 1)], 1.0)
    expected = [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1], [0, 0, 1, 1]]
    assert_close(found, torch.tensor(expected))
    assert_close(anchors([(2, 2)], 2.0)[0], torch.tensor([-0.25, -0.25, 0.75, 0.75]))


def test_a_box_is_shifts_in_sizes_of_its_anchor_and_logarithms_of_sizes() -> None:
    anchor, box = torch.tensor([0.0, 0.0, 0.5, 0.5]), torch.tensor([0.25, 0.0, 0.75, 1.0])
    assert_close(encode(box, anchor), torch.tensor([10 * 0.5, 10 * 0.5, 0.0, 5 * math.log(2)]))
    boxes = torch.tensor([[0.1, 0.2, 0.3, 0.9], [0.0, 0.0, 1.0, 0.1]])
    assert_close(decode(encode(boxes, anchor.expand(2, 4)), anchor.expand(2, 4)), boxes)


def test_overlap_and_its_general_form_by_hand() -> None:
    box = torch.tensor([0.0, 0.0, 1.0, 1.0])
    half, apart = torch.tensor([0.5, 0.0, 1.5, 1.0]), torch.tensor([2.0, 0.0, 3.0, 1.0])
    iou, giou = overlaps(box.expand(3, 4), torch.stack([box, half, apart]))
    assert_close(iou, torch.tensor([1.0, 1 / 3, 0.0]))
    assert_close(giou, torch.tensor([1.0, 1 / 3, -1 / 3]))  # apart: a third of what is around both is in neither


def test_places_answer_for_a_box_if_they_overlap_more_than_usual_and_lie_in_it() -> None:
    places = anchors([(4, 4), (2, 2)], 1.0)
    levels = [(0, 16), (16, 20)]
    box = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    # nine nearest of the fine level and all four of the coarse one: overlaps 4 x 1/4, 5 x 0 and 1, 0, 0, 0, of mean
    # 2/13 and standard deviation 0.28, so that only the coarse place passes
    assert assign(places, levels, box).tolist() == [-1] * 16 + [0] + [-1] * 3
    two = torch.tensor([[0.0, 0.0, 0.25, 0.25], [0.5, 0.5, 1.0, 1.0]])
    found = assign(places, levels, two)
    assert found[0] == 0
    assert found[19] == 1
    assert (found >= 0).sum() == 2
    assert (assign(places, levels, two[:0]) == -1).all()


def test_of_two_boxes_a_place_answers_for_the_one_it_overlaps_more() -> None:
    places = anchors([(2, 2)], 1.0)
    two = torch.tensor([[0.0, 0.0, 0.5, 0.4], [0.0, 0.0, 0.5, 0.5]])
    assert assign(places, [(0, 4)], two).tolist() == [1, -1, -1, -1]


def test_centredness_falls_to_the_edges() -> None:
    place = torch.tensor([0.2, 0.2, 0.3, 0.3])  # its centre is 0.25, 0.25
    assert_close(centredness(place, torch.tensor([0.0, 0.0, 0.5, 0.5])), torch.tensor(1.0))
    assert_close(centredness(place, torch.tensor([0.0, 0.0, 1.0, 0.5])), torch.tensor(math.sqrt(1 / 3)))
    assert centredness(place, torch.tensor([0.25, 0.0, 1.0, 1.0])) == 0


def test_focal_loss_by_hand_and_without_focus_half_of_cross_entropy() -> None:
    logits, targets = torch.tensor([0.0, math.log(3), math.log(3)]), torch.tensor([1.0, 1.0, 0.0])
    expected = [0.25 * 0.25 * math.log(2), 0.25 * (1 / 16) * math.log(4 / 3), 0.75 * (9 / 16) * math.log(4)]
    assert_close(focal_loss(logits, targets), torch.tensor(expected))
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    assert_close(focal_loss(logits, targets, alpha=0.5, gamma=0.0), plain / 2)


def perfect(box: torch.Tensor, tokens: torch.Tensor, sure: float = 20.0):
    """What a head that knows everything says, of one picture with one box at the coarse place."""
    places, levels = anchors([(4, 4), (2, 2)], 1.0), [(0, 16), (16, 20)]
    hit = assign(places, levels, box[None]) == 0
    scores = torch.where(hit[:, None] & tokens, sure, -sure)[None]
    return (scores, encode(box.expand(20, 4), places)[None], torch.full((1, 20), sure)), places, levels


def test_who_knows_everything_has_no_loss_and_padding_counts_for_nothing() -> None:
    box, tokens = torch.tensor([0.0, 0.0, 0.5, 0.5]), torch.tensor([True, False, True, False])
    said, places, levels = perfect(box, tokens)
    real = torch.tensor([[True, True, True, False]])
    named = torch.stack([torch.rand(4), box])[None], torch.tensor([[False, True]]), torch.stack([~tokens, tokens])[None]
    terms = grounding_loss(said, places, levels, real, named)
    assert set(terms) == {"token", "box", "centre"}
    assert all(value < 1e-5 for value in terms.values())
    said[0][..., 3] = 20.0  # the padding token
    assert torch.equal(grounding_loss(said, places, levels, real, named)["token"], terms["token"])
    said[0][..., 1] = 20.0
    assert grounding_loss(said, places, levels, real, named)["token"] > 100


def test_a_shifted_box_costs_twice_what_is_lacking_of_its_general_overlap() -> None:
    box, tokens = torch.tensor([0.0, 0.0, 0.5, 0.5]), torch.tensor([True])
    (scores, deltas, centres), places, levels = perfect(box, tokens)
    deltas[..., 0] += 5.0  # half of its anchor's width to the right: overlap a third
    named = box[None, None], torch.ones(1, 1, dtype=torch.bool), tokens[None, None]
    terms = grounding_loss((scores, deltas, centres), places, levels, torch.ones(1, 1, dtype=torch.bool), named)
    assert_close(terms["box"], torch.tensor(2 * 2 / 3))


def test_pictures_without_boxes_have_a_finite_loss_and_gradient() -> None:
    places, levels = anchors([(2, 2)], 1.0), [(0, 4)]
    said = torch.zeros(1, 4, 3, requires_grad=True), torch.zeros(1, 4, 4), torch.zeros(1, 4)
    named = torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1, 2, 3, dtype=torch.bool)
    terms = grounding_loss(said, places, levels, torch.ones(1, 3, dtype=torch.bool), named)
    assert terms["box"] == terms["centre"] == 0
    assert_close(terms["token"], torch.tensor(12 * 0.75 * 0.25 * math.log(2)))
    terms["token"].backward()
    assert said[0].grad.isfinite().all()


def test_a_phrase_scores_the_mean_of_its_tokens() -> None:
    scores = torch.tensor([[[0.0, math.log(3), 5.0]]])
    assert_close(phrase_scores(scores, torch.tensor([[True, True, False]])), torch.tensor([[(0.5 + 0.75) / 2]]))


@pytest.mark.parametrize(("threshold", "kept"), [(0.3, [0, 2]), (0.9, [0, 1, 2])])
def test_worse_boxes_that_overlap_a_better_one_are_left_out(threshold: float, kept: list[int]) -> None:
    boxes = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 0.5], [2, 2, 3, 3], [2, 2, 3, 3]]])
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
    found, left = best_boxes(boxes, scores, 4, threshold)
    assert left[0, : len(kept)].tolist() == scores[0, kept].tolist()
    assert torch.equal(found[0, : len(kept)], boxes[0, kept])
    assert (left[0, len(kept) :] == -torch.inf).all()
