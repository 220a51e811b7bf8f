"""Prompting entity modelling: a frozen prompter says which entities a part of an image shows (ALPRO, section 3.3).

Letters: B batch, E entities, P parts of an image, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.objectives.contrastive import exact

_ARTICLES = ("a", "the", "one")
VIDEO_PROMPTS = tuple(
    f"A {what} of {article} {{}}."
    for what in ("footage", "video", "portrait", "video footage")
    for article in _ARTICLES
)
IMAGE_PROMPTS = tuple(
    f"A {what} of {article} {{}}."
    for what in ("photo", "picture", "good photo", "good picture")
    for article in _ARTICLES
)
"""Section 3.3 and its appendix: `{}` is the entity; their features are averaged as they are, without normalising."""


@torch.no_grad()
def pseudo_labels(
    crops: Tensor, prompts: Tensor, tau: Tensor, threshold: float, official: bool = False
) -> tuple[Tensor, Tensor]:
    """How likely each entity is to be in a crop, and which crops count (Eq. 5).

    Args:
        crops: (B, D), the prompter's normalised features.
        prompts: (E, D) or, where crops differ in theirs, (B, E, D), means of normalised features.
        tau: temperature of the prompter.
        threshold: a crop counts whose likeliest entity is at least so likely.
        official: the rule of the released code: a crop counts unless its likeliest entity is the first (the code
            compares the *index* of the largest similarity with the threshold).

    Returns:
        Probabilities (B, E) and which crops count (B,) bool.
    """
    cosine = (exact(prompts).expand(len(crops), -1, -1) @ exact(crops)[:, :, None]).squeeze(-1)  # (B, E)
    probabilities = (cosine / tau).softmax(1)
    best, index = probabilities.max(1)
    return probabilities, index >= threshold if official else best >= threshold


def entity_loss(logits: Tensor, probabilities: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy with soft labels, mean over the crops that count; 0, with zero gradients, where none does (Eq. 6).

    Args:
        logits: (B, E).
        probabilities: (B, E), of `pseudo_labels`.
        counts: (B,) bool.

    Returns:
        Scalar, in nats.
    """
    error = -(probabilities * exact(logits).log_softmax(1)).sum(1)
    return (error * counts).sum() / counts.sum().clamp(min=1)


def mean_inside(tokens: Tensor, inside: Tensor) -> Tensor:
    """Mean of the tokens (B, P, D) for which `inside` (B, P) is True: (B, D); zero where none is."""
    weights = inside.to(tokens.dtype)[..., None]
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)
