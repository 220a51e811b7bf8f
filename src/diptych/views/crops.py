"""Boxes of whole patches in a picture."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

AREA = (0.3, 0.5)
ASPECT = (0.3, 1 / 0.3)


def patch_crop(
    grid: tuple[int, int],
    rng: np.random.Generator | None,
    area: tuple[float, float] = AREA,
    aspect: tuple[float, float] = ASPECT,
) -> Tensor:
    """A box of patches (ALPRO, section 3.3): sides and place are rounded down to patches, drawn again until it fits.

    Args:
        grid: patches down and across.
        rng: None takes the same box every time.
        area: smallest and largest share of the picture, drawn uniformly.
        aspect: smallest and largest height / width, drawn uniformly.

    Returns:
        (h, w) bool, True inside; at least one patch.
    """
    rng = rng or np.random.default_rng(0)
    down, across = grid
    inside = torch.zeros(grid, dtype=torch.bool)
    while True:
        size, ratio = rng.uniform(*area) * down * across, rng.uniform(*aspect)
        height, width = int(math.sqrt(size * ratio)), int(math.sqrt(size / ratio))
        top, left = int(rng.integers(down)), int(rng.integers(across))
        if height and width and top + height <= down and left + width <= across:
            inside[top : top + height, left : left + width] = True
            return inside
