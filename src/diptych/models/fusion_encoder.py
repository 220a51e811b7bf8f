"""Models in which the words of a text and the parts of an image attend to each other; what all of them share.

An "image" is whatever a method sees: a picture, its regions, or a clip. A method says how it views an image
(`view_image`), encodes both sides (`encode_image`, `encode_text`), joins them (`fuse`), and what it learns in each of
its tasks (`losses`). The skeleton makes texts, questions, statements and expressions of samples into tensors, trains
one task after the other as the stages of one run, holds the heads of the usual tasks, and is what evaluations meet.

Letters: B batch, T tokens, P parts of an image, D width, A answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from diptych.batch import Batch, Features, Sample, Step, Terms
from diptych.card import Card
from diptych.config import nearest
from diptych.encoders.tokenizer import Tokenizer, saved_tokenizer
from diptych.models.pretrained import Pretrained
from diptych.models.start import State, start_from
from diptych.objectives.answers import AnswerHead, soft_answer_loss
from diptych.objectives.contrastive import exact
from diptych.objectives.matching import matching_loss, matching_score
from diptych.recipe import Recipe, Stage
from diptych.views import text as words
from diptych.views.answers import soft_scores
from diptych.views.regions import overlap

NEEDS: dict[str, tuple[str, ...]] = {
    "vqa": ("questions",),
    "nlvr2": ("sides", "text", "label"),
    "referring": ("boxes", "expressions"),
    "entailment": ("text", "label"),
    "retrieval": ("texts",),
}
"""What the usual tasks read of a sample beside the image itself; `nlvr2` has two images, in `sides`."""

Loss = Callable[[Batch, Step], Terms]


@dataclass(frozen=True)
class FusionConfig:
    """What all fusion encoders can be told."""

    tasks: tuple[str, ...] = ("pretrain",)
    """what is trained, one after the other: `pretrain vqa` pre-trains, then learns to answer questions"""
    task_shares: tuple[float, ...] = ()
    """share of the run's samples that each of them gets; none: equal shares"""
    task_data: tuple[str, ...] = ()
    """name of the data set, of several, that each of them trains on, or `all`; none: all of them on all"""
    start: str = ""
    """folder of a run or of a saved method, or file of an official checkpoint, whose weights it begins with"""
    context: int = 32
    """longest text, in tokens"""
    answers: tuple[str, ...] = ()
    """the answers that it chooses from; none: the most frequent ones of the training data"""
    most_answers: int = 3129
    """how many these are at most"""
    entailments: int = 3
    """classes of the task entailment"""
    freeze: tuple[str, ...] = ()
    """regular expressions; parameters whose names match do not train"""


class Fused(NamedTuple):
    """What fusion makes of B pairs: tokens of the text (B, T, D), of the image (B, P, E), and one vector (B, W)."""

    text: Tensor
    image: Tensor
    pooled: Tensor


