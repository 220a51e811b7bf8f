"""FIBER: coarse-to-fine vision-language pre-training with fusion in the backbone (Dou et al., NeurIPS 2022).

Baseline: METER, with co-attention layers on top of both towers (`fusion="top"`). Changes: cross-attention stands
inside the last blocks of the image tower and the last layers of the text tower, each behind a gate alpha that begins
at 0 (Section 3.1). With the gates left out the network is a dual encoder, with those of the image left out a captioner.

Tasks: `coarse` (contrast with a queue, matching with hard negatives, masked words; Section 3.2), then whatever is
learned of it: `fine` (boxes for phrases; Section 3.3), `referring`, `vqa`,
`nlvr2`, `retrieval`, `caption`, `gold` and `cider` (captions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from diptych.batch import Batch, Features, Sample, Step, Terms
from diptych.card import Card, Claim
from diptych.encoders.base import all_real
from diptych.encoders.words import mask_id, special_ids
from diptych.fusion import CrossLayer, CrossPair, initialise
from diptych.models.box_finder import BoxConfig, box_finder
from diptych.models.captioner import caption_loss, rewarded_loss, weighed_loss, written
from diptych.models.fusion_encoder import Fused, FusionEncoder, Loss
from diptych.models.joint_space import JointSpace, pooler
from diptych.models.official.fiber import from_official
from diptych.models.paired_config import PairedConfig, paired_towers, spread, view_picture
from diptych.models.writing import WritingConfig
from diptych.objectives.answers import AnswerHead
from diptych.objectives.contrastive import info_nce_from_logits
from diptych.objectives.masked import candidates, choose, labelled_cross_entropy, replace_tokens
from diptych.objectives.matching import Pairs as Drawn, hard_pairs, matching_loss
from diptych.objectives.queue import PairQueue, own_columns, queue_logits
from diptych.objectives.tied import transform
from diptych.recipe import Preset, Recipe, Stage
from diptych.views.grounding import grounded, named_boxes

CARD = Card(
    id="fiber",
    title="FIBER",
    year=2022,
    arxiv="2206.07643",
    family="fusion",
    needs=("image", "texts"),
    idea="gated cross-attention in the last blocks of both towers; one network is dual encoder, fuser and captioner",
    claims={
        "backbone": Claim(
            about="masked colours of captions are guessed from the picture no worse with fusion inside the towers than "
            "with as many parameters of co-attention on top of them",
            metric="masked_words/colour",
            also=("pair_foils", "hard_gallery"),
            data=("world:objects=2,shapes=8,colours=8,textures=1,sizes=1,say=colour,pixels=32,"
                  "clutter=0,noise=0.02,gallery=8,evaluation=320",),
            val=("world:objects=2,shapes=8,colours=8,textures=1,sizes=1,say=colour,pixels=32,"
                 "clutter=0,noise=0.02,gallery=8,evaluation=320",
                 "world:objects=2,shapes=8,colours=8,textures=1,sizes=1,say=colour,pixels=32,"
                 "clutter=0,noise=0.02,gallery=8,evaluation=320@gallery"),
            baseline="fiber:fusion=top",
            budget="samples=16k",
            settings=(
                "image_size=32", "image_width=64", "text_width=64", "hidden=64", "fused=4", "context=14", "queue=0",
                "batch=32", "lr=1e-3", "workers=1", "evaluations=1",
            ),
            margin=0.02,
        ),
        "coarse": Claim(
            about="of one budget, half spent on pairs of pictures and captions makes phrases find their boxes better",
            metric="grounding/phrase_r1",
            data=("world:objects=2,shapes=8,colours=8,textures=1,sizes=1,say=colour,clutter=0,noise=0.02,evaluation=320",),
            val=("world:objects=2,shapes=8,colours=8,textures=1,sizes=1,say=colour,clutter=0,noise=0.02,evaluation=320",),
            baseline="fiber:tasks=fine",
            budget="samples=9600",
            settings=(
                "tasks=coarse fine", "image_width=64", "text_width=64", "hidden=64", "levels=1", "head_blocks=1",
                "context=14", "queue=0", "batch=32", "lr=1e-3", "workers=1", "evaluations=1",
            ),
        ),
    },
)  # fmt: skip

FINDS, WRITES = {"fine", "referring"}, {"caption", "gold", "cider"}
COPIED_EVERY = 1000
"""steps after which the earlier copy is renewed"""


@dataclass(frozen=True)
class Config(BoxConfig, WritingConfig, PairedConfig):
    """Options of FIBER."""

    tasks: tuple[str, ...] = ("coarse",)
    """what is trained, one after the other: `coarse vqa` pre-trains, then learns to answer questions"""
    fusion: Literal["inside", "top"] = "inside"
    """`top` is METER: co-attention layers behind towers that know nothing of each other"""
    top_layers: int = 1
    """number of those; one has as many parameters as four pairs inside"""
    tau: float = 0.07
    """initial temperature of the contrast, learned from there, between 0.001 and 1"""
    queue: int = 512
    """pairs of earlier batches whose features are contrasted too; 0 has none"""
    negatives: int = 32
    """of the newest of these pictures and texts are kept as well, to be hard negatives of the matching"""
    official: bool = False
    """as the paper's code: the queue counts from the first step, though it begins as noise of norm sqrt(hidden)"""
    mask: float = 0.15
    """share of tokens that are masked"""
    new_lr: float = 1.0
    """multiplies the learning rate of all that is in neither tower"""
    head_lr: float = 1.0
    """multiplies it for the heads of questions and statements, in place of `new_lr`"""


