"""FILIP's late interaction. `test_check_N_...` are the faithfulness checks of its sheet, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from objective_helpers import Rank, gradients, largest, leaf, mask, saved, unit
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from diptych.batch import Features
from diptych.objectives.contrastive import info_nce, info_nce_from_logits
from diptych.objectives.late_interaction import (
    filip_loss,
    late_interaction,
    select_tokens,
    token_scores,
    token_similarity,
)
from diptych.objectives.tiled import max_mean

IMAGES, TEXTS, N1, N2, D = 6, 7, 5, 8, 16
SCALE = torch.tensor(8.0)
REFERENCE = Path(__file__).parents[1] / "reference" / "filip_x_clip.npz"
TILES = [0, 4, 64]


def images(count: int = IMAGES) -> tuple[Tensor, Tensor]:
    return unit(count, N1, D, seed=1), mask([5, 3, 4, 5, 2, 5, 1][:count], N1)


def texts(count: int = TEXTS) -> tuple[Tensor, Tensor]:
    return unit(count, N2, D, seed=2), mask([8, 3, 2, 6, 1, 8, 5][:count], N2)


def features(tokens: Tensor, mask: Tensor) -> Features:
    return Features(tokens, tokens[:, 0], mask)


def full(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool)


# ---- the sheet's faithfulness checks


@pytest.mark.shows("F", "filip")
@pytest.mark.parametrize("tile", TILES)
def test_check_1_with_one_token_a_side_it_is_clip(tile: int) -> None:
    image, text = unit(6, 1, D, seed=1), unit(6, 1, D, seed=2)
    cosine = image[:, 0] @ text[:, 0].T
    for similarity in late_interaction(image, full(image), text, full(text), tile):
        assert_close(similarity, cosine)
    loss = filip_loss(features(image, full(image)), features(text, full(text)), SCALE, keep=1, tile=tile)
    assert_close(loss, info_nce(image[:, 0], text[:, 0], SCALE))


@pytest.mark.shows("F", "filip")
@pytest.mark.parametrize("tile", TILES)
def test_check_2_hand_example(tile: int) -> None:
    image = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    twice = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    slanted = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    text = torch.cat([twice, slanted])
    s_image, s_text = late_interaction(image, full(image), text, full(text), tile)
    assert_close(s_image, torch.tensor([[0.5, 0.9]]))
    assert_close(s_text, torch.tensor([[1.0, 0.9]]))


@pytest.mark.shows("F", "filip")
@pytest.mark.parametrize("tile", TILES)
def test_check_3_padding_of_any_content_changes_nothing(tile: int) -> None:
    (image, image_mask), (text, text_mask) = images(), texts()
    short = late_interaction(image, image_mask, text, text_mask, tile)
    junk = torch.cat([text, image[:1, :1].expand(TEXTS, 1, D) * 9, torch.zeros(TEXTS, 2, D)], 1)
    more = torch.cat([image, text[:1, :2].expand(IMAGES, 2, D) * 9], 1)
    padded = late_interaction(more, F.pad(image_mask, (0, 2)), junk, F.pad(text_mask, (0, 3)), tile)
    for mine, expected in zip(padded, short, strict=True):
        assert_close(mine, expected)


@pytest.mark.shows("F", "filip")
@pytest.mark.parametrize("tile", TILES)
def test_check_3_padding_is_minus_infinity_and_not_zero(tile: int) -> None:
    image, text = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[-1.0, 0.0], [0.0, 0.0]]])
    s_image, s_text = late_interaction(image, full(image), text, mask([1], 2), tile)
    assert_close(s_image, torch.tensor([[-1.0]]))  # a zeroed pad would have given 0
    assert_close(s_text, torch.tensor([[-1.0]]))


@pytest.mark.shows("F", "filip")
@pytest.mark.parametrize("tile", TILES)
def test_check_4_duplicates_and_order_of_text_tokens(tile: int) -> None:
    image, text = unit(IMAGES, N1, D, seed=1), unit(TEXTS, N2, D, seed=2)
    s_image, s_text = late_interaction(image, full(image), text, full(text), tile)
    doubled = torch.cat([text, text[:, :1]], 1)
    d_image, d_text = late_interaction(image, full(image), doubled, full(doubled), tile)
    assert_close(d_image, s_image)
    assert (d_text - s_text).abs().max() > 0.01
    shuffled = text[:, torch.randperm(N2, generator=torch.Generator().manual_seed(3))]
    for mine, expected in zip(
        late_interaction(image, full(image), shuffled, full(text), tile), (s_image, s_text), strict=True
    ):
        assert_close(mine, expected)


@pytest.mark.shows("F", "filip")
@pytest.mark.parametrize("tile", TILES)
def test_check_5_bounds(tile: int) -> None:
    (image, image_mask), (text, text_mask) = images(), texts()
    for similarity in late_interaction(image, image_mask, text, text_mask, tile):
        assert similarity.abs().max() <= 1 + 1e-6
    same = late_interaction(image, full(image), image.flip(1), full(image), tile)
    opposite = late_interaction(image[:1, :1], full(image[:1, :1]), -image[:1, :1], full(image[:1, :1]), tile)
    for up, down in zip(same, opposite, strict=True):
        assert_close(up.diagonal(), torch.ones(IMAGES))
        assert_close(down, -torch.ones(1, 1))


@pytest.mark.shows("F", "filip")
@pytest.mark.parametrize("tile", TILES)
def test_check_6_keeping_all_tokens_is_no_selection_and_fewer_only_lower(tile: int) -> None:
    (image, image_mask), (text, text_mask) = images(), texts()
    s_image, _ = late_interaction(image, image_mask, text, text_mask)
    _, scores = token_scores(image, image_mask, text, text_mask)
    before = None
    for keep in (1.0, 0.75, 0.5, 0.25, 0.125):
        reduced = token_similarity(image, image_mask, *select_tokens(text, text_mask, scores, keep), tile=tile)
        if before is None:
            assert_close(reduced, s_image)
        else:
            assert (reduced <= before + 1e-6).all()
            assert (reduced < before - 1e-3).any()
        before = reduced


@pytest.mark.shows("F", "filip")
@pytest.mark.parametrize("tile", TILES)
def test_check_6_loss_without_selection(tile: int) -> None:
    image, text = features(*images(6)), features(*texts(6))
    s_image, s_text = late_interaction(image.tokens, image.mask, text.tokens, text.mask)
    expected = info_nce_from_logits(SCALE * s_image, SCALE * s_text.T)
    assert_close(filip_loss(image, text, SCALE, keep=1, tile=tile), expected)


@pytest.mark.shows("P", "filip")
@pytest.mark.parametrize("tile", TILES)
def test_check_7_parity_with_x_clip(tile: int) -> None:
    with np.load(REFERENCE) as file:
        given = {name: torch.from_numpy(file[name]) for name in file if not name.startswith("source")}
    image, text, text_mask = given["image"], given["text"], given["text_mask"]
    s_image, s_text = late_interaction(image, full(image), text, text_mask, tile)
    assert_close(s_image, given["s_image"])
    assert_close(s_text, given["s_text"])
    label = torch.arange(len(image))
    assert_close(F.cross_entropy(given["scale"] * s_text.T, label), given["text_loss"])
    image_loss = F.cross_entropy(given["scale"] * s_image, label)
    assert (image_loss - given["image_rows_loss"]).abs() > 0.01  # x-clip's second term is no image-to-text loss
    assert_close(F.cross_entropy(given["scale"] * s_image.T, label), given["image_rows_loss"])
    loss = filip_loss(features(image, full(image)), features(text, text_mask), given["scale"], keep=1, tile=tile)
    assert_close(loss, (image_loss + given["text_loss"]) / 2)


@pytest.mark.shows("F", "filip")
@pytest.mark.parametrize("tile", [1, 3, 4, 64])
def test_check_8_tiled_equals_the_full_tensor_in_value_and_gradient(tile: int) -> None:
    (image, image_mask), (text, text_mask) = images(), texts()
    weight = torch.randn(2, IMAGES, TEXTS, generator=torch.Generator().manual_seed(4))

    def both(tile: int) -> Any:
        def of(image: Tensor, text: Tensor) -> Tensor:
            return (weight * torch.stack(late_interaction(image, image_mask, text, text_mask, tile))).sum()

        return of

    def one(tile: int) -> Any:
        return lambda text, image: (weight[0] * token_similarity(text, text_mask, image, image_mask, tile=tile).T).sum()

    for mine, expected in zip(gradients(both(tile), image, text), gradients(both(0), image, text), strict=True):
        assert_close(mine, expected, atol=1e-6, rtol=1e-5)
    for mine, expected in zip(gradients(one(tile), text, image), gradients(one(0), text, image), strict=True):
        assert_close(mine, expected, atol=1e-6, rtol=1e-5)


# ---- beyond the sheet


def test_tiled_form_passes_gradcheck_in_float64() -> None:
    image, text = unit(2, 3, 3, seed=1, dtype=torch.float64), unit(3, 2, 3, seed=2, dtype=torch.float64)
    weights = torch.rand(2, 3, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, y: max_mean(x, weights[0], y, weights[1], 2), (image, text))
    assert torch.autograd.gradcheck(lambda x, y: max_mean(x, weights[0], y, None, 2)[0], (image, text))


@pytest.mark.shows("F", "filip")
@pytest.mark.parametrize("tile", [0, 4])
def test_gradient_reaches_the_winning_tokens_only(tile: int) -> None:
    image = torch.tensor([[[1.0, 0.0], [0.8, 0.6]]])
    text = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]], requires_grad=True)
    late_interaction(image, full(image), text, full(text), tile)[0].sum().backward()
    assert text.grad is not None
    assert_close(text.grad[0], torch.tensor([[0.9, 0.3], [0.0, 0.0], [0.0, 0.0]]))  # mean of both patches


def test_tiled_form_without_gradient_equals_the_one_with() -> None:
    (image, image_mask), (text, text_mask) = images(), texts()
    expected = late_interaction(image, image_mask, text, text_mask, 4)
    with torch.no_grad():
        for mine, other in zip(late_interaction(image, image_mask, text, text_mask, 4), expected, strict=True):
            assert_close(mine, other)


@pytest.mark.shows("F", "filip")
def test_token_scores_are_the_best_match_anywhere_in_the_local_batch() -> None:
    (image, image_mask), (text, text_mask) = images(), texts()
    real = image_mask[:, None, :, None] & text_mask[None, :, None, :]
    cosine = torch.einsum("ikd,jrd->ijkr", image, text).masked_fill(~real, -torch.inf)
    for tile in (1, 4, 64):
        image_scores, text_scores = token_scores(image, image_mask, text, text_mask, tile)
        assert_close(image_scores, cosine.amax((1, 3)))
        assert_close(text_scores, cosine.amax((0, 2)))
        assert not image_scores.requires_grad


@pytest.mark.shows("F", "filip")
def test_selection_takes_the_best_tokens_in_order_and_no_padding() -> None:
    tokens = torch.arange(12.0).view(1, 12, 1).repeat(2, 1, 1).requires_grad_()
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0, 0, 0, 0, 0, 0], [0.5] + [-torch.inf] * 11])
    lengths = mask([12, 1], 12)
    kept, kept_mask = select_tokens(tokens, lengths, scores, 0.25)
    assert kept.shape == (2, 3, 1)  # floor(0.25 * 12)
    assert kept[0, :, 0].tolist() == [1, 3, 5]
    assert kept_mask.tolist()[0] == [True, True, True]
    assert kept_mask[1].sum() == 1  # one real token, the rest marked as padding
    assert kept[1, kept_mask[1], 0].tolist() == [0]
    kept[0].sum().backward()
    assert tokens.grad is not None
    assert tokens.grad[0, :, 0].tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]
    assert select_tokens(tokens, lengths, scores, 0.01)[0].shape[1] == 1  # never none


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5])
def test_an_impossible_share_is_refused(keep: float) -> None:
    tokens, lengths = texts()
    with pytest.raises(ValueError, match="share of tokens to keep"):
        select_tokens(tokens, lengths, torch.zeros(TEXTS, N2), keep)


@pytest.mark.shows("F", "filip")
@pytest.mark.parametrize("tile", TILES)
def test_loss_keeps_the_local_side_whole_and_reduces_the_gathered_side(tile: int) -> None:
    image, text = features(*images(6)), features(*texts(6))
    image_scores, text_scores = token_scores(*image[::2], *text[::2])
    kept_image, kept_text = select_tokens(*image[::2], image_scores, 0.4), select_tokens(*text[::2], text_scores, 0.4)
    assert (kept_text[0].shape[1], kept_image[0].shape[1]) == (3, 2)  # floor(0.4 * 8), floor(0.4 * 5)
    forth = late_interaction(*image[::2], *kept_text)[0]
    back = late_interaction(*kept_image, *text[::2])[1]
    expected = info_nce_from_logits(SCALE * forth, SCALE * back.T)
    assert_close(filip_loss(image, text, SCALE, keep=0.4, tile=tile), expected)
    assert (filip_loss(image, text, SCALE, keep=1) - expected).abs() > 1e-3


@pytest.mark.parametrize("tile", [1, 4, 64])
@pytest.mark.parametrize("keep", [1, 0.25])
def test_tiled_loss_equals_plain_in_value_and_gradient(tile: int, keep: float) -> None:
    (image, image_mask), (text, text_mask) = images(6), texts(6)

    def loss(tile: int) -> Any:
        return lambda image, text, scale: filip_loss(
            features(image, image_mask), features(text, text_mask), scale, keep=keep, tile=tile
        )

    plain = gradients(loss(0), image, text, SCALE)
    for mine, expected in zip(gradients(loss(tile), image, text, SCALE), plain, strict=True):
        assert_close(mine, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tile", [0, 4])
def test_similarities_stay_in_float32_under_autocast(tile: int) -> None:
    (image, image_mask), (text, text_mask) = images(), texts()
    expected = late_interaction(image, image_mask, text, text_mask, tile)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for mine, other in zip(late_interaction(image, image_mask, text, text_mask, tile), expected, strict=True):
            assert torch.equal(mine, other)


def test_tiled_form_never_holds_all_tokens_of_all_pairs() -> None:
    def run(count: int, tile: int) -> Any:
        image, text = leaf(unit(count, N1, 8, seed=1)), leaf(unit(count, N2, 8, seed=2))
        return lambda: torch.stack(late_interaction(image, full(image), text, full(text), tile)).sum()

    everything = 32 * 32 * N1 * N2
    assert largest(run(32, 0)) >= everything
    assert largest(run(32, 4)) <= everything / 4  # the stored winners, (I, T, max(n1, n2)) of 2 bytes
    indices = 2 * 32 * 32 * (N1 + N2)
    assert saved(run(32, 4)) <= indices + 100_000  # beside tokens and weights


@pytest.mark.parametrize("tile", [0, 4])
@pytest.mark.parametrize("ids", [None, torch.tensor([0, 1, 0, 2, 3, 1])])
def test_mean_of_two_ranks_equals_the_full_batch(tile: int, ids: Tensor | None) -> None:
    (image, image_mask), (text, text_mask) = images(6), texts(6)

    def whole(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return filip_loss(features(image, image_mask), features(text, text_mask), scale, keep=1, targets=ids)

    def split(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        parts = [image.split(3), text.split(3), image_mask.split(3), text_mask.split(3)]
        parts += [ids.split(3)] if ids is not None else []
        losses = []
        for rank in range(2):
            own = [part[rank] for part in parts]
            one, other = features(own[0], own[2]), features(own[1], own[3])
            wanted = own[4] if ids is not None else None
            losses.append(filip_loss(one, other, scale, Rank(rank, 2, parts), 1, tile, wanted))
        return (losses[0] + losses[1]) / 2

    expected = gradients(whole, image, text, SCALE)
    for mine, other in zip(gradients(split, image, text, SCALE), expected, strict=True):
        assert_close(mine, other, atol=1e-6, rtol=1e-5)


def test_gathered_tokens_may_travel_in_half_precision() -> None:
    image, text = features(*images(6)), features(*texts(6))
    exact = filip_loss(image, text, SCALE, keep=0.5)
    half = filip_loss(image, text, SCALE, keep=0.5, wire=torch.float16)
    assert 0 < (half - exact).abs() < 0.01
    assert half.dtype == torch.float32
