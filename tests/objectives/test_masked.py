from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diptych.objectives import masked
from diptych.objectives.masked import BERT, IGNORE

MANY = 20_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def true(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bool)


def close(count: float, share: float, of: int) -> bool:
    """Whether a count is within 4 standard deviations of what a share of so many gives."""
    return abs(count - share * of) < 4 * math.sqrt(of * share * (1 - share))


# ---- which may be chosen


def test_candidates_are_real_tokens_that_are_not_special() -> None:
    ids = torch.tensor([[101, 7, 8, 102, 0, 0]])
    free = masked.candidates(ids, ids != 0, special=(101, 102))
    assert free.tolist() == [[False, True, True, False, False, False]]
    assert masked.candidates(ids, true(1, 6)).all()


def test_pieces_of_a_word_are_one_unit() -> None:
    continues = torch.tensor([[False, False, True, True, False, True]])
    assert masked.word_units(continues).tolist() == [[1, 2, 2, 2, 3, 3]]


def test_spans_are_units_and_empty_spans_are_nothing() -> None:
    spans = torch.tensor([[[1, 3], [4, 6]], [[0, 0], [-1, -1]]])
    assert masked.span_units(spans, 6).tolist() == [[0, 1, 1, 3, 4, 4], [0, 1, 2, 3, 4, 5]]


# ---- coins


def test_every_free_position_has_the_same_coin_and_no_other_is_ever_chosen() -> None:
    free = true(MANY, 4)
    free[:, 2] = False
    chosen = masked.choose(free, 0.15, seeded())
    counts = chosen.sum(0).tolist()
    assert counts[2] == 0
    assert all(close(counts[i], 0.15, MANY) for i in (0, 1, 3))
    both = (chosen[:, 0] & chosen[:, 1]).sum().item()
    assert close(both, 0.15**2, MANY)  # independent
    assert torch.equal(chosen, masked.choose(free, 0.15, seeded()))
    assert not torch.equal(chosen, masked.choose(free, 0.15, seeded(1)))


def test_units_are_chosen_whole_as_often_as_single_positions() -> None:
    units = torch.tensor([[1, 2, 2, 2, 3]]).expand(MANY, 5)
    free = true(MANY, 5)
    free[:, 3] = False  # a piece that may not be chosen stays out of its word
    chosen = masked.choose(free, 0.3, seeded(), units=units)
    assert torch.equal(chosen[:, 1], chosen[:, 2])
    assert not chosen[:, 3].any()
    assert all(close(chosen[:, i].sum().item(), 0.3, MANY) for i in (0, 1, 4))
    assert close((chosen[:, 0] & chosen[:, 1]).sum().item(), 0.09, MANY)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_of_none_and_all(share: float) -> None:
    free = true(8, 6)
    free[3] = False
    assert torch.equal(masked.choose(free, share, seeded()), free & bool(share))


@pytest.mark.parametrize("units", [None, torch.tensor([[0, 0, 1, 1, 2]])])
def test_at_least_one_unit_is_chosen_without_preference_and_rows_of_nothing_stay_empty(units: Tensor | None) -> None:
    free = true(MANY, 5)
    free[0] = False
    units = None if units is None else units.expand(MANY, 5)
    chosen = masked.choose(free, 0.0, seeded(), units=units, at_least=1)
    assert not chosen[0].any()
    starts = chosen[1:, [0, 2, 4]] if units is not None else chosen[1:]
    assert (starts.sum(1) == 1).all()
    count = starts.shape[1]
    assert all(close(n, 1 / count, MANY) for n in starts.sum(0).tolist())
    two = masked.choose(free, 0.0, seeded(), units=units, at_least=2)[1:]
    assert ((two[:, [0, 2, 4]] if units is not None else two).sum(1) == 2).all()
    # where a coin has chosen one already, nothing is added: the rate of 1 or more tokens at a share of p
    usual = masked.choose(free[1:], 0.4, seeded(2), units=units if units is None else units[1:])
    lifted = masked.choose(free[1:], 0.4, seeded(2), units=units if units is None else units[1:], at_least=1)
    assert torch.equal(lifted[usual.any(1)], usual[usual.any(1)])
    assert lifted.any(1).all()


