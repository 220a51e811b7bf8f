"""ALPRO: align and prompt, video-and-language pre-training with entity prompts (Li et al., CVPR 2022).

A video tower and the lower half of a BERT are aligned by a contrastive loss (VTC); the upper half of the BERT reads
their tokens side by side, and learns which pairs match (VTM) and which words are masked (MLM). Baseline: just that
(`pem=0`). Change: a prompter, which was trained by VTC alone and is frozen, says of a random crop of the clip which
entities of a list it shows; the model is to say the same of its fused tokens inside the crop (PEM).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Batch, Features, Sample, Step, Terms
from diptych.card import Card, Claim
from diptych.encoders.words import mask_id, special_ids
from diptych.fusion.cross import initialise
from diptych.models.aligned_video import Aligned, AlignedConfig, view_clip
from diptych.models.fusion_encoder import Fused, FusionEncoder, Loss
from diptych.models.official import alpro as official
from diptych.models.start import read
from diptych.objectives.answers import answer_loss
from diptych.objectives.contrastive import info_nce
from diptych.objectives.masked import candidates, choose, labelled_cross_entropy, replace_tokens
from diptych.objectives.matching import hard_pairs, matching_loss
from diptych.objectives.prompting import IMAGE_PROMPTS, VIDEO_PROMPTS, entity_loss, mean_inside, pseudo_labels
from diptych.objectives.tied import TiedHead
from diptych.recipe import Preset, Recipe, Stage
from diptych.views.crops import patch_crop

CARD = Card(
    id="alpro",
    title="ALPRO",
    year=2021,
    arxiv="2112.09583",
    family="fusion",
    modalities=("video", "text"),
    needs=("video", "texts"),
    idea="a frozen prompter tells which entities a crop shows; the fused tokens inside the crop must tell them too",
    claims={
        "entities": Claim(
            about="fused tokens at the place of an object say better what it is, where a prompter asked for it",
            metric="token_probe/top1",
            data=("world:sprites=starter,video=true,frames=4,events=1,motions=move,objects=2,shapes=12,sizes=1,clutter=0,"
                   "noise=0.02,backgrounds=1,tilt=0,pixels=32,train=4000,evaluation=512",),
            val=("world:sprites=starter,video=true,frames=4,events=1,motions=move,objects=2,shapes=12,sizes=1,clutter=0,"
                   "noise=0.02,backgrounds=1,tilt=0,pixels=32,train=4000,evaluation=512",),
            baseline="alpro:pem=0",
            budget="samples=38400",
            settings=(
                "image_size=32", "image_width=64", "text_width=64", "image_layers=2", "text_layers=2", "frames=2",
                "context=12", "dropout=0", "task_shares=2 1", "sure=0.1", "batch=64", "lr=1e-3", "workers=1",
                "evaluations=1",
                "entities=cyclone rainbow thermometer tornado taco burrito chestnut seedling cactus tulip "
                "rose hibiscus",
            ),
        ),
    },
)  # fmt: skip


@dataclass(frozen=True)
class Config(AlignedConfig):
    """Options of ALPRO."""

    tasks: tuple[str, ...] = ("prompter", "pretrain")
    """what is trained, one after the other: prompter, pretrain, retrieval, vqa"""
    mask_words: float = 0.15
    """share of the words that is masked"""
    pem: float = 1.0
    """weight of prompting entity modelling; 0 leaves it out"""
    entities: tuple[str, ...] = ()
    """what the prompter looks for; none: the most frequent nouns of the training captions"""
    most_entities: int = 1000
    """how many these are at most"""
    sure: float = 0.2
    """a crop counts whose likeliest entity is at least so likely; more than 1 / entities, or the rule says nothing"""
    prompter: str = ""
    """folder of a run whose prompter is taken, in place of the task prompter"""
    official: bool = False
    """decide which crops count as the released code does: those whose likeliest entity is not the first"""


class ALPRO(FusionEncoder):
    """Two towers, aligned; a fusion half; and a prompter."""

    card = CARD
    sees = ("video",)
    from_official = staticmethod(official.from_official)
    prompts: tuple[str, ...] = ()
    prompt_ensemble: Literal["features", "similarities"] = "features"
    entity_prompts: Tensor
    prompted: Tensor

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config)
        self.towers = Aligned(config, weights, fuses=True)
        tokenizer = self.towers.text.encoder.tokenizer
        self.tokenizer, self.mask_id, self.special = tokenizer, mask_id(tokenizer), special_ids(tokenizer)
        width, words = self.towers.text.width, self.towers.text.encoder.vocab_size
        if self.towers.video.width != width:
            raise ValueError(f"ALPRO reads both side by side: make text_width {width} and image_width equal.")
        self.word_head = TiedHead(width, words)
        self.make_heads(width)
        self.prompter = Aligned(config, weights, fuses=False) if self.prompts_entities else None
        count = len(config.entities) or config.most_entities
        if self.prompter is not None:
            self.entity_head = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, count))
        for part in (self.word_head, self.match_head, *([self.entity_head] if self.prompter is not None else ())):
            initialise(part)
        # means over the templates for clips and for pictures, made when the prompter is first asked
        self.register_buffer("entity_prompts", torch.zeros(2, count if self.prompter else 0, config.embed))
        self.register_buffer("prompted", torch.tensor(False))
        self.begin(weights)
        if weights and config.prompter:
            self.take_prompter(config.prompter)

    @property
    def prompts_entities(self) -> bool:
        """Whether there is a prompter."""
        return bool(self.config.pem) or "prompter" in self.config.tasks

    def make_answer_head(self, width: int, answers: int) -> nn.Module:
        """Two layers (section 4.4)."""
        parts = {"dense": nn.Linear(width, 2 * width), "bend": nn.ReLU(), "answers": nn.Linear(2 * width, answers)}
        return nn.Sequential(OrderedDict(parts))

    def take_prompter(self, place: str) -> None:
        """Takes the prompter of another run.

        Raises:
            ValueError: it has none, or one of other sizes.
        """
        own = {name: value for name, value in read(place)[0].items() if name.startswith("prompter.")}
        wanted = (
            {f"prompter.{name}": value.shape for name, value in self.prompter.state_dict().items()}
            if self.prompter
            else {}
        )
        if not own or any(own[name].shape != wanted.get(name) for name in own):
            raise ValueError(f"{place} has no prompter of these sizes: train one with --tasks prompter.")
        self.load_state_dict(own, strict=False)

    # -- views ---------------------------------------------------------------------------------------------------

    def view_image(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """Frames of the clip (F, 3, H, W), whether it is a still picture, and the patches of a crop (P,)."""
        seen: dict[str, Any] = {
            "video": view_clip(sample.video, self.config, rng),
            "still": torch.tensor(len(sample.video) == 1),
        }
        if self.prompter is not None:
            seen["inside"] = patch_crop(self.towers.video.grid, rng).flatten()
        return seen

    # -- both sides, and their fusion ----------------------------------------------------------------------------

    def encode_image(self, batch: Batch) -> Features:
        """Clips -> class token and patches (B, 1 + P, D)."""
        return self.towers.see(batch.video)

    def encode_text(self, batch: Batch) -> Features:
        """Words -> tokens of the lower half of the BERT (B, T, D)."""
        return self.towers.text.text(batch.text, batch.text_mask)

    def fuse(self, image: Features, text: Features) -> Fused:
        """The upper half of the BERT on words and clip side by side, without embeddings of kind or position."""
        tokens, mask = torch.cat([text.tokens, image.tokens], 1), torch.cat([text.mask, image.mask], 1)
        hidden = self.towers.text.fuse(tokens, mask).tokens
        words, seen = hidden.split([text.tokens.shape[1], image.tokens.shape[1]], dim=1)
        return Fused(words, seen, words[:, 0])

    # -- what is learned -----------------------------------------------------------------------------------------

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The usual tasks, the prompter's and retrieval."""
        return {**super().losses, "prompter": self.learn_to_prompt, "retrieval": self.retrieval}

    def needs(self, task: str) -> tuple[str, ...] | None:
        """The prompter learns from what pre-training learns from."""
        return None if task == "prompter" else super().needs(task)

    def stage(self, stage: Stage) -> Stage:
        """The prompter trains in its own stage, and nothing else there."""
        mine = (r"^prompter\.",)
        return replace(stage, train=mine) if stage.name == "prompter" else replace(stage, freeze=(*stage.freeze, *mine))

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; a frozen prompter stays without dropout."""
        super().train(mode)
        if self.prompter is not None:
            self.prompter.train(mode and any(value.requires_grad for value in self.prompter.parameters()))
        return self

    def after_step(self, step: Step) -> None:
        """Keeps the temperatures within their bounds; a prompter that has learned is to be asked anew."""
        for towers in (self.towers, self.prompter):
            if towers is not None:
                towers.clip()
        if step.stage == "prompter":
            self.prompted.fill_(False)

    def learn_to_prompt(self, batch: Batch, step: Step) -> Terms:
        """Section 3.3: the prompter learns by contrast alone."""
        assert self.prompter is not None
        image = self.prompter.see(batch.video)
        text = self.prompter.text.text(batch.text, batch.text_mask)
        return Terms(prompter=self.contrast(self.prompter, image, text, step)[0])

    def pretrain(self, batch: Batch, step: Step) -> Terms:
        """L = VTC + VTM + MLM + PEM (Eq. 7)."""
        image, text = self.encode_image(batch), self.encode_text(batch)
        terms, fused = self.match_and_align(image, text, step)
        terms["mlm"] = self.mlm(batch, image)
        if self.config.pem:
            terms["pem"] = self.config.pem * self.guess_entities(batch, fused[: batch.size, 1:], terms)
        return terms

    def retrieval(self, batch: Batch, step: Step) -> Terms:
        """Fine-tuning for retrieval: VTC + VTM."""
        return self.match_and_align(self.encode_image(batch), self.encode_text(batch), step)[0]

    def vqa(self, batch: Batch, step: Step) -> Terms:
        """Cross-entropy of the answer that most people gave (section 4.4)."""
        logits = self.answer(self.encode_image(batch), self.question(batch))
        return Terms(vqa=answer_loss(logits, batch.answer_scores.argmax(1), batch.asked))

    def contrast(self, towers: Aligned, image: Features, text: Features, step: Step) -> tuple[Tensor, Tensor]:
        """VTC (Eq. 1 and 2): the loss, against the clips and texts of all processes; and this one's logits (B, B)."""
        video, words = towers.joint(image, towers.video_head), towers.joint(text, towers.text_head)
        scale = 1 / towers.tau
        return info_nce(video, words, scale, step.gather), scale.detach() * video.detach() @ words.detach().T

    def match_and_align(self, image: Features, text: Features, step: Step) -> tuple[Terms, Tensor]:
        """VTC, and VTM on 3 B pairs: each text with a clip like its own, each clip with a text like its own (Eq. 3)."""
        vtc, logits = self.contrast(self.towers, image, text, step)
        pairs = hard_pairs(logits, logits.T)  # of this process, as in the released code
        fused = self.fuse(image.take(pairs.image), text.take(pairs.text))
        vtm = matching_loss(self.match_head(fused.pooled), pairs.matched)
        return Terms(vtc=vtc, vtm=vtm, watch={"tau": self.towers.tau}), fused.image

    def mlm(self, batch: Batch, image: Features) -> Tensor:
        """Guesses masked words from the others and the whole clip (Eq. 4)."""
        free = candidates(batch.text, batch.text_mask, self.special)
        chosen = choose(free, self.config.mask_words)
        masked = replace_tokens(batch.text, chosen, self.mask_id, (0, self.tokenizer.vocab_size))
        logits = self.fill(image, self.encode_text(Batch({**batch, "text": masked.inputs})), masked.chosen)
        return labelled_cross_entropy(logits, masked.labels[masked.chosen])

    def fill(self, image: Features, text: Features, chosen: Tensor | None = None) -> Tensor:
        """Logits of words: (B, T, V) at all places of the texts, or (N, V) at the chosen ones (B, T) bool."""
        hidden = self.fuse(image, text).text
        words = self.towers.text.encoder.model.embeddings.word_embeddings.weight
        return self.word_head(hidden if chosen is None else hidden[chosen], words)

    def guess_entities(self, batch: Batch, tokens: Tensor, terms: Terms) -> Tensor:
        """PEM (Eq. 5 and 6): what the prompter says of a crop, from the fused tokens (B, P, D) inside it."""
        probabilities, counts = self.ask_prompter(batch)
        terms.watch["crops that count"] = counts.float().mean()
        return entity_loss(self.entity_head(mean_inside(tokens, batch.inside)), probabilities, counts)

    @torch.no_grad()
    def ask_prompter(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which entities the crops show, (B, E) probabilities, and which crops count (B,)."""
        assert self.prompter is not None
        if not self.prompted:
            self.entity_prompts.copy_(self.read_prompts())
            self.prompted.fill_(True)
        inside = batch.inside.unflatten(1, self.prompter.video.grid)
        scale = batch.video.shape[-1] // inside.shape[-1]
        pixels = inside.repeat_interleave(scale, 1).repeat_interleave(scale, 2)  # (B, H, W)
        seen = self.prompter.see(batch.video * pixels[:, None, None])
        crops = self.prompter.joint(seen, self.prompter.video_head)
        prompts = self.entity_prompts[batch.still.long()]  # (B, E, D)
        return pseudo_labels(crops, prompts, self.prompter.tau, self.config.sure, self.config.official)

    @torch.no_grad()
    def read_prompts(self, at_once: int = 256) -> Tensor:
        """The prompter's features of the prompts: means over the templates, for clips and for pictures, (2, E, embed).

        Raises:
            ValueError: there are no entities.
        """
        assert self.prompter is not None
        if not self.config.entities:
            raise ValueError("there are no entities to look for: give --entities, or captions that name things.")
        found = []
        for templates in (VIDEO_PROMPTS, IMAGE_PROMPTS):
            texts = [template.format(entity) for entity in self.config.entities for template in templates]
            parts = []
            for start in range(0, len(texts), at_once):
                tokens = self.tokenize(texts[start : start + at_once]).to(self.entity_prompts.device)
                encoded = self.prompter.text.text(tokens.text, tokens.text_mask)
                parts.append(self.prompter.joint(encoded, self.prompter.text_head))
            found.append(torch.cat(parts).unflatten(0, (-1, len(templates))).mean(1))
        return torch.stack(found)

    # -- what evaluations ask ------------------------------------------------------------------------------------

    def embed_image(self, batch: Batch) -> Features:
        """Clips -> patches (B, P, embed) and class token (B, embed) in the joint space."""
        seen = self.encode_image(batch)
        tokens = F.normalize(self.towers.video_head(seen.tokens[:, 1:]).float(), dim=-1)
        return Features(tokens, self.towers.joint(seen, self.towers.video_head), seen.mask[:, 1:])

    def embed_text(self, batch: Batch) -> Features:
        """Texts -> tokens (B, T, embed) and first token (B, embed) in the joint space."""
        text = self.encode_text(batch)
        tokens = F.normalize(self.towers.text_head(text.tokens).float(), dim=-1)
        return Features(tokens, self.towers.joint(text, self.towers.text_head), text.mask)

    def similarity(self, image: Features, text: Features) -> tuple[Tensor, Tensor]:
        """Cosine of the pooled vectors, (I, T), both ways."""
        cosine = image.pooled @ text.pooled.T
        return cosine, cosine

    def probe(self, image: Features, text: Features) -> Tensor:
        """Fused patches (B, P, D)."""
        return self.fuse(image, text).image[:, 1:]


PRESETS = {
    "paper": Preset(
        Config(
            video="timesformer:timm:vit_base_patch16_224",
            frames=4,
            image_size=224,
            text="hf:bert-base-uncased",
            lower=6,
            context=30,
            embed=256,
            rand_augment=True,
            task_shares=(1, 1),  # ten epochs each
        ),
        Recipe(  # section 4.2; WebVid-2M and CC3M
            samples=2 * 10 * 5_500_000,
            batch=256,
            lr=1e-4,
            weight_decay=1e-3,
            betas=(0.9, 0.98),
            warmup=0.05,
            schedule="linear",
            clip=20.0,
        ),
        about="ALPRO: TimeSformer-B/16 on four frames, BERT-base cut in two",
    )
}