class FIBER(FusionEncoder):
    """Two towers that attend to each other in their last blocks."""

    card = CARD
    from_official = staticmethod(from_official)
    copied: Tensor
    prompts: tuple[str, ...] = ()
    prompt_ensemble: Literal["features", "similarities"] = "features"

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config)
        self.towers = paired_towers(config, weights, config.fusion == "inside", bool(WRITES & set(config.tasks)))
        self.tokenizer = self.towers.text.encoder.tokenizer
        self.mask_id = mask_id(self.tokenizer)
        hidden, heads = config.hidden, int(self.towers.text.encoder.model.config.num_attention_heads)
        self.teacher: nn.Module | None = None
        if "gold" in config.tasks:
            self.teacher = FIBER(replace(config, tasks=("caption",), queue=0, start=""), weights=False)
            self.teacher.requires_grad_(False)
            self.register_buffer("copied", torch.tensor(-1))
        widths = self.towers.image.width, self.towers.text.width
        self.joint = JointSpace(*widths, hidden, config.tau)
        self.image_map, self.text_map = (nn.Linear(width, hidden) for width in widths)
        self.image_pooler, self.text_pooler = pooler(hidden), pooler(hidden)
        self.top = nn.ModuleList(
            CrossPair(CrossLayer(hidden, heads), CrossLayer(hidden, heads))
            for _ in range(config.top_layers if config.fusion == "top" else 0)
        )
        self.word_head = nn.Sequential(transform(hidden), nn.Linear(hidden, self.towers.text.encoder.vocab_size))
        self.boxes = box_finder(config, self.towers) if FINDS & set(config.tasks) else None
        self.levels = self.boxes.levels if self.boxes else []
        self.ahead = [index for index in self.levels if index < self.towers.first[0] - 1]
        self.make_heads(2 * hidden)
        for name, part in self.named_children():
            if name not in ("towers", "teacher", "boxes"):
                initialise(part, spread(hidden))
        sizes = {"kept": config.negatives, "side": config.image_size, "context": self.towers.text.encoder.context}
        self.queues = PairQueue(config.queue, hidden, **sizes, noise=config.official) if config.queue else None
        self.begin(weights)

    def make_heads(self, width: int, image_width: int = 0) -> None:
        """The paper's heads of questions and statements normalise ahead of the GELU."""
        super().make_heads(width, image_width)
        if self.pair_head is not None:
            layers = nn.Linear(2 * width, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, 2)
            self.pair_head = nn.Sequential(*layers)

    def make_answer_head(self, width: int, answers: int) -> nn.Module:
        """Dense, LayerNorm, GELU, linear."""
        return AnswerHead(width, answers, hidden=width, norm_first=True, eps=1e-5)

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """As of any fusion encoder; with boxes, a text that names them, and which tokens name which; `references`."""
        seen = super().views(sample, rng)
        if "boxes" in sample and "texts" not in sample and {"spans", "phrases"} & set(sample):
            text, spans = grounded(sample, self.config.names, rng)
            seen |= self._read("text", text)
            seen |= named_boxes(sample, spans, self.token_offsets([text])[0], self.config.most_boxes)
        if "cider" in self.config.tasks and "texts" in sample:
            seen["references"] = list(sample.texts)
        return seen

    # -- the three ways of running it ----------------------------------------------------------------------------

    def view_image(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """`image` (3, H, W) uint8."""
        return {"image": view_picture(self.config, sample, rng)}

    def encode_image(self, batch: Batch) -> Features:
        """The state of the image tower ahead of the first pair, and finer maps for boxes, as tokens (B, P, C)."""
        maps: dict[int, Tensor] = {}
        x = self.towers.begin_image(batch.image, maps)
        tokens = self.towers.pack(x, {index: maps[index] for index in self.ahead})
        return Features(tokens, tokens.mean(1), all_real(tokens))

    def encode_text(self, batch: Batch) -> Features:
        """The text half: (B, T, D)."""
        tokens = self.towers.begin_text(batch.text, batch.text_mask)
        return Features(tokens, tokens[:, 0], batch.text_mask)

    def state(self, image: Features) -> Tensor:
        """What `encode_image` found, as the image tower hands it on."""
        return self.towers.unpack(image.tokens)[0]

    def fuse(self, image: Features, text: Features) -> Fused:
        """Both towers attend to each other: text (B, T, D), image (B, P, D), both pooled and side by side (B, 2D)."""
        seen, said = self.towers.fuse(self.state(image), text.tokens, text.mask)
        if self.top:
            seen = self.towers.image.norm(seen)
        said, seen = self.text_map(said), self.image_map(seen)
        for layer in self.top:
            said, seen = layer(said, seen, text.mask)
        pooled = torch.cat([self.text_pooler(said[:, 0]), self.image_pooler(seen.mean(1))], dim=-1)
        return Fused(said, seen, pooled)

    def dual_image(self, image: Features) -> Features:
        """The image tower alone: tokens (B, P, D) and one vector (B, D) of the joint space, normalised."""
        return self.joint.image(self.towers.image_alone(self.state(image)))

    def dual_text(self, text: Features) -> Features:
        """The text tower alone: tokens (B, T, D) and one vector (B, D) of the joint space, normalised."""
        return self.joint.text(self.towers.text_alone(text.tokens, text.mask), text.mask)

    # -- what is learned -----------------------------------------------------------------------------------------

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Task -> its loss."""
        usual = {name: loss for name, loss in super().losses.items() if name != "pretrain"}
        own = {"coarse": self.coarse, "fine": self.fine, "referring": self.refer, "retrieval": self.retrieve}
        return {**usual, **own, "caption": self.caption_words, "gold": self.gold, "cider": self.cider}

    def coarse(self, batch: Batch, step: Step) -> Terms:
        """Contrast, matching and masked words (Section 3.2), each of weight 1."""
        return self.retrieve(batch, step, words=True)

    def retrieve(self, batch: Batch, step: Step, words: bool = False) -> Terms:
        """Contrast with the batch and a queue, matching with the hard negatives that it finds; masked words if told."""
        image, text = self.encode_image(batch), self.encode_text(batch)
        tau = self.joint.tau
        with torch.no_grad():
            tau.clamp_(0.001, 1.0)
        seen, said = self.dual_image(image).pooled, self.dual_text(text).pooled
        queues = (self.queues.image.filled, self.queues.text.filled) if self.queues else (seen[:0], said[:0])
        keys = seen.detach(), said.detach()  # no gradient through keys, and no momentum tower
        logits = queue_logits(seen, said, 1 / tau, keys, queues, step.gather)
        itc = info_nce_from_logits(*logits, None, step.gather.rank * batch.size)
        at_hand = self.queues.at_hand if self.queues else own_columns
        pairs = hard_pairs(at_hand(logits[0], step.gather), at_hand(logits[1], step.gather))
        itm = self.matching(image, text, pairs)
        if self.queues and self.training:
            self.queues.push(*keys, batch, step.gather)
        terms = Terms({"tau": tau.detach()}, itc=itc, itm=itm)
        if words:
            terms["mlm"] = self.masked_words(image, batch)
        return terms

    def matching(self, image: Features, text: Features, pairs: Drawn) -> Tensor:
        """Which pairs belong together; indices from B on are of the pairs that the queues keep."""
        if self.queues:
            image = self.queues.take(image, pairs.image, self.encode_image)
            text = self.queues.take(text, pairs.text, self.encode_text)
        else:
            image, text = image.take(pairs.image), text.take(pairs.text)
        return matching_loss(self.match_head(self.fuse(image, text).pooled), pairs.matched)

    def fine(self, batch: Batch, step: Step) -> Terms:
        """Boxes for phrases (Section 3.3): GLIP's losses, on towers that attend to each other."""
        named = batch.boxes, batch.box_mask, batch.phrase_tokens
        return self.ground(self.encode_image(batch), self.encode_text(batch), named)

    def refer(self, batch: Batch, step: Step) -> Terms:
        """The same, for an expression that means one box with all of its words."""
        text = self.encode_text(Batch({"text": batch.expression, "text_mask": batch.expression_mask}))
        told = candidates(batch.expression, batch.expression_mask, special_ids(self.tokenizer))
        one = torch.ones_like(told[:, :1])
        return self.ground(self.encode_image(batch), text, (batch.target_box[:, None], one, told[:, None]))

    def ground(self, image: Features, text: Features, named: tuple[Tensor, Tensor, Tensor]) -> Terms:
        """Losses of the grounding head for boxes (B, N, 4), their mask (B, N), and the tokens of each (B, N, T)."""
        assert self.boxes is not None
        return Terms({}, **self.boxes.loss(*self.pyramid(image, text), text.mask, named))

    def pyramid(self, image: Features, text: Features) -> tuple[list[Tensor], Tensor]:
        """Maps of the image tower (B, C, h, w), finest first, and words (B, T, D), where both attend to each other."""
        x, maps = self.towers.unpack(image.tokens, self.ahead)
        if self.towers.first[0] - 1 in self.levels:
            maps[self.towers.first[0] - 1] = x
        _, said = self.towers.fuse(x, text.tokens, text.mask, maps)
        return [self.towers.image.map(maps[index], index) for index in self.levels], said

    def seen(self, image: Features) -> Tensor:
        """What the captioner sees: the image tower's last tokens (B, P, C), ahead of its norm."""
        return self.towers.image_alone(self.state(image), normed=False)

    def write(self, seen: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """As a captioner: (B, P, C), texts (B, T), mask (B, T) -> logits (B, T, V) of what follows each token."""
        logits: Tensor = self.word_head(self.text_map(self.towers.write(seen, ids, mask)))
        return logits

    def caption_words(self, batch: Batch, step: Step) -> Terms:
        """Cross-entropy of each next word of a caption."""
        return Terms(caption=caption_loss(self, self.seen(self.encode_image(batch)), batch))

    def gold(self, batch: Batch, step: Step) -> Terms:
        """The same, weighed by how likely the words were to an earlier copy of this model (GOLD)."""
        assert isinstance(self.teacher, FIBER)
        if self.training and (self.copied < 0 or step.index - self.copied >= COPIED_EVERY):
            own = self.state_dict()
            self.teacher.load_state_dict({name: own[name] for name in self.teacher.state_dict()})
            self.copied.fill_(step.index)
        with torch.no_grad():
            teacher = self.teacher.eval()
            before = teacher.write(teacher.seen(teacher.encode_image(batch)), batch.text, batch.text_mask)
        seen = self.seen(self.encode_image(batch))
        return Terms(gold=weighed_loss(self, seen, before, batch, self.config.official))

    def cider(self, batch: Batch, step: Step) -> Terms:
        """The same with a weight of 0.3, and captions of its own that are rewarded by CIDEr-D with one of 0.7."""
        return rewarded_loss(self, self.seen(self.encode_image(batch)), batch)

    def masked_words(self, image: Features, batch: Batch) -> Tensor:
        """BERT's masking, guessed from the fused text."""
        special = special_ids(self.tokenizer)
        chosen = choose(candidates(batch.text, batch.text_mask, special), self.config.mask)
        words = replace_tokens(batch.text, chosen, self.mask_id, (0, self.tokenizer.vocab_size))
        text = self.encode_text(Batch({"text": words.inputs, "text_mask": batch.text_mask}))
        return labelled_cross_entropy(self.fill(image, text, words.chosen), words.labels[words.chosen])

    def needs(self, task: str) -> tuple[str, ...] | None:
        """The fields that a task reads."""
        if task == "fine":
            return (*self.sees, "boxes")
        return (*self.sees, "texts") if task in {"retrieval", *WRITES} else super().needs(task)

    def stage(self, stage: Stage) -> Stage:
        """What is new learns faster than the towers, and new heads faster still."""
        lr = []
        if self.config.head_lr != 1 and stage.name in ("vqa", "nlvr2"):
            lr.append((r"^(answer|pair)_head\.", self.config.head_lr))
        if self.config.new_lr != 1:
            lr += [(r"^towers\.(image|text)\.", 1.0), (r".", self.config.new_lr)]
        uses = ("text", "spans", "phrases") if stage.name == "fine" else ()
        return replace(stage, lr=tuple(lr), uses=uses)

    # -- what evaluations ask ------------------------------------------------------------------------------------

    @property
    def lacks(self) -> dict[str, str]:
        """Protocols for which it was not trained."""
        found = {name: why for name, why in super().lacks.items() if name != "Locates"}
        for name, tasks in {"Locates": FINDS, "Captions": WRITES}.items():
            if not tasks & set(self.config.tasks):
                found[name] = f"it was trained in none of the tasks {', '.join(sorted(tasks))}"
        return found

    def fill(self, image: Features, text: Features, chosen: Tensor | None = None) -> Tensor:
        """Logits of words: (B, T, V) at all places of the texts, or (N, V) at the chosen ones (B, T) bool."""
        hidden = self.fuse(image, text).text
        logits: Tensor = self.word_head(hidden if chosen is None else hidden[chosen])
        return logits

    def caption(self, image: Features) -> list[str]:
        """The best of `beams` captions of each image, by the mean log probability of its words."""
        return written(self, self.seen(image))

    def locate(self, image: Features, text: Features, about: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes for the tokens that are asked for (B, N, 4), best first, and their scores (B, N)."""
        assert self.boxes is not None
        return self.boxes.find(*self.pyramid(image, text), about)

    def embed_image(self, batch: Batch) -> Features:
        """As a dual encoder: the image in the joint space."""
        return self.dual_image(self.encode_image(batch))

    def embed_text(self, batch: Batch) -> Features:
        """As a dual encoder: the text in the joint space."""
        return self.dual_text(self.encode_text(batch))

    def similarity(self, image: Features, text: Features) -> tuple[Tensor, Tensor]:
        """Cosine of the pooled vectors, the same in both directions."""
        cosine = image.pooled @ text.pooled.T
        return cosine, cosine

    def heat(self, image: Features, text: Features) -> Tensor:
        """Cosine of every place with every word, of `embed_image` and `embed_text`: (B, T, h, w)."""
        cosine = torch.einsum("bpd,btd->btp", image.tokens, text.tokens)
        return cosine.unflatten(-1, self.towers.image.blocks[-1].grid)


PRESETS = {
    "paper": Preset(
        Config(
            image="timm:swin_base_patch4_window12_384.ms_in22k", image_size=384, text="hf:roberta-base", context=40,
            hidden=768, fused=6, queue=4096, crop=(1.0, 1.0), new_lr=5.0, head_width=256, head_blocks=6, anchor=8.0,
        ),
        Recipe(
            samples=100_000 * 4096, batch=4096, lr=1e-5, weight_decay=0.01, betas=(0.9, 0.98), eps=1e-8, warmup=0.1,
            schedule="linear",
        ),
        about="coarse stage: Swin-B at 384 pixels and RoBERTa-base, six fused layers",
    ),
}  # fmt: skip
