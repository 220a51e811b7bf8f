"""Heads whose last map is an embedding turned round: words by their vectors, features by the map that reads them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def transform(width: int, eps: float = 1e-12) -> nn.Sequential:
    """BERT's way into a head: dense, GELU, LayerNorm."""
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=eps))


class TiedHead(nn.Module):
    """Dense, GELU, LayerNorm, then a map that another part of the model owns, with a bias of its own.

    The weight of that map is handed in at the call, so it is one tensor, in the state once. With the embeddings of
    words it is BERT's head of masked words; with the transpose of the map that embeds features, UNITER's of regions.

    Args:
        width: H.
        outputs: D.
        eps: of the LayerNorm.
    """

    def __init__(self, width: int, outputs: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.transform = transform(width, eps)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """Hidden states (..., H) and a weight (D, H) -> (..., D)."""
        return F.linear(self.transform(hidden), weight, self.bias)
