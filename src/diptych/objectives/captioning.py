"""Writing captions: the next word (MLE), weighed by how likely people's own words were (GOLD), or rewarded (CIDEr).

Letters: B batch, T tokens, V vocabulary, K captions that were tried for a picture.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.objectives.contrastive import exact
from diptych.objectives.masked import IGNORE


def next_words(ids: Tensor, mask: Tensor) -> Tensor:
    """(B, T) ids and mask of real tokens -> (B, T), what follows each position; IGNORE where nothing real does."""
    return F.pad(ids.masked_fill(~mask, IGNORE)[:, 1:], (0, 1), value=IGNORE)


def log_chances(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, T, V), (B, T) -> log probabilities (B, T) of the labels, 0 where there is none."""
    return -F.cross_entropy(exact(logits).transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")


def gold_weights(chances: Tensor, real: Tensor, least: float = 0.1) -> Tensor:
    """How much each word of a demonstration counts (GOLD, Pang and He, arXiv 2009.07839, as FIBER does it).

    The probability of the word by an earlier model, times the mean of those of it and all later words, at least
    `least`.

    Args:
        chances: (B, T).
        real: (B, T) bool, where there is a word to be guessed.
        least: lower end of the product.
    """
    chances = chances * real
    later = chances.flip(1).cumsum(1).flip(1) / real.flip(1).cumsum(1).flip(1).clamp(min=1)
    return (chances * later).clamp(min=least)


def gold_loss(logits: Tensor, labels: Tensor, weights: Tensor, official: bool = False) -> Tensor:
    """Weighed cross-entropy, the mean of each caption's mean over its words.

    Args:
        logits: (B, T, V).
        labels: (B, T) int64, of `next_words`.
        weights: (B, T), of `gold_weights`.
        official: as the paper's code, which divides by the number of positions *without* a word.
    """
    real = labels != IGNORE
    count = (~real if official else real).sum(1)
    found = -(weights * log_chances(logits, labels)).sum(1) / (count + 1e-9 if official else count.clamp(min=1))
    return found.mean()


def reward_loss(logits: Tensor, labels: Tensor, rewards: Tensor) -> Tensor:
    """REINFORCE with the baseline 1 (FIBER's CIDEr stage): less likely what scores below it, more what above.

    Args:
        logits: (B * K, T, V), of the K captions of each picture side by side.
        labels: (B * K, T), of `next_words`.
        rewards: (B, K).

    Returns:
        The sum over a picture's captions of 100 (1 - reward) times the mean log probability of a word; mean over B.
    """
    words = (labels != IGNORE).sum(1).clamp(min=1)
    chance = (log_chances(logits, labels).sum(1) / words).view_as(rewards)
    return (chance * 100 * (1 - rewards)).sum(1).mean()


def best_captions(found: Tensor, scores: Tensor, ends: Tensor) -> Tensor:
    """Of K captions (B, K, T) with summed log probabilities (B, K) the one whose mean is best: (B, T).

    Args:
        found: ids.
        scores: sums over the words that were written.
        ends: (B, K), how many words were written.
    """
    best = (scores / ends.clamp(min=1)).argmax(1)
    return found[torch.arange(len(found), device=found.device), best]
