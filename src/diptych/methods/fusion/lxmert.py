"""LXMERT: learning cross-modality encoder representations from transformers (Tan and Bansal, EMNLP 2019).

Three encoders: of words, of the objects that a detector found in the picture, and one in which each of the two streams
attends to the other. Baseline: the same without question answering (`pretrain_without_qa`), the task that the paper
adds to pre-training. Changes: (1) a cross-modality layer begins with cross-attention, one for both directions, that
reads the layer's input; (2) objects are guessed as their features, and as the detector's labels and attributes, each
weighed by how sure the detector is; (3) questions with answers are data of pre-training. All five tasks are trained on
one pass of each pair: masked words, matching, features, labels and attributes of objects, answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diptych.batch import Batch, Features, Sample, Step, Terms
from diptych.card import Card, Claim
from diptych.encoders.base import mean_real
from diptych.encoders.tokenizer import Tokenizer, own_tokenizer
from diptych.encoders.words import mask_id, special_ids
from diptych.fusion.cross import CrossLayer, CrossPair, Layer, initialise
from diptych.models.fusion_encoder import Fused, FusionConfig, FusionEncoder, Loss
from diptych.models.official import lxmert as official
from diptych.objectives import masked, matching, regions as guessed
from diptych.objectives.answers import AnswerHead, answer_loss, sample_answers
from diptych.objectives.tied import TiedHead, transform
from diptych.recipe import Preset, Recipe, Stage
from diptych.views import regions

CARD = Card(
    id="lxmert",
    title="LXMERT",
    year=2019,
    arxiv="1908.07490",
    family="fusion",
    needs=("regions", "region_boxes", "texts"),
    idea="encoders of words, of objects and of both; five tasks at once, answering questions among them",
    claims={
        "questions": Claim(
            about="few questions are answered better after pre-training on others with their answers than on the same "
            "others without",
            metric="vqa/accuracy",
            data=(  # the second are the few: three questions about each of 25 scenes
                "world:objects=3,shapes=8,colours=5,textures=1,questions=colour,each=3,pixels=32,train=2000",
                "world:objects=3,shapes=8,colours=5,textures=1,questions=colour,each=3,pixels=32,train=2000#25",
            ),
            val=("world:objects=3,shapes=8,colours=5,textures=1,questions=colour,each=3,pixels=32,evaluation=300",),
            baseline="lxmert:tasks=pretrain_without_qa vqa",
            control="lxmert:tasks=vqa,task_shares=1,task_data=world2",  # the whole budget on the few questions
            budget="samples=38400",
            settings=(
                "tasks=pretrain vqa",
                "task_shares=5 1",
                "task_data=world world2",
                "regions_most=4",
                "dropout=0",
                "lr=2e-3",
                "workers=1",
                "evaluations=1",
            ),
        ),
    },
)

PRETRAINING = ("pretrain", "pretrain_without_qa")
POSITIONS = 512
"""rows of BERT's table of positions, whatever the longest text is"""


@dataclass(frozen=True)
class Config(FusionConfig):
    """Options of LXMERT. Its tasks are `pretrain`, `pretrain_without_qa`, and those of all fusion encoders."""

    context: int = 20
    """longest text, in tokens"""
    words: str = "own"
    """the tokenizer: own, or hf:NAME_OR_PATH of a BERT"""
    width: int = 64
    """width of all layers"""
    heads: int = 4
    """attention heads"""
    text_layers: int = 1
    """layers of the language encoder"""
    image_layers: int = 1
    """layers of the object-relationship encoder"""
    cross_layers: int = 2
    """layers of the cross-modality encoder"""
    dropout: float = 0.1
    """share of attention weights, and of what each part finds, that is dropped in training"""
    regions_most: int = 8
    """most objects of a picture; of more, the surest are taken"""
    region_width: int = 0
    """how many features an object has; 0 finds out from the data"""
    region_labels: int = 0
    """labels that the detector gives to objects; 0 finds out from the data"""
    region_attributes: int = 0
    """attributes that it gives them; 0 finds out from the data"""
    mask_words: float = 0.15
    """share of the words that is masked"""
    mask_regions: float = 0.15
    """share of the objects that is masked"""
    mask_only_labels: bool = False
    """guess labels and attributes of masked objects alone, as the paper says; its code guesses those of all"""
    qa: float = 1.0
    """weight of question answering in pre-training; the code of the paper's time had 2"""
    finetune_lr: float = 1.0
    """multiplies the learning rate in all tasks but pre-training"""
    official: bool = False
    """as the paper's code: the first row of each table of embeddings (padding, first position, first kind) is not
    trained as an input"""


