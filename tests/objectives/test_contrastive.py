from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from objective_helpers import Member, gradients, largest, leaf, saved, together, unit
from torch import Tensor
from torch.testing import assert_close

from diptych.objectives.contrastive import info_nce, info_nce_from_logits, positives, sigmoid_loss
from diptych.objectives.tiled import log_sum_exp, log_sum_exp_and_matched, softplus_sum

B, D = 13, 7
SCALE = torch.tensor(9.0)
BIAS = torch.tensor(-4.0)
IDS = torch.tensor([3, 1, 3, 0, 5, 1, 3, 7, 8, 9, 2, 2, 4])


def soft(rows: int, columns: int, seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, columns, generator=generator) * 0.2


# ---- values by hand


@pytest.mark.shows("F", "clip")
def test_info_nce_of_two_pairs_by_hand() -> None:
    eye = torch.eye(2)
    assert_close(info_nce(eye, eye, torch.tensor(1.0)), torch.tensor(math.log(1 + math.exp(-1))))
    assert_close(info_nce(eye, eye, torch.tensor(3.0)), torch.tensor(math.log(1 + math.exp(-3))))


@pytest.mark.shows("F", "clip")
def test_info_nce_of_equal_features_is_log_of_the_batch() -> None:
    x = torch.ones(6, 1)
    assert_close(info_nce(x, x, SCALE), torch.tensor(math.log(6)))


def test_the_two_logit_matrices_count_by_halves_and_need_not_be_transposes() -> None:
    forth = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # row losses log 4 (positive is 1/4) and log 2
    back = torch.tensor([[math.log(9), 0.0], [0.0, math.log(9)]])  # -log 0.9 twice
    expected = (math.log(4) + math.log(2)) / 4 - math.log(0.9) / 2
    assert_close(info_nce_from_logits(forth, back), torch.tensor(expected))


def test_several_positives_average_the_logarithms_of_their_probabilities() -> None:
    logits = torch.tensor([[math.log(2), math.log(3), math.log(5)]]).repeat(3, 1)  # p = 0.2, 0.3, 0.5
    first, second = -(math.log(0.2) + math.log(0.3)) / 2, -math.log(0.5)  # pairs 0 and 1 share an id
    loss = info_nce_from_logits(logits, logits, torch.tensor([4, 4, 9]))
    assert_close(loss, torch.tensor((2 * first + second) / 3))
    assert_close(
        positives(torch.tensor([4, 9]), torch.tensor([4, 4, 9])), torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    )


@pytest.mark.shows("F", "siglip")
def test_sigmoid_loss_of_two_pairs_by_hand() -> None:
    eye = torch.eye(2)
    loss = sigmoid_loss(eye, eye, torch.tensor(2.0), torch.tensor(-1.0))
    matched, unmatched = math.log(1 + math.exp(-1)), math.log(1 + math.exp(-1))  # logits +1 and -1
    assert_close(loss, torch.tensor(matched + unmatched))  # 2 matched and 2 unmatched pairs, over 2 rows


# ---- open_clip's losses


@pytest.mark.shows("P", "clip")
def test_info_nce_equals_open_clip_in_value_and_gradient() -> None:
    pytest.importorskip("open_clip")
    from open_clip.loss import ClipLoss

    inputs = unit(B, D, seed=1), unit(B, D, seed=2), torch.tensor(100.0)
    for mine, theirs in zip(gradients(info_nce, *inputs), gradients(ClipLoss(), *inputs), strict=True):
        assert_close(mine, theirs)


@pytest.mark.shows("P", "siglip")
def test_sigmoid_loss_equals_open_clip_in_value_and_gradient() -> None:
    pytest.importorskip("open_clip")
    from open_clip.loss import SigLipLoss

    inputs = unit(B, D, seed=1), unit(B, D, seed=2), torch.tensor(10.0), torch.tensor(-10.0)
    for mine, theirs in zip(gradients(sigmoid_loss, *inputs), gradients(SigLipLoss(), *inputs), strict=True):
        assert_close(mine, theirs)


# ---- targets


def test_one_hot_soft_targets_and_distinct_ids_equal_the_hard_ones() -> None:
    image, text = unit(B, D, seed=1), unit(B, D, seed=2)
    hard = info_nce(image, text, SCALE)
    assert_close(info_nce(image, text, SCALE, targets=torch.eye(B)), hard)
    assert_close(info_nce(image, text, SCALE, targets=torch.arange(B) * 3), hard)


def test_ids_equal_uniform_soft_targets_over_the_positives() -> None:
    image, text = unit(B, D, seed=1), unit(B, D, seed=2)
    same = (IDS[:, None] == IDS[None]).float()
    expected = info_nce(image, text, SCALE, targets=same / same.sum(1, keepdim=True))
    assert_close(info_nce(image, text, SCALE, targets=IDS), expected)


