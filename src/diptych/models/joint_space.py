"""Two encoded sides in one joint space: a linear map, a pooler with tanh, and the unit sphere (FIBER, METER)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Features
from diptych.encoders.base import all_real


def pooler(width: int) -> nn.Sequential:
    """BERT's: dense and tanh."""
    return nn.Sequential(nn.Linear(width, width), nn.Tanh())


class JointSpace(nn.Module):
    """Maps tokens of images and of texts, and one vector of each, to the unit sphere of width D.

    Args:
        image_width: of the image's tokens.
        text_width: of the text's.
        width: D.
        tau: temperature of the contrast, learned from there.
    """

    def __init__(self, image_width: int, text_width: int, width: int, tau: float) -> None:
        super().__init__()
        self.image_map, self.text_map = nn.Linear(image_width, width), nn.Linear(text_width, width)
        self.image_pooler, self.text_pooler = pooler(width), pooler(width)
        self.tau = nn.Parameter(torch.tensor(tau))

    def image(self, tokens: Tensor) -> Features:
        """(B, P, C) -> tokens (B, P, D), and (B, D) of their mean."""
        tokens = self.image_map(tokens)
        return Features(_unit(tokens), _unit(self.image_pooler(tokens.mean(1))), all_real(tokens))

    def text(self, tokens: Tensor, mask: Tensor) -> Features:
        """(B, T, E), mask (B, T) -> tokens (B, T, D), and (B, D) of the first."""
        tokens = self.text_map(tokens)
        return Features(_unit(tokens), _unit(self.text_pooler(tokens[:, 0])), mask)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)
