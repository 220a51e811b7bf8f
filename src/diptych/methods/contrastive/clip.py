"""CLIP: contrastive language-image pre-training (Radford et al., 2021).

A picture and its caption are each mapped to one vector; in a batch of pairs, every picture must find its caption
among all captions, and every caption its picture. The common baseline of the library.
"""

from __future__ import annotations

from dataclasses import dataclass

from diptych.batch import Batch, Step, Terms
from diptych.card import Card
from diptych.models.dual_encoder import DualEncoder, DualEncoderConfig
from diptych.objectives.contrastive import info_nce
from diptych.recipe import Preset, Recipe

CARD = Card(
    id="clip",
    title="CLIP",
    year=2021,
    arxiv="2103.00020",
    family="contrastive",
    needs=("image", "texts"),
    idea="one vector a picture, one a caption; pairs attract, all others repel",
)


@dataclass(frozen=True)
class Config(DualEncoderConfig):
    """CLIP has no options of its own."""


class CLIP(DualEncoder):
    """Symmetric InfoNCE on the pooled vectors."""

    card = CARD

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config, weights=weights)

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Figure 3 of the paper: cross-entropy over the rows and over the columns of one matrix of cosines."""
        image, text = step.embed(self.pooled, batch)  # (B, D), (B, D)
        contrastive = info_nce(image, text, self.scale, step.gather, tile=self.config.tile)
        return Terms(contrastive=contrastive, watch={"tau": 1 / self.scale})


PRESETS = {
    "paper": Preset(
        Config(image="open_clip:ViT-B-32", image_size=224, text="open_clip:ViT-B-32", context=77, embed=512),
        Recipe(
            samples=32 * 400_000_000,  # 32 epochs of 400 M pairs
            batch=32_768,
            lr=5e-4,
            weight_decay=0.2,
            betas=(0.9, 0.98),
            eps=1e-6,
            warmup=2_000,
        ),
        about="ViT-B/32, 151.3 M parameters (Tables 19 and 20 of the paper)",
    )
}
