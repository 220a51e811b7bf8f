"""Views of a picture: PIL in, PIL out, until `to_tensor`. Sizes are in pixels of the square side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

BICUBIC = Image.Resampling.BICUBIC


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) uint8. Scaling and normalisation belong to the tower, which knows its weights."""
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))  # `convert` would copy
    return torch.from_numpy(np.stack([*pixels.transpose(2, 0, 1)]))


def resize(image: Image.Image, size: int) -> Image.Image:
    """The whole picture squeezed into a square: nothing is cut off, the aspect is lost."""
    return image if image.size == (size, size) else image.resize((size, size), BICUBIC, reducing_gap=2.0)


def random_resized_crop(
    image: Image.Image,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Image.Image:
    """A box of `scale` of the area and of a log-uniform aspect, resized to a square (Szegedy et al., 2015).

    After ten boxes that do not fit, the largest centred box of an allowed aspect is taken.
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return image.resize((size, size), BICUBIC, box=(left, top, left + w, top + h), reducing_gap=2.0)
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return image.resize((size, size), BICUBIC, box=(left, top, left + w, top + h), reducing_gap=2.0)


def random_flip(image: Image.Image, rng: np.random.Generator, chance: float = 0.5) -> Image.Image:
    """Mirrors left and right; only for captions that do not speak of sides."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < chance else image
