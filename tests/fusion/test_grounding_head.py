from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from diptych.fusion.grounding_head import DynamicBlock, DynamicRelu, GroundingHead, Pyramid, deformed, level_ends


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_convolution_that_is_not_deformed_is_the_plain_one() -> None:
    x, weight, bias = draw(2, 3, 5, 6), draw(4, 3, 3, 3, seed=1), draw(4, seed=2)
    for stride in (1, 2):
        plain = F.conv2d(x, weight, bias, stride, padding=1)
        still, whole = x.new_zeros(2, 18, *plain.shape[2:]), x.new_ones(2, 9, *plain.shape[2:])
        assert_close(deformed(x, weight, bias, still, whole, stride), plain, atol=1e-5, rtol=1e-5)
        assert_close(deformed(x, weight, bias, still, 0 * whole, stride), bias[:, None, None].expand_as(plain))


def test_taps_move_by_their_own_offsets_and_between_places_it_is_interpolated() -> None:
    x, weight = draw(1, 1, 6, 6), torch.zeros(1, 1, 3, 3)
    weight[0, 0, 0, 2] = 1.0  # the tap above and to the right, number 2
    offset, amount = torch.zeros(1, 18, 6, 6), torch.ones(1, 9, 6, 6)
    offset[:, 4], offset[:, 5] = 2.0, -1.5  # rows, columns of tap 2: from (-1, 1) to (1, -0.5)
    found = deformed(x, weight, torch.zeros(1), offset, amount)
    assert_close(found[0, 0, 2, 3], (x[0, 0, 3, 2] + x[0, 0, 3, 3]) / 2)
    assert_close(found[0, 0, 5], torch.zeros(6))  # below the picture


def test_the_dynamic_relu_begins_near_a_relu() -> None:
    relu = DynamicRelu(8)
    torch.nn.init.zeros_(relu.lines[-1].weight)
    torch.nn.init.zeros_(relu.lines[-1].bias)
    x = draw(2, 8, 3, 3)
    assert_close(relu(x), x.relu())


def test_every_level_of_a_dynamic_block_reads_its_neighbours_and_no_other() -> None:
    torch.manual_seed(0)
    block = DynamicBlock(16)
    maps = [draw(1, 16, size, size, seed=size).requires_grad_() for size in (8, 4, 2, 1)]
    found = block(maps)
    assert [x.shape for x in found] == [x.shape for x in maps]
    found[1].sum().backward()
    assert [x.grad is not None and bool(x.grad.abs().sum() > 0) for x in maps] == [True, True, True, False]


def test_a_pyramid_hands_down_what_coarse_maps_know_and_adds_coarser_ones() -> None:
    torch.manual_seed(0)
    pyramid = Pyramid([4, 6], 16)
    fine, coarse = draw(1, 4, 8, 8), draw(1, 6, 4, 4, seed=1)
    found = pyramid([fine, coarse])
    assert [tuple(x.shape[1:]) for x in found] == [(16, 8, 8), (16, 4, 4), (16, 2, 2), (16, 1, 1)]
    changed = pyramid([fine, coarse + 1])
    assert (changed[0] - found[0]).abs().max() > 1e-3
    assert torch.equal(pyramid([fine + 1, coarse])[1], found[1])


def test_scores_of_words_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    head = GroundingHead([8], 6, 16, blocks=1)
    with torch.no_grad():
        head.log_scale.fill_(0.7)
        head.bias.copy_(draw(6, seed=5))
    places, words = draw(2, 5, 16), draw(2, 3, 6, seed=1)
    found = head.scores(places, words)
    e = words[1, 2] / words[1, 2].norm()
    matched = places[1, 4] @ (head.words.weight @ (e / 2) + head.words.bias) / math.exp(0.7)
    assert_close(found[1, 4, 2], matched + e @ head.bias - math.log(99))
    assert head.scores(1e9 * places, words).abs().max() == 50_000
    assert (head.scores(0 * places, 0 * words).sigmoid() - 0.01).abs().max() < 1e-6


def test_places_of_all_levels_stand_behind_each_other_in_rows() -> None:
    torch.manual_seed(0)
    head = GroundingHead([8, 8], 6, 16, blocks=1).eval()
    maps = [draw(1, 8, 4, 4), draw(1, 8, 2, 2, seed=1)]
    said = head(maps, draw(1, 3, 6))
    assert said.grids == [(4, 4), (2, 2), (1, 1), (1, 1)]
    assert level_ends(said.grids) == [(0, 16), (16, 20), (20, 21), (21, 22)]
    assert said.scores.shape == (1, 22, 3)
    assert said.deltas.shape == (1, 22, 4)
    with torch.no_grad():
        head.level_scale[1] = 3.0
    again = head(maps, draw(1, 3, 6)).deltas / said.deltas
    assert_close(again[0, 16:20], torch.full((4, 4), 3.0))
    assert_close(again[0, :16], torch.ones(16, 4))
