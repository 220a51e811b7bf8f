"""Views of a picture: PIL in, (3, H, W) uint8 out. Sizes are in pixels of the square side.

Scaling to [0, 1] and normalisation belong to the tower, which knows its weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[int, int, int, int]
"""left, top, right, bottom, in pixels"""
Crop = Callable[[int, int, "np.random.Generator | None"], Box]
"""Width and height of a picture -> the part of it that is kept; random where there is a generator."""

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
    return to_tensor(image) if image.size == (size, size) else resampled(image, (0, 0, *image.size), size)


def random_resized_crop(
    image: Image.Image,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """The box of `area`, resized to a square."""
    return resampled(image, area(*image.size, rng, scale, ratio), size)


def whole(width: int, height: int, rng: np.random.Generator | None = None) -> Box:
    """The crop that cuts nothing off."""
    return 0, 0, width, height


def square(width: int, height: int, rng: np.random.Generator | None = None, share: float = 1.0) -> Box:
    """A square of `share` of the shorter side: at a random place, or at the centre if `rng` is None.

    224 / 256 does what a resize to 256 and a crop of 224 do.
    """
    side = max(1, round(share * min(width, height)))
    if rng is None:
        return _at((width - side) // 2, (height - side) // 2, side, side)
    return _at(int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1)), side, side)


def area(
    width: int,
    height: int,
    rng: np.random.Generator | None,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """A random box of `scale` of the area and of a log-uniform aspect (Szegedy et al., 2015).

    After ten boxes that do not fit, or if `rng` is None, the largest centred box of an allowed aspect.
    """
    for _ in range(10):
        if rng is None:
            break
        pixels = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            return _at(int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h)
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    return _at((width - w) // 2, (height - h) // 2, w, h)


def _at(left: int, top: int, width: int, height: int) -> Box:
    return left, top, left + width, top + height


def random_flip(image: Tensor, rng: np.random.Generator, chance: float = 0.5) -> Tensor:
    """Mirrors left and right, (3, H, W); only for captions that do not speak of sides."""
    return image.flip(-1) if rng.random() < chance else image


def resampled(image: Image.Image, box: Box, size: int) -> Tensor:
    """A box of a picture -> (3, size, size), bicubic as PIL's own, which takes four times as long."""
    left, top, right, bottom = box
    factor = max(1, (right - left) // (_GAP * size)), max(1, (bottom - top) // (_GAP * size))
    part = (image if image.mode == "RGB" else image.convert("RGB")).reduce(factor, box)
    pixels = torch.from_numpy(np.array(part)).permute(2, 0, 1)[
        None
    ]  # rows of RGB: torch has a kernel of its own for it
    return F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)[0]
