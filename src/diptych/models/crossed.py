"""An image tower, and a BERT whose lower half reads texts and whose upper half attends to the picture too (ALBEF, CTP).

Before fusion both are aligned in a joint space, as in `aligned_video`; there fusion is self-attention on both side by
side, here it is cross-attention in each layer of the upper half.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Features, Sample
from diptych.encoders import image_encoder, text_encoder
from diptych.encoders.base import CLIP_MEAN, CLIP_STD, all_real
from diptych.encoders.halves import TextHalves
from diptych.fusion import Attention, Sublayer, initialise, inside
from diptych.models.fusion_encoder import FusionConfig
from diptych.models.paired_config import spread
from diptych.views import augment, image as picture


@dataclass(frozen=True)
class CrossedConfig(FusionConfig):
    """Options of both towers and of how pictures are seen."""

    image: str = "vit"
    """image tower: vit (our own), timm:NAME, hf:NAME_OR_PATH or open_clip:NAME/TAG"""
    image_size: int = 64
    """side of the square pictures, in pixels"""
    image_width: int = 128
    """width of our own ViT"""
    image_layers: int = 3
    """layers of our own ViT"""
    image_heads: int = 4
    """attention heads of our own ViT"""
    patch: int = 8
    """side of a patch of our own ViT, in pixels"""
    text: str = "bert"
    """the BERT whose lower half reads texts and whose upper half fuses: bert (our own), or hf:NAME_OR_PATH"""
    text_width: int = 128
    """width of our own BERT"""
    text_layers: int = 4
    """layers of our own BERT"""
    text_heads: int = 4
    """attention heads of our own BERT"""
    dropout: float = 0.1
    """of our own BERT; one that begins with random weights learns sooner with 0"""
    lower: int = 0
    """layers of the half that reads texts, the others fuse; 0: half of them"""
    embed: int = 64
    """width of the joint space"""
    crop: tuple[float, float] = (0.9, 1.0)
    """share of the picture that a training crop keeps, from and to; 1 1 takes the whole picture"""
    flip: bool = False
    """mirror half of the training pictures; only where captions do not speak of left and right"""
    augment: Literal["none", "rand"] = "none"
    """RandAugment on training pictures"""


class Outputs(NamedTuple):
    """What a model says of a batch: images and texts in the joint space (B, D), and the N masked words (N, V)."""

    image: Tensor
    text: Tensor
    words: Tensor

    @property
    def joint(self) -> tuple[Tensor, Tensor]:
        """Images v and texts w (B, D), L2-normalised."""
        return unit(self.image), unit(self.text)


class Crossed(nn.Module):
    """Both towers, their maps into the joint space, and the cross-attention of the upper half.

    Pictures are normalised as CLIP's, whatever the image tower was trained with: ALBEF's descendants do so.

    Args:
        config: sizes and names of the towers.
        weights: load the pretrained weights of named towers.
        fuses: keep the upper half of the BERT.
    """

    def __init__(self, config: CrossedConfig, weights: bool, fuses: bool = True) -> None:
        super().__init__()
        self.image = image_encoder(
            config.image,
            size=config.image_size,
            width=config.image_width,
            layers=config.image_layers,
            heads=config.image_heads,
            patch=config.patch,
            pretrained=weights,
        )
        self.image.set_pixels(config.image_size, CLIP_MEAN, CLIP_STD)
        bert = text_encoder(
            config.text,
            width=config.text_width,
            layers=config.text_layers,
            heads=config.text_heads,
            context=config.context,
            pretrained=weights,
            dropout=config.dropout,
        )
        halves = TextHalves(bert, config.lower or len(bert.layers) // 2)
        self.text = halves if fuses else halves.cut()
        self.image_head = nn.Linear(self.image.width, config.embed)
        self.text_head = nn.Linear(self.text.width, config.embed)
        self.crosses = nn.ModuleList(self._cross() for _ in self.text.fusion_layers)
        initialise(self.crosses, spread(self.text.width))

    def _cross(self) -> Sublayer:
        """Cross-attention of a layer, behind its self-attention, as in transformers' BERT with cross-attention."""
        bert, width = self.text.encoder.model.config, self.text.width
        attention = Attention(width, bert.num_attention_heads, self.image.width, bert.attention_probs_dropout_prob)
        return Sublayer(attention, width, "post", bert.hidden_dropout_prob, bert.layer_norm_eps)

    def see(self, image: Tensor) -> Features:
        """(B, 3, H, W) -> class token and patches (B, 1 + P, C), the class token (B, C)."""
        seen = self.image(image)
        tokens = torch.cat([seen.pooled[:, None], seen.tokens], dim=1)
        return Features(tokens, seen.pooled, all_real(tokens))

    def read(self, ids: Tensor, mask: Tensor) -> Features:
        """The lower half of the BERT: (B, T) -> (B, T, D), the first token (B, D)."""
        return self.text.text(ids, mask)

    def joint(self, features: Features, head: nn.Module, prefix: int = 0) -> Features:
        """Tokens behind the first `prefix`, and the first of all, in the joint space, of length 1."""
        tokens = unit(head(features.tokens))
        return Features(tokens[:, prefix:], tokens[:, 0], features.mask[:, prefix:])

    def fuse(self, image: Features, text: Features) -> Features:
        """The upper half, on the text: each of its layers also attends to the class token and patches: (B, T, D)."""
        with ExitStack() as stack:
            for layer, cross in zip(self.text.fusion_layers, self.crosses, strict=True):
                stack.enter_context(inside(layer.attention.output, cross, image.tokens))  # type: ignore[union-attr,arg-type]
            return self.text.fuse(text.tokens, text.mask)


def unit(x: Tensor) -> Tensor:
    """Vectors (..., D) of length 1, in float32."""
    return F.normalize(x.float(), dim=-1)


def view_crossed(config: CrossedConfig, sample: Sample, rng: np.random.Generator | None) -> Tensor:
    """The picture of a sample (3, H, W) uint8, cut and changed where `rng` is given."""
    if rng is None or config.crop == (1.0, 1.0):
        seen = picture.resize(sample.image, config.image_size)
    else:
        seen = picture.random_resized_crop(sample.image, config.image_size, rng, config.crop)
    if rng is not None and config.flip:
        seen = picture.random_flip(seen, rng)
    if rng is not None and config.augment == "rand":
        changed = augment.rand_augment(picture.to_picture(seen), rng, n=2, level=0.5 * augment.LEVELS)
        seen = picture.to_tensor(changed)
    return seen
