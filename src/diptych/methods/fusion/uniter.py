"""UNITER: universal image-text representation learning (Chen et al., 2019).

A BERT reads the words of a caption and the regions that a detector found in the picture as one sequence. Baseline: the
same with random masking of both modalities at once, as in VL-BERT, VisualBERT and Unicoder-VL (`masking="joint"`).
Changes: (1) conditional masking: words are masked while all regions are seen, and regions while all words are;
(2) words and regions are aligned by optimal transport (WRA); (3) a masked region is guessed as its features (MRFR), as
the detector's distribution over classes (MRC-kl) or as its likeliest class (MRC). Each step trains one task.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from diptych.batch import Batch, Features, Sample, Step, Terms
from diptych.card import Card, Claim
from diptych.encoders.base import EncoderError, mean_real
from diptych.encoders.halves import TextHalves
from diptych.encoders.regions import RegionEmbedding
from diptych.encoders.text import text_encoder
from diptych.encoders.words import mask_id, special_ids
from diptych.fusion.cross import initialise
from diptych.fusion.pairs import PairAttention
from diptych.models.fusion_encoder import Fused, FusionConfig, FusionEncoder, Loss
from diptych.models.official import uniter as official
from diptych.objectives import matching, regions as guessed
from diptych.objectives.answers import AnswerHead
from diptych.objectives.masked import Masked, candidates, choose, labelled_cross_entropy, replace_tokens
from diptych.objectives.mixing import one_task
from diptych.objectives.tied import TiedHead, transform
from diptych.objectives.transport import cosine_cost, transport_distance, transport_plan, word_region_alignment
from diptych.recipe import Preset, Recipe, Stage
from diptych.views import regions

CARD = Card(
    id="uniter",
    title="UNITER",
    year=2019,
    arxiv="1909.11740",
    family="fusion",
    needs=("regions", "region_boxes", "texts"),
    idea="a BERT over words and regions; one modality masked at a time; words aligned to regions by transport",
    claims={
        "masking": Claim(
            about="with half of the regions masked, masked colours are guessed better after learning words while all "
            "regions were seen than after learning both at once",
            metric="masked_words/colour",
            also=("masked_words/category",),
            data=("world:objects=3,shapes=6,colours=6,textures=1,sizes=1,say=colour,pixels=32,region_noise=0.2",),
            val=(
                "world:objects=3,shapes=6,colours=6,textures=1,sizes=1,say=colour,pixels=32,region_noise=0.2,evaluation=500",
            ),
            baseline="uniter:masking=joint",  # guesses words and regions in every step: twice the losses
            budget="samples=44800",
            settings=(
                "text_width=128,text_layers=3,context=12,regions_most=3,mask_words=0.25,mask_regions=0.5",
                "itm=0,mlm=1,mrfr=1,mrckl=0,lr=1e-3,warmup=0.1,workers=1,evaluations=3",
            ),
        ),
        "alignment": Claim(
            about="transport between words and regions, at ten times the paper's weight, makes a phrase belong to the "
            "region of its object",
            metric="word_regions/accuracy",
            also=("masked_words/colour",),
            data=("world:objects=3,shapes=6,colours=6,textures=1,sizes=1,say=colour,pixels=32,region_noise=0.2",),
            val=(
                "world:objects=3,shapes=6,colours=6,textures=1,sizes=1,say=colour,pixels=32,region_noise=0.2,evaluation=500",
            ),
            baseline="uniter:wra=0",
            budget="samples=38400",
            settings=(
                "text_layers=3,context=12,regions_most=3,mask_words=0.25,itm=1,mlm=2,mrfr=0,mrckl=0,wra=1",
                "lr=2e-3,warmup=0.1,workers=1,evaluations=3",
            ),
        ),
    },
)


@dataclass(frozen=True)
class Config(FusionConfig):
    """Options of UNITER."""

    text: str = "bert"
    """the BERT that reads words and regions: bert (our own), or hf:NAME_OR_PATH"""
    text_width: int = 64
    """width of our own BERT"""
    text_layers: int = 2
    """layers of our own BERT"""
    text_heads: int = 4
    """attention heads of our own BERT"""
    regions_most: int = 8
    """most regions of a picture; of more, the surest are taken"""
    region_width: int = 0
    """how many features a region has; 0 finds out from the data"""
    region_classes: int = 0
    """classes of the detector, background included; 0 finds out from the data"""
    itm: float = 2
    """share of the steps that tell matched from unmatched pairs, with alignment"""
    mlm: float = 2
    """share of the steps that guess masked words"""
    mrfr: float = 1
    """share of the steps that guess the features of masked regions"""
    mrckl: float = 1
    """share of the steps that guess the detector's distribution over classes for masked regions"""
    mrc: float = 0
    """share of the steps that guess the likeliest class of masked regions"""
    masking: Literal["conditional", "joint"] = "conditional"
    """conditional: words or regions are masked, and the others seen; joint: both, and both are guessed"""
    mask_words: float = 0.15
    """share of the words that is masked"""
    mask_regions: float = 0.15
    """share of the regions that is masked"""
    wra: float = 0.1
    """weight of word-region alignment in the steps of `itm`; 0 leaves it out"""
    wra_negatives: bool = True
    """push the words and regions of unmatched pairs apart, as the paper's code does; the paper does not say so"""
    pair: Literal["attention", "pair", "triplet"] = "attention"
    """how two pictures are judged: each read with the statement, then attending to each other (the paper's best); the
    same without that attention; or all three read as one sequence"""
    negatives: int = 1
    """other pictures for each text, and other texts for each picture, in the task retrieval; drawn from the batch"""
    hardest: int = 0
    """how many of these count, the hardest of them; 0: all"""
    margin: float = 0.2
    """by which a matched pair is to score above the others in the task retrieval, in shares of 1"""
    head_lr: float = 1.0
    """multiplies the learning rate of the head that answers questions"""


