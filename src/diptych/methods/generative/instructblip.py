"""InstructBLIP: an instruction-aware Q-Former, and instruction tuning (Dai et al., NeurIPS 2023).

Baseline: BLIP-2 (`aware=false`), in which a few learned queries read the picture, whatever is asked of it, and become
the language model's visual tokens. Change: the instruction enters the Q-Former beside the queries, so what they take
from the picture depends on the task (section 2.3).

Tasks: `represent` and `pretrain`, BLIP-2's two stages (the Q-Former alone learns contrast, matching and captions;
then its queries learn to be read by the frozen language model), and `instruct`. Data sets of different sizes are mixed
by the square roots of these (section 2.4): `--data A@sqrt --data B@sqrt`. A clip is seen as its frames, each with the
instruction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.batch import Batch, Features, Sample, Step, Terms
from diptych.card import Card, Claim
from diptych.encoders.base import all_real
from diptych.encoders.text import text_encoder
from diptych.fusion.qformer import QFormer, QFormerConnector, QFormerSizes
from diptych.models.generative import GenerativeConfig, GenerativeVLM, Loss
from diptych.models.official import instructblip as official
from diptych.models.querying import Querying, best_query
from diptych.objectives.matching import matching_score
from diptych.recipe import Preset, Recipe, Stage
from diptych.views import text as captions
from diptych.views.conversations import MARKER, Turn
from diptych.views.instructions import BANK, instructed

CARD = Card(
    id="instructblip",
    title="InstructBLIP",
    year=2023,
    arxiv="2305.06500",
    family="generative",
    needs=("image", "texts"),
    idea="the instruction enters the Q-Former, so the few visual tokens of a picture depend on what is asked",
    claims={
        "aware": Claim(
            about="with one query, a Q-Former that reads the question answers more of them than one that does not",
            metric="vqa/accuracy",
            data=("world:grid=3,objects=9,shapes=9,colours=4,sizes=1,textures=1,backgrounds=1,clutter=0,noise=0,tilt=0,"
                  "occlusion=0,composition=0,questions=cell,each=9,pixels=48,train=4000,evaluation=200",
                  "world:grid=3,objects=9,shapes=9,colours=4,sizes=1,textures=1,composition=0,text=true"),
            val=("world:grid=3,objects=9,shapes=9,colours=4,sizes=1,textures=1,backgrounds=1,clutter=0,noise=0,tilt=0,"
                 "occlusion=0,composition=0,questions=cell,each=9,pixels=48,train=4000,evaluation=200",),
            baseline="instructblip:aware=false",
            budget="samples=96k",
            settings=(
                "tasks=text instruct", "task_data=world2 world", "task_shares=1 5", "asks=questions",
                r"thaw=^language\.", "queries=1", "image_size=48", "patch=16", "positions=1", "image_width=64",
                "image_layers=1", "image_heads=2", "width=64", "layers=2", "heads=2", "context=64", "qformer_width=32",
                "qformer_layers=2", "qformer_heads=2", "dropout=0", "longest=32", "batch=64", "lr=1e-3", "workers=1",
                "evaluations=1",
            ),
        ),
    },
)  # fmt: skip

ASKED = ("conversation", "questions", "texts")
TEXT_LAYERS = r"^connector\.qformer\.model\.encoder\.layer\.{}\.(intermediate|output)\."


@dataclass(frozen=True)
class Config(GenerativeConfig):
    """Options of InstructBLIP. Sizes of the Q-Former count only for our own."""

    tasks: tuple[str, ...] = ("text", "represent", "pretrain", "instruct")
    """what is trained, one after the other: text (the language model alone), represent, pretrain, instruct"""
    aware: bool = True
    """the Q-Former reads instructions; false is BLIP-2"""
    queries: int = 16
    """tokens that the Q-Former makes of a picture"""
    qformer: str = "bert"
    """the BERT as which the Q-Former begins: bert (our own, random) or hf:NAME_OR_PATH"""
    qformer_width: int = 128
    """width of our own Q-Former"""
    qformer_layers: int = 4
    """layers of our own Q-Former"""
    qformer_heads: int = 4
    """attention heads of our own Q-Former"""
    every: int = 2
    """queries attend to the picture in the first layer, and in each so many behind it"""
    dropout: float = 0.1
    """share of what the Q-Former finds that is dropped in training"""
    longest: int = 128
    """tokens of the longest instruction for the Q-Former; of a longer one the end is kept"""
    longest_caption: int = 32
    """tokens of the longest caption for the Q-Former"""
    embed: int = 64
    """width of the joint space of the task represent"""
    norm_eps: float = 1e-5
    """of the norm ahead of the Q-Former: LAVIS's; transformers has 1e-6"""
    asks: tuple[str, ...] = ASKED
    """fields of which instructions are made, where the data have them"""
    thaw: tuple[str, ...] = (r"^encoder\.",)
    """regular expressions; parameters of encoder and language model that train too, as a ViT of our own has to"""


