"""Contrastive losses over pairs of images and texts: symmetric InfoNCE and the sigmoid loss.

Letters: B pairs of this process, C = world * B pairs of all processes, D width. Features are L2-normalised by the
caller. Whatever autocast says, logits are computed in float32: at a scale of 100, bf16 would round them by 0.25.

With `gather`, each process scores its own B rows against all C columns. The mean of the processes' losses is the loss
of the whole batch, and so is the mean of their gradients where `gather` sums what comes back (`batch.Gather`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.batch import Gather
from diptych.objectives import tiled
from diptych.objectives.tiled import ALONE

Targets = Tensor | tuple[Tensor, Tensor] | None
"""Which pairs belong together.

- None: the images and texts of the same index, and no others.
- int64 ids, one a pair: pairs with the same id are all positives of each other (`positives`).
- float (B, C): row r says how much the image and the text of pair r are to match each of the C pairs.
- two such matrices, image -> text and text -> image, where the directions differ.
"""


def info_nce(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    gather: Gather = ALONE,
    targets: Targets = None,
    tile: int = 0,
) -> Tensor:
    """Symmetric InfoNCE (van den Oord et al. 2018; CLIP, Radford et al. 2021, figure 3): the mean of both directions.

    Args:
        image: (B, D), L2-normalised.
        text: (B, D), L2-normalised.
        scale: scalar by which cosines are multiplied, exp(logit_scale) = 1 / tau.
        gather: brings the features (and ids) of all processes.
        targets: see `Targets`; ids are those of this process, (B,).
        tile: above 0, rows and columns of the tiles in which the (B, C) logits are computed and forgotten.

    Returns:
        Scalar, in nats.
    """
    with precise(image):
        image, text = exact(image), exact(text)
        scale = torch.as_tensor(scale, dtype=image.dtype, device=image.device)
        if isinstance(targets, Tensor) and targets.ndim == 1:
            targets = gather(targets)
        if tile:
            return _tiled_info_nce(image, text, scale, gather, targets, tile)
        all_image, all_text = gather(image), gather(text)
        image_to_text = scale * image @ all_text.T  # (B, C)
        text_to_image = image_to_text.T if gather.world == 1 else scale * text @ all_image.T
        return info_nce_from_logits(image_to_text, text_to_image, targets, gather.rank * len(image))


def info_nce_from_logits(
    image_to_text: Tensor, text_to_image: Tensor, targets: Targets = None, offset: int = 0
) -> Tensor:
    """Symmetric InfoNCE on any two logit matrices, which need not be each other's transpose.

    Each direction is the cross-entropy of its rows against `targets`: with a row q of targets, -sum_c q_c log p_c.

    Args:
        image_to_text: (B, C), row r scores image r of this process against all texts.
        text_to_image: (B, C), row r scores text r of this process against all images.
        targets: see `Targets`; ids are those of all processes, (C,).
        offset: column of this process's first row, rank * B.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: the targets do not fit the logits.
    """
    if targets is None:
        label = torch.arange(len(image_to_text), device=image_to_text.device) + offset
        return (F.cross_entropy(image_to_text, label) + F.cross_entropy(text_to_image, label)) / 2
    forth, back = _matrices(targets, image_to_text.shape, offset)
    return (_cross_entropy(image_to_text, forth) + _cross_entropy(text_to_image, back)) / 2


def positives(ids: Tensor, all_ids: Tensor) -> Tensor:
    """Targets for several positives: each row is uniform over the columns with the row's id, and 0 elsewhere.

    Cross-entropy against it averages log p over the positives outside of the logarithm, as L_out of SupCon (Khosla et
    al. 2020, equation 2) and both terms of UniCL (Yang et al. 2022).

    Args:
        ids: (B,) integers, one a row.
        all_ids: (C,) integers, one a column.

    Returns:
        (B, C) float32, rows sum to 1.
    """
    same = (ids[:, None] == all_ids[None, :]).float()
    return same / same.sum(1, keepdim=True)


def sigmoid_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    gather: Gather = ALONE,
    tile: int = 0,
) -> Tensor:
    """SigLIP (Zhai et al. 2023, section 3.2): every pair is a binary question; summed over pairs, divided by B.

    Args:
        image: (B, D), L2-normalised.
        text: (B, D), L2-normalised.
        scale: scalar t by which cosines are multiplied (initially 10).
        bias: scalar b added to the logits (initially -10).
        gather: brings the texts of all processes.
        tile: above 0, rows and columns of the tiles in which the (B, C) logits are computed and forgotten.

    Returns:
        Scalar, in nats.
    """
    with precise(image):
        image, text = exact(image), exact(text)
        scale, bias = (torch.as_tensor(x, dtype=image.dtype, device=image.device) for x in (scale, bias))
        matched = scale * (image * text).sum(1) + bias  # (B,)
        if tile:
            total = tiled.softplus_sum(image, text, scale, bias, tile, gather)
        else:
            total = F.softplus(scale * image @ gather(text).T + bias).sum()
        return (total - matched.sum()) / len(image)  # -log sigmoid(x) = softplus(x) - x, for the matched pairs


@contextmanager
def precise(like: Tensor) -> Iterator[None]:
    """Switches autocast off on the device of `like`."""
    with torch.autocast(like.device.type, enabled=False):
        yield


def exact(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()


def _tiled_info_nce(image: Tensor, text: Tensor, scale: Tensor, gather: Gather, targets: Targets, tile: int) -> Tensor:
    """InfoNCE of own images and own texts, as log-sum-exp minus the targets' logits.

    sum_c q_c (lse - s_c) = lse sum_c q_c - scale * own . (sum_c q_c other_c): the second part needs no logits, and
    features of other processes only where they are wanted.
    """
    if gather.world == 1 and _are_fixed_matrices(targets):
        forth, back = _matrices(targets, torch.Size((len(image), len(image))), 0)
        image_lse, text_lse, matched = tiled.log_sum_exp_and_matched(image, text, scale, (forth, back), tile)
        return ((forth.sum(1) * image_lse).sum() + (back.sum(1) * text_lse).sum() - matched) / (2 * len(image))
    image_lse, text_lse = tiled.log_sum_exp(image, text, scale, tile, gather)
    loss = image.new_zeros(())
    for side, (own, other, lse) in enumerate(((image, text, image_lse), (text, image, text_lse))):
        wanted: tuple[Tensor, Tensor | float] = (other, 1.0)
        if targets is not None:
            wanted = _wanted(targets, gather(other), gather.rank * len(own), len(own), side)
        match, total = wanted
        loss = loss + (total * lse - scale * (own * match).sum(1)).mean() / 2
    return loss


def _are_fixed_matrices(targets: Targets) -> TypeGuard[Tensor | tuple[Tensor, Tensor]]:
    """Whether these are soft targets through which no gradient flows."""
    matrices = (targets,) if isinstance(targets, Tensor) else targets or ()
    return bool(matrices) and all(one.ndim == 2 and not one.requires_grad for one in matrices)


def _wanted(
    targets: Tensor | tuple[Tensor, Tensor], others: Tensor, offset: int, rows: int, side: int
) -> tuple[Tensor, Tensor | float]:
    """For each row the sum of `others` weighted by its targets, (B, D), and the sum of its targets."""
    if isinstance(targets, Tensor) and targets.ndim == 1:
        _check_ids(targets, len(others))
        groups, group = targets.unique(return_inverse=True)
        totals = others.new_zeros(len(groups), others.shape[1]).index_add(0, group, others)
        means = totals / group.bincount(minlength=len(groups))[:, None]
        return means[group[offset : offset + rows]], 1.0
    matrix = _matrices(targets, torch.Size((rows, len(others))), offset)[side].to(others.dtype)
    return matrix @ others, matrix.sum(1)


def _matrices(targets: Tensor | tuple[Tensor, Tensor], shape: torch.Size, offset: int) -> tuple[Tensor, Tensor]:
    """Targets as two (B, C) matrices, checked against the shape of the logits."""
    if isinstance(targets, Tensor) and targets.ndim == 1:
        _check_ids(targets, shape[1])
        targets = positives(targets[offset : offset + shape[0]], targets)
    forth, back = (targets, targets) if isinstance(targets, Tensor) else targets
    if forth.shape != shape or back.shape != shape:
        raise ValueError(
            f"Soft targets must have the shape of the logits, {tuple(shape)}, one row a pair of this process; "
            f"these have {tuple(forth.shape)} and {tuple(back.shape)}."
        )
    return forth, back


def _check_ids(ids: Tensor, columns: int) -> None:
    if ids.is_floating_point() or len(ids) != columns:
        raise ValueError(
            f"Ids of positives must be {columns} integers, one a column of the logits; "
            f"these are {len(ids)} of {ids.dtype}."
        )


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return -(targets.to(logits.dtype) * logits.log_softmax(1)).sum(1).mean()
