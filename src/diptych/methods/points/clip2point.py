"""CLIP2Point: image-depth pre-training for point clouds (Huang et al., 2023).

A cloud is seen as depth maps, which frozen CLIP reads badly. A copy of CLIP's image encoder learns to say of a depth
map what CLIP says of the picture of the same thing from the same side (cross-modal), and the same from whatever
distance (intra-modal); no text is read. Clouds are then classified by names, the views' similarities summed. For few
examples two adapters, of that encoder and of CLIP as it was, join all views. Baseline: CLIP on depth maps (PointCLIP).

Small models of our own begin with a stage `clip`, on pictures and captions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Batch, Features, Sample, Step, Terms
from diptych.card import Card, Claim
from diptych.config import nearest
from diptych.encoders.base import ImageEncoder, all_real
from diptych.encoders.rasterise import VIEWS, cameras, depth_maps, shades
from diptych.models.depth_adapter import SimplifiedAdapter
from diptych.models.dual_encoder import DualEncoder, DualEncoderConfig
from diptych.models.official.clip2point import from_official
from diptych.models.start import start_from
from diptych.objectives.contrastive import info_nce
from diptych.objectives.nt_xent import nt_xent
from diptych.recipe import Preset, Recipe, Stage
from diptych.views import points as cloud, text as words

CARD = Card(
    id="clip2point",
    title="CLIP2Point",
    year=2023,
    arxiv="2210.01055",
    family="points",
    needs=("points",),
    baseline="clip",
    idea="a copy of CLIP's image encoder learns to read depth maps of point clouds as CLIP reads pictures",
    claims={
        "depth": Claim(
            about="depth maps of unseen things are named better after image-depth pre-training than by CLIP as it is",
            metric="zero_shot/top1",
            data=("world:points=true,objects=1,pixels=48,shapes=6,train=2000",),
            val=("world:points=true,objects=1,pixels=48,shapes=6,evaluation=300",),
            baseline="clip2point:tasks=clip,task_shares=1",
            control="clip2point:shuffled=true",
            budget="samples=48k",
            settings=(
                "tasks=clip pretrain",
                "task_shares=2 1",
                "image_size=48",
                "image_width=64",
                "text_width=64",
                "text_layers=1",
                "lr=1e-3",
                "workers=1",
                "evaluations=1",
            ),
        ),
        "intra": Claim(
            about="clouds that lack a side and are noisy are named better with the intra-modal term than without it",
            metric="zero_shot/top1",
            data=("world:points=true,objects=1,pixels=48,shapes=6,train=2000",),
            val=("world:points=true,objects=1,pixels=48,shapes=6,missing=0.3,spread=0.02,evaluation=300",),
            baseline="clip2point:intra=false",
            budget="samples=48k",
            settings=(
                "tasks=clip pretrain",
                "task_shares=2 1",
                "image_size=48",
                "image_width=64",
                "text_width=64",
                "text_layers=1",
                "lr=1e-3",
                "workers=1",
                "evaluations=1",
            ),
        ),
    },
)

NEEDS: Mapping[str, tuple[str, ...]] = {
    "clip": ("image", "texts"),
    "pretrain": ("points", "image"),
    "few_shot": ("points", "label"),
}
"""task -> the fields that it reads"""
COVERED = 4.48
"""pixels across a point's disc at 224 pixels, of a radius of 0.02"""


@dataclass(frozen=True)
class Config(DualEncoderConfig):
    """Options of CLIP2Point."""

    tasks: tuple[str, ...] = ("clip", "pretrain")
    """what is trained, one after the other: clip (pictures and captions), pretrain, few_shot (the adapters)"""
    task_shares: tuple[float, ...] = ()
    """share of the run's samples that each of them gets; none: equal shares"""
    start: str = ""
    """run or saved method (of clip, too), or file of an official checkpoint, whose weights it begins with"""
    crop: tuple[float, float] = (1.0, 1.0)
    """share of the picture that a training crop keeps; depth maps are never cropped"""
    views: Literal[6, 10] = 6
    """sides from which a cloud is seen when it is classified"""
    cloud: int = 1024
    """points that are taken of a cloud"""
    radius: float = 0.0
    """of a point, as a share of half a side; 0: as many pixels as the paper's 0.02 covers at 224 pixels"""
    depth_norm: Literal["official", "clean"] = "official"
    """how depth becomes grey: as the released code does it, or over the whole range of each map"""
    upright: bool = False
    """clouds have z up, and are turned as the released code turns ModelNet's"""
    view: tuple[float, float] = (0.0, 0.0)
    """azimuth and elevation of pictures that have no `view` of their own"""
    wobble: float = 0.1
    """u: the two depth maps are seen from distances that differ by up to this share from the picture's"""
    intra: bool = True
    """with the intra-modal term"""
    pair_tau: float = 0.07
    """temperature of both terms of pre-training"""
    shuffled: bool = False
    """the control: each cloud is learned with the picture of another"""
    classnames: tuple[str, ...] = ()
    """names of the classes of few_shot; none: those of the training data"""
    logit_scale: float = 1.0
    """of the cosines in few_shot; the released code has none"""
    dropout: float = 0.075
    """of the adapters"""


