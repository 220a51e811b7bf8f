"""Two towers that attend to each other in their last blocks, from options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from diptych.batch import Sample
from diptych.encoders.blocks import ImageBlocks
from diptych.encoders.halves import TextHalves
from diptych.encoders.image import image_encoder
from diptych.encoders.paired import PairedTowers, Pairs, last_pairs
from diptych.encoders.text import text_encoder
from diptych.fusion import initialise
from diptych.models.fusion_encoder import FusionConfig
from diptych.views import augment, image as picture


@dataclass(frozen=True)
class PairedConfig(FusionConfig):
    """What the towers are, and where they meet."""

    image: str = "vit"
    """image tower: ours, `timm:swin_...`, `timm:vit_...` or `packaged:efficientnet_lite0`"""
    image_size: int = 64
    """side of the square pictures, in pixels"""
    image_width: int = 128
    """width of our image tower, as its layers, heads and patch size"""
    image_layers: int = 4
    """number of its layers"""
    image_heads: int = 4
    """number of its attention heads"""
    patch: int = 8
    """side of a patch of it, in pixels"""
    text: str = "bert"
    """text tower: ours, `hf:NAME_OR_PATH` of BERT's kind, or `packaged:minilm`"""
    text_width: int = 128
    """width of our text tower, as its layers and heads"""
    text_layers: int = 4
    """number of its layers"""
    text_heads: int = 4
    """number of its attention heads"""
    hidden: int = 128
    """width of what heads read, and of the joint space"""
    fused: int = 2
    """M: how many of the last blocks and layers attend to each other"""
    pairs: tuple[tuple[int, int], ...] = ()
    """image block and text layer of each such pair, counted from 0; none: the last `fused` of both"""
    gate: float = 0.0
    """alpha at first"""
    crop: tuple[float, float] = (0.9, 1.0)
    """share of the picture that a training crop keeps, from and to; 1 1 takes the whole picture"""
    augment: Literal["none", "rand"] = "none"
    """RandAugment on training pictures"""


def view_picture(config: PairedConfig, sample: Sample, rng: np.random.Generator | None) -> Tensor:
    """The picture of a sample (3, H, W) uint8, cut and changed where `rng` is given; whole where boxes speak of it."""
    size = config.image_size
    if rng is None or config.crop == (1.0, 1.0) or "boxes" in sample:
        seen = picture.resize(sample.image, size)
    else:
        seen = picture.random_resized_crop(sample.image, size, rng, config.crop)
    if rng is not None and config.augment == "rand" and "boxes" not in sample:
        seen = picture.to_tensor(augment.rand_augment(picture.to_picture(seen), rng))
    return seen


def paired_towers(config: PairedConfig, weights: bool, joined: bool = True, writes: bool = False) -> PairedTowers:
    """The towers that the options name.

    Args:
        config: the options.
        weights: whether pretrained weights are loaded.
        joined: whether they have pairs at all.
        writes: as for `PairedTowers`.
    """
    blocks = ImageBlocks(
        image_encoder(
            config.image,
            size=config.image_size,
            width=config.image_width,
            layers=config.image_layers,
            heads=config.image_heads,
            patch=config.patch,
            pretrained=weights,
        )
    )
    text = text_encoder(
        config.text,
        width=config.text_width,
        layers=config.text_layers,
        heads=config.text_heads,
        context=config.context,
        pretrained=weights,
    )
    pairs: Pairs = config.pairs or last_pairs(blocks, len(text.layers), config.fused)
    if not joined:
        pairs = ()
    halves = TextHalves(text, pairs[0][1] if pairs else len(text.layers))
    towers = PairedTowers(blocks, halves, pairs, config.gate, writes)
    for cross in (*towers.to_image, *towers.to_text):
        initialise(cross, spread(cross.attention.out.in_features))  # type: ignore[union-attr,arg-type]
    return towers


def spread(width: int) -> float:
    """The standard deviation of new weights: BERT's 0.02 at its width of 768, and of the same effect at others."""
    return float(0.02 * (768 / width) ** 0.5)
