"""CTP: continual pre-training by compatible momentum contrast and topology preservation (Zhu et al., ICCV 2023).

A model is trained on one task after the other (`--stream`). It is ALBEF's: an image encoder, a BERT whose lower half
reads texts and whose upper half also attends to the picture, contrast (ITA) and masked words (MLM). Baseline: just that
(`keep=none`, the paper's SeqF; without a stream its JointT). Changes: a momentum model follows the live model and the
frozen one of the task before, and gives keys for a contrast (L_mc) and words to be imitated (L_mlmd); and similarities
within the batch are kept as the model of the task before sees them (L_tp).

Rivals of the paper: `keep=lwf`, `keep=ewc`, and with any of them a buffer of exemplars (`--buffer`, ER).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.batch import Batch, Features, Sample, Step, Terms
from diptych.card import Card, Claim
from diptych.encoders.words import mask_id
from diptych.fusion import initialise
from diptych.models.crossed import Crossed, CrossedConfig, Outputs, unit, view_crossed
from diptych.models.fusion_encoder import Fused, FusionEncoder, Loss
from diptych.models.official.ctp import from_official
from diptych.models.paired_config import spread
from diptych.objectives.continual import (
    Elastic,
    become,
    beside,
    feature_distillation,
    move,
    topology_loss,
    word_distillation,
)
from diptych.objectives.contrastive import ALONE, info_nce
from diptych.objectives.masked import Masked, choose, labelled_cross_entropy, replace_tokens
from diptych.objectives.queue import Queue, queue_info_nce
from diptych.objectives.tied import TiedHead
from diptych.recipe import Preset, Recipe, Stage

CARD = Card(
    id="ctp",
    title="CTP",
    year=2023,
    arxiv="2308.07146",
    family="fusion",
    needs=("image", "texts"),
    idea="a momentum model that also follows the previous task's, whose similarities within a batch are kept",
    claims={
        "retrieval": Claim(
            about="of four tasks that differ in hue more is found in the end than with plain fine-tuning, or with LwF",
            metric="tasks_retrieval/r1",
            also=("forgetting",),
            data=("world:objects=1,shapes=4,colours=3,textures=1,tilt=0,clutter=0,backgrounds=1,pixels=32"
                  ",train=2000,evaluation=250,seed=0,palette=0 + "
                  "world:objects=1,shapes=4,colours=3,textures=1,tilt=0,clutter=0,backgrounds=1,pixels=32"
                  ",train=2000,evaluation=250,seed=1,palette=30 + "
                  "world:objects=1,shapes=4,colours=3,textures=1,tilt=0,clutter=0,backgrounds=1,pixels=32"
                  ",train=2000,evaluation=250,seed=2,palette=60 + "
                  "world:objects=1,shapes=4,colours=3,textures=1,tilt=0,clutter=0,backgrounds=1,pixels=32"
                  ",train=2000,evaluation=250,seed=3,palette=90",),
            val=(),
            baseline="ctp:keep=none",
            control="ctp:keep=lwf",
            budget="samples=51200",
            settings=("preset=small", "mlm=0"),
        ),
        "joint": Claim(
            about="less is found than by a model that learned all of them at once",
            metric="tasks_retrieval/r1",
            also=("forgetting",),
            data=("world:objects=1,shapes=4,colours=3,textures=1,tilt=0,clutter=0,backgrounds=1,pixels=32"
                  ",train=2000,evaluation=250,seed=0,palette=0 + "
                  "world:objects=1,shapes=4,colours=3,textures=1,tilt=0,clutter=0,backgrounds=1,pixels=32"
                  ",train=2000,evaluation=250,seed=1,palette=30 + "
                  "world:objects=1,shapes=4,colours=3,textures=1,tilt=0,clutter=0,backgrounds=1,pixels=32"
                  ",train=2000,evaluation=250,seed=2,palette=60 + "
                  "world:objects=1,shapes=4,colours=3,textures=1,tilt=0,clutter=0,backgrounds=1,pixels=32"
                  ",train=2000,evaluation=250,seed=3,palette=90",),
            val=(),
            baseline="ctp:keep=none,stream=false",
            direction="lower",
            budget="samples=51200",
            settings=("preset=small", "mlm=0"),
        ),
        "forgetting": Claim(
            about="at most half as much is forgotten as by plain fine-tuning, and less than without topology",
            metric="forgetting/r1",
            also=("tasks_retrieval",),
            data=("world:objects=1,shapes=4,colours=3,textures=1,tilt=0,clutter=0,backgrounds=1,pixels=32"
                  ",train=2000,evaluation=250,seed=0,palette=0 + "
                  "world:objects=1,shapes=4,colours=3,textures=1,tilt=0,clutter=0,backgrounds=1,pixels=32"
                  ",train=2000,evaluation=250,seed=1,palette=30 + "
                  "world:objects=1,shapes=4,colours=3,textures=1,tilt=0,clutter=0,backgrounds=1,pixels=32"
                  ",train=2000,evaluation=250,seed=2,palette=60 + "
                  "world:objects=1,shapes=4,colours=3,textures=1,tilt=0,clutter=0,backgrounds=1,pixels=32"
                  ",train=2000,evaluation=250,seed=3,palette=90",),
            val=(),
            baseline="ctp:keep=none",
            control="ctp:topology=0",
            direction="lower",
            share=0.5,
            budget="samples=51200",
            settings=("preset=small", "mlm=0"),
        ),
    },
)  # fmt: skip


@dataclass(frozen=True)
class Config(CrossedConfig):
    """Options of CTP."""

    keep: Literal["ctp", "none", "lwf", "ewc"] = "ctp"
    """what keeps the past: ctp; none (SeqF in a stream, JointT outside); lwf (distillation); ewc (elastic weights)"""
    mlm: float = 1.0
    """weight of masked words; 0 leaves out all that fuses, and their distillation with it"""
    contrast: float = 1.0
    """weight of the contrast with the momentum model, L_mc"""
    topology: float = 1.0
    """weight of topology preservation, L_tp"""
    distill: float = 1.0
    """weight of the distillation of masked words, L_mlmd"""
    same_modal: bool = True
    """topology of images among images and of texts among texts, too"""
    alpha: float = 0.5
    """share of the previous task's model in what the momentum model follows; 0: a plain one, of the live model alone"""
    momentum: float = 0.9
    """m: what stays of the momentum model at each step of the later tasks"""
    first_momentum: float = 0.995
    """the same in the first task, where it follows the live model alone"""
    queue: int = 256
    """pairs of earlier batches whose keys are contrasted too; 0 has none"""
    ewc: float = 5000.0
    """weight of the penalty of `keep=ewc`"""
    official: bool = False
    """as the released code where that differs: queues begin as noise that counts, their size is a multiple of the
    batch, keys of other processes come from the queue alone, and the momentum model keeps its dropout"""
    tau: float = 0.07
    """temperature of all contrasts, which is not learned"""
    mask_words: float = 0.15
    """share of tokens that is masked"""


