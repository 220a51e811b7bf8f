"""What masked regions are to be guessed as: their features, their classes, or a detector's opinion of them.

Each loss is 0, with zero gradients, where nothing is to be guessed. Letters: B batch, R regions, D width of the
detector's features, K classes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from diptych.objectives.contrastive import exact


def feature_regression(predicted: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
    """UNITER's MRFR: squared error, mean over the chosen regions and over D.

    Args:
        predicted: (B, R, D).
        target: (B, R, D), features as they were before masking.
        chosen: (B, R) bool.
    """
    error = (exact(predicted) - exact(target)).square().mean(2)  # (B, R)
    return _mean(error, chosen)


def smooth_feature_regression(
    predicted: Tensor, target: Tensor, chosen: Tensor, real: Tensor, share: float = 0.15
) -> Tensor:
    """LXMERT's feature loss: SmoothL1, mean over D, summed over chosen regions, divided by share * all regions.

    Args:
        predicted: (B, R, D).
        target: (B, R, D), features as they were before masking.
        chosen: (B, R) bool.
        real: (B, R) bool, True where a region is not padding; LXMERT has 36 of them in every image.
        share: of regions that is masked; transformers rounds 1 / 0.15 to 6.67.
    """
    error = F.smooth_l1_loss(exact(predicted), exact(target), reduction="none").mean(2)  # (B, R)
    return _mean(error * chosen, real) / share


def confident_classes(
    logits: Tensor,
    labels: Tensor,
    confidence: Tensor,
    real: Tensor,
    chosen: Tensor | None = None,
    share: float = 0.15,
) -> Tensor:
    """LXMERT's loss of object and of attribute labels: cross-entropy times the detector's confidence.

    As released it runs over all regions, masked or not, and is divided by the share all the same.

    Args:
        logits: (B, R, K).
        labels: (B, R) int64, what the detector says.
        confidence: (B, R), how sure it is.
        real: (B, R) bool, True where a region is not padding; the mean is over these.
        chosen: (B, R) bool: only these count, as the paper describes it; None counts all.
        share: of regions that is masked.
    """
    error = F.cross_entropy(exact(logits).transpose(1, 2), labels, reduction="none") * confidence  # (B, R)
    return _mean(error if chosen is None else error * chosen, real) / share


def likeliest_object(distribution: Tensor) -> Tensor:
    """A detector's (B, R, K) distribution -> (B, R) int64, the likeliest class that is not the background, class 0."""
    return distribution[..., 1:].argmax(-1) + 1


def classification(logits: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    """UNITER's MRC: cross-entropy, mean over the chosen regions. (B, R, K), (B, R) int64, (B, R) bool -> scalar."""
    return _mean(F.cross_entropy(exact(logits).transpose(1, 2), labels, reduction="none"), chosen)


def divergence(logits: Tensor, distribution: Tensor, chosen: Tensor) -> Tensor:
    """UNITER's MRC-kl: KL(detector || model), mean over the chosen regions *and over the classes*, as in its code.

    Divided by 1601 classes it looks tiny; times K it is the mean divergence in nats.

    Args:
        logits: (B, R, K).
        distribution: (B, R, K), the detector's, rows sum to 1.
        chosen: (B, R) bool.
    """
    error = F.kl_div(exact(logits).log_softmax(-1), exact(distribution), reduction="none").mean(2)  # (B, R)
    return _mean(error, chosen)


def _mean(error: Tensor, counted: Tensor) -> Tensor:
    """Mean of (B, R) over the regions that count, 0 where none does."""
    return (error * counted).sum() / counted.sum().clamp(min=1)