def test_each_direction_may_have_its_own_soft_targets() -> None:
    forth, back = torch.randn(4, 4), torch.randn(4, 4)
    q, r = soft(4, 4, 1), soft(4, 4, 2)
    expected = -(q * forth.log_softmax(1)).sum(1).mean() / 2 - (r * back.log_softmax(1)).sum(1).mean() / 2
    assert_close(info_nce_from_logits(forth, back, (q, r)), expected)


@pytest.mark.parametrize("tile", [0, 4])
def test_targets_that_do_not_fit_are_refused_in_one_sentence(tile: int) -> None:
    image, text = unit(4, D, seed=1), unit(4, D, seed=2)
    with pytest.raises(ValueError, match=r"Soft targets must have the shape of the logits, \(4, 4\)"):
        info_nce(image, text, SCALE, targets=torch.rand(3, 4), tile=tile)
    with pytest.raises(ValueError, match="must be 4 integers"):
        info_nce(image, text, SCALE, targets=torch.arange(3), tile=tile)
    with pytest.raises(ValueError, match="must be 4 integers"):
        info_nce(image, text, SCALE, targets=torch.rand(4), tile=tile)


# ---- tiled equals plain


@pytest.mark.parametrize("tile", [1, 4, 5, 13, 64])
@pytest.mark.parametrize("targets", [None, "ids", "soft", "two soft", "fixed soft", "two fixed soft"])
def test_tiled_info_nce_equals_plain_in_value_and_gradient(tile: int, targets: str | None) -> None:
    image, text = unit(B, D, seed=1), unit(B, D, seed=2)
    more = {"soft": [soft(B, B)], "two soft": [soft(B, B), soft(B, B, 6)]}.get(targets or "", [])

    def loss(tile: int) -> Any:
        def of(image: Tensor, text: Tensor, scale: Tensor, *given: Tensor) -> Tensor:
            fixed = {"ids": IDS, "fixed soft": soft(B, B), "two fixed soft": (soft(B, B), soft(B, B, 6))}
            wanted: Any = {1: given[:1], 2: (given,)}.get(len(given), (fixed.get(targets or ""),))[0]
            return info_nce(image, text, scale, targets=wanted, tile=tile)

        return of

    plain = gradients(loss(0), image, text, SCALE, *more)
    for mine, expected in zip(gradients(loss(tile), image, text, SCALE, *more), plain, strict=True):
        assert_close(mine, expected, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("tile", [1, 4, 13, 64])
def test_tiled_sigmoid_loss_equals_plain_in_value_and_gradient(tile: int) -> None:
    inputs = unit(B, D, seed=1), unit(B, D, seed=2), SCALE, BIAS
    plain = gradients(sigmoid_loss, *inputs)
    tiled = gradients(lambda *x: sigmoid_loss(*x, tile=tile), *inputs)
    for mine, expected in zip(tiled, plain, strict=True):
        assert_close(mine, expected, atol=2e-6, rtol=2e-5)


def test_tiled_sums_pass_gradcheck_in_float64() -> None:
    query, key = unit(5, 3, seed=1, dtype=torch.float64), unit(7, 3, seed=2, dtype=torch.float64)
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (4.0, -1.0))
    assert torch.autograd.gradcheck(lambda *x: log_sum_exp(*x, tile=3), (query, key, scale))
    assert torch.autograd.gradcheck(lambda *x: softplus_sum(*x, tile=3), (query, key, scale, bias))
    weights = soft(len(query), len(key)), soft(len(key), len(query), seed=6)
    assert torch.autograd.gradcheck(lambda *x: log_sum_exp_and_matched(*x, weights, tile=3), (query, key, scale))


@pytest.mark.parametrize("tile", [1, 3, 5, 64])
def test_matched_logits_are_summed_beside_and_weights_stay_as_they_are(tile: int) -> None:
    query, key, scale = unit(5, 3, seed=1), unit(7, 3, seed=2), torch.tensor(4.0)
    forth, back = soft(5, 7), soft(7, 5, seed=6)
    before = forth.clone(), back.clone()
    rows, cols, matched = log_sum_exp_and_matched(query, key, scale, (forth, back), tile)
    logits = scale * query @ key.T
    for mine, expected in ((rows, logits.logsumexp(1)), (cols, logits.logsumexp(0))):
        assert_close(mine, expected)
    assert_close(matched, ((forth + back.T) * logits).sum())
    assert torch.equal(forth, before[0])
    assert torch.equal(back, before[1])


@pytest.mark.parametrize("tile", [0, 4])
def test_huge_logits_do_not_overflow(tile: int) -> None:
    image = unit(B, D, seed=1)
    value, *grads = gradients(lambda x: info_nce(x, image.detach(), torch.tensor(1e4), tile=tile), image)
    assert_close(value, torch.tensor(0.0), atol=2e-3, rtol=0)
    assert torch.isfinite(grads[0]).all()
    assert torch.isfinite(sigmoid_loss(image, -image, torch.tensor(1e4), BIAS, tile=tile))


