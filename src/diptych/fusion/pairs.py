"""Two encoded sequences judged together, such as a statement with each of two images (UNITER, section 4.2, NLVR2).

Letters: B batch, N and M tokens of the two sequences, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.fusion.cross import initialise


class AttentionPool(nn.Module):
    """The mean of tokens, weighed by the softmax of ReLU(w x + b).

    Args:
        width: D.
        dropout: share of the weights that is dropped in training.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D), (B, N) bool, True where a token is real -> (B, D)."""
        score = self.score(tokens).squeeze(-1).relu().masked_fill(~mask, torch.finfo(tokens.dtype).min)
        return (self.dropout(score.softmax(1)).unsqueeze(1) @ tokens).squeeze(1)


class PairAttention(nn.Module):
    """Each sequence attends to the other; what it finds is joined to it, and each is pooled.

    Args:
        width: D.
        heads: attention heads.
        dropout: share of attention weights and of joined tokens that is dropped in training.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.second = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.join = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(dropout))
        self.pool = AttentionPool(width, dropout)
        initialise(self)

    def forward(self, first: Tensor, second: Tensor, first_mask: Tensor, second_mask: Tensor) -> Tensor:
        """(B, N, D), (B, M, D), masks (B, N) and (B, M) bool, True where a token is real -> both pooled (B, 2 D)."""
        to_second, _ = self.first(first, second, second, key_padding_mask=~second_mask, need_weights=False)
        to_first, _ = self.second(second, first, first, key_padding_mask=~first_mask, need_weights=False)
        first = self.join(torch.cat([to_second, first], dim=-1))
        second = self.join(torch.cat([to_first, second], dim=-1))
        return torch.cat([self.pool(first, first_mask), self.pool(second, second_mask)], dim=-1)
