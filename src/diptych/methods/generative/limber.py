"""LiMBeR: linearly mapping from image to text space (Merullo et al., 2022).

A picture becomes a prompt by one linear map alone: both the encoder of pictures and the language model stay frozen.
How well the language model then says what is seen tells how near what the encoder knows is to language. Baseline:
MAGMA, in which the encoder is tuned and the language model has adapters (`encoder_lr`, `lora_rank`). Changes: nothing
trains but the map. The ladder of encoders by how much language they saw: none (random weights, or a task of its own
making, BEiT), names of classes (NF-ResNet50, BEiT FT), captions (CLIP).

Small models of our own are random at first: the language model then reads captions (`text`), and the encoder learns by
itself (`self`), classes (`supervised`) or captions (`contrastive`), as earlier stages of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from diptych.batch import Batch, Features, Step, Terms
from diptych.card import Card, Claim
from diptych.encoders.base import all_real
from diptych.fusion.connectors import Connector
from diptych.models.generation import there
from diptych.models.generative import PROMPTS, GenerativeConfig, GenerativeVLM, Loss
from diptych.models.lessons import Lessons
from diptych.models.official.renaming import renamed
from diptych.models.start import State
from diptych.recipe import Preset, Recipe, Stage
from diptych.views.conversations import Template

CARD = Card(
    id="limber",
    title="LiMBeR",
    year=2022,
    arxiv="2209.15162",
    family="generative",
    needs=("image", "texts"),
    idea="one linear map from a frozen encoder of pictures into a frozen language model",
    claims={
        "classes": Claim(
            about="an encoder that learned classes lies nearer to language than one that learned of pictures alone",
            metric="naming/accuracy",
            also=("naming/accuracy_blind", "picture_use"),
            data=("world:objects=1,pixels=32,shapes=8,colours=6,textures=1,sizes=1,clutter=0,train=2000",
                  "world:objects=1,pixels=32,shapes=8,colours=6,textures=1,sizes=1,clutter=0,text=true"),
            val=("world:objects=1,pixels=32,shapes=8,colours=6,textures=1,sizes=1,clutter=0,evaluation=300",),
            baseline="limber:tasks=text self pretrain",
            control="limber:tasks=text pretrain,task_shares=3 3,task_data=world2 world",
            budget="samples=60k",
            settings=(
                "tasks=text supervised pretrain",
                "task_data=world2 world world", "task_shares=3 4 3", "prefix=4", "image_size=32", "image_width=64",
                "width=64", "layers=2", "context=64", "lr=3e-3", "workers=1", "evaluations=1",
            ),
        ),
        "captions": Claim(
            about="an encoder that learned from captions lies no farther from language than one that learned classes",
            metric="naming/accuracy",
            also=("naming/accuracy_blind", "picture_use"),
            data=("world:objects=1,pixels=32,shapes=8,colours=6,textures=1,sizes=1,clutter=0,train=2000",
                  "world:objects=1,pixels=32,shapes=8,colours=6,textures=1,sizes=1,clutter=0,text=true"),
            val=("world:objects=1,pixels=32,shapes=8,colours=6,textures=1,sizes=1,clutter=0,evaluation=300",),
            baseline="limber:tasks=text supervised pretrain",
            control="limber:tasks=text pretrain,task_shares=3 3,task_data=world2 world",
            budget="samples=60k",
            margin=0.05,
            settings=(
                "tasks=text contrastive pretrain",
                "task_data=world2 world world", "task_shares=3 4 3", "prefix=4", "image_size=32", "image_width=64",
                "width=64", "layers=2", "context=64", "lr=3e-3", "workers=1", "evaluations=1",
            ),
        ),
    },
)  # fmt: skip

LESSONS = {"self": ("image",), "supervised": ("image", "label"), "contrastive": ("image", "texts")}
"""tasks of the encoder, and what they read"""
TEMPLATE = Template(assistant="{}{end}", begin=False)
"""what is seen, then the caption and its end; nothing in front"""


@dataclass(frozen=True)
class Config(GenerativeConfig):
    """Options of LiMBeR. Its tasks are `pretrain` (the map), `text`, and `self`, `supervised`, `contrastive`."""

    tasks: tuple[str, ...] = ()
    """what is trained, one after the other; none: `text` and `contrastive` for models of our own, then `pretrain`"""
    prefix: int = 0
    """tokens that are made of the one vector of a picture (NF-ResNet50: 1); 0 maps each of the encoder's tokens"""
    dropout: float = 0.1
    """of the mapped tokens"""
    encoder_lr: float = 0.0
    """learning rate of the encoder as a multiple of the map's; 0 freezes it, MAGMA's is 0.0025"""
    shuffled: bool = False
    """the control: each caption is learned with the picture of another"""
    classes: int = 0
    """classes of the task supervised; 0: those of the training data"""
    caption_prompt: str = ""
    """how a caption begins when one is asked for"""


