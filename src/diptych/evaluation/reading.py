"""How samples are read to be judged: the method's views of what it sees, and notes of what tasks compare it with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.batch import Sample
from diptych.card import Method
from diptych.data.dataset import Dataset
from diptych.data.decode import BrokenSample
from diptych.recipe import Recipe

NOTES = "notes of the sample"
GIVEN = ("text", "texts", "questions", "conversation", "category", "label")
"""Fields that tasks put to a method themselves: its views can do without the sample's own."""
_IMPLIES = {"text": "texts", "texts": "text", "category": "label", "label": "category"}
_STAND_IN = "a picture"


@dataclass(frozen=True)
class Notes:
    """What is kept of a sample beside its features: captions, boxes and so on, as they were decoded."""

    sample: Sample


@dataclass(frozen=True)
class Views:
    """The method's deterministic views of what it sees of a sample, and the sample's notes.

    Each of `looks` names fields that are viewed at once: those of the sample itself, or its two sides. Captions and
    questions are encoded as texts, each once; a stand-in serves methods whose views ask for a caption, so that sets of
    pictures by class need none.
    """

    views: Callable[[Sample, np.random.Generator | None], Mapping[str, Any]]
    looks: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A sample -> its views and its notes."""
        seen: dict[str, Any] = {}
        for look in self.looks:
            fields = {name: sample[name] for name in look if name in sample}
            seen |= self.views(Sample(sample.key, {**fields, "text": _STAND_IN, "texts": [_STAND_IN]}), None)
        return {**seen, NOTES: Notes(Sample(sample.key, {name: sample[name] for name in self.notes if name in sample}))}


class Noted:
    """A data set in which a sample that lacks a field of `notes` has the others, instead of being broken."""

    def __init__(self, data: Dataset, notes: Sequence[str]) -> None:
        self.data, self.notes = data, tuple(notes)
        self.name, self.split = data.name, data.split

    @property
    def has(self) -> frozenset[str]:
        """As in the data set."""
        return self.data.has

    @property
    def classes(self) -> tuple[str, ...]:
        """As in the data set."""
        return self.data.classes

    def __len__(self) -> int:
        return len(self.data)

    def key(self, index: int) -> str:
        """As in the data set."""
        return self.data.key(index)

    def order(self, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
        """As in the data set."""
        return self.data.order(epoch, seed, shuffle)

    def read(self, index: int, fields: Collection[str]) -> Sample:
        """The fields, and those of the notes that can be had; only the fields may break a sample."""
        with suppress(BrokenSample):
            return self.data.read(index, tuple(dict.fromkeys((*fields, *self.notes))))
        sample = self.data.read(index, fields)
        found = dict(sample)
        for name in self.notes:
            with suppress(BrokenSample):
                found[name] = self.data.read(index, (name,))[name]
        return Sample(sample.key, found)


def with_implied(fields: Sequence[str]) -> list[str]:
    """Fields with their partners: who has `texts` has `text`, who has `label` and class names has `category`."""
    return list(dict.fromkeys(name for field in fields for name in (field, _IMPLIES.get(field, field))))


def own_fields(needs: Sequence[str]) -> list[str]:
    """The fields that a method's views must have to encode a sample, of those that its card names."""
    return [name for name in with_implied(needs) if name not in GIVEN]


def used_fields(method: Any) -> list[str]:
    """The fields that a method's views take where they are there."""
    stages = method.stages(Recipe()) if isinstance(method, Method) else []
    return own_fields([name for stage in stages for name in stage.uses])
