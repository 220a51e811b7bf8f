"""Two towers, an image and a text side by side, joined only by the similarity of what they return.

The skeleton holds the towers, the linear maps into the joint space (applied to the pooled vector and to every token
alike), the temperature, the views and the evaluation protocols. A method adds its `loss` and, where its paper says
so, its own `similarity`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.batch import Batch, Features, Sample
from diptych.card import Card
from diptych.encoders import adapt, image_encoder, text_encoder
from diptych.encoders.memory import FeatureMemory
from diptych.encoders.tokenizer import saved_tokenizer
from diptych.models.pretrained import Pretrained
from diptych.recipe import Recipe, Stage
from diptych.views import augment, image as picture, text as words


@dataclass(frozen=True)
class DualEncoderConfig:
    """The parts of a dual encoder. Sizes of towers count only for our own `vit` and `transformer`."""

    image: str = "vit"
    """image tower: vit, timm:NAME, hf:NAME_OR_PATH, open_clip:NAME/TAG or packaged:NAME"""
    image_size: int = 64
    """side of the square picture, in pixels"""
    image_width: int = 128
    """width of our own ViT"""
    image_layers: int = 3
    """layers of our own ViT"""
    image_heads: int = 4
    """attention heads of our own ViT"""
    patch: int = 8
    """side of a patch of our own ViT, in pixels"""
    text: str = "transformer"
    """text tower: transformer, hf:NAME_OR_PATH, open_clip:NAME/TAG or packaged:NAME"""
    context: int = 32
    """longest text, in tokens"""
    text_width: int = 128
    """width of our own text transformer"""
    text_layers: int = 2
    """layers of our own text transformer"""
    text_heads: int = 4
    """attention heads of our own text transformer"""
    embed: int = 128
    """width of the joint space; 0 takes the towers' own, which must then be equal, without linear maps"""
    pool: Literal["tower", "mean"] = "tower"
    """the one vector of a picture or a text: the tower's own (class token, end token), or the mean of all tokens"""
    tau: float = 0.07
    """initial temperature, learned from there"""
    min_tau: float = 0.01
    """the learned temperature stays above this"""
    crop: tuple[float, float] = (0.9, 1.0)
    """share of the picture that a training crop keeps, from and to; 1 1 takes the whole picture"""
    flip: bool = False
    """mirror half of the training pictures; only where captions do not speak of left and right"""
    augment: Literal["none", "rand", "auto"] = "none"
    """RandAugment or AutoAugment on training pictures"""
    freeze: tuple[str, ...] = ()
    """regular expressions; parameters whose names match do not train, e.g. '^image\\.'"""
    tower_lr: float = 1.0
    """multiplies the learning rate of both towers; below 1 for pretrained ones"""
    layer_decay: float = 1.0
    """multiplies the learning rate once more for each layer that lies below a tower's last one"""
    lora: tuple[str, ...] = ()
    """regular expressions; linear layers of the towers whose names match, e.g. 'attention', get a low-rank update that
    trains, and all else in the towers is frozen"""
    lora_rank: int = 8
    """rank of these updates"""
    remember: int = 0
    """megabytes in which features of frozen towers are kept, so that each input is computed once; 0 keeps none"""
    tile: int = 0
    """compute the loss in tiles of this many rows, never holding the whole matrix; 0 holds it"""


