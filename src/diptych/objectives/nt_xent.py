"""NT-Xent, the contrastive loss of SimCLR (Chen et al. 2020, arXiv 2002.05709, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.batch import Gather
from diptych.objectives.contrastive import exact, precise
from diptych.objectives.tiled import ALONE


def nt_xent(first: Tensor, second: Tensor, tau: float = 0.07, gather: Gather = ALONE) -> Tensor:
    """Each vector of both sides must find its partner among all others, those of its own side included.

    Letters: B pairs of this process, C pairs of all processes, D width.

    Args:
        first: (B, D), of any length.
        second: (B, D), row by row the partners.
        tau: temperature.
        gather: brings the vectors of all processes.

    Returns:
        Scalar, in nats: the mean over the 2B vectors of this process, each against 2C - 1 others.
    """
    with precise(first):
        sides = [F.normalize(exact(side), dim=-1) for side in (first, second)]
        everyone = torch.cat([gather(side) for side in sides])  # (2C, D)
        logits = torch.cat(sides) @ everyone.T / tau  # (2B, 2C)
        here = torch.arange(len(first), device=first.device) + gather.rank * len(first)
        there = here + len(everyone) // 2
        logits = logits.scatter(1, torch.cat([here, there])[:, None], float("-inf"))  # none finds itself
        return F.cross_entropy(logits, torch.cat([there, here]))