def test_at_least_more_than_there_are_chooses_all() -> None:
    free = torch.tensor([[True, False, True]])
    assert torch.equal(masked.choose(free, 0.0, seeded(), at_least=5), free)


def test_forced_positions_take_their_unit_along_and_never_what_is_not_free() -> None:
    units = torch.tensor([[0, 1, 1, 2, 3]])
    forced = torch.tensor([[False, True, False, False, True]])
    free = torch.tensor([[True, True, True, True, False]])
    chosen = masked.choose(free, 0.0, seeded(), units=units, forced=forced)
    assert chosen.tolist() == [[False, True, True, False, False]]
    assert masked.choose(free, 0.0, seeded(), forced=forced).tolist() == [[False, True, False, False, False]]


# ---- exact counts


def test_exact_counts_are_exact_and_uniform() -> None:
    free = true(MANY, 6)
    free[:, 1] = False
    chosen = masked.choose_exactly(free, 2, seeded())
    assert (chosen.sum(1) == 2).all()
    assert not chosen[:, 1].any()
    assert all(close(n, 0.4, MANY) for i, n in enumerate(chosen.sum(0).tolist()) if i != 1)
    each = masked.choose_exactly(true(3, 4), torch.tensor([0, 3, 9]), seeded())
    assert each.sum(1).tolist() == [0, 3, 4]


def test_units_are_taken_while_they_fit_and_skipped_where_they_do_not() -> None:
    units = torch.tensor([[0, 1, 1, 1, 2, 3]]).expand(4000, 6)
    chosen = masked.choose_exactly(true(4000, 6), 2, seeded(), units=units)
    assert not chosen[:, 1:4].any()  # the word of three never fits
    assert (chosen.sum(1) == 2).all()
    wider = masked.choose_exactly(true(4000, 6), 4, seeded(), units=units)
    assert torch.equal(wider[:, 1], wider[:, 3])
    # the long one fits unless two or more of the short ones came ahead: 1 - P(it is third or fourth of four) = 1/2
    assert close(wider[:, 1].sum().item(), 0.5, 4000)
    assert set(wider.sum(1).tolist()) == {3, 4}


def test_forced_units_come_ahead() -> None:
    units = torch.tensor([[0, 1, 1, 1, 2, 3]]).expand(50, 6)
    forced = torch.tensor([[False, False, True, False, False, True]]).expand(50, 6)
    chosen = masked.choose_exactly(true(50, 6), 4, seeded(), units=units, forced=forced)
    assert torch.equal(chosen, torch.tensor([[False, True, True, True, False, True]]).expand(50, 6))


def test_conditional_masking_leaves_one_modality_of_each_sample_whole() -> None:
    text, image = true(MANY, 3), true(MANY, 2)
    words, regions = masked.conditional(text, image, seeded(), share=0.25)
    assert (words.any(1) ^ regions.any(1)).all()
    assert close(words.any(1).sum().item(), 0.25, MANY)
    assert words.all(1).equal(words.any(1))


# ---- what stands there instead


def test_tokens_become_the_mask_a_random_word_or_stay() -> None:
    ids = torch.full((MANY, 3), 7)
    chosen = true(MANY, 3)
    chosen[:, 2] = False
    found = masked.replace_tokens(ids, chosen, 1, (10, 14), seeded())
    inputs, of = found.inputs[:, :2], 2 * MANY
    assert close((inputs == 1).sum().item(), 0.8, of)
    assert close((inputs == 7).sum().item(), 0.1, of)
    assert all(close((inputs == i).sum().item(), 0.025, of) for i in range(10, 14))
    assert (found.inputs[:, 2] == 7).all()
    assert (found.labels[:, :2] == 7).all()
    assert (found.labels[:, 2] == IGNORE).all()
    assert found.chosen is chosen
    always = masked.replace_tokens(ids, chosen, 1, (10, 14), seeded(), shares=(1.0, 0.0)).inputs
    assert always[0].tolist() == [1, 1, 7]