class WordEmbedding(nn.Module):
    """LN(word + position + kind), of words that are all of the first kind.

    Args:
        words: V, how many words there are.
        width: D.
        dropout: share of the result that is dropped in training.
        padding: a row of each table that is not trained through this embedding.
    """

    def __init__(self, words: int, width: int, dropout: float, padding: int | None = None) -> None:
        super().__init__()
        self.word = nn.Embedding(words, width, padding_idx=padding)
        self.position = nn.Embedding(POSITIONS, width, padding_idx=padding)
        self.kind = nn.Embedding(2, width, padding_idx=padding)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, D)."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        summed = self.word(ids) + self.position(positions) + self.kind(torch.zeros_like(positions))
        return self.dropout(self.norm(summed))


class ObjectEmbedding(nn.Module):
    """(LN(W f + b) + LN(W' p + b')) / 2: what an object looks like, and where it is (Eq. 1).

    Args:
        features: how many an object has.
        width: D.
        dropout: share of the result that is dropped in training.
    """

    def __init__(self, features: int, width: int, dropout: float) -> None:
        super().__init__()
        self.look, self.look_norm = nn.Linear(features, width), nn.LayerNorm(width, eps=1e-12)
        self.place, self.place_norm = nn.Linear(4, width), nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Features (B, R, F) and boxes (B, R, 4) as x0, y0, x1, y1 in [0, 1] -> (B, R, D)."""
        look, place = self.look_norm(self.look(features)), self.place_norm(self.place(boxes))
        return self.dropout((look + place) / 2)


class ObjectHead(nn.Module):
    """What an object is guessed as: dense, GELU, LayerNorm, then a linear map for each of its outputs, by name."""

    def __init__(self, width: int, outputs: dict[str, int]) -> None:
        super().__init__()
        self.transform = transform(width)
        self.outputs = nn.ModuleDict({name: nn.Linear(width, size) for name, size in outputs.items() if size})

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        """(B, R, D) -> (B, R, ...) each."""
        hidden = self.transform(hidden)
        return {name: output(hidden) for name, output in self.outputs.items()}


class LXMERT(FusionEncoder):
    """Encoders of words, of objects, and of both."""

    card = CARD
    sees = ("regions", "region_boxes")
    from_official = staticmethod(official.from_official)

    def __init__(self, config: Config, *, weights: bool = True) -> None:
        super().__init__(config)
        width, heads, dropout = config.width, config.heads, config.dropout
        self.tokenizer = tokenizer(config.words, config.context)
        self.mask_id, self.special = mask_id(self.tokenizer), special_ids(self.tokenizer)
        known = max(self.tokenizer.vocab_size, self.mask_id + 1)
        self.words = WordEmbedding(known, width, dropout, 0 if config.official else None)
        self.objects = ObjectEmbedding(config.region_width, width, dropout)
        layer = partial(Layer, width, heads, dropout=dropout)
        crossing = partial(CrossLayer, width, heads, place="before", dropout=dropout)
        self.language = nn.ModuleList(layer() for _ in range(config.text_layers))
        self.relations = nn.ModuleList(layer() for _ in range(config.image_layers))
        self.cross = nn.ModuleList(CrossPair(crossing(), crossing(), share=True) for _ in range(config.cross_layers))
        self.pooler = nn.Linear(width, width)
        self.word_head = TiedHead(width, known)
        kinds = {"feature": config.region_width, "label": config.region_labels, "attribute": config.region_attributes}
        self.object_head = ObjectHead(width, kinds)
        self.make_heads(width)
        if config.answers and set(PRETRAINING) & set(config.tasks):
            self.answer_head = self.make_answer_head(width, len(config.answers))
        if "nlvr2" in config.tasks:
            self.pair_head = AnswerHead(2 * width, 2, hidden=2 * width)
        initialise(self, 0.02 * (768 / width) ** 0.5)  # the paper's 0.02 at its width; what layers pass on stays alike
        self.begin(weights)

    # -- words and objects, apart and together -------------------------------------------------------------------

    def encode_text(self, batch: Batch) -> Features:
        """The language encoder: `text` and `text_mask` (B, T) -> tokens (B, T, D), the first of them (B, D)."""
        words = self.words(batch.text)
        for layer in self.language:
            words = layer(words, batch.text_mask)
        return Features(words, words[:, 0], batch.text_mask)

    def encode_image(self, batch: Batch) -> Features:
        """The object-relationship encoder: regions and their boxes -> tokens (B, R, D), their mean (B, D)."""
        objects = self.objects(batch.regions, batch.region_boxes)
        for layer in self.relations:
            objects = layer(objects, batch.region_mask)
        return Features(objects, mean_real(objects, batch.region_mask), batch.region_mask, batch.region_boxes)

    def fuse(self, image: Features, text: Features) -> Fused:
        """The cross-modality encoder; the vector of a pair is tanh(W h + b) of the first word."""
        words, objects = text.tokens, image.tokens
        for layer in self.cross:
            words, objects = layer(words, objects, text.mask, image.mask)
        return Fused(words, objects, self.pooler(words[:, 0]).tanh())

    # -- what is seen --------------------------------------------------------------------------------------------

    def view_image(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """The objects of a picture, padded to `regions_most`."""
        return regions.view(sample, self.config.regions_most)

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """Where a sample has captions and questions, `text` is one of them all; in evaluation the first question."""
        if not {"texts", "questions"} <= set(sample):
            return super().views(sample, rng)
        sentences = [*sample.questions, *({"question": text} for text in sample.texts)]
        chosen = sentences[0 if rng is None else int(rng.integers(len(sentences)))]
        seen = self.view_question(Sample(sample.key, {"questions": [chosen]}), None)
        text = {"text": seen.pop("question"), "text_mask": seen.pop("question_mask")}
        return {**self.view_image(sample, rng), **text, **seen}

    # -- pre-training --------------------------------------------------------------------------------------------

    @property
    def losses(self) -> dict[str, Loss]:
        """The usual tasks, and pre-training without answers."""
        return {**super().losses, "pretrain_without_qa": self.pretrain_without_qa}

    def pretrain(self, batch: Batch, step: Step) -> Terms:
        """All five tasks (section 3.1)."""
        return self.guess(self.corrupt(batch), answers=self.answer_head is not None and "asked" in batch)

    def pretrain_without_qa(self, batch: Batch, step: Step) -> Terms:
        """The tasks but question answering; questions are read as captions are. So the paper's first ten epochs."""
        return self.guess(self.corrupt(batch), answers=False)

    def corrupt(self, batch: Batch) -> Batch:
        """Half of the sentences become those of other pictures; then words and objects are masked, as in BERT.

        Boxes stay. Of a short sentence it may be that no word is masked.

        Returns:
            The batch with `text`, `text_mask` and `regions` changed so, and what is to be guessed: `word_labels`
            (B, T), `features` (B, R, F) of all objects, `chosen` (B, R), the objects that are masked, `matched` (B,),
            and `answer` (B,), drawn by score; IGNORE where a sentence is no question, or another picture's.
        """
        pairs = matching.random_pairs(batch.size, batch.text.device, replace="text")
        text, text_mask = batch.text[pairs.text], batch.text_mask[pairs.text]
        chosen = masked.choose(masked.candidates(text, text_mask, self.special), self.config.mask_words)
        words = masked.replace_tokens(text, chosen, self.mask_id, (0, self.tokenizer.vocab_size))
        hidden = masked.choose(batch.region_mask, self.config.mask_regions)
        objects = masked.replace_regions(batch.regions, hidden, batch.region_mask, shares=masked.BERT)
        seen = {"text": words.inputs, "text_mask": text_mask, "regions": objects.inputs}
        asked = {"word_labels": words.labels, "features": batch.regions, "chosen": hidden, "matched": pairs.matched}
        if "asked" in batch:
            unknown = ~(batch.asked[pairs.text] & pairs.matched)
            asked["answer"] = sample_answers(batch.answer_scores[pairs.text]).masked_fill(unknown, masked.IGNORE)
        return Batch({**batch, **seen, **asked}, batch.sample_keys)

    def guess(self, batch: Batch, answers: bool) -> Terms:
        """The loss of each task, from one pass of corrupted pairs; unmatched ones are left out of `qa` alone."""
        fused = self.fuse(self.encode_image(batch), self.encode_text(batch))
        chosen = batch.word_labels != masked.IGNORE
        words = self.word_head(fused.text[chosen], self.words.word.weight)  # (N, V), of the N masked words
        terms = Terms(
            mlm=masked.labelled_cross_entropy(words, batch.word_labels[chosen]),
            matching=matching.matching_loss(self.match_head(fused.pooled), batch.matched),
        )
        terms.update(self.guess_objects(batch, self.object_head(fused.image)))
        if answers:
            assert self.answer_head is not None
            terms["qa"] = self.config.qa * answer_loss(self.answer_head(fused.pooled), batch.answer)
        return terms

    def guess_objects(self, batch: Batch, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features of masked objects, and the labels and attributes that the detector gave.

        Each is a mean over all objects, divided by the share that is masked (0.15): the mean over the masked ones, if
        these alone count. In the paper's code labels and attributes of all objects count, and are divided all the same.
        """
        share, real = self.config.mask_regions, batch.region_mask
        terms = {
            "feature": guessed.smooth_feature_regression(found["feature"], batch.features, batch.chosen, real, share)
        }
        counted = batch.chosen if self.config.mask_only_labels else None
        for name, logits in found.items():
            if f"region_{name}s" in batch:
                sure = batch["region_scores" if name == "label" else f"region_{name}_scores"]
                labels = batch[f"region_{name}s"]
                known = (labels >= 0) & (labels < logits.shape[-1])
                terms[name] = guessed.confident_classes(logits, labels * known, sure * known, real, counted, share)
        return terms

    # -- stages --------------------------------------------------------------------------------------------------

    def needs(self, task: str) -> tuple[str, ...] | None:
        """Pre-training guesses what the detector says of each object."""
        return (*self.card.needs, "region_labels", "region_scores") if task in PRETRAINING else super().needs(task)

    def stage(self, stage: Stage) -> Stage:
        """Pre-training takes questions and attributes where there are such; fine-tuning has its own rate."""
        if stage.name in PRETRAINING:
            return replace(stage, uses=("questions", "region_attributes", "region_attribute_scores"))
        return replace(stage, uses=("region_scores",), lr=((".*", self.config.finetune_lr),))


def tokenizer(name: str, context: int) -> Tokenizer:
    """`own`, or that of a BERT: `hf:NAME_OR_PATH`.

    Raises:
        EncoderError: there is none of that name.
    """
    if name == "own":
        return own_tokenizer(context)
    from diptych.encoders.from_hf import hf_config, hf_tokenizer

    folder = name.removeprefix("hf:")
    return hf_tokenizer(folder, context, int(hf_config(folder).vocab_size))


PRESETS = {
    "paper": Preset(
        Config(
            tasks=("pretrain_without_qa", "pretrain"),
            words="hf:bert-base-uncased",
            width=768,
            heads=12,
            text_layers=9,
            image_layers=5,
            cross_layers=5,
            regions_most=36,
            region_width=2048,
            region_labels=1600,
            region_attributes=400,
            most_answers=9500,
            qa=2.0,
            finetune_lr=0.5,
        ),
        Recipe(  # section 3.3 and its code: Adam, one cycle of linear decay
            samples=20 * 9_180_000,
            batch=256,
            lr=1e-4,
            weight_decay=0.01,
            betas=(0.9, 0.999),
            eps=1e-6,
            warmup=0.05,
            schedule="linear",
        ),
        about="9 layers of words, 5 of objects, 5 of both, on 36 objects of Faster R-CNN",
    ),
}
