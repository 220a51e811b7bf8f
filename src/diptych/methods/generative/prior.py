"""PRIOR: prioritizing image-related tokens in vision-language pre-training (Chen et al., 2025).

Baseline: plain next-token prediction (`weights=equal`). Changes: the loss alone. A reference, a language model that
learned the captions without the pictures, says how likely each token is by the text before it; the less likely, the
more the token needs the picture, and the more its cross-entropy counts. Weights have a mean of one in each sample, so
that learning rates carry over. Inference is unchanged, and the reference is no part of it.

The authors published no code: the weights are those of the figure of their repository, which the tests hold.
`image=patches` leaves the vision encoder out: pixels of patches, one linear map, the language model.

Left to the user by the paper: tokens may be hard for other reasons than pictures (rare names, noise), and a reference
that knows the captions by heart prefers nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diptych.batch import Batch, Sample, Step, Terms
from diptych.card import Card, Claim
from diptych.encoders.language import LanguageModel, language_model
from diptych.fusion.connectors import Projector
from diptych.models.generation import there
from diptych.models.generative import GenerativeConfig, GenerativeVLM, Loss
from diptych.models.reference import read_alone, scored
from diptych.objectives.weighted import prior_weights, shuffled_weights
from diptych.recipe import Preset, Recipe, Stage
from diptych.views.conversations import IGNORE, Turn

log = logging.getLogger("diptych.methods")

CARD = Card(
    id="prior",
    title="PRIOR",
    year=2025,
    arxiv="2505.08971",
    family="generative",
    needs=("image", "texts"),
    idea="tokens of a caption that a language model without the picture finds unlikely count more",
    claims={
        "attributes": Claim(
            about="after the same few steps, words of attributes are said right more often than with equal weights",
            metric="attribute_tokens/accuracy",
            also=("attribute_tokens/accuracy_rest",),  # what language alone tells, which may well be learned later
            data=("world:objects=1,pixels=32,caption=varied,train=4000",),
            val=("world:objects=1,pixels=32,caption=varied,evaluation=300",),
            baseline="prior:weights=equal",
            control="prior:weights=shuffled",
            budget="samples=24k",
            settings=(
                "captions=first",
                "task_shares=1 2",
                "image_size=32",
                "image_width=64",
                "width=64",
                "layers=2",
                "batch=32",
                "lr=3e-3",
                "workers=1",
                "evaluations=1",
            ),
        ),
    },
)


@dataclass(frozen=True)
class Config(GenerativeConfig):
    """Options of PRIOR."""

    tasks: tuple[str, ...] = ("reference", "pretrain")
    """what is trained, one after the other; a reference of our own learns first, unless the data have its `chances`"""
    weights: Literal["prior", "equal", "shuffled"] = "prior"
    """prior, equal (next-token prediction), or shuffled within each sample (a control)"""
    gamma: float = 1.0
    """exponent of 1 - P, called alpha in the paper; 0 is next-token prediction"""
    captions: Literal["all", "first"] = "all"
    """which captions of a sample are learned: any of them, or the first alone"""
    scored_by: str = ""
    """digest of the reference by which the data's captions were scored, filled in where they have been"""