class CTP(FusionEncoder):
    """A model, and frozen copies of it that say what must not be forgotten."""

    card = CARD
    from_official = staticmethod(from_official)
    prompts: tuple[str, ...] = ()
    prompt_ensemble: Literal["features", "similarities"] = "features"
    passing = ("momentum.", "past.", "elastic.", "images.", "texts.")

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config)
        self.towers = Crossed(config, weights, fuses=bool(config.mlm))
        bert = self.towers.text.encoder
        self.tokenizer, self.mask_id = bert.tokenizer, mask_id(bert.tokenizer)
        self.word_head = TiedHead(bert.width, bert.vocab_size) if config.mlm else None
        if self.word_head is not None:
            initialise(self.word_head, spread(bert.width))
        self.begin(weights)
        self.momentum: CTP | None = None
        self.past: CTP | None = None
        self.elastic: Elastic | None = None
        self.images: Queue | None = None
        self.texts: Queue | None = None
        self.make_copies(config)

    def make_copies(self, config: Config) -> None:
        """Whatever keeps the past, as it is ahead of the first step."""
        wanted = {"ctp": ("momentum", "past"), "lwf": ("past",)}.get(config.keep, ())
        copies = {name: deepcopy(self).requires_grad_(False) for name in wanted}
        for name, copy in copies.items():
            setattr(self, name, copy)
        if config.keep == "ewc":
            self.elastic = Elastic(self)
        if config.keep == "ctp" and config.contrast and config.queue:
            self.images, self.texts = (Queue(config.queue, config.embed) for _ in range(2))
            for queue in (self.images, self.texts) if config.official else ():
                queue.rows.copy_(F.normalize(torch.randn_like(queue.rows), dim=-1))
                queue.pushed.fill_(config.queue)

    # -- views, and the three ways of running it -----------------------------------------------------------------

    def view_image(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """`image` (3, H, W) uint8, cut and changed where `rng` is given."""
        return {"image": view_crossed(self.config, sample, rng)}

    def encode_image(self, batch: Batch) -> Features:
        """Class token and patches (B, 1 + P, C), the class token (B, C)."""
        return self.towers.see(batch.image)

    def encode_text(self, batch: Batch) -> Features:
        """The lower half of the BERT: (B, T, D), the first token (B, D)."""
        return self.towers.read(batch.text, batch.text_mask)

    def fuse(self, image: Features, text: Features) -> Fused:
        """The upper half of the BERT, whose layers attend to the picture, too."""
        fused = self.towers.fuse(image, text)
        return Fused(fused.tokens, image.tokens, fused.pooled)

    def fill(self, image: Features, text: Features, chosen: Tensor | None = None) -> Tensor:
        """Logits of words: (B, T, V) at all places of the texts, or (N, V) at the chosen ones (B, T) bool."""
        assert self.word_head is not None
        hidden = self.fuse(image, text).text
        words = self.towers.text.encoder.model.embeddings.word_embeddings.weight
        logits: Tensor = self.word_head(hidden if chosen is None else hidden[chosen], words)
        return logits

    def outputs(self, batch: Batch, masked: Masked | None) -> Outputs:
        """All that is compared between the live model and its copies."""
        image, text = self.encode_image(batch), self.encode_text(batch)
        words = image.tokens.new_zeros(0, 0)
        if masked is not None:
            words = self.fill(image, self.encode_text(Batch({**batch, "text": masked.inputs})), masked.chosen)
        return Outputs(self.towers.image_head(image.pooled), self.towers.text_head(text.pooled), words)

    # -- what is learned -----------------------------------------------------------------------------------------

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Pre-training alone."""
        return {"pretrain": self.pretrain}

    def pretrain(self, batch: Batch, step: Step) -> Terms:
        """L_ita + L_mlm, and what keeps the past: all weights are 1 in the released code."""
        masked = self.mask(batch) if self.word_head else None
        now = self.outputs(batch, masked)
        terms = Terms(ita=info_nce(*now.joint, self.scale, step.gather))
        if masked is not None:
            terms["mlm"] = self.config.mlm * labelled_cross_entropy(now.words, masked.labels[masked.chosen])
        if self.keeper:
            terms.update(self.keeper(batch, masked, now, step))
        return terms

    @property
    def scale(self) -> Tensor:
        """1 / tau."""
        return torch.tensor(1 / self.config.tau)

    @property
    def keeper(self) -> Callable[[Batch, Masked | None, Outputs, Step], Mapping[str, Tensor]] | None:
        """The terms that keep the past."""
        found = {"ctp": self.stay_compatible, "lwf": self.distil, "ewc": self.consolidate}
        return found.get(self.config.keep)

    def mask(self, batch: Batch) -> Masked:
        """BERT's masking; [SEP] may be masked, [CLS] and padding not, and any id of the vocabulary is put in."""
        free = batch.text_mask.clone()
        free[:, 0] = False
        chosen = choose(free, self.config.mask_words)
        return replace_tokens(batch.text, chosen, self.mask_id, (0, self.tokenizer.vocab_size))

    def stay_compatible(self, batch: Batch, masked: Masked | None, now: Outputs, step: Step) -> Mapping[str, Tensor]:
        """L_mc, L_mlmd and, from the second task on, L_tp."""
        config, terms = self.config, {}
        words = masked if config.distill else None
        assert self.momentum
        assert self.past
        if config.contrast or words is not None:
            with torch.no_grad():
                slow = self.momentum.outputs(batch, words)
            if config.contrast:
                terms["mc"] = config.contrast * self.contrast(now, slow, step)
            if words is not None:
                terms["mlmd"] = config.distill * word_distillation(now.words, slow.words)
        if config.topology and step.task:
            with torch.no_grad():
                before = self.past.outputs(batch, None).joint
            found = topology_loss(now.joint, before, self.scale, step.gather, config.same_modal)
            terms["tp"] = config.topology * found
        return terms

    def contrast(self, now: Outputs, slow: Outputs, step: Step) -> Tensor:
        """L_mc: each image and text of the live model finds its partner among the momentum model's, old and new."""
        keys = slow.joint
        queues = (keys[0][:0], keys[1][:0])
        if self.images and self.texts:
            if self.config.official and self.config.queue % (step.gather.world * len(keys[0])):
                raise ValueError(
                    f"queue={self.config.queue} is no multiple of the batch of {step.gather.world * len(keys[0])}, as "
                    "the released code wants it: change one of them, or leave out official."
                )
            queues = (self.images.filled, self.texts.filled)
            if self.training:
                self.images.push(keys[0], step.gather)
                self.texts.push(keys[1], step.gather)
        return queue_info_nce(
            *now.joint, self.scale, keys, queues, ALONE if self.config.official else step.gather
        )  # fmt: skip

    def distil(self, batch: Batch, masked: Masked | None, now: Outputs, step: Step) -> Mapping[str, Tensor]:
        """Learning without forgetting, as the released code has it (`LWF_forward`)."""
        if not step.task:
            return {}
        assert self.past
        words = masked if self.config.distill else None
        with torch.no_grad():
            before = self.past.outputs(batch, words)
        terms = {"lwf": feature_distillation((now.image, now.text), (before.image, before.text), self.scale)}
        if words is not None:
            terms["mlmd"] = self.config.distill * word_distillation(now.words, before.words)
        return terms

    def consolidate(self, batch: Batch, masked: Masked | None, now: Outputs, step: Step) -> Mapping[str, Tensor]:
        """Elastic weight consolidation, with the penalty's weight of the released code."""
        return {"ewc": self.config.ewc * self.elastic.penalty(self)} if self.elastic and step.task else {}

    # -- the copies ----------------------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """Both models that are copies become what the live one is; the queues stay, as in the released code."""
        for copy in (self.momentum, self.past):
            if copy is not None:
                become(copy, self)

    def before_stage(self, step: Step) -> None:
        """At the start of a task what was learned before is the past."""
        self.begin_anew()
        if self.elastic and step.task:
            self.elastic.settle(self, step.task)

    def after_step(self, step: Step) -> None:
        """The momentum model moves, ahead of its next forward pass."""
        if self.momentum and self.past:
            m, alpha = (self.config.momentum, self.config.alpha) if step.task else (self.config.first_momentum, 0.0)
            for (live, slow), (_, before) in zip(beside(self, self.momentum), beside(self, self.past), strict=True):
                move(slow, live, before, m, alpha)
        if self.elastic:
            self.elastic.add(self, step.progress)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; copies have no dropout, but in the released code that of the momentum model stays."""
        super().train(mode)
        for copy in (self.momentum, self.past):
            if copy is not None:
                copy.train(mode and self.config.official and copy is self.momentum)
        return self

    def stage(self, stage: Stage) -> Stage:
        """Copies do not train."""
        frozen = (r"^(momentum|past|elastic)\.",) if self.config.keep != "none" else ()
        return replace(stage, freeze=(*stage.freeze, *frozen))

    # -- what evaluations ask ------------------------------------------------------------------------------------

    @property
    def lacks(self) -> dict[str, str]:
        """Protocols for which it was not trained."""
        found = {**super().lacks, "MatchesPairs": "it does not learn which pairs belong together"}
        if self.word_head is None:
            found |= dict.fromkeys(("FillsWords", "EmbedsPairs"), "nothing was fused in training (mlm=0)")
        return found

    def embed_image(self, batch: Batch) -> Features:
        """Patches (B, P, embed) and class token (B, embed) in the joint space."""
        return self.towers.joint(self.encode_image(batch), self.towers.image_head, prefix=1)

    def embed_text(self, batch: Batch) -> Features:
        """Tokens (B, T, embed) and first token (B, embed) in the joint space."""
        return self.towers.joint(self.encode_text(batch), self.towers.text_head)

    def similarity(self, image: Features, text: Features) -> tuple[Tensor, Tensor]:
        """Cosine of the pooled vectors, (I, T), both ways."""
        cosine = image.pooled @ text.pooled.T
        return cosine, cosine

    def embed_pair(self, image: Features, text: Features) -> Tensor:
        """The fused first token (B, D), L2-normalised, by which products are found."""
        return unit(self.fuse(image, text).pooled)


PRESETS = {
    "small": Preset(
        Config(
            image_size=32, image_width=64, image_layers=2, text_width=64, text_layers=2, dropout=0.0, context=12,
        ),
        Recipe(samples=51_200, batch=64, lr=2e-3, workers=1, evaluations=1, stream=True),
        about="a minute or two of a CPU: 200 steps for each of four tasks of small pictures",
    ),
    "paper": Preset(
        Config(
            image="timm:deit_base_patch16_224.fb_in1k", image_size=224, text="hf:bert-base-chinese", context=30,
            embed=256, queue=1024, crop=(0.2, 1.0), flip=True, augment="rand",
        ),
        Recipe(  # five epochs of each task of P9D
            samples=5 * 1_014_599, batch=512, lr=1e-4, final_lr=0.01, weight_decay=0.05, betas=(0.9, 0.999), eps=1e-8,
            warmup=0.0, clip=0.0, stream=True,
        ),
        about="CTP on P9D: DeiT-B/16, Chinese BERT-base cut in two, nine tasks",
    ),
}  # fmt: skip
