"""PLLaVA: parameter-free LLaVA extension from images to videos (Xu et al., 2024).

Baseline: LLaVA on a few frames, whose tokens stand side by side (`frames=4`, `pool` as large as what is pooled).
Changes: many frames, each token through LLaVA's projector, then a mean over the cells of a smaller grid of frames, rows
and columns, which has no parameters. The language model learns clips by low-rank updates, whose weight is lowered in
use (`alpha_test`), so that what it knew of pictures is not lost ("post optimisation"). A picture is a clip of equal
frames.

Other ways to make tokens of a clip are options: means over time first (`pool` with fewer frames and all places), one
token a frame and one a place (`way=chatgpt`, Video-ChatGPT), all frames in one picture (`way=grid`, IG-VLM).

The paper's motive is logged in training: visual tokens of very large norm, which means over cells cannot make larger.
It found that pooling helps in space and costs in time: (16, 12, 12) cells of (16, 24, 24).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Batch, Features, Sample, Step, Terms
from diptych.card import Card, Claim
from diptych.encoders.inner import InnerLayer
from diptych.fusion.connectors import AdaptivePool, Chain, Connector, Projector
from diptych.models.generative import NEEDS, GenerativeVLM
from diptych.models.generative_config import GenerativeConfig
from diptych.models.official.renaming import renamed
from diptych.models.start import State
from diptych.recipe import Preset, Recipe
from diptych.views import video as clip

CARD = Card(
    id="pllava",
    title="PLLaVA",
    year=2024,
    arxiv="2404.16994",
    family="generative",
    modalities=("video", "image", "text"),
    needs=("video", "texts"),
    idea="tokens of many frames, averaged over cells of space and time without new parameters",
    claims={
        "events": Claim(
            about="what happens in two or three of sixteen frames is told better by all of them, averaged over space, "
            "than by four frames side by side, or by all averaged over time, with as many tokens",
            metric="video_qa/accuracy",
            data=("world:video=true,frames=16,events=2,motions=flash+hop+dash,questions=order,objects=2,shapes=6,colours=6,"
                   "textures=1,sizes=1,clutter=0,noise=0.02,backgrounds=1,tilt=0,pixels=32,train=4000,evaluation=512",),
            val=("world:video=true,frames=16,events=2,motions=flash+hop+dash,questions=order,objects=2,shapes=6,colours=6,"
                   "textures=1,sizes=1,clutter=0,noise=0.02,backgrounds=1,tilt=0,pixels=32,train=4000,evaluation=512",),
            baseline="pllava:frames=4,pool=4 4 4",
            control="pllava:pool=4 4 4",
            budget="samples=12800",
            settings=("batch=32", "lr=1e-3", "workers=1", "evaluations=1"),
        ),
    },
)  # fmt: skip


@dataclass(frozen=True)
class Config(GenerativeConfig):
    """Options of PLLaVA. Its tasks are `video`, `pretrain` (captions of pictures), `instruct` and `text`."""

    image_size: int = 32
    image_width: int = 64
    image_layers: int = 2
    frames: int = 16
    """frames that are taken of a clip"""
    sampler: str = "uniform"
    """which frames these are: uniform, segments (the official rule, which never takes the last), ..."""
    image_layer: int = -1
    """layer of the image encoder whose tokens are seen; -1: what it gives at its end, -2 in LLaVA"""
    way: Literal["pool", "chatgpt", "grid"] = "pool"
    """how tokens are made of a clip: pool (cells of `pool`), chatgpt (means over space, and over time), grid (all
    frames in one picture)"""
    pool: tuple[int, int, int] = (16, 2, 2)
    """frames, rows and columns of cells"""
    width: int = 96
    layers: int = 3
    template: str = "vicuna"
    tasks: tuple[str, ...] = ("video",)
    """what is trained, one after the other: `text pretrain video`"""
    lora_alpha: float = 32.0
    lora_dropout: float = 0.05
    """share of the inputs of low-rank updates that is dropped in training"""
    alpha_test: float = -1.0
    """weight of low-rank updates in use, in place of `lora_alpha`; below 0: the same"""


class TwoMeans(Connector):
    """The mean of each frame, in order of time, then the mean over time of each place (Video-ChatGPT)."""

    def __init__(self, shape: Sequence[int]) -> None:
        frames, rows, columns = shape
        super().__init__(frames + rows * columns, math.prod(shape))
        self.frames = frames

    def connect(self, tokens: Tensor, mask: Tensor | None, instruction: Features | None) -> Tensor:
        """(B, F h w, D) -> (B, F + h w, D)."""
        grid = tokens.unflatten(1, (self.frames, -1))
        return torch.cat([grid.mean(2), grid.mean(1)], 1)


class PLLaVA(GenerativeVLM):
    """Frames -> encoder -> projector -> means over cells -> language model with low-rank updates."""

    card = CARD

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config, weights=weights)
        if config.image_layer != -1:
            self.encoder = InnerLayer(self.encoder, config.image_layer)
        self.connector = self.make_connector()
        self.norms = torch.zeros(0)
        self.begin(weights)
        for layer in self.updates:
            layer.lora_dropout["default"] = nn.Dropout(config.lora_dropout)
            if config.alpha_test >= 0:
                layer.register_forward_pre_hook(partial(_weigh, config.lora_alpha, config.alpha_test))

    def make_connector(self) -> Connector:
        """LLaVA's projector of each token, and what makes fewer of them."""
        frames = 1 if self.config.way == "grid" else self.config.frames
        shape = (frames, *self.encoder.grid)
        projector = Projector(self.encoder.width, self.language.width, math.prod(shape), depth=2)
        if self.config.way == "grid":
            return projector
        fewer = TwoMeans(shape) if self.config.way == "chatgpt" else AdaptivePool(shape, self.config.pool)
        return Chain(projector, fewer)

    @property
    def updates(self) -> list[Any]:
        """The layers of the language model that have a low-rank update."""
        return [layer for layer in self.language.modules() if hasattr(layer, "lora_dropout")]

    # -- what is seen --------------------------------------------------------------------------------------------

    def view_media(self, sample: Sample, rng: np.random.Generator | None) -> tuple[dict[str, Any], list[int]]:
        """A clip as `video` (F, 3, H, W), or as one `image` of all its frames; among clips a picture is one, too."""
        if "video" not in sample and "video" not in sample.lacks:
            return super().view_media(sample, rng)
        config, grid = self.config, self.config.way == "grid"
        side = config.image_size // (columns(config.frames) if grid else 1)
        shown = next((sample[name] for name in ("video", "image") if name in sample), None)
        if shown is None:
            frames = torch.zeros(config.frames, 3, side, side, dtype=torch.uint8)
        else:
            frames = clip.view(shown, side, config.frames, clip.SAMPLERS[config.sampler], rng)
        seen = {"image": in_one(frames, config.image_size)} if grid else {"video": frames}
        return seen, [] if shown is None else [self.connector.tokens]

    def see(self, batch: Batch) -> Features | None:
        """As of all models; tokens of a picture are repeated, so that it is a clip of equal frames."""
        image = super().see(batch)
        if image is None or "video" in batch:
            return image
        places = math.prod(self.encoder.grid)

        def repeated(values: Tensor) -> Tensor:
            """(B, M h w, ...) -> (B, M F h w, ...): each picture F times, before the next one."""
            again = values.unflatten(1, (-1, places))
            return again.repeat(1, 1, self.connector.of // places, *(1,) * (values.ndim - 2)).flatten(1, 2)

        return image._replace(tokens=repeated(image.tokens), mask=repeated(image.mask))

    def connect(self, image: Features, instruction: Features | None = None) -> Tensor:
        """(B, M F h w, C) -> (B, M P, D); the norms of these (B, M P) are kept as `norms`."""
        tokens = super().connect(image, instruction)
        self.norms = tokens.detach().norm(dim=-1)
        return tokens

    # -- what is learned -----------------------------------------------------------------------------------------

    def tell(self, batch: Batch, step: Step) -> Terms:
        """As of all models; the largest norm of a visual token, in mean ones, is watched (section 3.1, figure 3)."""
        terms = super().tell(batch, step)
        if batch.visual.any():
            terms.watch["largest_norm"] = self.norms.max() / self.norms.mean()
        return terms

    def needs(self, task: str) -> tuple[str, ...] | None:
        """Clips with whatever is said of them, or pictures with captions."""
        own = {"video": ("video", *NEEDS["instruct"]), "pretrain": ("image", "texts")}
        return own.get(task) or super().needs(task)

    def from_official(self, state: State) -> State:  # type: ignore[override]
        """From LLaVA as transformers or PLLaVA's code saved it, old names or new; rows of added words are left out."""
        rows = dict.fromkeys(("embed_tokens.weight", "lm_head.weight"), self.language.vocab_size)
        cut = {name: value[: rows.get(".".join(name.split(".")[-2:]))] for name, value in state.items() if value.ndim}
        tower = "encoder.inner.model." if isinstance(self.encoder, InnerLayer) else "encoder.model."
        return renamed(cut, ((_TOWER, rf"{tower}\1"), *_OTHERS))


_TOWER = r"(?:model\.)?vision_tower\.(?:vision_model\.)?(.*)"
_OTHERS = (
    (r"(?:model\.)?multi_modal_projector\.linear_1\.(.*)", r"connector.parts.0.layers.0.\1"),
    (r"(?:model\.)?multi_modal_projector\.linear_2\.(.*)", r"connector.parts.0.layers.2.\1"),
    (r"(?:language_model\.)?(?:base_model\.model\.)?lm_head\.(.*)", r"language.model.lm_head.\1"),
    (r"model\.language_model\.(.*)", r"language.model.model.\1"),
    (r"language_model\.(?:base_model\.model\.)?model\.(.*)", r"language.model.model.\1"),
)


def _weigh(train: float, test: float, layer: Any, args: Any) -> None:
    """Sets the weight of a low-rank update, alpha / r, before it runs: h = W x + alpha / r B A x (section 3.3)."""
    layer.scaling["default"] = (train if layer.training else test) / layer.r["default"]


def columns(frames: int) -> int:
    """Of the smallest square grid that holds as many frames."""
    return math.isqrt(frames - 1) + 1


def in_one(frames: Tensor, size: int) -> Tensor:
    """(F, 3, s, s) -> (3, size, size): frames row by row in a square grid, black behind the last (IG-VLM)."""
    across = columns(len(frames))
    every = F.pad(frames, (0, 0, 0, 0, 0, 0, 0, across**2 - len(frames)))
    rows = every.unflatten(0, (across, across)).permute(2, 0, 3, 1, 4)  # (3, row, s, column, s)
    whole = rows.flatten(3, 4).flatten(1, 2)
    return F.pad(whole, (0, size - whole.shape[2], 0, size - whole.shape[1]))


PRESETS = {
    "paper": Preset(
        Config(
            image="hf:openai/clip-vit-large-patch14-336",
            image_size=336,
            image_layer=-2,
            pool=(16, 12, 12),
            language="hf:lmsys/vicuna-7b-v1.5",
            context=4096,
            lora_rank=128,
            alpha_test=4.0,
            freeze=(r"^encoder\.",),
            checkpointing=True,
        ),
        Recipe(
            samples=6250 * 128,
            batch=128,
            lr=2e-5,
            weight_decay=0.02,
            betas=(0.9, 0.999),
            warmup=0.03,
            clip=0.0,
            precision="bf16",
        ),
        about="arXiv 2404.16994, sections 4.1 and 4.2: 6250 steps, warm-up 0.03 as its report has it (its code: 0.2); "
        "weight decay, moments and clipping from scripts/train_pllava_7b.sh of its repository",
    ),
}