class LinearMap(Connector):
    """One linear map, with dropout behind it: (B, P, C) -> (B, P * each, D), row by row as the encoder has them."""

    def __init__(self, of: int, width: int, outputs: int, each: int, dropout: float) -> None:
        super().__init__(of * each, of)
        self.proj = nn.Linear(width, outputs * each)
        self.dropout = nn.Dropout(dropout)
        self.each = each

    def connect(self, tokens: Tensor, mask: Tensor | None, instruction: Features | None) -> Tensor:
        """(B, P, C) -> (B, P * each, D)."""
        mapped: Tensor = self.dropout(self.proj(tokens).unflatten(-1, (self.each, -1)).flatten(1, 2))
        return mapped


class LiMBeR(GenerativeVLM):
    """Image -> frozen encoder -> linear map -> frozen language model."""

    card = CARD

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        own = {"text": config.language == "own", "contrastive": config.image == "vit", "pretrain": True}
        config = replace(config, tasks=config.tasks or tuple(task for task, ours in own.items() if ours))
        super().__init__(config, weights=weights)
        self.template = TEMPLATE
        self.prompts = {**PROMPTS, "caption": config.caption_prompt}
        patches = self.encoder.grid[0] * self.encoder.grid[1]
        sizes = (1, config.prefix) if config.prefix else (patches, 1)
        self.connector = LinearMap(sizes[0], self.encoder.width, self.language.width, sizes[1], config.dropout)
        lessons = [task for task in config.tasks if task in LESSONS]
        if lessons:
            self.lessons = Lessons(lessons, self.encoder, self.language.width, config.classes)
        self.begin(weights)

    def look(self, media: Tensor) -> Features:
        """(B, 3, H, W) -> tokens (B, P, C), or, with `prefix`, the one vector of each picture as (B, 1, C)."""
        features = super().look(media)
        if not self.config.prefix:
            return features
        tokens = features.pooled[:, None]
        return Features(tokens, features.pooled, all_real(tokens))

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Task -> its loss."""
        return {**super().losses, **dict.fromkeys(LESSONS, self.learn), "pretrain": self.pretrain}

    def pretrain(self, batch: Batch, step: Step) -> Terms:
        """L = -(1/N) sum_i log p(c_i | W x + b, c_<i) over the caption and its end token (section 3.1)."""
        if not self.config.shuffled:
            return self.tell(batch, step)
        return self.tell(Batch({**batch, "image": batch.image.roll(1, 0)}), step)

    def learn(self, batch: Batch, step: Step) -> Terms:
        """What the encoder learns in the stage."""
        task = step.stage if step.stage in LESSONS else next(task for task in self.config.tasks if task in LESSONS)
        if task == "self":
            return Terms(patches=self.lessons.guess_pixels(self.encoder, batch.image))
        pooled = self.encoder(batch.image).pooled
        if task == "supervised":
            return Terms(classes=self.lessons.name(pooled, batch.label))
        real = there(batch.length, batch.ids.shape[1]) & ~batch.visual
        return Terms(pairs=self.lessons.match(pooled, self.language.embed(batch.ids), real, step.gather))

    def needs(self, task: str) -> tuple[str, ...] | None:
        """The fields that a task reads."""
        return LESSONS.get(task, super().needs(task))

    def stage(self, stage: Stage) -> Stage:
        """The map alone trains; for MAGMA the encoder and low-rank updates of the language model too."""
        if stage.name == "text":
            return super().stage(stage)
        if stage.name in LESSONS:
            return replace(stage, train=(r"^encoder\.", r"^lessons\."))
        tuned = ((r"^encoder\.", self.config.encoder_lr),) if self.config.encoder_lr else ()
        adapters = (r"lora_",) if self.config.lora_rank else ()
        return replace(stage, train=(r"^connector\.", *adapters, *(name for name, _ in tuned)), lr=tuned)

    @staticmethod
    def from_official(state: State) -> State:
        """The map, as `limber_weights/*/proj.ckpt` of github.com/jmerullo/limber holds it."""
        return renamed(state, ((r"(?:.*proj\.)?(weight|bias)", r"connector.proj.\1"),))


def paper(**options: Any) -> Preset:
    """One of the paper's three encoders (section 3.2), with GPT-J.

    Its code runs accumulation of 8 on top of a batch of 256, against MAGMA's way of counting: 256 is the whole batch.
    """
    config = Config(
        language="hf:EleutherAI/gpt-j-6b", tasks=("pretrain",), caption_prompt="A picture of", context=2048, **options
    )
    recipe = Recipe(
        samples=256 * 15_000,
        batch=256,
        lr=8e-4,
        weight_decay=0.0,
        betas=(0.9, 0.95),
        eps=1e-8,
        warmup=100,
        schedule="linear",
        precision="bf16",
    )
    return Preset(config, recipe, about="arXiv 2209.15162, section 3; configs of its repository")


PRESETS = {
    "paper": paper(image="open_clip:RN50x16/openai#map", image_size=384),
    "paper_beit": paper(image="hf:microsoft/beit-large-patch16-224-pt22k", image_size=224),
    "paper_beit_ft": paper(image="hf:microsoft/beit-large-patch16-224-pt22k-ft22k", image_size=224),
    "paper_nfrn50": paper(image="timm:nf_resnet50.ra2_in1k", image_size=256, prefix=1),
    "magma": paper(
        image="open_clip:RN50x16/openai#map",
        image_size=384,
        encoder_lr=0.0025,
        lora_rank=8,
    ),
}