class UNITER(FusionEncoder):
    """One BERT over words and regions."""

    card = CARD
    sees = ("regions", "region_boxes")
    from_official = staticmethod(official.from_official)

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config)
        encoder = text_encoder(
            config.text,
            width=config.text_width,
            layers=config.text_layers,
            heads=config.text_heads,
            context=config.context,
            pretrained=weights,
        )
        self.trunk, self.tokenizer = TextHalves(encoder, text_layers=0), encoder.tokenizer
        self.mask_id, self.special = mask_id(encoder.tokenizer), special_ids(encoder.tokenizer)
        width, words, bert = encoder.width, encoder.vocab_size, self.trunk.encoder.model.config
        if bert.type_vocab_size < 2:
            raise EncoderError(f"{config.text!r} knows one kind of token, and regions are a second: take a BERT.")
        self.regions = RegionEmbedding(config.region_width, width)
        self.region_norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(bert.hidden_dropout_prob)
        self.pooler = nn.Linear(width, width)
        self.word_head = TiedHead(width, words)
        self.feature_head = TiedHead(width, config.region_width)
        self.class_head = nn.Sequential(transform(width), nn.Linear(width, config.region_classes))
        self.make_heads(width)
        if "entailment" in config.tasks:
            self.entailment_head = AnswerHead(width, config.entailments)
        if "nlvr2" in config.tasks:
            self.second = nn.Parameter(torch.zeros(width))  # what a region of the second picture has more
            self.pair_head = nn.Linear(width if config.pair == "triplet" else 2 * width, 2)
            if config.pair == "attention":
                self.pair_attention = PairAttention(width, bert.num_attention_heads, bert.hidden_dropout_prob)
        for part in self.children():
            if part is not self.trunk:
                initialise(part, bert.initializer_range)  # more than BERT's 0.02 in a narrow one
        self.begin(weights)

    # -- words and regions as one sequence -----------------------------------------------------------------------

    def view_image(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """The regions of a picture, padded to `regions_most`."""
        return regions.view(sample, self.config.regions_most)

    def encode_image(self, batch: Batch, masked: Tensor | None = None) -> Features:
        """Regions -> tokens (B, R, D), before the embedding of their kind; those that are masked (B, R) are blank."""
        tokens = self.regions(batch.regions, batch.region_boxes, masked)
        return Features(tokens, mean_real(tokens, batch.region_mask), batch.region_mask, batch.region_boxes)

    def encode_text(self, batch: Batch) -> Features:
        """Words -> BERT's embeddings (B, T, D)."""
        return self.trunk.text(batch.text, batch.text_mask)

    def seen(self, image: Features, second: bool = False) -> Features:
        """The regions as BERT reads them: tokens of the second kind, or, of a second picture, of a third."""
        kind = self.trunk.encoder.model.embeddings.token_type_embeddings.weight[1]
        kind = kind + self.second if second else kind
        return image._replace(tokens=self.dropout(self.region_norm(image.tokens + kind)))

    def read(self, *parts: Features) -> list[Tensor]:
        """Runs BERT over some sequences as one: text, regions, or both -> the hidden states of each, (B, N, D)."""
        tokens, mask = torch.cat([part.tokens for part in parts], 1), torch.cat([part.mask for part in parts], 1)
        hidden = self.trunk.fuse(tokens, mask).tokens
        return list(hidden.split([part.tokens.shape[1] for part in parts], dim=1))

    def pool(self, hidden: Tensor) -> Tensor:
        """BERT's pooler: (B, N, D) -> (B, D), of the first."""
        return self.pooler(hidden[:, 0]).tanh()

    def fuse(self, image: Features, text: Features) -> Fused:
        """Words first, then regions."""
        words, seen = self.read(text, self.seen(image))
        return Fused(words, seen, self.pool(words))

    # -- pre-training --------------------------------------------------------------------------------------------

    def pretrain(self, batch: Batch, step: Step) -> Terms:
        """One task, the same in all processes; in proportion to its share, in a row that depends on the step alone."""
        options = self.config
        shares = {"mlm": options.mlm, "mrfr": options.mrfr, "mrckl": options.mrckl, "mrc": options.mrc}
        task = one_task({"itm": options.itm, **shares}, 0, step.index)
        if task == "itm":
            return self.itm(batch)
        if options.masking == "conditional":
            return self.masked(batch, {task})
        of_regions = one_task({**shares, "mlm": 0}, 1, step.index) if task == "mlm" else task
        return self.masked(batch, {"mlm", of_regions})

    def itm(self, batch: Batch) -> Terms:
        """Does the picture belong to the text (Eq. 4)? Half of them do not. And how far are its words from its regions?

        The distance is that of optimal transport (Eq. 5), from all tokens of the text, special ones too.
        """
        image, text = self.encode_image(batch), self.encode_text(batch)
        pairs = matching.random_pairs(batch.size, text.mask.device)
        image = image.take(pairs.image)
        fused = self.fuse(image, text)
        terms = Terms(itm=matching.matching_loss(self.match_head(fused.pooled), pairs.matched))
        if self.config.wra:
            distance = transport_distance(fused.text, fused.image, text.mask, image.mask)
            terms["wra"] = self.config.wra * word_region_alignment(distance, pairs.matched, self.config.wra_negatives)
        return terms

    def masked(self, batch: Batch, tasks: set[str]) -> Terms:
        """Guesses masked words (Eq. 1), masked regions (Eq. 2), or both; what is not guessed is seen."""
        words = self.hide_words(batch) if "mlm" in tasks else None
        blank = None if tasks == {"mlm"} else choose(batch.region_mask, self.config.mask_regions, at_least=1)
        text = self.encode_text(batch if words is None else Batch({**batch, "text": words.inputs}))
        fused = self.fuse(self.encode_image(batch, blank), text)
        terms = Terms()
        if words is not None:
            logits = self.words(fused.text[words.chosen])
            terms["mlm"] = labelled_cross_entropy(logits, words.labels[words.chosen])
        if blank is not None:
            (task,) = tasks - {"mlm"}
            terms[task] = self.guess_regions(task, batch, fused.image, blank)
        return terms

    def hide_words(self, batch: Batch) -> Masked:
        """Masks words as BERT does; one at least of every text."""
        free = candidates(batch.text, batch.text_mask, self.special)
        chosen = choose(free, self.config.mask_words, at_least=1)
        return replace_tokens(batch.text, chosen, self.mask_id, (0, self.tokenizer.vocab_size))

    def guess_regions(self, task: str, batch: Batch, hidden: Tensor, blank: Tensor) -> Tensor:
        """The loss of one way to guess what masked regions are: their features, or the detector's opinion of them."""
        if task == "mrfr":  # the map that embeds features, turned round
            return guessed.feature_regression(
                self.feature_head(hidden, self.regions.look.weight.T), batch.regions, blank
            )
        logits = self.class_head(hidden)
        if task == "mrckl":
            return guessed.divergence(logits, batch.region_classes, blank)
        return guessed.classification(logits, guessed.likeliest_object(batch.region_classes), blank)

    def words(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) -> logits of words (..., V), by the embeddings of the words themselves."""
        return self.word_head(hidden, self.trunk.encoder.model.embeddings.word_embeddings.weight)

    # -- fine-tuning ---------------------------------------------------------------------------------------------

    @property
    def losses(self) -> dict[str, Loss]:
        """The usual tasks, and retrieval."""
        return {**super().losses, "retrieval": self.retrieval}

    def needs(self, task: str) -> tuple[str, ...] | None:
        """Guessing classes takes the detector's."""
        if task == "pretrain" and (self.config.mrckl or self.config.mrc):
            return (*self.card.needs, "region_classes")
        return super().needs(task)

    def stage(self, stage: Stage) -> Stage:
        """How sure the detector is says which regions are left out where there are too many."""
        lr = ((r"^answer_head\.", self.config.head_lr),) if stage.name == "vqa" else ()
        return replace(stage, uses=("region_scores",), lr=lr)

    def retrieval(self, batch: Batch, step: Step) -> Terms:
        """A matched pair is to score above others of its text and above others of its picture (section 4.2)."""
        image, text = self.encode_image(batch), self.encode_text(batch)
        own = torch.arange(batch.size, device=text.mask.device)
        other_images, other_texts = (self.others(image, text, side) for side in ("image", "text"))  # (B, N) each
        many = own[:, None].expand_as(other_images)
        found = torch.cat([own[:, None], other_images, many], 1), torch.cat([own[:, None], many, other_texts], 1)
        scores = self.match(image.take(found[0].flatten()), text.take(found[1].flatten())).view_as(found[0])
        return Terms(retrieval=matching.triplet_loss(scores[:, 0], scores[:, 1:], self.config.margin))

    @torch.no_grad()
    def others(self, image: Features, text: Features, side: matching.Side) -> Tensor:
        """(B, N): of each pair the pictures, or the texts, that take the place of its own: random, or the hardest."""
        others = matching.random_others(len(text.mask), self.config.negatives, text.mask.device)
        if not 0 < self.config.hardest < others.shape[1]:
            return others
        training = self.training
        self.eval()  # without dropout
        own = torch.arange(len(others), device=others.device)
        columns = [(column, own) if side == "image" else (own, column) for column in others.unbind(1)]
        scores = torch.stack([self.match(image.take(i), text.take(t)) for i, t in columns], dim=1)  # (B, negatives)
        self.train(training)
        return others.gather(1, scores.topk(self.config.hardest).indices)

    def judge_logits(self, first: Features, second: Features, text: Features) -> Tensor:
        """(B, 2) logits that the statement is false, true (section 4.2, NLVR2)."""
        assert self.pair_head is not None
        views = self.seen(first), self.seen(second, second=True)
        if self.config.pair == "triplet":
            logits: Tensor = self.pair_head(self.pool(self.read(text, *views)[0]))
            return logits
        hidden = [torch.cat(self.read(text, view), dim=1) for view in views]  # (B, T + R, D) each
        if self.config.pair == "pair":
            joint = torch.cat([self.pool(one) for one in hidden], dim=-1)
        else:
            joint = self.pair_attention(*hidden, *(torch.cat([text.mask, view.mask], dim=1) for view in views))
        return self.pair_head(joint)  # type: ignore[no-any-return]

    # -- what evaluations ask ------------------------------------------------------------------------------------

    @property
    def lacks(self) -> dict[str, str]:
        """Boxes are found by alignment where no head was trained for them."""
        return {name: why for name, why in super().lacks.items() if name != "Locates"}

    def match(self, image: Features, text: Features) -> Tensor:
        """(B,): the logit of "matched", by which the paper ranks; fine-tuning begins with it."""
        return self.match_head(self.fuse(image, text).pooled)[:, 1].float()

    def locate(self, image: Features, text: Features, about: Tensor) -> tuple[Tensor, Tensor]:
        """The regions, and how well each fits the text; without a head for it, how much of the tokens moves there."""
        if self.region_head is not None:
            return super().locate(image, text, about)
        assert image.boxes is not None
        moved = (self.align(image, text) * about[..., None]).sum(1)
        return image.boxes, moved.masked_fill(~image.mask, -torch.inf)

    def align(self, image: Features, text: Features) -> Tensor:
        """(B, T, P): the plan by which words are moved onto regions."""
        fused = self.fuse(image, text)
        return transport_plan(cosine_cost(fused.text, fused.image), text.mask, image.mask)

    def fill(self, image: Features, text: Features) -> Tensor:
        """(B, T, V): logits of the word at each place of a text, some of which are masked."""
        return self.words(self.fuse(image, text).text)


_BASE = Config(
    text="hf:bert-base-cased",
    context=62,  # 60 and the special ones
    regions_most=100,
    region_width=2048,
    region_classes=1601,
)


def _recipe(steps: int, batch: int, lr: float, warmup: int, clip: float = 2.0) -> Recipe:
    """What all trainings of the paper have in common."""
    return Recipe(steps * batch, batch, lr=lr, weight_decay=0.01, warmup=warmup, schedule="linear", clip=clip)


def _tuned(task: str, recipe: Recipe, about: str, **options: Any) -> Preset:
    """Fine-tuning in a task: `--start` names what was pre-trained."""
    return Preset(replace(_BASE, tasks=(task,), **options), recipe, about)


# Batches that the paper counts in tokens are counted here at 64 tokens a sample.
PRESETS = {
    "paper": Preset(_BASE, _recipe(200_000, 2_560, 5e-5, 10_000, 5.0), "UNITER-base on captions of COCO and VG"),
    "large": Preset(
        replace(_BASE, text="hf:bert-large-cased"),
        _recipe(500_000, 6_144, 5e-5, 10_000, 5.0),
        "UNITER-large, with captions of CC and SBU too",
    ),
    "vqa": _tuned("vqa", _recipe(6_000, 1_600, 8e-5, 600), "base, VQA v2", head_lr=10.0),
    "nlvr2": _tuned("nlvr2", _recipe(8_000, 80, 3e-5, 800), "base, statements about two pictures"),
    "entailment": _tuned("entailment", _recipe(4_000, 512, 8e-5, 400), "base, SNLI-VE"),
    "referring": _tuned("referring", _recipe(24_000, 128, 1e-4, 1_500), "base, RefCOCO"),
    "retrieval": _tuned("retrieval", _recipe(20_000, 1_280, 5e-5, 2_000), "base, Flickr30k, random others"),
    "hard": _tuned(
        "retrieval", _recipe(5_000, 400, 5e-5, 500), "then the hardest 31 of 399 others", negatives=399, hardest=31
    ),
}