def test_regions_become_zero_and_their_targets_stay() -> None:
    features = torch.arange(12.0).reshape(2, 3, 2) + 1
    chosen = torch.tensor([[True, False, False], [False, True, True]])
    found = masked.replace_regions(features, chosen, true(2, 3), seeded())
    assert found.inputs[chosen].abs().sum() == 0
    assert torch.equal(found.inputs[~chosen], features[~chosen])
    assert torch.equal(found.labels, features)


def test_random_regions_are_real_ones_of_another_image() -> None:
    size, regions = 500, 8
    image = torch.arange(size)[:, None].expand(size, regions)
    features = torch.stack([image, torch.arange(regions).expand(size, regions)], dim=2).float()
    real = torch.arange(regions)[None] < torch.where(torch.arange(size) % 2 == 0, 3, regions)[:, None]
    found = masked.replace_regions(features + 1, real, real, seeded(), shares=BERT).inputs - 1
    own, zero = found[..., 0] == image, found[..., 0] == -1
    count = int(real.sum())
    assert close((zero & real).sum().item(), 0.8, count)
    assert close((own & real).sum().item(), 0.1, count)
    other = found[~zero & ~own].long()
    assert close(len(other), 0.1, count)
    assert real[other[:, 0], other[:, 1]].all()
    assert close((other[:, 0] % 2 == 0).sum().item(), 3 / 11, len(other))  # all real regions are equally likely


def test_without_another_image_random_regions_are_zero() -> None:
    found = masked.replace_regions(torch.ones(1, 4, 2), true(1, 4), true(1, 4), seeded(), shares=(0.0, 1.0))
    assert found.inputs.abs().sum() == 0


# ---- patches that are taken away


def test_taking_patches_away_equals_the_masking_of_vit_mae_and_can_be_undone() -> None:
    from transformers import ViTMAEConfig
    from transformers.models.vit_mae.modeling_vit_mae import ViTMAEEmbeddings

    patches = torch.randn(3, 16, 5, generator=seeded(1))
    theirs = ViTMAEEmbeddings(ViTMAEConfig(image_size=16, patch_size=4, hidden_size=5, mask_ratio=0.75))
    tokens, gone, restore = theirs.random_masking(patches, noise=torch.rand(3, 16, generator=seeded(2)))
    found = masked.take_away(patches, 0.75, seeded(2))
    assert torch.equal(found.tokens, tokens)
    assert torch.equal(found.chosen, gone.bool())
    assert torch.equal(found.restore, restore)
    filled = found.fill(found.tokens, torch.full((5,), 9.0))
    assert torch.equal(filled[~found.chosen], patches[~found.chosen])
    assert (filled[found.chosen] == 9).all()


def test_taking_nothing_away_only_shuffles() -> None:
    patches = torch.randn(2, 6, 3, generator=seeded(1))
    found = masked.take_away(patches, 0.0, seeded(2))
    assert not found.chosen.any()
    assert torch.equal(found.fill(found.tokens, torch.zeros(3)), patches)


# ---- masks and loss


def test_causal_mask_with_a_prompt_that_all_see_and_that_sees_no_text() -> None:
    real = torch.tensor([[True, True, False, True]])
    prompt = torch.tensor([[False, False, False, True]])
    assert masked.causal_mask(real)[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert masked.causal_mask(real, prompt)[0, 0].int().tolist() == [
        [1, 0, 0, 1],
        [1, 1, 0, 1],
        [1, 1, 1, 1],
        [0, 0, 0, 1],
    ]


def test_loss_is_the_mean_over_labelled_positions_and_zero_without_any() -> None:
    logits = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0], [5.0, 1.0]]], requires_grad=True)  # p = 3/4; 1/2
    loss = masked.labelled_cross_entropy(logits, torch.tensor([[0, 1, IGNORE]]))
    assert_close(loss, torch.tensor((math.log(4 / 3) + math.log(2)) / 2))
    empty = masked.labelled_cross_entropy(logits, torch.full((1, 3), IGNORE))
    empty.backward()
    assert empty == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