class CLIP2Point(DualEncoder):
    """CLIP, a copy of its image encoder for depth maps, and two adapters where few_shot is trained."""

    card = CARD
    prompts = ("image of a {}",)
    heat = None  # type: ignore[assignment]  # no `Grounds`: the tokens of a cloud are views, and no places
    begun: Tensor

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config, weights=weights)
        self.config: Config = config
        for name in config.tasks:
            if name not in NEEDS:
                raise ValueError(nearest(name, NEEDS, "task of clip2point called"))
        self.depth, self.depth_head = deepcopy(self.image), deepcopy(self.image_head)
        self.balance = nn.Parameter(torch.tensor(1.0))  # s
        self.register_buffer("begun", torch.tensor(False))  # whether the depth encoder is one of its own
        self.adapters = nn.ModuleDict()
        if "few_shot" in config.tasks:
            width = config.embed or self.image.width
            self.adapters.update({side: SimplifiedAdapter(config.views, width, config.dropout) for side in SIDES})
        if weights and config.start:
            start_from(self, config.start, from_official)

    # -- views ---------------------------------------------------------------------------------------------------

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """Whatever the sample has: picture, caption, label; the cloud (N, 3), its camera and two distances."""
        seen: dict[str, Any] = {}
        if "image" in sample:
            seen["image"] = self.view_image(sample.image, rng)
        if "texts" in sample:
            tokens = self.tokenize([words.choose(sample.texts, rng)])
            seen |= {"text": tokens.text[0], "text_mask": tokens.text_mask[0]}
        if "points" in sample:
            seen |= self.view_points(sample, rng)
        if "label" in sample:
            seen["label"] = int(sample.label)
        return seen

    def view_points(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Tensor]:
        """`points` (N, 3) in the unit sphere, `camera` (3, 3) of the picture, `distance` (2,) of two depth maps."""
        own = (*self.config.view, 1.0)
        azimuth, elevation, distance = sample.view.tolist() if "view" in sample else own
        places = cloud.take(cloud.unit(sample.points[:, :3]), self.config.cloud, rng)
        u = np.zeros(2) if rng is None else rng.uniform(-self.config.wobble, self.config.wobble, 2)
        return {
            "points": torch.from_numpy(cloud.upright(places) if self.config.upright else places),
            "camera": cameras(elevation, azimuth),
            "distance": torch.from_numpy((distance * (1 + u)).astype(np.float32)),
        }

    # -- features ------------------------------------------------------------------------------------------------

    def draw(self, points: Tensor, views: Tensor, distance: Tensor) -> Tensor:
        """(B, N, 3), (V or B x V, 3, 3), (B, V) -> depth maps as grey pictures (B, V, 3, H, W) in [0, 1]."""
        size = self.config.image_size
        depth = depth_maps(points, views, distance, size, self.config.radius or COVERED / size)
        return shades(depth, self.config.depth_norm)[:, :, None].expand(-1, -1, 3, -1, -1)

    def read_maps(self, pictures: Tensor, side: str) -> Tensor:
        """(B, V, 3, H, W) -> what one of the encoders says of each, (B, V, D), of any length."""
        tower, head = (self.image, self.image_head) if side == "image" else self._depth
        found: Tensor = head(tower.pooled(pictures.flatten(0, 1))).float()
        return found.unflatten(0, pictures.shape[:2])

    @property
    def _depth(self) -> tuple[ImageEncoder, nn.Module]:
        """The depth encoder, which is CLIP's until it has begun to learn."""
        return (self.depth, self.depth_head) if self.begun else (self.image, self.image_head)

    def embed_image(self, batch: Batch) -> Features:
        """Clouds (B, N, 3) -> views (B, V, D) and their mean (B, D), or what the adapters say; pictures as CLIP's."""
        if "points" not in batch:
            return super().embed_image(batch)
        views = cameras(*VIEWS[self.config.views])
        pictures = self.draw(batch.points, views, batch.points.new_ones(len(batch.points), len(views)))
        if self.adapters:
            pooled = self.adapted(pictures)
            return Features(pooled[:, None], pooled, all_real(pooled[:, None]))
        features = F.normalize(self.read_maps(pictures, "depth"), dim=-1)
        return Features(features, F.normalize(features.sum(1), dim=-1), all_real(features))

    def adapted(self, pictures: Tensor) -> Tensor:
        """Dual-Path Adapter: (B, V, 3, H, W) -> the mean of both paths (B, D), of length 1."""
        with torch.no_grad():
            read = {side: self.read_maps(pictures, side) for side in SIDES}
        return F.normalize(sum(self.adapters[side](read[side]) for side in SIDES) / 2, dim=-1)  # type: ignore[arg-type]

    # -- training ------------------------------------------------------------------------------------------------

    @property
    def losses(self) -> Mapping[str, Callable[[Batch, Step], Terms]]:
        """Task -> its loss."""
        return {"clip": self.learn_pictures, "pretrain": self.pretrain, "few_shot": self.few_shot}

    def loss(self, batch: Batch, step: Step) -> Terms:
        """That of the stage."""
        return self.losses[step.stage if step.stage in self.losses else self.config.tasks[0]](batch, step)

    def learn_pictures(self, batch: Batch, step: Step) -> Terms:
        """CLIP's loss, for a model that begins with nothing."""
        image, text = step.embed(self.pooled, batch)
        return Terms(contrastive=info_nce(image, text, self.scale, step.gather, tile=self.config.tile))

    def pretrain(self, batch: Batch, step: Step) -> Terms:
        """L = L_cross + L_intra / s^2 + ln(s + 1) (section 3.3); L_cross takes the mean of both maps for one."""
        if not self.begun:
            self.begin()
        near, far, image = step.embed(self.pairs, batch)  # (B, D) each
        image = image.roll(1, 0) if self.config.shuffled else image
        terms = Terms(cross=nt_xent((near + far) / 2, image, self.config.pair_tau, step.gather))
        if self.config.intra:
            intra = nt_xent(near, far, self.config.pair_tau, step.gather)
            terms |= {"intra": intra / self.balance**2, "balance": (self.balance + 1).log()}
            terms.watch["s"] = self.balance
        return terms

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """What the depth encoder says of both depth maps, and CLIP of the picture: (B, D) each."""
        views = batch.camera[:, None].expand(-1, 2, -1, -1)
        near, far = self.read_maps(self.draw(batch.points, views, batch.distance), "depth").unbind(1)
        with torch.no_grad():
            image = self.image_head(self.image.pooled(batch.image)).float()
        return near, far, image

    def few_shot(self, batch: Batch, step: Step) -> Terms:
        """Cross-entropy of cosines with the classes' names, without a temperature."""
        if not self.config.classnames:
            raise ValueError("the task few_shot needs the names of classes: train on data with categories.")
        with torch.no_grad():
            names = self.tokenize([self.prompts[0].format(name) for name in self.config.classnames])
            text = self.embed_text(names.to(batch.points.device)).pooled  # (C, D)
        logits = self.config.logit_scale * self.embed_image(batch).pooled @ text.T
        return Terms(classes=F.cross_entropy(logits, batch.label))

    @torch.no_grad()
    def begin(self) -> None:
        """Makes the depth encoder a copy of the image encoder as that is now."""
        for mine, theirs in ((self.depth, self.image), (self.depth_head, self.image_head)):
            mine.load_state_dict(theirs.state_dict())
        self.begun.fill_(True)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; an encoder of which nothing trains stays as it is used."""
        super().train(mode)
        self.depth.train(mode and any(value.requires_grad for value in self.depth.parameters()))
        return self

    def stages(self, recipe: Recipe) -> list[Stage]:
        """One stage a task, in which only its own part trains."""
        config = self.config
        shares = config.task_shares or (1,) * len(config.tasks)
        if len(shares) != len(config.tasks):
            raise ValueError(f"task_shares has {len(shares)} values for {len(config.tasks)} tasks: give one for each.")
        depth = (r"^depth\.", r"^depth_head\.", *((r"^balance$",) if config.intra else ()))
        trains = {
            "clip": (r"^(image|text)\.", r"^(image|text)_head\.", r"^log_scale$"),
            "pretrain": depth,
            "few_shot": (r"^adapters\.",),
        }
        return [
            Stage(
                task,
                share / sum(shares),
                train=trains[task],
                freeze=config.freeze,
                needs=NEEDS[task],
                uses=("view",) if task == "pretrain" else (),
            )
            for task, share in zip(config.tasks, shares, strict=True)
        ]


SIDES = ("depth", "image")
"""the encoders of the Dual-Path Adapter: pre-trained, and CLIP's own"""
_PAPER = Config(
    tasks=("pretrain",),
    image="open_clip:ViT-B-32/openai",
    image_size=224,
    text="open_clip:ViT-B-32/openai",
    context=77,
    embed=512,
    views=10,
)
PRESETS = {
    "paper": Preset(
        _PAPER,
        Recipe(
            samples=100 * 52_460,
            batch=256,
            optimizer="lamb",
            lr=6e-3,
            weight_decay=1e-4,
            betas=(0.9, 0.999),
            warmup=0,
            final_lr=1e-5 / 6e-3,
            cycles=50,  # of two epochs each
            clip=0.0,
        ),
        about="renderings of ShapeNet (section 4.1)",
    ),
    "few_shot": Preset(
        replace(_PAPER, tasks=("few_shot",), upright=True),
        Recipe(
            samples=100 * 16 * 40,
            batch=32,
            lr=1e-3,
            weight_decay=1e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            warmup=0,
            schedule="constant",
            clip=0.0,
        ),
        about="16 shots of ModelNet40 (section 4.3); start it from a pre-trained run",
    ),
}
