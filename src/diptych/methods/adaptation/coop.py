"""CoOp: learning to prompt for vision-language models (Zhou et al., 2022).

The words of a hand-written prompt, "a photo of a {}.", become vectors that are learned from a few labelled pictures, by
cross-entropy over the classes; both towers of CLIP stay as they are. The vectors are shared by all classes, or each
class has its own (CSC). Baseline: the same CLIP with the prompt written by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.batch import Batch, Features, Step, Terms
from diptych.card import Card, Claim
from diptych.encoders.prompts import word_table
from diptych.models.prompted import Position, Prompted, PromptedConfig
from diptych.models.start import State
from diptych.recipe import Preset, Recipe
from diptych.text import readable

CARD = Card(
    id="coop",
    title="CoOp",
    year=2022,
    arxiv="2109.01134",
    family="adaptation",
    needs=("image", "category"),
    baseline="clip",
    idea="the words of the prompt are vectors, learned from a few pictures of each class",
    claims={
        "shots": Claim(
            about="in a style that the model was not trained on, sixteen pictures of each class make a better prompt "
            "than the one written by hand",
            metric="zero_shot/top1",
            data=("world:objects=1,pixels=32,shapes=12,colours=3,textures=1,sizes=1,"
                  "tilt=60,clutter=20,noise=0.1,train=4000,evaluation=1000#16each",),
            val=("world:objects=1,pixels=32,shapes=12,colours=3,textures=1,sizes=1,"
                 "tilt=60,clutter=20,noise=0.1,train=4000,evaluation=1000",),
            baseline="coop:words='a picture of a',lr=0",  # the prompt written by hand, as it is
            budget="samples=32k",
            settings=(
                "start=runs/start/shapes", "image_size=32", "image_width=64", "text_width=64", "embed=64", "patch=4",
                "crop=1 1", "batch=32", "optimizer=sgd", "lr=2e-2", "betas=0.9 0", "weight_decay=5e-4", "clip=0",
                "workers=1", "evaluations=1",
            ),
        ),
        "new": Claim(
            about="what was learned from the first half of the classes makes the other half harder to tell apart",
            metric="base_to_new/new",
            also=("base_to_new/base", "base_to_new/harmonic_mean"),
            data=("world:objects=1,pixels=32,shapes=12,colours=3,textures=1,sizes=1,"
                  "tilt=60,clutter=20,noise=0.1,train=4000,evaluation=1000#base#16each",),
            val=("world:objects=1,pixels=32,shapes=12,colours=3,textures=1,sizes=1,"
                 "tilt=60,clutter=20,noise=0.1,train=4000,evaluation=1000",),
            baseline="coop:words='a picture of a',lr=0",
            budget="samples=32k",
            settings=(
                "start=runs/start/shapes", "image_size=32", "image_width=64", "text_width=64", "embed=64", "patch=4",
                "crop=1 1", "batch=32", "optimizer=sgd", "lr=2e-2", "betas=0.9 0", "weight_decay=5e-4", "clip=0",
                "workers=1", "evaluations=1",
            ),
            direction="lower",
        ),
    },
)  # fmt: skip


@dataclass(frozen=True)
class Config(PromptedConfig):
    """Options of CoOp."""

    context: int = 32
    vectors: int = 16
    """M: learned vectors; as many as `words` has tokens, where these are given"""
    position: Position = "end"
    """where the name of the class stands: behind the vectors (end), between the halves of them, or in front"""
    class_specific: bool = False
    """each class has vectors of its own (CSC)"""


class CoOp(Prompted):
    """A learned context [V]_1 ... [V]_M, of shape (M, D), or (C, M, D) where it is class-specific."""

    card = CARD
    config: Config

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config, 0 if config.words else config.vectors, config.position, weights=weights)
        classes = (len(config.classnames),) if config.class_specific else ()
        self.ctx = self.fresh(*classes)
        self.begin("ctx", weights)
        self._place = {readable(name): place for place, name in enumerate(config.classnames)}

    def first_slot(self, name: str) -> int:
        """The first vector of a class; those of unknown classes stand behind all others."""
        return self._place.get(name, len(self._place)) * self.vectors if self.ctx.ndim == 3 else 0

    def read(self, batch: Batch) -> Features:
        """Names within the context (Eq. 3 and 4). A class without a context of its own gets the mean of all."""
        vectors = (
            self.ctx if self.ctx.ndim == 2 else torch.cat([self.ctx, self.ctx.mean(0, keepdim=True)]).flatten(0, 1)
        )
        return self.read_with(vectors, batch)

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Cross-entropy of Eq. 2: p(y = c | x) = softmax_c(cos(f(x), w_c) / tau)."""
        f, w = self.embed_image(batch).pooled, self.class_features()  # (B, D), (C, D)
        return Terms(cross_entropy=F.cross_entropy(self.scale * f @ w.T, batch.label))

    @torch.no_grad()
    def nearest_words(self, count: int = 1) -> list[list[tuple[str, float]]]:
        """For each vector the words whose embeddings are nearest to it, with their Euclidean distances (Table 4)."""
        table, tokenizer = word_table(self.text).weight, self.text.tokenizer
        distance, ids = torch.cdist(self.ctx.flatten(0, -2), table).topk(count, largest=False)
        return [
            [(str(tokenizer.backend.id_to_token(i)), d) for i, d in zip(row, far, strict=True)]
            for row, far in zip(ids.tolist(), distance.tolist(), strict=True)
        ]

    @staticmethod
    def from_official(state: State) -> State:
        """KaiyangZhou/CoOp keeps `ctx` beside the embeddings of the names, which other classes do not share."""
        found: dict[str, Tensor] = {name.removeprefix("prompt_learner."): value for name, value in state.items()}
        return {name: value.float() for name, value in found.items() if name == "ctx"} or state


PAPER = Preset(
    Config(
        image="open_clip:RN50",
        image_size=224,
        text="open_clip:RN50",
        context=77,
        embed=1024,
        crop=(0.08, 1.0),
        flip=True,
    ),
    Recipe(
        samples=200 * 16 * 100,  # of Caltech101; `diptych adapt` counts epochs of the data at hand
        batch=32,
        optimizer="sgd",
        lr=0.002,
        betas=(0.9, 0.0),
        weight_decay=5e-4,
        clip=0.0,
        epochs=200,
        warmup=1 / 200,
        warmup_lr=1e-5 / 0.002,
    ),
    about="ResNet-50, 16 shots of 100 classes for 200 epochs (appendix A; released code)",
)
PRESETS = {
    "paper": PAPER,
    "paper-4": Preset(
        PAPER.config,
        replace(PAPER.recipe, samples=100 * 4 * 100, epochs=100, warmup=1 / 100),
        about="the same for 4 and 2 shots: 100 epochs",
    ),
    "paper-1": Preset(
        PAPER.config,
        replace(PAPER.recipe, samples=50 * 100, epochs=50, warmup=1 / 50),
        about="the same for 1 shot, and for ImageNet: 50 epochs",
    ),
}
