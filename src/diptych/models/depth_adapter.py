"""CLIP2Point's Simplified Adapter: what several views say of a thing, in one vector (arXiv 2210.01055, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SimplifiedAdapter(nn.Module):
    """Weighs the views, then two linear maps over all of them at once: their order matters, and none is read alone.

    Args:
        views: V.
        width: D of a view's feature, and of the result.
        dropout: share of numbers that is dropped, twice.
    """

    def __init__(self, views: int, width: int, dropout: float = 0.075) -> None:
        super().__init__()
        self.ratio = nn.Parameter(torch.full((views,), 0.5))
        self.norm = nn.BatchNorm1d(width)
        self.join = nn.Linear(views * width, width)
        self.joined_norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(B, V, D) -> (B, D)."""
        x = self.norm((features * self.ratio[:, None]).flatten(0, 1)).view_as(features)
        x = self.joined_norm(self.join(self.dropout(x).flatten(1)))
        return self.out(self.dropout(F.relu(x)))
