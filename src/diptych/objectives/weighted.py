"""Cross-entropy of tokens with a weight each, and the weights by which PRIOR prefers tokens that need the picture.

Letters: B batch, T tokens of a sample, N tokens of all, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.objectives.contrastive import exact
from diptych.objectives.masked import IGNORE, labelled_cross_entropy

_LEAST = 1e-6  # sum of a sample's weights below which the reference is certain of all, and nothing is preferred


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """The sum of weight times cross-entropy over the tokens that have a label, divided by their number.

    With equal weights of one it is the plain mean; weights whose mean is one keep its scale.

    Args:
        logits: (N, V).
        labels: (N,) int64, IGNORE where there is nothing to be guessed.
        weights: (N,), constants; None: all one.
    """
    if weights is None:
        return labelled_cross_entropy(logits, labels)
    losses = F.cross_entropy(exact(logits), labels, ignore_index=IGNORE, reduction="none")  # 0 where ignored
    return (losses * weights.detach()).sum() / (labels != IGNORE).sum().clamp(min=1)


def prior_weights(chances: Tensor, real: Tensor, gamma: float = 1.0) -> Tensor:
    """PRIOR's weights (arXiv 2505.08971, first figure of its repository): large where text alone does not tell.

    w_i = (1 - P(t_i | t_<i))^gamma, times k / sum w over the k tokens of a sample, so that their mean is one there. A
    sample in which text tells all has equal weights.

    Args:
        chances: (B, T), the probability of the token AT i by the reference, a model of text alone.
        real: (B, T) bool, the tokens that are learned; others neither count nor get weight.
        gamma: exponent; 0 gives equal weights.
    """
    raw = (1 - chances.float()).clamp(min=0).pow(gamma) * real
    total = raw.sum(1, keepdim=True)
    scaled = raw * real.sum(1, keepdim=True) / total.clamp(min=_LEAST)
    return torch.where(total < _LEAST, real.float(), scaled)


def shuffled_weights(weights: Tensor, real: Tensor) -> Tensor:
    """The control: the weights of each sample in another order among its real tokens, drawn by torch's generator.

    Args:
        weights: (B, T).
        real: (B, T) bool.
    """
    places = (~real).to(torch.uint8).argsort(dim=1, stable=True)  # the real ones first, in order
    drawn = torch.rand(real.shape, device=real.device).masked_fill(~real, 2.0).argsort(1)  # and in any order
    return torch.empty_like(weights).scatter_(1, places, weights.gather(1, drawn))