@pytest.mark.parametrize("tile", [0, 4])
def test_logits_stay_in_float32_under_autocast(tile: int) -> None:
    image, text = unit(B, D, seed=1), unit(B, D, seed=2)
    expected = info_nce(image, text, torch.tensor(100.0), tile=tile)
    expected_sigmoid = sigmoid_loss(image, text, torch.tensor(100.0), BIAS, tile=tile)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(image, text, torch.tensor(100.0), tile=tile), expected)
        assert torch.equal(sigmoid_loss(image, text, torch.tensor(100.0), BIAS, tile=tile), expected_sigmoid)


# ---- memory


@pytest.mark.parametrize("loss", ["info_nce", "ids", "sigmoid"])
def test_tiled_losses_never_hold_the_matrix_of_all_pairs(loss: str) -> None:
    def run(count: int, tile: int) -> Any:
        image, text, scale = leaf(unit(count, 4, seed=1)), leaf(unit(count, 4, seed=2)), SCALE.clone().requires_grad_()
        if loss == "sigmoid":
            return lambda: sigmoid_loss(image, text, scale, BIAS, tile=tile)
        ids = torch.arange(count) % 9 if loss == "ids" else None
        return lambda: info_nce(image, text, scale, targets=ids, tile=tile)

    assert largest(run(256, 0)) >= 256 * 256
    assert largest(run(256, 16)) <= 256 * 4  # the features themselves
    assert saved(run(512, 16)) <= 2.1 * saved(run(256, 16))  # grows as B, not as B^2
    assert saved(run(512, 0)) >= 3.5 * saved(run(256, 0))


# ---- several processes


def two_ranks(loss: Any, *inputs: Tensor) -> list[Tensor]:
    """The mean over two ranks of B/2 rows of the loss, and of its gradients."""

    def half(gather: Member) -> list[Tensor]:
        image, text, *rest = inputs
        own = [leaf(x.chunk(2)[gather.rank]) for x in (image, text)] + [leaf(x) for x in rest]
        value = loss(*own, gather)
        value.backward()
        return [value.detach(), *(x.grad for x in own)]

    (value, image, text, *rest), (other, other_image, other_text, *others) = together(2, half)
    pairs = [torch.cat([image, other_image]) / 2, torch.cat([text, other_text]) / 2]
    return [(value + other) / 2, *pairs, *((x + y) / 2 for x, y in zip(rest, others, strict=True))]


@pytest.mark.parametrize("tile", [0, 4])
@pytest.mark.parametrize("targets", [None, "ids", "soft"])
def test_mean_of_two_ranks_equals_the_full_batch_info_nce(tile: int, targets: str | None) -> None:
    affinity, ids = soft(12, 12), IDS[:12]
    inputs = unit(12, D, seed=1), unit(12, D, seed=2), SCALE

    def pick(rows: slice) -> Tensor | None:
        return {"ids": ids[rows], "soft": affinity[rows]}.get(targets or "")

    def of(image: Tensor, text: Tensor, scale: Tensor, gather: Member) -> Tensor:
        return info_nce(image, text, scale, gather, pick(slice(6 * gather.rank, 6 * gather.rank + 6)), tile)

    full = gradients(lambda *x: info_nce(*x, targets=pick(slice(12))), *inputs)
    for mine, expected in zip(two_ranks(of, *inputs), full, strict=True):
        assert_close(mine, expected, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("tile", [0, 4])
def test_mean_of_two_ranks_equals_the_full_batch_sigmoid_loss(tile: int) -> None:
    inputs = unit(12, D, seed=1), unit(12, D, seed=2), SCALE, BIAS

    def of(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, gather: Member) -> Tensor:
        return sigmoid_loss(image, text, scale, bias, gather, tile)

    full = gradients(sigmoid_loss, *inputs)
    for mine, expected in zip(two_ranks(of, *inputs), full, strict=True):
        assert_close(mine, expected, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("loss", [info_nce, sigmoid_loss])
def test_of_two_ranks_neither_holds_the_features_of_both(loss: Any) -> None:
    """Larger than the rows of one rank is nothing that a tiled loss makes, forward or backward."""

    def half(gather: Member) -> int:
        image, text = (leaf(x.chunk(2)[gather.rank]) for x in (unit(64, 40, seed=1), unit(64, 40, seed=2)))
        rest = (SCALE, BIAS) if loss is sigmoid_loss else (SCALE,)
        return largest(lambda: loss(image, text, *rest, gather=gather, tile=8))

    assert max(together(2, half)) <= 32 * 40
