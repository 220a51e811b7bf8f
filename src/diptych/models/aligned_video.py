"""A video tower and the lower half of a BERT, aligned by a contrastive loss: what ALPRO begins with, and its prompter.

HD-VILA and HiTeA begin so too. The upper half of the BERT is for fusion.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Features
from diptych.encoders.halves import TextHalves
from diptych.encoders.text import text_encoder
from diptych.encoders.video import video_encoder
from diptych.models.fusion_encoder import FusionConfig
from diptych.views import augment, image as picture, video as clip

TAU = (0.001, 0.5)  # the temperature stays between these (ALPRO's released code)


@dataclass(frozen=True)
class AlignedConfig(FusionConfig):
    """Options of both towers and of how clips are seen."""

    video: str = "timesformer"
    """video tower: timesformer, or timesformer:timm:NAME, which begins as that vision transformer"""
    frames: int = 4
    """frames of a clip that are seen; a picture is shown so many times"""
    sampler: Literal["headtail", "uniform", "scattered"] = "headtail"
    """which frames: half of them from either half of the clip, one from each of equal parts, or any"""
    image_size: int = 64
    """side of a frame, in pixels"""
    image_width: int = 128
    """width of our own TimeSformer"""
    image_layers: int = 3
    """layers of our own TimeSformer"""
    image_heads: int = 4
    """attention heads of our own TimeSformer"""
    patch: int = 8
    """side of a patch of our own TimeSformer, in pixels"""
    text: str = "bert"
    """the BERT whose lower half reads texts and whose upper half fuses: bert (our own), or hf:NAME_OR_PATH"""
    text_width: int = 128
    """width of our own BERT; that of the video tower"""
    text_layers: int = 4
    """layers of our own BERT"""
    text_heads: int = 4
    """attention heads of our own BERT"""
    dropout: float = 0.1
    """of our own BERT; one that begins with random weights hardly tells texts apart, and learns to sooner with 0"""
    lower: int = 0
    """layers of the half that reads texts, the others fuse; 0: half of them"""
    embed: int = 64
    """width of the joint space"""
    tau: float = 0.07
    """initial temperature of the contrastive losses"""
    clip_crop: float = 0.875
    """side of the square that a training clip is cut to, as a share of its shorter side"""
    still_crop: tuple[float, float] = (0.2, 1.0)
    """share of the area that a training crop of a still picture keeps, from and to"""
    rand_augment: bool = False
    """RandAugment in training, the same on all frames"""


class Aligned(nn.Module):
    """A video tower, the lower half of a BERT, and the space that they share (sections 3.1 and 3.2).

    Args:
        config: sizes and names of the towers.
        weights: load the pretrained weights of named towers.
        fuses: keep the upper half of the BERT.
    """

    def __init__(self, config: AlignedConfig, weights: bool, fuses: bool) -> None:
        super().__init__()
        self.video = video_encoder(
            config.video,
            size=config.image_size,
            width=config.image_width,
            layers=config.image_layers,
            heads=config.image_heads,
            patch=config.patch,
            frames=config.frames,
            pretrained=weights,
        )
        bert = text_encoder(
            config.text,
            width=config.text_width,
            layers=config.text_layers,
            heads=config.text_heads,
            context=config.context,
            pretrained=weights,
            dropout=config.dropout,
        )
        lower = config.lower or len(bert.layers) // 2
        if not lower:
            raise ValueError("half of one layer is none: give text_layers two or more, or say lower.")
        halves = TextHalves(bert, lower)
        self.text = halves if fuses else halves.cut()
        self.video_head = nn.Linear(self.video.width, config.embed)
        self.text_head = nn.Linear(self.text.width, config.embed)
        self.tau = nn.Parameter(torch.tensor(config.tau))

    def see(self, video: Tensor) -> Features:
        """(B, F, 3, H, W) -> class token and patches, mean over time, (B, 1 + P, D)."""
        seen = self.video(video)
        tokens = torch.cat([seen.pooled[:, None], seen.tokens], dim=1)
        return Features(tokens, seen.pooled, tokens.new_ones(tokens.shape[:2], dtype=torch.bool))

    def joint(self, features: Features, head: nn.Module) -> Tensor:
        """The first token of each, in the joint space, of length 1: (B, embed)."""
        return F.normalize(head(features.tokens[:, 0]).float(), dim=-1)

    def clip(self) -> None:
        """Keeps the temperature within its bounds."""
        with torch.no_grad():
            self.tau.clamp_(*TAU)


def view_clip(video: Any, options: AlignedConfig, rng: np.random.Generator | None) -> Tensor:
    """(F, 3, H, W): frames of a clip, or a picture so many times, cut and changed alike (section 4.2)."""
    still = len(video) == 1
    crop = (
        partial(picture.area, scale=options.still_crop) if still else partial(picture.square, share=options.clip_crop)
    )
    change = partial(augment.rand_augment, n=2, level=(7 if still else 5) * 0.9) if options.rand_augment else None
    sampler = clip.SAMPLERS[options.sampler]
    cut = picture.whole if rng is None else crop
    return clip.view(video, options.image_size, options.frames, sampler, rng, cut, change)
