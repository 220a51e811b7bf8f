"""FILIP: fine-grained interactive language-image pre-training (Yao et al., ICLR 2022).

Baseline: CLIP. Changes: the similarity of a picture and a text. Each patch takes its best word, each word its best
patch, and the two means are two different similarities, one for each direction (Eq. 4 and 5). Both sides can still
be computed ahead. Before features are gathered from other processes, only the quarter of the tokens that matters
most in the local batch is kept (Section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from diptych.batch import Batch, Features, Step, Terms
from diptych.card import Card, Claim
from diptych.models.dual_encoder import DualEncoder, DualEncoderConfig
from diptych.objectives.late_interaction import filip_loss, late_interaction
from diptych.recipe import Preset, Recipe

CARD = Card(
    id="filip",
    title="FILIP",
    year=2021,
    arxiv="2111.07783",
    family="contrastive",
    needs=("image", "texts"),
    baseline="clip",
    idea="each patch takes its best word, each word its best patch; the means are the similarities",
    claims={
        "pointing": Claim(
            about="a phrase finds the place of its object, among five or six, more often than with CLIP",
            metric="pointing/phrase",
            also=("hard_gallery",),
            data=("world",),
            val=("world", "world@gallery"),
            baseline="clip",
            control="clip:pool=mean",  # trains every patch and every word too, but does not let them choose
            budget="samples=12288",
            settings=(
                "image_width=96",
                "text_width=96",
                "embed=64",
                "batch=64",
                "lr=1e-3",
                "workers=1",
                "evaluations=2",
            ),
        ),
    },
)


# Section 3.3: prefix, label, suffix; the pronoun gives the patches of the object one more word to align with
PREFIXES = ("a photo of a {}.", "a picture of a {}.", "a drawing of a {}.")
SUFFIXES = ("", " I like it.", " It is common in daily life.")


@dataclass(frozen=True)
class Config(DualEncoderConfig):
    """Options of FILIP."""

    keep: float = 1.0
    """share of the tokens of each modality that takes part on the gathered side (0.25 in the paper)"""
    tile: int = 16
    """pictures and texts whose tokens are compared at a time; 0 compares all at once, slower and in more memory"""


class FILIP(DualEncoder):
    """Token-wise late interaction in place of one cosine."""

    card = CARD
    prompts = tuple(prefix + suffix for prefix in PREFIXES for suffix in SUFFIXES)
    prompt_ensemble: Literal["features", "similarities"] = "similarities"  # tokens of two prompts have no mean

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config, weights=weights)

    def similarity(self, image: Features, text: Features) -> tuple[Tensor, Tensor]:
        """Eq. 4 and 5: mean over patches of the best word (I, T), mean over words of the best patch (I, T)."""
        return late_interaction(image.tokens, image.mask, text.tokens, text.mask, tile=self.config.tile)

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Eq. 1 to 3: the first similarity ranks texts for an image, the second images for a text."""
        image, text = step.embed(self.features, batch)  # tokens (B, P, D), (B, T, D)
        contrastive = filip_loss(image, text, self.scale, step.gather, keep=self.config.keep, tile=self.config.tile)
        return Terms(contrastive=contrastive, watch={"tau": 1 / self.scale})


PRESETS = {
    "paper": Preset(
        Config(
            image="open_clip:ViT-B-32",
            image_size=224,
            text="open_clip:ViT-B-32",
            context=77,
            embed=256,
            augment="auto",
            keep=0.25,
            tile=64,
        ),
        Recipe(  # Tables 8 and 9 of the paper; batch, learning rate and weight decay from memory (unverified)
            samples=30 * 340_000_000,  # 30 epochs of 340 M pairs
            batch=40_960,
            optimizer="lamb",
            lr=2e-3,
            weight_decay=3e-3,
            betas=(0.9, 0.999),
            eps=1e-4,
            warmup=3_000,
        ),
        about="FILIP_base: ViT-B/32, joint width 256",
    )
}