class PRIOR(GenerativeVLM):
    """A vision encoder or patches, a projector, a language model, and a reference that only training needs."""

    card = CARD
    reference: LanguageModel | None

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config, weights=weights)
        depth = 1 if config.image == "patches" else 2
        height, width = self.encoder.grid
        self.connector = Projector(self.encoder.width, self.language.width, height * width, depth)
        self.reference = None
        if "reference" in config.tasks or not config.scored_by:
            self.reference = language_model(
                config.language,
                width=config.width,
                layers=config.layers,
                heads=config.heads,
                context=config.context,
                weights=weights,
            )
        self.begin(weights)

    # -- views ---------------------------------------------------------------------------------------------------

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """The picture and a caption; `chances` (T,) of its tokens where they have been scored."""
        seen = super().views(sample, rng)
        if "chances" not in sample:
            return seen
        return {**seen, "chances": scored(sample.chances, seen["labels"], self.config.scored_by)}

    def turns(self, sample: Sample, rng: np.random.Generator | None) -> list[Turn]:
        """Captions are answers, also where no picture is shown: the reference then reads the same tokens."""
        turns = super().turns(sample, rng)
        return [replace(turn, role="assistant") if turn.role == "text" else turn for turn in turns]

    # -- losses --------------------------------------------------------------------------------------------------

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The reference's own, and pre-training with weights."""
        return {**super().losses, "reference": self.refer, "pretrain": self.prioritise}

    def refer(self, batch: Batch, step: Step) -> Terms:
        """Next-token prediction of captions without their pictures."""
        assert self.reference is not None
        labels = learned_labels(batch)
        return Terms(reference=-read_alone(self.reference, labels).sum() / (labels != IGNORE).sum().clamp(min=1))

    def prioritise(self, batch: Batch, step: Step) -> Terms:
        """Next-token prediction; each token counts as much as text alone does not tell it (`prior_weights`)."""
        if self.config.weights == "equal":
            return self.tell(batch, step)
        labels = learned_labels(batch)
        chances = batch.chances if "chances" in batch else self.judged(labels)
        weights = prior_weights(chances, labels != IGNORE, self.config.gamma)
        if self.config.weights == "shuffled":
            weights = shuffled_weights(weights, labels != IGNORE)
        terms = self.tell(Batch({**batch, "weights": weights}, batch.sample_keys), step)
        terms.watch["chance"] = chances.sum() / (labels != IGNORE).sum().clamp(min=1)
        return terms

    @torch.no_grad()
    def judged(self, labels: Tensor) -> Tensor:
        """(B, T) labels -> (B, T), what the reference gives each learned token after those before it; else 0."""
        assert self.reference is not None
        return read_alone(self.reference, labels).exp() * (labels != IGNORE)

    # -- stages --------------------------------------------------------------------------------------------------

    def needs(self, task: str) -> tuple[str, ...] | None:
        """The reference reads captions alone."""
        caption = "texts" if self.config.captions == "all" else "text"
        return {"reference": (caption,), "pretrain": ("image", caption)}.get(task, super().needs(task))

    def stage(self, stage: Stage) -> Stage:
        """The reference trains alone, and never again."""
        if stage.name == "reference":
            return replace(stage, train=(r"^reference\.",))
        stage = super().stage(stage)
        uses = ("chances",) if stage.name == "pretrain" and self.config.weights != "equal" else ()
        never = () if self.reference is None else (r"^reference\.",)
        return replace(stage, freeze=(*stage.freeze, *never), uses=uses)

    # -- what scores data ----------------------------------------------------------------------------------------

    def text_chances(self, texts: Sequence[str]) -> list[tuple[list[int], list[float]]]:
        """As in `card.PredictsTexts`, by the reference.

        Raises:
            ValueError: it has none, having learned from captions that another had scored.
        """
        if self.reference is None:
            raise ValueError("this run of prior took its chances from the data and has no reference: give that one's.")
        read = [self.read([Turn("assistant", text)], [])["labels"] for text in texts]
        device = next(self.parameters()).device
        labels = pad_sequence(read, batch_first=True, padding_value=IGNORE).to(device)
        found = []
        for row, chances in zip(labels, self.judged(labels), strict=True):
            learned = row != IGNORE
            found.append((row[learned].tolist(), chances[learned].tolist()))
        return found


def learned_labels(batch: Batch) -> Tensor:
    """(B, T) labels of a batch, IGNORE where sequences are padded."""
    return batch.labels.masked_fill(~there(batch.length, batch.labels.shape[1]), IGNORE)


PRESETS = {
    # The paper's backbones and sizes are not published; these are LLaVA 1.5's, its usual setting.
    "paper": Preset(
        Config(
            image="open_clip:ViT-L-14-336/openai",
            image_size=336,
            language="hf:lmsys/vicuna-7b-v1.5",
            context=2048,
        ),
        Recipe(samples=640_000, batch=128, lr=2e-5, weight_decay=0.0, warmup=0.03, precision="bf16"),
        about="5,000 steps, as in the paper's figure; sizes are LLaVA 1.5's, as the paper's are not published",
    ),
}
