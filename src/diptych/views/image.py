"""Views of a picture: PIL in, (3, H, W) uint8 out. Sizes are in pixels of the square side.

Scaling to [0, 1] and normalisation belong to the tower, which knows its weights.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

_GAP = 2  # a picture is first averaged down to no less than this many times the size that is wanted


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) uint8."""
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))  # `convert` would copy
    return torch.from_numpy(np.stack([*pixels.transpose(2, 0, 1)]))


def to_picture(image: Tensor) -> Image.Image:
    """(3, H, W) uint8 -> RGB picture."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def resize(image: Image.Image, size: int) -> Tensor:
    """The whole picture squeezed into a square: nothing is cut off, the aspect is lost."""
    return to_tensor(image) if image.size == (size, size) else _resampled(image, (0, 0, *image.size), size)


def random_resized_crop(
    image: Image.Image,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
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
            return _resampled(image, (left, top, left + w, top + h), size)
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return _resampled(image, (left, top, left + w, top + h), size)


def random_flip(image: Tensor, rng: np.random.Generator, chance: float = 0.5) -> Tensor:
    """Mirrors left and right, (3, H, W); only for captions that do not speak of sides."""
    return image.flip(-1) if rng.random() < chance else image


def _resampled(image: Image.Image, box: tuple[int, int, int, int], size: int) -> Tensor:
    """A box of a picture -> (3, size, size), bicubic as PIL's own, which takes four times as long."""
    left, top, right, bottom = box
    factor = max(1, (right - left) // (_GAP * size)), max(1, (bottom - top) // (_GAP * size))
    part = (image if image.mode == "RGB" else image.convert("RGB")).reduce(factor, box)
    pixels = torch.from_numpy(np.array(part)).permute(2, 0, 1)[
        None
    ]  # rows of RGB: torch has a kernel of its own for it
    return F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)[0]