class DualEncoder(nn.Module, Pretrained):
    """An image tower, a text tower and the joint space. `card` and `loss` come from the method."""

    card: ClassVar[Card]
    prompts: tuple[str, ...] = ()
    prompt_ensemble: Literal["features", "similarities"] = "features"

    def __init__(self, config: DualEncoderConfig, *, weights: bool = True) -> None:
        super().__init__()
        self.config = config
        self.image = image_encoder(
            config.image,
            size=config.image_size,
            width=config.image_width,
            layers=config.image_layers,
            heads=config.image_heads,
            patch=config.patch,
            pretrained=weights,
        )
        self.text = text_encoder(
            config.text,
            width=config.text_width,
            layers=config.text_layers,
            heads=config.text_heads,
            context=config.context,
            pretrained=weights,
        )
        self.image_memory = FeatureMemory(config.remember)
        self.text_memory = FeatureMemory(config.remember)
        self.image_head = _head(self.image.width, config.embed, self.image.projection)
        self.text_head = _head(self.text.width, config.embed, self.text.projection)
        log_scale = math.log(1 / config.tau) if self.image.logit_scale is None else self.image.logit_scale
        self.log_scale = nn.Parameter(torch.tensor(log_scale))
        if config.freeze:
            adapt.freeze(self, config.freeze)
        if config.lora:
            towers = nn.ModuleDict({"image": self.image, "text": self.text})
            adapt.lora(towers, config.lora, rank=config.lora_rank, alpha=2 * config.lora_rank)

    # -- views ---------------------------------------------------------------------------------------------------

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A sample -> `image` (3, H, W) uint8, `text` (T,) and `text_mask` (T,); random crops where `rng` is given."""
        tokens = self.tokenize([words.choose(sample.texts, rng)])
        return {
            "image": self.view_image(sample.image, rng),
            "text": tokens.text[0],
            "text_mask": tokens.text_mask[0],
        }

    def view_image(self, image: Any, rng: np.random.Generator | None) -> Tensor:
        """PIL picture -> (3, H, W) uint8 of the tower's size; random where `rng` is given."""
        size = self.config.image_size
        if rng is None:
            return picture.resize(image, size)
        if self.config.crop == (1.0, 1.0):
            seen = picture.resize(image, size)
        else:
            seen = picture.random_resized_crop(image, size, rng, self.config.crop)
        if self.config.flip:
            seen = picture.random_flip(seen, rng)
        if self.config.augment != "none":
            change = augment.rand_augment if self.config.augment == "rand" else augment.auto_augment
            seen = picture.to_tensor(change(picture.to_picture(seen), rng))
        return seen

    def tokenize(self, texts: list[str]) -> Batch:
        """B strings -> `text` (B, T) int64 and `text_mask` (B, T) bool."""
        ids, mask = self.text.tokenizer.encode(texts)
        return Batch({"text": ids, "text_mask": mask})

    def token_offsets(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        """For each text the characters (start, end) of each token; (0, 0) for special tokens."""
        return self.text.tokenizer.offsets(texts)

    # -- features and similarities -------------------------------------------------------------------------------

    def embed_image(self, batch: Batch) -> Features:
        """(B, 3, H, W) -> normalised tokens (B, P, D) and pooled (B, D) in the joint space."""
        return _project(self.see(batch), self.image_head, self.config.pool)

    def embed_text(self, batch: Batch) -> Features:
        """(B, T) -> normalised tokens (B, T, D) and pooled (B, D) in the joint space."""
        return _project(self.read(batch), self.text_head, self.config.pool)

    def see(self, batch: Batch) -> Features:
        """What the image tower makes of (B, 3, H, W)."""
        return self.image_memory(self.image, batch.image)

    def read(self, batch: Batch) -> Features:
        """What the text tower makes of (B, T)."""
        return self.text_memory(self.text, batch.text, batch.text_mask)

    def features(self, batch: Batch) -> tuple[Features, Features]:
        """What `embed_image` and `embed_text` make of the pairs of a batch."""
        return self.embed_image(batch), self.embed_text(batch)

    def pooled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The pooled vectors alone, (B, D) of the images and (B, D) of the texts, for which towers compute less."""
        if self.config.pool == "mean":
            image, text = self.features(batch)
            return image.pooled, text.pooled
        image_pooled = self.image_memory.pooled(self.image, batch.image)
        text_pooled = self.text_memory.pooled(self.text, batch.text, batch.text_mask)
        return _joint(image_pooled, self.image_head), _joint(text_pooled, self.text_head)

    def similarity(self, image: Features, text: Features) -> tuple[Tensor, Tensor]:
        """Cosine of the pooled vectors: the same (I, T) matrix for both directions."""
        cosine = image.pooled @ text.pooled.T
        return cosine, cosine

    def heat(self, image: Features, text: Features) -> Tensor:
        """Cosine of every patch with every text token: (B, T, h, w)."""
        cosine = torch.einsum("bpd,btd->btp", image.tokens, text.tokens)
        return cosine.unflatten(-1, self.image.grid)

    @property
    def scale(self) -> Tensor:
        """1 / tau, kept below 1 / min_tau."""
        return self.log_scale.exp().clamp(max=1 / self.config.min_tau)

    # -- training ------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but a tower of which nothing trains stays as it is used: no dropout, no batch norm."""
        super().train(mode)
        for tower in (self.image, self.text):
            tower.train(mode and any(parameter.requires_grad for parameter in tower.parameters()))
        return self

    def whole(self) -> list[nn.Module]:
        """Towers whose features are remembered: each process calls them for what is new to it, when others may not."""
        towers = (self.image, self.text) if self.config.remember else ()
        return [tower for tower in towers if not any(parameter.requires_grad for parameter in tower.parameters())]

    def stages(self, recipe: Recipe) -> list[Stage]:
        """One stage; towers, and the layers in them, at their own learning rates."""
        tower_lr, decay = self.config.tower_lr, self.config.layer_decay
        lr = [(r"^(image|text)\.", tower_lr)] if tower_lr != 1 else []
        if decay != 1:  # the first pattern that matches counts
            layers = (*adapt.layer_decay(self.image, decay, "image"), *adapt.layer_decay(self.text, decay, "text"))
            lr = [(pattern, factor * tower_lr) for pattern, factor in layers] + lr
        return [Stage(freeze=self.config.freeze, lr=tuple(lr))]

    def save_assets(self, folder: Path) -> None:
        """Keeps the tokenizer with the weights that were trained on it."""
        (folder / "tokenizer.json").write_text(self.text.tokenizer.json, encoding="utf-8")

    def load_assets(self, folder: Path) -> None:
        """Takes the tokenizer that was saved with the weights."""
        self.text.tokenizer = saved_tokenizer(self.text.tokenizer, folder / "tokenizer.json", self.text.vocab_size)


def _head(width: int, embed: int, projection: Tensor | None) -> nn.Module:
    """Linear map into the joint space, with the map that came with the tower's weights where it fits."""
    if not embed:
        return nn.Identity()
    head = nn.Linear(width, embed, bias=False)
    nn.init.normal_(head.weight, std=width**-0.5)
    if projection is not None and projection.shape == head.weight.shape:
        with torch.no_grad():
            head.weight.copy_(projection)
    return head


def _project(features: Features, head: nn.Module, pool: str) -> Features:
    tokens = head(features.tokens).float()  # (B, T, D)
    if pool == "mean":
        weights = features.mask.unsqueeze(-1) / features.mask.sum(-1).clamp(min=1)[:, None, None]  # (B, T, 1)
        pooled = F.normalize((tokens * weights).sum(1), dim=-1)
    else:
        pooled = _joint(features.pooled, head)
    return Features(F.normalize(tokens, dim=-1), pooled, features.mask)  # pooled (B, D)


def _joint(pooled: Tensor, head: nn.Module) -> Tensor:
    return F.normalize(head(pooled).float(), dim=-1)  # (B, D)
