"""A dual encoder that stays as it is, and tells classes apart by their names within vectors that learn.

The skeleton of CoOp and its kin. The name of a class is read as `[start] v_1 ... v_M name . [end]`, in one of three
orders; a method brings the vectors, and what it puts into the layers of the towers. Texts are class names wherever the
method is asked for texts, so that every evaluation of dual encoders meets it as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from diptych.batch import Batch, Features, Sample
from diptych.encoders.base import Edit, EncoderError
from diptych.encoders.prompts import filled, word_table, words_changed
from diptych.models.dual_encoder import DualEncoder, DualEncoderConfig
from diptych.models.start import State, start_from
from diptych.text import readable

Position = Literal["end", "middle", "front"]


@dataclass(frozen=True)
class PromptedConfig(DualEncoderConfig):
    """What is adapted, to which classes, and how their names are read."""

    start: str = ""
    """weights to start from: a run or a saved dual encoder with the same towers, or prompts of the paper's own code;
    empty: the weights that the names of the towers bring"""
    classnames: tuple[str, ...] = ()
    """classes to learn; none: those of the data"""
    words: str = ""
    """words that the learned vectors begin as, such as 'a photo of a'; none: random"""
    classes_at_once: int = 0
    """prompts that pass the text tower at a time, and once more for the gradient, where those of all classes do not fit
    into memory; 0: all"""
    freeze: tuple[str, ...] = (r"^(image|text)(_head)?\.", r"^log_scale$")
    """regular expressions; parameters whose names match do not train: the whole dual encoder"""


class Prompted(DualEncoder):
    """A dual encoder with M learned vectors around each class name.

    Args:
        config: the options.
        vectors: M.
        position: whether the name stands behind the vectors, between the halves of them, or in front.
        weights: as for `DualEncoder`.

    Raises:
        EncoderError: the text tower cannot read so many vectors and a name.
    """

    config: PromptedConfig
    prompts = ("{}",)

    def __init__(
        self, config: PromptedConfig, vectors: int = 0, position: Position = "end", *, weights: bool = True
    ) -> None:
        super().__init__(config, weights=weights)
        self.position: Position = position
        special = self.text.tokenizer.backend.encode("a").special_tokens_mask
        self.lead, self.tail = special.index(0), special[::-1].index(0)  # special tokens ahead of a text and behind it
        said = self.text.tokenizer.encode([config.words])[0][0] if config.words else torch.zeros(0, dtype=torch.int64)
        self.said = said[self.lead : len(said) - self.tail]  # ids of the words
        self.vectors = vectors or len(self.said)
        if self.vectors > len(self.said):
            self.said = self.said[:0]
        room = self.text.context - self.lead - self.tail - max(self.vectors, len(self.said))
        if self.vectors < 1 or room < 2:
            raise EncoderError(
                f"{self.vectors} vectors and a name do not fit into the {self.text.context} tokens of "
                f"{self.text.name!r}: take at least one vector, fewer of them, or a longer context."
            )

    def begin(self, name: str, weights: bool) -> None:
        """Takes the weights that `start` names, unless a checkpoint is loaded next.

        The parameter of this name (..., M, D) begins as the words, where there are some and it was not taken over.
        """
        taken = start_from(self, self.config.start, self.from_official) if weights and self.config.start else ()
        vectors = self.get_parameter(name)
        if len(self.said) and name not in taken and not vectors.is_meta:
            vectors.data.copy_(word_table(self.text).weight[self.said[: self.vectors]])

    @staticmethod
    def from_official(state: State) -> State:
        """From the names of the paper's own checkpoints to ours."""
        return state

    def fresh(self, *several: int) -> nn.Parameter:
        """Vectors (..., M, D) to begin with: N(0, 0.02^2)."""
        return nn.Parameter(torch.randn(*several, self.vectors, self.text.width) * 0.02)

    # -- class names within vectors ------------------------------------------------------------------------------

    def tokenize(self, texts: list[str]) -> Batch:
        """B names -> `text`, `text_mask` and `slots` (B, T): which vector takes the place of a word, counted from 1."""
        names = [readable(text) for text in texts]
        opening = f"{self.config.words} " if len(self.said) else ""
        sentences = self._rows([f"{opening}{name}." for name in names])
        rows = [
            self._laid_out(sentence, len(name) - self.lead - self.tail, self.first_slot(text))
            for sentence, name, text in zip(sentences, self._rows(names), names, strict=True)
        ]
        ids, slots = (
            pad_sequence([torch.tensor(row) for row in side], batch_first=True) for side in zip(*rows, strict=True)
        )
        lengths = torch.tensor([len(row) for row, _ in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return Batch({"text": ids.masked_fill(~mask, self.text.tokenizer.pad), "text_mask": mask, "slots": slots})

    def first_slot(self, name: str) -> int:
        """Which vector is the first of a class: 0, where all classes share them."""
        return 0

    def _rows(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without padding."""
        ids, mask = self.text.tokenizer.encode(texts)
        return [row[real].tolist() for row, real in zip(ids, mask, strict=True)]

    def _laid_out(self, row: list[int], name: int, first: int) -> tuple[list[int], list[int]]:
        """The ids of a sentence in order, and their slots; `name` is how many of its tokens are the name's."""
        lead, count, most = self.lead, self.vectors, self.text.context
        if not len(self.said):  # nothing stands where the vectors will: any id will do
            row = row[:lead] + [row[lead]] * count + row[lead:]
        row = row[: most - self.tail] + row[len(row) - self.tail :] if len(row) > most else row
        slots = [0] * lead + [first + 1 + place for place in range(count)] + [0] * (len(row) - lead - count)
        middle = lead + {"end": count, "middle": count // 2, "front": 0}[self.position]
        behind = lead + count
        last = min(behind + name, len(row) - self.tail)
        ids, places = (side[:middle] + side[behind:last] + side[middle:behind] + side[last:] for side in (row, slots))
        return ids, places

    @cached_property
    def class_tokens(self) -> Batch:
        """The prompts of the C classes.

        Raises:
            ValueError: there are no classes.
        """
        if not self.config.classnames:
            raise ValueError(f"{self.card.id} has no classes to learn: train on data with a `category`.")
        return self.tokenize(list(self.config.classnames))

    def class_features(self) -> Tensor:
        """w_c: the features of the C classes (C, D), normalised."""
        tokens = self.class_tokens.to(self.log_scale.device)
        count = len(self.config.classnames)
        some = self.config.classes_at_once or count
        if some >= count:
            return self.embed_text(tokens).pooled
        parts = [Batch({name: value[i : i + some] for name, value in tokens.items()}) for i in range(0, count, some)]
        found = [checkpoint(lambda part: self.embed_text(part).pooled, part, use_reentrant=False) for part in parts]
        return torch.cat(found)

    def read_with(self, vectors: Tensor, batch: Batch, edit: Edit | None = None) -> Features:
        """What the text tower makes of names within vectors (N, D), with an edit of its layers."""
        with words_changed(self.text, lambda words: filled(words, batch.slots, vectors)):
            found: Features = self.text(batch.text, batch.text_mask, edit)
        return found

    # -- views ---------------------------------------------------------------------------------------------------

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A sample -> `image` (3, H, W) uint8; of one with a class also its `label` and its prompt as `tokenize`.

        Raises:
            ValueError: the class is none of those that are learned.
        """
        seen = {"image": self.view_image(sample.image, rng)}
        if "category" not in sample:
            return seen
        name = str(sample.category)
        if name not in self._labels:
            raise ValueError(f"{name!r} is none of the {len(self._labels)} classes that {self.card.id} learns.")
        prompt = {key: value[0] for key, value in self.tokenize([name]).items()}
        return seen | {"label": self._labels[name]} | prompt

    @cached_property
    def _labels(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.config.classnames)}