class FusionEncoder(nn.Module, Pretrained):
    """Heads, views, stages and protocols. A method calls `make_heads` when its encoders are made, and `begin` last."""

    card: ClassVar[Card]
    sees: ClassVar[tuple[str, ...]] = ("image",)
    """fields of a sample that `view_image` reads"""
    tokenizer: Tokenizer
    answer_head: nn.Module | None
    pair_head: nn.Module | None
    region_head: nn.Module | None
    entailment_head: nn.Module | None

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config: Any = config
        self.answer_head = self.pair_head = self.region_head = self.entailment_head = None
        for name in config.tasks:
            if name not in self.losses:
                raise ValueError(nearest(name, self.losses, f"task of {self.card.id} called"))
        if not config.tasks:
            raise ValueError(f"tasks is empty: name one of {', '.join(self.losses)}.")

    def make_heads(self, width: int, image_width: int = 0) -> None:
        """Makes the heads of the tasks that are trained: `width` is W of `Fused.pooled`, `image_width` E."""
        tasks, answers = self.config.tasks, len(self.config.answers)
        self.match_head = nn.Linear(width, 2)
        if "vqa" in tasks and not answers:
            raise ValueError("the task vqa chooses from answers, and there are none: train on data with questions.")
        if "vqa" in tasks:
            self.answer_head = self.make_answer_head(width, answers)
        if "nlvr2" in tasks:
            self.pair_head = nn.Sequential(
                nn.Linear(2 * width, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, 2)
            )
        if "referring" in tasks:
            self.region_head = nn.Linear(image_width or width, 1)
        if "entailment" in tasks:
            self.entailment_head = nn.Linear(width, self.config.entailments)

    def make_answer_head(self, width: int, answers: int) -> nn.Module:
        """The head that scores `answers` answers."""
        return AnswerHead(width, answers)

    def begin(self, weights: bool) -> None:
        """Takes the weights that `start` names, unless a checkpoint is loaded next."""
        if weights and self.config.start:
            start_from(self, self.config.start, self.from_official)

    @staticmethod
    def from_official(state: State) -> State:
        """From the names of the paper's own checkpoints to ours; without such a table as they are."""
        return state

    # -- what a method brings ------------------------------------------------------------------------------------

    def view_image(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A sample -> what the method sees of its image, by the names of `batch`; random where `rng` is given."""
        raise NotImplementedError

    def encode_image(self, batch: Batch) -> Features:
        """What `view_image` made -> tokens (B, P, D), one vector (B, D), mask (B, P), boxes (B, P, 4) of regions."""
        raise NotImplementedError

    def encode_text(self, batch: Batch) -> Features:
        """`text` and `text_mask` (B, T) -> tokens (B, T, D), one vector (B, D), mask (B, T)."""
        raise NotImplementedError

    def fuse(self, image: Features, text: Features) -> Fused:
        """Encoded pairs, joined."""
        raise NotImplementedError

    def pretrain(self, batch: Batch, step: Step) -> Terms:
        """The loss of pre-training."""
        raise NotImplementedError

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Task -> its loss. A method adds its own, and replaces what it does otherwise."""
        return {
            "pretrain": self.pretrain,
            "vqa": self.vqa,
            "nlvr2": self.nlvr2,
            "referring": self.referring,
            "entailment": self.entailment,
        }

    def needs(self, task: str) -> tuple[str, ...] | None:
        """The fields that a task reads; None: those of the card."""
        own = NEEDS.get(task)
        return own if own is None or "sides" in own else (*self.sees, *own)

    # -- views ---------------------------------------------------------------------------------------------------

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """Whatever the sample has, as tensors: the image or both sides, caption, question, expression, label."""
        seen = self._sides(sample, rng) if "sides" in sample else self.view_image(sample, rng)
        if "texts" in sample or "text" in sample:
            caption = words.choose(sample.texts, rng) if "texts" in sample else sample.text
            seen |= self._read("text", caption)
        if "questions" in sample:
            seen |= self.view_question(sample, rng)
        if "expressions" in sample:
            seen |= self.view_expression(sample, seen.get("region_boxes"), rng)
        if "label" in sample:
            seen["label"] = int(sample.label)
        return seen

    def view_question(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """One of the questions: `question`, `question_mask`, `answer_scores` (A,), `asked` (whether it has a score)."""
        questions = sample.questions or [{"question": ""}]  # asks nothing
        chosen = questions[0 if rng is None else int(rng.integers(len(questions)))]
        where = {answer: index for index, answer in enumerate(self.config.answers)}
        scores = torch.zeros(len(where))
        for answer, score in soft_scores(chosen.get("answers", ())).items():
            if answer in where:
                scores[where[answer]] = score
        return {**self._read("question", chosen["question"]), "answer_scores": scores, "asked": scores.sum() > 0}

    def view_expression(self, sample: Sample, boxes: Tensor | None, rng: np.random.Generator | None) -> dict[str, Any]:
        """One of the expressions: `expression`, its mask, `target_box` (4,), `target`: its region, or -1."""
        text, index = sample.expressions[0 if rng is None else int(rng.integers(len(sample.expressions)))]
        wanted = torch.from_numpy(np.asarray(sample.boxes[index], np.float32))
        seen: dict[str, Any] = {**self._read("expression", text), "target_box": wanted}
        if boxes is not None:
            best, region = overlap(wanted[None], boxes)[0].max(0)
            seen["target"] = int(region) if best >= 0.5 else -1
        return seen

    def tokenize(self, texts: list[str]) -> Batch:
        """B strings -> `text` (B, T) int64 and `text_mask` (B, T) bool."""
        ids, mask = self.tokenizer.encode(texts)
        return Batch({"text": ids, "text_mask": mask})

    def token_offsets(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        """For each text the characters (start, end) of each token; (0, 0) for special tokens."""
        return self.tokenizer.offsets(texts)

    def _read(self, name: str, text: str) -> dict[str, Tensor]:
        tokens = self.tokenize([text])
        return {name: tokens.text[0], f"{name}_mask": tokens.text_mask[0]}

    def _sides(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        first, second = (self.view_image(side, rng) for side in sample.sides[:2])
        pairs = {name: [torch.as_tensor(side[name]) for side in (first, second)] for name in first}
        return {
            f"sides_{name}": pad_sequence(both, batch_first=True) if both[0].ndim else torch.stack(both)
            for name, both in pairs.items()
        }

    # -- training ------------------------------------------------------------------------------------------------

    def stages(self, recipe: Recipe) -> list[Stage]:
        """One stage a task."""
        tasks, shares, data = self.config.tasks, self.config.task_shares, self.config.task_data
        for name, values in (("task_shares", shares), ("task_data", data)):
            if values and len(values) != len(tasks):
                raise ValueError(f"{name} has {len(values)} values for {len(tasks)} tasks: give one for each.")
        shares = shares or (1,) * len(tasks)
        parts = [None if part == "all" else part for part in data or ("all",) * len(tasks)]
        return [
            self.stage(Stage(task, share / sum(shares), freeze=self.config.freeze, data=part, needs=self.needs(task)))
            for task, share, part in zip(tasks, shares, parts, strict=True)
        ]

    def stage(self, stage: Stage) -> Stage:
        """The stage of a task, with what a method wants otherwise: what trains, and how fast."""
        return stage

    def loss(self, batch: Batch, step: Step) -> Terms:
        """The loss of the task whose stage this is; outside of a run, of the first."""
        task = step.stage if step.stage in self.config.tasks else self.config.tasks[0]
        return self.losses[task](batch, step)

    def question(self, batch: Batch) -> Features:
        """The encoded questions of a batch."""
        return self.encode_text(Batch({"text": batch.question, "text_mask": batch.question_mask}))

    def vqa(self, batch: Batch, step: Step) -> Terms:
        """Binary cross-entropy of each answer against the share of people who gave it."""
        logits = self.answer(self.encode_image(batch), self.question(batch))
        return Terms(vqa=soft_answer_loss(logits, batch.answer_scores, batch.asked))

    def nlvr2(self, batch: Batch, step: Step) -> Terms:
        """Is the statement true of the two images? Cross-entropy of two classes."""
        first, second = (self.encode_image(side(batch, index)) for index in (0, 1))
        return Terms(nlvr2=matching_loss(self.judge_logits(first, second, self.encode_text(batch)), batch.label == 1))

    def referring(self, batch: Batch, step: Step) -> Terms:
        """Which region is meant? Cross-entropy over the regions of an image, where one of them is near enough."""
        text = self.encode_text(Batch({"text": batch.expression, "text_mask": batch.expression_mask}))
        _, scores = self.locate(self.encode_image(batch), text, text.mask)
        total = F.cross_entropy(exact(scores), batch.target, ignore_index=-1, reduction="sum")
        return Terms(referring=total / (batch.target >= 0).sum().clamp(min=1))

    def entailment(self, batch: Batch, step: Step) -> Terms:
        """Does the image entail the text, contradict it, or neither? Cross-entropy."""
        assert self.entailment_head is not None
        pooled = self.fuse(self.encode_image(batch), self.encode_text(batch)).pooled
        return Terms(entailment=F.cross_entropy(exact(self.entailment_head(pooled)), batch.label))

    # -- what evaluations ask ------------------------------------------------------------------------------------

    @property
    def lacks(self) -> dict[str, str]:
        """Protocols for which no head was trained, with the reason."""
        heads = {
            "AnswersQuestions": (self.answer_head, "vqa"),
            "JudgesStatements": (self.pair_head, "nlvr2"),
            "Locates": (self.region_head, "referring"),
        }
        return {name: f"it was not trained in the task {task}" for name, (head, task) in heads.items() if head is None}

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers that it chooses from."""
        found: tuple[str, ...] = self.config.answers
        return found

    def match(self, image: Features, text: Features) -> Tensor:
        """Log-odds (B,) that image i and text i belong together."""
        return matching_score(self.match_head(self.fuse(image, text).pooled).float())

    def answer(self, image: Features, question: Features) -> Tensor:
        """Logits (B, A) of the answers."""
        assert self.answer_head is not None
        logits: Tensor = self.answer_head(self.fuse(image, question).pooled)
        return logits

    def judge_logits(self, first: Features, second: Features, text: Features) -> Tensor:
        """(B, 2) logits that the statement is false, true: from both pairs' vectors side by side."""
        assert self.pair_head is not None
        both = torch.cat([self.fuse(image, text).pooled for image in (first, second)], dim=-1)
        logits: Tensor = self.pair_head(both)
        return logits

    def judge(self, first: Features, second: Features, text: Features) -> Tensor:
        """Log-odds (B,) that the statement is true."""
        return matching_score(self.judge_logits(first, second, text).float())

    def locate(self, image: Features, text: Features, about: Tensor) -> tuple[Tensor, Tensor]:
        """The image's own regions (B, P, 4), and how well each fits the whole text (B, P); -inf for padding."""
        assert self.region_head is not None
        assert image.boxes is not None
        scores = self.region_head(self.fuse(image, text).image).squeeze(-1)
        return image.boxes, scores.masked_fill(~image.mask, -torch.inf)

    # -- saving --------------------------------------------------------------------------------------------------

    def save_assets(self, folder: Path) -> None:
        """Keeps the tokenizer with the weights that were trained on it."""
        (folder / "tokenizer.json").write_text(self.tokenizer.json, encoding="utf-8")

    def load_assets(self, folder: Path) -> None:
        """Takes the tokenizer that was saved with the weights."""
        self.tokenizer = saved_tokenizer(self.tokenizer, folder / "tokenizer.json", self.tokenizer.vocab_size)


def side(batch: Batch, index: int) -> Batch:
    """The first or second image of each sample, under the names of one."""
    chosen = {
        name.removeprefix("sides_"): value[:, index] for name, value in batch.items() if name.startswith("sides_")
    }
    return Batch(chosen, batch.sample_keys)
