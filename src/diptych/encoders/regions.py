"""From a detector's regions to tokens (UNITER, Chen et al. 2019, arXiv 1909.11740, section 3.1).

Letters: B batch, R regions, D width of the detector's features, H width of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.views.regions import geometry


class RegionEmbedding(nn.Module):
    """LN(W f + b) + LN(P p + c): what a region looks like, and where it is.

    The kind of token and the last LayerNorm are left to the model, which may tell the regions of two images apart.

    Args:
        features: D.
        width: H.
        eps: of the LayerNorms; BERT's by default.

    Attributes:
        look, place: the two linear maps.
        blank: (D,), what a masked region looks like.
    """

    def __init__(self, features: int, width: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.look, self.look_norm = nn.Linear(features, width), nn.LayerNorm(width, eps=eps)
        self.place, self.place_norm = nn.Linear(7, width), nn.LayerNorm(width, eps=eps)
        self.blank = nn.Parameter(torch.empty(features))
        nn.init.normal_(self.blank, std=0.02)

    def forward(self, features: Tensor, boxes: Tensor, masked: Tensor | None = None) -> Tensor:
        """Features (B, R, D), boxes (B, R, 4), and which regions are masked (B, R) bool -> (B, R, H)."""
        if masked is not None:
            features = torch.where(masked[..., None], self.blank.to(features.dtype), features)
        return self.look_norm(self.look(features)) + self.place_norm(self.place(geometry(boxes)))
