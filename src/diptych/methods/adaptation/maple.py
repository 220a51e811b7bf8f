"""MaPLe: multi-modal prompt learning (Khattak et al., 2023).

Learned tokens stand in both towers of a CLIP that stays as it is, in its first J layers: in the text tower in place of
the first words of the prompt, in the image tower behind the patches. At each of these layers they are put in afresh,
and those of the image tower are a linear map of those of the text tower. Baseline: CoOp, which has tokens at the words
alone; `coupling=none` is independent prompting of both towers, which the paper calls IVLP.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.batch import Batch, Features, Step, Terms
from diptych.card import Card, Claim
from diptych.encoders.prompts import Change, by_layer, first_norm, inserted, replaced
from diptych.models.prompted import Prompted, PromptedConfig
from diptych.models.start import State
from diptych.recipe import Preset, Recipe

CARD = Card(
    id="maple",
    title="MaPLe",
    year=2023,
    arxiv="2210.03117",
    family="adaptation",
    needs=("image", "category"),
    baseline="coop",
    idea="learned tokens in the first layers of both towers, those of the image tower a map of those of the text tower",
    claims={
        "harmony": Claim(
            about="of classes that were learned and of new ones, in the harmonic mean, more are told apart than with "
            "CoOp",
            metric="base_to_new/harmonic_mean",
            also=("base_to_new/base", "base_to_new/new"),
            data=("world:objects=1,pixels=32,shapes=12,colours=3,textures=1,sizes=1,"
                  "tilt=60,clutter=20,noise=0.1,train=4000,evaluation=1000#base#16each",),
            val=("world:objects=1,pixels=32,shapes=12,colours=3,textures=1,sizes=1,"
                 "tilt=60,clutter=20,noise=0.1,train=4000,evaluation=1000",),
            baseline="coop",
            budget="samples=16k",
            settings=(
                "start=runs/start/shapes", "image_size=32", "image_width=64", "text_width=64", "embed=64", "patch=4",
                "crop=1 1", "batch=32", "optimizer=sgd", "lr=2e-3", "betas=0.9 0", "weight_decay=5e-4", "clip=0",
                "workers=1", "evaluations=1",
            ),
        ),
    },
)  # fmt: skip


@dataclass(frozen=True)
class Config(PromptedConfig):
    """Options of MaPLe."""

    context: int = 32
    words: str = "a photo of a"
    vectors: int = 2
    """n: learned tokens of a layer; in the first they begin as the first of `words`, whose others stay"""
    depth: int = 9
    """J: in how many layers, from the first, they are put in; all of a tower that has fewer"""
    coupling: Literal["linear", "none"] = "linear"
    """image tokens are a linear map of the text tokens, or learned on their own (independent prompting)"""


class MaPLe(Prompted):
    """Language prompts P_i (n, D_l) and vision prompts F_i(P_i) (n, D_v) of layers i < J, counted from 0."""

    card = CARD
    config: Config

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config, config.vectors, weights=weights)
        depth = min(config.depth, len(self.text.layers), len(self.image.layers))
        self.P = nn.ParameterList(self.fresh() for _ in range(depth))
        if config.coupling == "linear":
            first, next_one = (nn.Linear(self.text.width, self.image.width) for _ in range(2))
            self.F = nn.ModuleList([first, *(deepcopy(next_one) for _ in range(depth - 1))])  # alike at first
        else:
            self.V = nn.ParameterList(torch.randn(self.vectors, self.image.width) * 0.02 for _ in range(depth))
        self.begin("P.0", weights)

    @property
    def vision_prompts(self) -> list[Tensor]:
        """Eq. 8: of each layer (n, D_v)."""
        if self.config.coupling == "none":
            return list(self.V)
        return [f(p) for f, p in zip(self.F, self.P, strict=True)]

    def vision_changes(self) -> dict[int, Change]:
        """Eq. 4 and 5, deep: behind the patches, without positions, put in afresh at each of the first J layers."""
        first, *deep = self.vision_prompts
        changes = {layer: replaced(tokens, -self.vectors) for layer, tokens in enumerate(deep, start=1)}
        return {0: inserted(first_norm(self.image)(first)), **changes}

    def see(self, batch: Batch) -> Features:
        """What the image tower makes of pictures with the prompts; tokens are those of the patches."""
        tokens, pooled, mask, _ = self.image(batch.image, by_layer(self.vision_changes()))
        return Features(tokens[:, : -self.vectors], pooled, mask[:, : -self.vectors])

    def read(self, batch: Batch) -> Features:
        """Eq. 6 and 7: in place of the first words, put in afresh at each of the first J layers."""
        first, *deep = self.P
        edit = by_layer({layer: replaced(tokens, self.lead) for layer, tokens in enumerate(deep, start=1)})
        return self.read_with(first, batch, edit)

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Cross-entropy of Eq. 3 over the classes, with features of both prompted towers."""
        f, w = self.embed_image(batch).pooled, self.class_features()  # (B, D), (C, D)
        return Terms(cross_entropy=F.cross_entropy(self.scale * f @ w.T, batch.label))

    @staticmethod
    def from_official(state: State) -> State:
        """muzairkhattak/multimodal-prompt-learning keeps prompts in the whole model; towers come by their own names."""
        found: dict[str, Tensor] = {}
        for name, value in state.items():
            kind, _, rest = name.removeprefix("prompt_learner.").partition(".")
            layer, _, part = rest.partition(".")
            ours = {
                "ctx": "P.0",
                "proj": f"F.0.{rest}",
                "compound_prompts_text": f"P.{int(layer) + 1}" if layer.isdigit() else "",
                "compound_prompt_projections": f"F.{int(layer) + 1}.{part}" if layer.isdigit() else "",
            }.get(kind, "")
            found |= {ours: value.float()} if ours else {}
        return found or state


PRESETS = {
    "paper": Preset(
        Config(
            image="open_clip:ViT-B-16-quickgelu",
            image_size=224,
            text="open_clip:ViT-B-16-quickgelu",
            context=77,
            embed=512,
            crop=(0.08, 1.0),
            flip=True,
        ),
        Recipe(
            samples=5 * 16 * 50,  # of the base classes of Caltech101; `diptych adapt` counts epochs of the data at hand
            batch=4,
            optimizer="sgd",
            lr=0.0035,
            betas=(0.9, 0.0),
            weight_decay=5e-4,
            clip=0.0,
            epochs=5,
            warmup=1 / 5,
            warmup_lr=1e-5 / 0.0035,
        ),
        about="ViT-B/16, 3.56 M trained parameters, 16 shots for 5 epochs (section 4; released configuration)",
    )
}
