from __future__ import annotations

import torch
from torch.testing import assert_close

from diptych.fusion.pairs import AttentionPool, PairAttention


def test_pooling_weighs_by_the_softmax_of_what_the_score_has_above_zero() -> None:
    pool = AttentionPool(2)
    pool.score.weight.data, pool.score.bias.data = torch.tensor([[1.0, 0.0]]), torch.zeros(1)
    tokens = torch.tensor([[[2.0, 1.0], [-3.0, 5.0], [9.0, 9.0]]])
    found = pool(tokens, torch.tensor([[True, True, False]]))
    weight = torch.tensor([2.0, 0.0]).softmax(0)  # -3 counts as 0, and padding not at all
    assert_close(found[0], weight @ tokens[0, :2])


def test_a_pair_does_not_see_padding_and_knows_which_is_first() -> None:
    torch.manual_seed(0)
    head = PairAttention(8, 2).eval()
    first, second = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    masks = torch.arange(4) < torch.tensor([4, 2, 1])[:, None], torch.arange(5) < torch.tensor([1, 5, 3])[:, None]
    found = head(first, second, *masks)
    assert found.shape == (3, 16)
    assert_close(head(first * masks[0][..., None], second * masks[1][..., None], *masks), found)
    assert_close(head(first[1:2, :2], second[1:2], masks[0][1:2, :2], masks[1][1:2]), found[1:2])
    turned = head(second, first, masks[1], masks[0])
    assert not torch.allclose(turned, found)
    assert not torch.allclose(
        turned, torch.cat([found[:, 8:], found[:, :8]], 1)
    )  # each side attends by weights of its own
