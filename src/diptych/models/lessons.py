"""What an encoder of pictures learns before it is frozen: nothing with words in it, names of classes, or captions.

Letters: B samples, P patches, C width of the encoder, D width of the words.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Gather
from diptych.encoders.base import ImageEncoder, mean_real
from diptych.objectives.contrastive import exact, info_nce

JOINT = 128
"""width of the space in which pictures and captions are compared"""
HIDDEN = 0.6
"""share of the patches that are hidden (SimMIM, arXiv 2111.09886)"""


class Lessons(nn.Module):
    """Heads of the tasks that are learned, of `self`, `supervised` and `contrastive`.

    Args:
        tasks: which.
        encoder: that learns.
        words: D.
        classes: how many there are, for `supervised`.
    """

    def __init__(self, tasks: Collection[str], encoder: ImageEncoder, words: int, classes: int) -> None:
        super().__init__()
        self.cell = encoder.image_size // encoder.grid[0]
        if "self" in tasks:
            self.pixels = nn.Linear(encoder.width, 3 * self.cell**2)
        if "supervised" in tasks:
            if not classes:
                raise ValueError("the task supervised names classes, and there are none: train on data with labels.")
            self.names = nn.Linear(encoder.width, classes)
        if "contrastive" in tasks:
            self.picture = nn.Linear(encoder.width, JOINT)
            self.caption = nn.Sequential(
                nn.LayerNorm(words), nn.Linear(words, words), nn.GELU(), nn.Linear(words, JOINT)
            )
            self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def guess_pixels(self, encoder: ImageEncoder, image: Tensor) -> Tensor:
        """Mean absolute error of the normalised pixels of hidden patches (SimMIM; MAE's targets).

        Args:
            encoder: sees grey in their place.
            image: (B, 3, H, W) uint8.
        """
        rows, columns = encoder.grid
        hidden = torch.rand(len(image), 1, rows, columns, device=image.device) < HIDDEN
        pixels = F.interpolate(image / 255, (rows * self.cell, columns * self.cell))
        covered = F.interpolate(hidden.float(), image.shape[-2:]).bool()
        guessed = self.pixels(encoder((image / 255).masked_fill(covered, 0.5)).tokens)  # (B, P, 3 * cell ** 2)
        wanted = F.pixel_unshuffle(pixels, self.cell).flatten(2).transpose(1, 2)
        wanted = (wanted - wanted.mean(-1, keepdim=True)) / (wanted.var(-1, keepdim=True) + 1e-6).sqrt()
        error = (exact(guessed) - wanted).abs().mean(-1)  # (B, P)
        where = hidden.flatten(1)
        return (error * where).sum() / where.sum().clamp(min=1)

    def name(self, pooled: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy of the class (B,), by one vector of each picture (B, C)."""
        return F.cross_entropy(exact(self.names(pooled)), label)

    def match(self, pooled: Tensor, words: Tensor, real: Tensor, gather: Gather) -> Tensor:
        """InfoNCE of pictures (B, C) and captions, bags of embedded words (B, T, D) where `real` (B, T) is True."""
        picture = F.normalize(exact(self.picture(pooled)), dim=-1)
        caption = F.normalize(exact(self.caption(mean_real(words, real))), dim=-1)
        return info_nce(picture, caption, self.log_scale.exp().clamp(max=100), gather)
