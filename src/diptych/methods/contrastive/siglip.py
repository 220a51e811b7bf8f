"""SigLIP: sigmoid loss for language-image pre-training (Zhai et al., 2023).

Baseline: CLIP. Changes: every picture-caption pair of the batch is a yes-or-no question of its own, so that no
softmax couples the pairs; a learned bias starts the answers at "no".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from diptych.batch import Batch, Step, Terms
from diptych.card import Card
from diptych.models.dual_encoder import DualEncoder, DualEncoderConfig
from diptych.objectives.contrastive import sigmoid_loss
from diptych.recipe import Preset, Recipe

CARD = Card(
    id="siglip",
    title="SigLIP",
    year=2023,
    arxiv="2303.15343",
    family="contrastive",
    needs=("image", "texts"),
    baseline="clip",
    idea="each pair of the batch is a binary question; no softmax over the batch",
)


@dataclass(frozen=True)
class Config(DualEncoderConfig):
    """Options of SigLIP. The temperature starts at 1/10 and is free to fall."""

    tau: float = 0.1
    min_tau: float = 0.001
    bias: float = -10.0
    """initial bias of the logits: b in Eq. 1"""


class SigLIP(DualEncoder):
    """Sum of binary cross-entropies over all pairs, divided by the batch."""

    card = CARD

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config, weights=weights)
        self.bias = nn.Parameter(torch.tensor(config.bias))

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Eq. 1 of the paper, with t = 1 / tau."""
        image, text = step.embed(self.pooled, batch)  # (B, D), (B, D)
        sigmoid = sigmoid_loss(image, text, self.scale, self.bias, step.gather, tile=self.config.tile)
        return Terms(sigmoid=sigmoid, watch={"tau": 1 / self.scale, "bias": self.bias})


PRESETS = {
    "paper": Preset(
        Config(
            image="open_clip:ViT-B-16-SigLIP",
            image_size=224,
            text="open_clip:ViT-B-16-SigLIP",
            context=64,
            embed=0,
        ),
        Recipe(
            samples=9_000_000_000,
            batch=32_768,
            lr=1e-3,
            weight_decay=1e-4,
            betas=(0.9, 0.95),
            warmup=20_000,
        ),
        about="ViT-B/16 at 224 px, 203.2 M parameters",
    )
}
