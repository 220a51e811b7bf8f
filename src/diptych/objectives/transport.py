"""Word-region alignment by optimal transport (UNITER, Chen et al. 2019, arXiv 1909.11740, section 3.2).

Words and regions are two heaps of unit mass, spread evenly; the cost of moving mass from a word to a region is one
minus their cosine. The plan is found by IPOT ("A Fast Proximal Point Method for Computing Exact Wasserstein Distance",
Xie et al. 2018, arXiv 1802.04307, algorithm 1), here for all pairs of a batch at once. Everything is in float32.

Letters: B pairs, T words, R regions, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.objectives.contrastive import exact, precise


def cosine_cost(text: Tensor, regions: Tensor) -> Tensor:
    """(B, T, D), (B, R, D) -> (B, T, R): 1 - cosine."""
    text, regions = (F.normalize(exact(x), dim=-1, eps=1e-5) for x in (text, regions))
    return 1 - text @ regions.transpose(1, 2)


def transport_plan(
    cost: Tensor, text_mask: Tensor, region_mask: Tensor, beta: float = 0.5, iterations: int = 50
) -> Tensor:
    """The plan of IPOT with one inner iteration and uniform marginals, without gradient.

    With few iterations it lies near the exact plan but not on it; regions' marginals are met only in the limit.

    Args:
        cost: (B, T, R).
        text_mask: (B, T) bool, True where there is a word.
        region_mask: (B, R) bool, True where there is a region.
        beta: weight of the proximal term; smaller goes faster towards the exact plan.
        iterations: how many times the plan is refined.

    Returns:
        (B, T, R) of mass moved from each word to each region; a word's row sums to 1 / words; zero at padding, and all
        zero for a pair of no words or no regions.
    """
    with torch.no_grad(), precise(cost):
        valid = text_mask[:, :, None] & region_mask[:, None, :]  # (B, T, R)
        kernel = torch.exp(-exact(cost) / beta) * valid
        words, regions = (mask.sum(1, keepdim=True).clamp(min=1).to(kernel) for mask in (text_mask, region_mask))
        sigma = text_mask / words  # (B, T)
        plan = valid.to(kernel)
        for _ in range(iterations):
            plan = kernel * plan  # Q
            delta = _inverse(regions * (plan * sigma[:, :, None]).sum(1))  # (B, R)
            sigma = _inverse(words * (plan * delta[:, None, :]).sum(2))  # (B, T)
            plan = sigma[:, :, None] * plan * delta[:, None, :]
        return plan


def transport_distance(
    text: Tensor,
    regions: Tensor,
    text_mask: Tensor,
    region_mask: Tensor,
    beta: float = 0.5,
    iterations: int = 50,
) -> Tensor:
    """The cost of moving the words of each text onto the regions of its image.

    The gradient flows through the cost and not through the plan.

    Args:
        text: (B, T, D), final hidden states of the words; UNITER counts [CLS] and [SEP] among them.
        regions: (B, R, D), those of the regions.
        text_mask: (B, T) bool.
        region_mask: (B, R) bool.
        beta: see `transport_plan`.
        iterations: see `transport_plan`.

    Returns:
        (B,) distances in [0, 2].
    """
    with precise(text):
        cost = cosine_cost(text, regions)
        return (transport_plan(cost, text_mask, region_mask, beta, iterations) * cost).sum((1, 2))


def word_region_alignment(distance: Tensor, matched: Tensor, wra_negatives: bool = True) -> Tensor:
    """UNITER's alignment loss: matched pairs are drawn together and, as in its code, unmatched ones pushed apart.

    Args:
        distance: (B,), see `transport_distance`.
        matched: (B,) bool.
        wra_negatives: True: (sum over matched - sum over unmatched) / B, which its code minimises and which has no
            lower bound of its own. False: the mean over matched pairs, all that the paper says.

    Returns:
        Scalar, before the paper's weight of 0.1.
    """
    if wra_negatives:
        return torch.where(matched, distance, -distance).mean()
    return (distance * matched).sum() / matched.sum().clamp(min=1)


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0: at padding."""
    return torch.where(x > 0, 1 / x, 0.0)
