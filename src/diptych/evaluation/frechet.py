"""The Frechet distance of two clouds of vectors, taken as Gaussians: how far apart they are in mean and in shape.

Sources: Dowson and Landau, The Frechet Distance between Multivariate Normal Distributions, 1982 (Eq. 4); Heusel et al.,
GANs Trained by a Two Time-Scale Update Rule, arXiv 1706.08500 (Eq. 6), where it is the FID.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frechet(first: Tensor, second: Tensor) -> float:
    """|m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)), in float64; the covariances S divide by N - 1.

    The last trace is the sum of the singular values of S1^(1/2) S2^(1/2), whose roots are taken by eigenvalues. Equal
    clouds are 0 apart, and covariances of low rank need no care.

    Args:
        first: (N, D), N at least 2.
        second: (M, D), M at least 2.
    """
    means, covariances = zip(*(_moments(cloud) for cloud in (first, second)), strict=True)
    shared = torch.linalg.svdvals(_factor(covariances[0]).T @ _factor(covariances[1])).sum()
    return float(_apart(*means) + sum(each.trace() for each in covariances) - 2 * shared)


def official_fast(first: Tensor, second: Tensor) -> float:
    """The same with S1 S2 itself in place of its root: what the `fast` mode of MIR's official code comes to.

    Its iteration for the root begins at a fixed point and stays there, up to rounding that grows where covariances are
    ill-conditioned. The result may be negative, and equal clouds are not 0 apart: for comparison with published
    figures only.
    """
    means, (one, other) = zip(*(_moments(cloud) for cloud in (first, second)), strict=True)
    return float(_apart(*means) + one.trace() + other.trace() - 2 * (one * other).sum())


def _moments(cloud: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D) -> mean (D,) and covariance (D, D), in float64."""
    if len(cloud) < 2:
        raise ValueError(f"A covariance needs at least two vectors and there is {len(cloud)}: give more samples.")
    cloud = cloud.double()
    mean = cloud.mean(0)
    centred = cloud - mean
    return mean, centred.T @ centred / (len(cloud) - 1)


def _apart(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().sum()


def _factor(covariance: Tensor) -> Tensor:
    """F (D, D) with F F' = the covariance; singular values of F' G are those of the product of the roots."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()