class InstructBLIP(GenerativeVLM):
    """A vision encoder, a Q-Former, a language model."""

    card = CARD
    from_official = staticmethod(official.from_official)
    prompts: Mapping[str, str] = {
        "caption": BANK["caption"][0],
        "question": "Question: {} Short answer:",
        "choice": BANK["choice"][0],
        "yes_no": "Question: {} Answer with yes or no:",
    }
    prompt_ensemble: Literal["features", "similarities"] = "features"
    connector: QFormerConnector
    querying: Querying | None

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config, weights=weights)
        bert: Any = text_encoder(
            config.qformer,
            width=config.qformer_width,
            layers=config.qformer_layers,
            heads=config.qformer_heads,
            context=max(config.longest, config.longest_caption),
            pretrained=weights,
        )
        told = bert.model.config
        self.sizes = QFormerSizes(
            queries=config.queries,
            vocab=bert.tokenizer.vocab_size + 1,  # one more, that begins a caption
            width=bert.width,
            layers=len(bert.layers),
            heads=told.num_attention_heads,
            hidden=told.intermediate_size,
            positions=told.max_position_embeddings,
            every=config.every,
            dropout=config.dropout,
            spread=told.initializer_range,
        )
        self.caption_reader = replace(bert.tokenizer, context=config.longest_caption)
        self.instruction_reader = replace(bert.tokenizer, context=config.longest, keeps="end")
        qformer = QFormer(self.sizes, self.encoder.width)
        qformer.begin_as(official.from_bert(bert.model.state_dict()))
        rows, columns = self.encoder.grid
        self.connector = QFormerConnector(
            qformer, 1 + rows * columns, self.encoder.width, self.language.width, config.norm_eps
        )
        learns = "represent" in config.tasks
        self.querying = Querying(self.sizes.width, self.sizes.vocab, config.embed) if learns else None
        self.begin(weights)

    @property
    def reads(self) -> bool:
        """Whether instructions enter the Q-Former: BLIP-2's stages teach it nothing of the kind."""
        return self.config.aware and bool({"instruct", "video"} & set(self.config.tasks))

    # -- views ---------------------------------------------------------------------------------------------------

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """As of any language model that sees; for `represent` a caption for the Q-Former, `text` and `text_mask`."""
        seen = super().views(sample, rng)
        if self.querying is not None:
            caption = captions.choose(sample.texts, rng) if "texts" in sample else sample.get("text", "")
            tokens = self.tokenize([caption])
            seen |= {"text": tokens.text[0], "text_mask": tokens.text_mask[0]}
        return seen

    def turns(self, sample: Sample, rng: np.random.Generator | None) -> list[Turn]:
        """The conversation that the sample amounts to; of `text` alone, as `pretrain` reads it, a caption unasked."""
        return instructed(sample, rng) if {*ASKED} & {*sample} else super().turns(sample, rng)

    def read(self, turns: Sequence[Turn], visual: Sequence[int], *, open: bool = False) -> dict[str, Any]:
        """The visual tokens lead, ahead of the begin token; `instruction` and its mask are for the Q-Former."""
        made = super().read(turns, visual, open=open)
        order = (~made["visual"]).long().argsort(stable=True)
        made |= {name: made[name][order] for name in ("ids", "labels", "visual")}
        if self.reads:
            asked = " ".join(turn.text for turn in turns if turn.role == "user").replace(MARKER, "")
            ids, mask = self.instruction_reader.encode([asked.strip()])
            made |= {"instruction": ids[0], "instruction_mask": mask[0]}
        return made

    # -- from a batch to a loss ----------------------------------------------------------------------------------

    def look(self, pictures: Tensor) -> Features:
        """Class token and patches (N, 1 + P, C)."""
        seen = super().look(pictures)
        tokens = torch.cat([seen.pooled[:, None], seen.tokens], dim=1)
        return Features(tokens, seen.pooled, torch.cat([seen.mask.new_ones(len(tokens), 1), seen.mask], dim=1))

    @property
    def frames_together(self) -> int:
        """Each frame is seen alone."""
        return 1

    def told(self, batch: Batch) -> Features | None:
        """The instructions, for the Q-Former."""
        if "instruction" not in batch:
            return None
        return self.connector.instruction(batch.instruction, batch.instruction_mask)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Task -> its loss."""
        return {**super().losses, "represent": self.represent, "pretrain": self.align}

    def represent(self, batch: Batch, step: Step) -> Terms:
        """BLIP-2, stage 1: contrast, matching and captions on the Q-Former (section 3.1 there)."""
        assert self.querying is not None
        image = self.normed(self.encode_image(batch))
        return self.querying(self.connector.qformer, image, batch.text, batch.text_mask, step)

    def align(self, batch: Batch, step: Step) -> Terms:
        """BLIP-2, stage 2: the language model writes captions after the queries, which are told nothing."""
        untold = {name: value for name, value in batch.items() if not name.startswith("instruction")}
        return self.tell(Batch(untold, batch.sample_keys), step)

    def normed(self, image: Features) -> Features:
        """What the encoder sees, as the Q-Former takes it."""
        return image._replace(tokens=self.connector.norm(image.tokens))

    def needs(self, task: str) -> tuple[str, ...] | None:
        """The fields that a task reads; instructions are made of whichever of `asks` the data have."""
        own = {"instruct": ("|".join(self.config.asks),), "pretrain": ("image", "text")}
        return own.get(task) or super().needs(task)

    def stage(self, stage: Stage) -> Stage:
        """Encoder and language model are frozen, but for what `thaw` names; so is what a task leaves unused."""
        stage = super().stage(stage)
        if stage.name == "text":
            return stage
        if stage.name == "represent":
            return replace(stage, train=(r"^connector\.(norm|qformer)\.", r"^querying\.", *self.config.thaw))
        told = self.reads and stage.name != "pretrain"
        unread = (TEXT_LAYERS.format(r"\d+"), r"^connector\.qformer\.model\.embeddings\.\w+_embeddings\.")
        unused = (TEXT_LAYERS.format(self.sizes.layers - 1),) if told else unread
        train = (r"^connector\.", *(("lora_",) if self.config.lora_rank else ()), *self.config.thaw)
        return replace(stage, train=train, freeze=(*stage.freeze, *unused))

    # -- what evaluations ask ------------------------------------------------------------------------------------

    @property
    def lacks(self) -> dict[str, str]:
        """Protocols for which it was not trained."""
        found = {}
        if self.querying is None:
            names = ("EmbedsImages", "EmbedsTexts", "ScoresPairs", "EncodesPairs", "MatchesPairs")
            found = dict.fromkeys(names, "it was not trained in the task represent")
        if not {"pretrain", "instruct", "video"} & set(self.config.tasks):
            found |= dict.fromkeys(("Generates", "Captions"), "its queries were not aligned with the language model")
        return found

    def tokenize(self, texts: list[str]) -> Batch:
        """B captions -> `text` (B, T) int64 and `text_mask` (B, T) bool, of the Q-Former's words."""
        ids, mask = self.caption_reader.encode(texts)
        return Batch({"text": ids, "text_mask": mask})

    def encode_text(self, batch: Batch) -> Features:
        """Captions as the Q-Former takes them: words (B, T, W)."""
        return self.connector.instruction(batch.text, batch.text_mask)

    def match(self, image: Features, text: Features) -> Tensor:
        """Log-odds (B,) that picture i and caption i belong together."""
        assert self.querying is not None
        logits = self.querying.match_logits(self.connector.qformer, self.normed(image), text)
        return matching_score(logits.float())

    def embed_image(self, batch: Batch) -> Features:
        """The queries in the joint space (B, Q, E), and their mean."""
        assert self.querying is not None
        tokens = self.querying.image(self.connector.qformer, self.normed(self.encode_image(batch)))
        return Features(tokens, F.normalize(tokens.mean(1), dim=-1), all_real(tokens))

    def embed_text(self, batch: Batch) -> Features:
        """Captions in the joint space: tokens (B, T, E), and the first of them (B, E)."""
        assert self.querying is not None
        return self.querying.text(self.connector.qformer, self.encode_text(batch))

    def similarity(self, image: Features, text: Features) -> tuple[Tensor, Tensor]:
        """Cosine of a caption and the query that is closest to it, (I, T), both ways."""
        forth, _ = best_query(image.tokens, text.pooled, image.tokens[:0], text.pooled)
        return forth, forth


PAPER = Config(
    image="hf:Salesforce/instructblip-vicuna-7b", image_size=224, language="hf:lmsys/vicuna-7b-v1.1", context=448,
    qformer="hf:bert-base-uncased", queries=32, embed=256, tasks=("instruct",), thaw=(),
    crop=(0.5, 1.0),
)  # fmt: skip
PRESETS = {
    "paper": Preset(
        PAPER,
        Recipe(  # section 2.6, from BLIP-2's checkpoint: --start
            samples=60_000 * 128, batch=128, lr=1e-5, weight_decay=0.05, betas=(0.9, 0.999), warmup=1000.0,
        ),
        about="instruction tuning with Vicuna-7B",
    ),
    "blip2": Preset(
        replace(PAPER, tasks=("represent", "pretrain"), aware=False),
        Recipe(  # section 3.4 of BLIP-2, whose stages differ in batch (1680, 1520) and end (1e-5 after 250k steps)
            samples=250_000 * 1680 + 80_000 * 1520, batch=1680, lr=1e-4, weight_decay=0.05, betas=(0.9, 0.98),
            warmup=2000.0, final_lr=0.1,
        ),
        about="BLIP-2's two stages, before instruction tuning",
    ),
}  # fmt: skip
