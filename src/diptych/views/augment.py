"""RandAugment (Cubuk et al., arXiv 1909.13719) and AutoAugment's ImageNet policy (arXiv 1805.09501) on PIL.

Both draw from one table of operations whose strength is a level from 0 to 9, as in AutoAugment's Table 6.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

LEVELS = 9
GREY = (124, 116, 104)  # the ImageNet mean: what shows where a picture was moved away
_Operation = Callable[[Image.Image, float, float], Image.Image]


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


# each takes the picture, the strength in [0, 1] and a random sign
_OPERATIONS: dict[str, _Operation] = {
    "shear_x": lambda image, m, sign: _affine(image, (1, sign * 0.3 * m, 0, 0, 1, 0)),
    "shear_y": lambda image, m, sign: _affine(image, (1, 0, 0, sign * 0.3 * m, 1, 0)),
    "translate_x": lambda image, m, sign: _affine(image, (1, 0, sign * 0.45 * m * image.width, 0, 1, 0)),
    "translate_y": lambda image, m, sign: _affine(image, (1, 0, 0, 0, 1, sign * 0.45 * m * image.height)),
    "rotate": lambda image, m, sign: image.rotate(sign * 30 * m, Image.Resampling.BILINEAR, fillcolor=GREY),
    "brightness": lambda image, m, sign: ImageEnhance.Brightness(image).enhance(1 + sign * 0.9 * m),
    "color": lambda image, m, sign: ImageEnhance.Color(image).enhance(1 + sign * 0.9 * m),
    "contrast": lambda image, m, sign: ImageEnhance.Contrast(image).enhance(1 + sign * 0.9 * m),
    "sharpness": lambda image, m, sign: ImageEnhance.Sharpness(image).enhance(1 + sign * 0.9 * m),
    "posterize": lambda image, m, _: ImageOps.posterize(image, 8 - round(4 * m)),
    "solarize": lambda image, m, _: ImageOps.solarize(image, round(256 * (1 - m))),
    "autocontrast": lambda image, *_: ImageOps.autocontrast(image),
    "equalize": lambda image, *_: ImageOps.equalize(image),
    "invert": lambda image, *_: ImageOps.invert(image),
}
_RAND_AUGMENT = tuple(name for name in _OPERATIONS if name != "invert")  # RandAugment's list has no inversion

# AutoAugment, Table 9: 25 pairs of (operation, probability, level)
_IMAGENET_POLICY = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)


def rand_augment(image: Image.Image, rng: np.random.Generator, n: int = 2, level: float = 5) -> Image.Image:
    """`n` random operations, one after the other, at one strength `level` (0 to 9)."""
    for _ in range(n):
        image = _apply(image, _RAND_AUGMENT[int(rng.integers(len(_RAND_AUGMENT)))], level, rng)
    return image


def auto_augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """One of the 25 pairs of AutoAugment's ImageNet policy, each half with its own probability."""
    for name, chance, level in _IMAGENET_POLICY[int(rng.integers(len(_IMAGENET_POLICY)))]:
        if rng.random() < chance:
            image = _apply(image, name, level, rng)
    return image


def _apply(image: Image.Image, name: str, level: float, rng: np.random.Generator) -> Image.Image:
    sign = 1.0 if rng.random() < 0.5 else -1.0
    return _OPERATIONS[name](image, level / LEVELS, sign)
