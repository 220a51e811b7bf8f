"""Features that the tasks share: every sample is read and embedded once, every text once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.batch import Features, Sample
from diptych.data.dataset import Dataset
from diptych.data.decode import BrokenSample
from diptych.data.loader import Loader
from diptych.training import watchdog

log = logging.getLogger("diptych.evaluation")

TILE = 2**22  # token pairs of a tile of similarities: 16 MB in float32
_IMPLIES = {"text": "texts", "texts": "text", "category": "label", "label": "category"}
_NOTES = "notes of the sample"
_CAPTION = ("text", "texts")
_STAND_IN = "a picture"


class CannotEvaluate(ValueError):
    """A task cannot run on this method or data; the message is one sentence that says what is missing."""


@dataclass(frozen=True)
class Notes:
    """What is kept of a sample beside its features: captions, boxes and so on, as they were decoded."""

    sample: Sample


@dataclass(frozen=True)
class Views:
    """The method's deterministic views of a picture, and the sample's notes.

    Captions are embedded by `embed_text`, each once; a stand-in serves methods whose views ask for one, so that sets
    of pictures by class need none.
    """

    views: Callable[[Sample, np.random.Generator | None], Mapping[str, Any]]
    notes: tuple[str, ...]

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A sample -> its views and its notes."""
        notes = Sample(sample.key, {name: sample[name] for name in self.notes if name in sample})
        seen = self.views(Sample(sample.key, {**sample, "text": _STAND_IN, "texts": [_STAND_IN]}), None)
        return {**seen, _NOTES: Notes(notes)}


class Noted:
    """A data set in which a sample that lacks a note has the others, instead of being broken."""

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


class Bench:
    """A method beside a data set: embeds the pictures once, and each text once, whoever asks.

    `notes` names the fields that tasks read of a sample beside its picture.
    """

    def __init__(
        self,
        method: Any,
        data: Dataset,
        notes: Sequence[str],
        *,
        device: str = "cpu",
        batch: int = 64,
        workers: int = 0,
        keep_tokens: bool | None = None,
    ) -> None:
        self.method = method
        self.data = data
        self.notes = [name for name in with_implied(notes) if name in data.has and name != "image"]
        self.device = device
        self.batch = batch
        self.workers = workers
        self.keep_tokens = keep_tokens  # None: found out from the method's similarity at the first batch
        self.train: Bench | None = None
        self._rows: dict[str, int] = {}
        self._texts: Features | None = None

    @property
    def images(self) -> Features:
        """Features of the N pictures, on the CPU: tokens (N, P, D), or (N, 0, D) where nobody compares tokens."""
        return self._embedded[0]

    @property
    def samples(self) -> list[Sample]:
        """The N samples in the order of `images`, with those of their notes that can be read, without pictures."""
        return self._embedded[1]

    @cached_property
    def captions(self) -> list[list[str]]:
        """The captions of each sample, blank ones left out."""
        return [[text for text in _captions(sample) if text.strip()] for sample in self.samples]

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes: the data set's own list, or the categories that occur."""
        named = list(self.data.classes)
        return named or sorted({str(sample["category"]) for sample in self.samples if sample.get("category")})

    @cached_property
    def labels(self) -> np.ndarray:
        """Index of each sample's class (N,), -1 where it has none."""
        index = {name: position for position, name in enumerate(self.classes)}
        return np.array([_label(sample, index) for sample in self.samples], dtype=np.int64)

    def texts(self, strings: Sequence[str]) -> Features:
        """Features of texts, on the CPU; a text that was embedded before is looked up."""
        _ = self._embedded  # decides whether tokens are kept
        new = [text for text in dict.fromkeys(strings) if text not in self._rows]
        parts = [] if self._texts is None else [self._texts]
        for start in range(0, len(new), self.batch):
            tokens = self.method.tokenize(new[start : start + self.batch]).to(self.device)
            parts.append(self._kept(self.method.embed_text(tokens)))
            watchdog.now()
        for text in new:
            self._rows[text] = len(self._rows)
        self._texts = joined(parts)
        rows = [self._rows[text] for text in strings]
        return self._texts if rows == list(range(len(self._rows))) else self._texts.take(torch.tensor(rows))

    def similarity(self, image: Features, text: Features) -> tuple[Tensor, Tensor]:
        """Features of I pictures and T texts -> the method's two (I, T) matrices, in float32 on the device."""
        first, second = self.method.similarity(moved(image, self.device), moved(text, self.device))
        return first.float(), second.float()

    @cached_property
    def multiplies(self) -> bool:
        """Whether the method's similarity is the inner product of pooled vectors, found out on a few random ones."""
        if self._compares_tokens(moved(self.images.take(slice(1)), self.device)):
            return False
        generator, width = torch.Generator().manual_seed(0), self.images.pooled.shape[1]
        pooled = [torch.randn(count, width, generator=generator) for count in (3, 5)]
        image, text = (Features(x.new_empty(len(x), 0, width), x, x.new_empty(len(x), 0).bool()) for x in pooled)
        product = image.pooled @ text.pooled.T
        return all(torch.allclose(matrix.cpu(), product, atol=1e-4) for matrix in self.similarity(image, text))

    def picture(self, key: str) -> Any:
        """The picture of one sample, as a PIL image."""
        return self.data.read(self.index[key], ("image",)).image

    @cached_property
    def index(self) -> dict[str, int]:
        """Where in the data set each key is."""
        return {self.data.key(index): index for index in range(len(self.data))}

    @cached_property
    def _embedded(self) -> tuple[Features, list[Sample]]:
        needed = [name for name in with_implied(("image", *self.method.card.needs)) if name not in _CAPTION]
        fields = [name for name in needed if name in self.data.has]
        data, views = Noted(self.data, self.notes), Views(self.method.views, tuple(self.notes))
        loader = Loader(data, views, fields, self.batch, 0, shuffle=False, workers=self.workers)
        parts: list[Features] = []
        samples: list[Sample] = []
        for batch in loader.once():
            if not batch.sample_keys:  # all its samples are broken
                continue
            features = self.method.embed_image(batch.to(self.device))
            if self.keep_tokens is None:
                self.keep_tokens = self._compares_tokens(features)
            parts.append(self._kept(features))
            watchdog.now()
            samples += [notes.sample for notes in batch[_NOTES]]
        loader.close()
        if loader.quarantine:
            log.warning("%d samples of %s could not be read and were left out.", len(loader.quarantine), self.data.name)
        if not samples:
            raise CannotEvaluate(f"{self.data.name} ({self.data.split}) has no sample that can be read.")
        return joined(parts), samples

    def _compares_tokens(self, image: Features) -> bool:
        """Whether the method's similarity reads tokens: not-a-number in them then reaches the result.

        Methods that compare pooled vectors only need not have N x P x D numbers kept for them.
        """
        text = self.method.embed_text(self.method.tokenize(["a"]).to(self.device))
        poisoned = [
            side._replace(tokens=torch.full_like(side.tokens, math.nan)) for side in (image.take(slice(1)), text)
        ]
        return not all(bool(torch.isfinite(matrix).all()) for matrix in self.method.similarity(*poisoned))

    def _kept(self, features: Features) -> Features:
        if not self.keep_tokens:
            features = features._replace(tokens=features.tokens[:, :0], mask=features.mask[:, :0])
        return Features(features.tokens.float().cpu(), features.pooled.float().cpu(), features.mask.cpu())


