"""A small method and a small data set in memory, with everything in them that a resumed run could get wrong."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.batch import Batch, Sample, Step, Terms
from diptych.card import Card
from diptych.data.mixture import Mixture
from diptych.recipe import Recipe, Stage
from diptych.results import Row

WORDS = 12
PIXELS = 8


@dataclass(frozen=True)
class Config:
    width: int = 6
    dropout: float = 0.2
    teacher: bool = False
    stages: tuple[str, ...] = ("train",)
    decay: float = 0.5
    layers: int = 0


class Toy(nn.Module):
    """Contrastive, with dropout; with a momentum teacher and a queue where the config says so.

    Stages called `head` train only the head, those called `slow` train the image tower at a tenth of the rate, those
    called `few` train on this part of `mixture()`.
    """

    card = Card(id="toy", title="Toy", year=2024, arxiv="", family="contrastive", needs=("image", "text"))

    def __init__(self, config: Config | None = None, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.config = config or Config()
        width = self.config.width
        self.image = nn.Sequential(nn.Linear(PIXELS, width), nn.LayerNorm(width))
        self.words = nn.Embedding(WORDS, width)
        self.head = nn.Linear(width, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.unused = nn.Linear(2, 2)
        self.dropout = nn.Dropout(self.config.dropout)
        if self.config.teacher:
            self.teacher = nn.Linear(PIXELS, width).requires_grad_(False)
            self.register_buffer("queue", torch.zeros(4, width))
        layers = [nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(self.config.layers)]
        self.layers = nn.Sequential(*layers)  # of both towers

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Tensor]:
        noise = rng.normal(size=PIXELS) * 0.1 if rng is not None else 0.0
        text = torch.tensor([int(word) for word in sample.text.split()])
        return {
            "image": torch.tensor(sample.image + noise, dtype=torch.float32),
            "text": text,
            "text_mask": torch.ones(len(text), dtype=torch.bool),
        }

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        image = F.normalize(self.head(self.layers(self.dropout(self.image(batch.image)))), dim=-1)
        mask = batch.text_mask[..., None]
        words = (self.words(batch.text) * mask).sum(1) / mask.sum(1)
        return image, F.normalize(self.head(self.layers(words)), dim=-1)

    def loss(self, batch: Batch, step: Step) -> Terms:
        image, text = step.embed(self.features, batch)
        mine = torch.arange(len(image)) + step.gather.rank * len(image)
        scale = self.log_scale.exp()
        to_text, to_image = scale * image @ step.gather(text).T, scale * text @ step.gather(image).T
        terms = {"contrastive": (F.cross_entropy(to_text, mine) + F.cross_entropy(to_image, mine)) / 2}
        if self.config.teacher:
            taught = self.teacher(batch.image)
            terms["taught"] = (image - taught).square().mean() + (image @ self.queue.T).square().mean()
        return Terms(watch={"scale": scale, "progress": step.progress}, **terms)

    def before_stage(self, step: Step) -> None:
        if self.config.teacher:
            self.queue.fill_(1 / (2 + step.index + step.task))

    def after_step(self, step: Step) -> None:
        if self.config.teacher:
            self.teacher.weight.lerp_(self.image[0].weight, 1 - self.config.decay)
            new = torch.randn(1, self.config.width) + random.random() + np.random.rand()
            self.queue.copy_(torch.cat([self.queue[1:], new]))

    def stages(self, recipe: Recipe) -> list[Stage]:
        kinds = {
            "head": Stage("head", train=("^head", "log_scale")),
            "slow": Stage("slow", lr=((r"^image\.", 0.1),)),
            "few": Stage("few", data="few"),
        }
        return [kinds.get(name, Stage(name)) for name in self.config.stages]


class ToyData:
    """`size` pairs of a vector and two or three numbers as text; `broken` keys cannot be read."""

    name = "toys"
    split = "train"
    has = frozenset({"image", "text"})
    classes: tuple[str, ...] = ()

    def __init__(self, size: int = 20, broken: Collection[int] = ()) -> None:
        self._size = size
        self._broken = set(broken)

    def __len__(self) -> int:
        return self._size

    def key(self, index: int) -> str:
        return f"toy-{index}"

    def read(self, index: int, fields: Collection[str]) -> Sample:
        if index in self._broken:
            from diptych.data.decode import BrokenSample

            raise BrokenSample(self.key(index), "it is made to be broken")
        rng = np.random.default_rng(index)
        words = [index % WORDS, index // WORDS % WORDS, *([3] if index % 2 else [])]
        return Sample(self.key(index), {"image": rng.normal(size=PIXELS), "text": " ".join(map(str, words))})

    def order(self, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
        rng = np.random.default_rng([seed, epoch])
        return rng.permutation(self._size) if shuffle else np.arange(self._size)


def mixture(broken: Collection[int] = (13,)) -> Mixture:
    """Two parts, of which one has a broken sample."""
    few, many = ToyData(7), ToyData(50, broken)
    few.name, many.name = "few", "many"
    return Mixture([(few, 1.0), (many, 3.0)])


def data_for(settings: Recipe, broken: Collection[int] = ()) -> ToyData | Mixture:
    """Two parts for a stream, 20 samples else."""
    return mixture(broken) if settings.stream else ToyData(broken=broken)


def recipe(**changes: object) -> Recipe:
    """12 steps of 4, on one process."""
    defaults = {
        "samples": 48,
        "batch": 4,
        "lr": 1e-2,
        "workers": 0,
        "evaluations": 0,
        "checkpoints": 3,
        "precision": "fp32",
    }
    return Recipe(**{**defaults, **changes})


def norm(method: nn.Module) -> list[Row]:
    """An evaluation whose figure is the norm of all weights."""
    value = torch.cat([value.detach().flatten() for value in method.parameters()]).norm().item()
    return [Row("toy", "", "toys", "size", "norm", value=value)]


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether all weights and buffers are equal, bit for bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in mine.items())