def with_implied(fields: Sequence[str]) -> list[str]:
    """Fields with their partners: who has `texts` has `text`, who has `label` and class names has `category`."""
    return list(dict.fromkeys(name for field in fields for name in (field, _IMPLIES.get(field, field))))


def joined(parts: Sequence[Features]) -> Features:
    """Features one below the other; shorter token lists are padded at the end, with a False mask."""
    width = max(part.mask.shape[1] for part in parts)
    tokens = [F.pad(part.tokens, (0, 0, 0, width - part.tokens.shape[1])) for part in parts]
    masks = [F.pad(part.mask, (0, width - part.mask.shape[1])) for part in parts]
    return Features(torch.cat(tokens), torch.cat([part.pooled for part in parts]), torch.cat(masks))


def moved(features: Features, device: str) -> Features:
    """The same features on another device."""
    return features.each(lambda part: part.to(device))


def blocks(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `length`."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def tile_side(image: Features, text: Features) -> int:
    """Rows and columns of a tile of similarities, so that all token pairs in it number at most `TILE`."""
    pairs = max(1, image.tokens.shape[1]) * max(1, text.tokens.shape[1])
    return max(1, math.isqrt(TILE // pairs))


def trimmed(features: Features) -> Features:
    """The same features without the last tokens where those are padding in every row."""
    real = features.mask.any(0).nonzero()
    longest = int(real.max()) + 1 if len(real) else 0
    return Features(features.tokens[:, :longest], features.pooled, features.mask[:, :longest])


@contextmanager
def judging(method: Any, device: str) -> Iterator[None]:
    """The method on `device`, in evaluation mode and without gradients; every module's mode is put back after."""
    modes = {module: module.training for module in method.modules()}
    method.to(device).eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _captions(sample: Sample) -> list[str]:
    if "texts" in sample:
        return [str(text) for text in sample["texts"]]
    return [str(sample["text"])] if "text" in sample else []


def _label(sample: Sample, index: dict[str, int]) -> int:
    if sample.get("category") in index:
        return index[sample["category"]]
    return int(sample["label"]) if sample.get("label") is not None else -1
