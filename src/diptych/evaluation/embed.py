"""Features that the tasks share: every sample is read and encoded once, every text once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diptych.batch import Batch, Features, Sample
from diptych.card import EmbedsImages, EncodesPairs, Generates, JudgesStatements
from diptych.data.dataset import Dataset
from diptych.data.loader import Loader
from diptych.evaluation.canvas import PAPER, tiled
from diptych.evaluation.reading import NOTES, Noted, Views, own_fields, used_fields, with_implied
from diptych.training import watchdog

log = logging.getLogger("diptych.evaluation")

TILE = 2**22  # token pairs of a tile of similarities: 16 MB in float32
SEEN = ("image", "video", "sides")
"""Fields that a person can look at, which no task keeps notes of."""
_SIDES = "sides_"
PAIRS = 256  # pairs that are fused at a time

Ints = NDArray[np.int64]
History = Sequence[Mapping[str, np.ndarray]]
"""What `forgetting.looked_at` found after each task of a stream so far: equally long columns by name."""
Encoder = Callable[[Batch], Features]
Space = Literal["joint", "fusion", "sides"]
"""What samples are encoded for: the space that both modalities share, fusion, or fusion of each of two sides."""


class CannotEvaluate(ValueError):
    """A task cannot run on this method or data; the message is one sentence that says what is missing."""


class Texts:
    """Features of texts by one encoder, on the CPU; each text is encoded once."""

    def __init__(self, tokenize: Callable[[list[str]], Batch], encode: Encoder, batch: int) -> None:
        self._tokenize, self._encode, self._batch = tokenize, encode, batch
        self._rows: dict[str, int] = {}
        self._features: Features | None = None

    def __call__(self, strings: Sequence[str]) -> Features:
        """Features of the texts, in their order."""
        new = [text for text in dict.fromkeys(strings) if text not in self._rows]
        parts = [] if self._features is None else [self._features]
        for some in blocks(len(new), self._batch):
            parts.append(self._encode(self._tokenize(new[some])))
            watchdog.now()
        for text in new:
            self._rows[text] = len(self._rows)
        self._features = joined(parts)
        rows = [self._rows[text] for text in strings]
        return self._features if rows == list(range(len(self._rows))) else self._features.take(torch.tensor(rows))


class Bench:
    """A method beside a data set: encodes what it sees of each sample once, and each text once, whoever asks.

    `notes` names the fields that tasks read of a sample beside what the method sees. `spaces` says what samples are
    encoded for; None is for all that the method can and the data has.
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
        spaces: Collection[Space] | None = None,
    ) -> None:
        self.method = method
        self.data = data
        self.notes = [name for name in with_implied(notes) if name in data.has and name not in SEEN]
        self.device = device
        self.batch = batch
        self.workers = workers
        self.keep_tokens = keep_tokens  # None: found out from the method's similarity at the first batch
        self.spaces = _spaces(method, data) if spaces is None else spaces
        self.train: Bench | None = None
        self.history: History = ()
        self.rerank: int | None = None
        self.asked = True  # by name: tasks then do what takes long, too

    @property
    def images(self) -> Features:
        """Features of the N samples in the joint space, on the CPU; tokens (N, 0, D) where nobody compares them."""
        return self._encoded[0]["joint"]

    @property
    def encoded_images(self) -> Features:
        """What fusion starts from, of the N samples, on the CPU."""
        return self._encoded[0]["fusion"]

    @property
    def encoded_sides(self) -> tuple[Features, Features]:
        """What fusion starts from, of the first and of the second side of the N samples, on the CPU."""
        return self._encoded[0]["first"], self._encoded[0]["second"]

    @property
    def samples(self) -> list[Sample]:
        """The N samples in the order of `images`, with those of their notes that can be read, and no pictures."""
        return self._encoded[1]

    @cached_property
    def texts(self) -> Texts:
        """Texts -> their features in the joint space."""
        _ = self._encoded  # decides whether tokens are kept
        return Texts(self._tokens, lambda batch: self._kept(self.method.embed_text(batch)), self.batch)

    @cached_property
    def encoded_texts(self) -> Texts:
        """Texts -> what fusion starts from."""
        return Texts(self._tokens, lambda batch: _stored(self.method.encode_text(batch)), self.batch)

    @cached_property
    def captions(self) -> list[list[str]]:
        """The captions of each sample, blank ones left out."""
        return [[text for text in _captions(sample) if text.strip()] for sample in self.samples]

    @cached_property
    def written(self) -> list[str]:
        """The caption that the method writes of each sample."""
        said: list[str] = []
        for some in blocks(len(self.samples), self.batch):
            said += self.method.caption(moved(self.encoded_images.take(some), self.device))
            watchdog.now()
        return said

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

    def picture(self, key: str, field: str = "") -> Image.Image:
        """What a person may look at: the picture, four frames of the video, the two sides, or an empty sheet.

        Of several, `field` is shown, else what the method itself sees.
        """
        own = [name for name in SEEN if name in self.method.card.needs]
        there = [name for name in (field, *own, *SEEN) if name in self.data.has][:1]
        sample = self.data.read(self.index[key], there)
        if there == ["image"]:
            return sample.image  # type: ignore[no-any-return]
        if there == ["video"]:
            frames = np.linspace(0, len(sample.video) - 1, 4).astype(int)
            return tiled([sample.video[frame] for frame in frames.tolist()], 2)
        empty = Image.new("RGB", (224, 224), PAPER)
        return tiled([side.get("image", empty) for side in sample.sides], 2) if there else empty

    @cached_property
    def index(self) -> dict[str, int]:
        """Where in the data set each key is."""
        return {self.data.key(index): index for index in range(len(self.data))}

    @cached_property
    def _encoded(self) -> tuple[dict[str, Features], list[Sample]]:
        encoders = self._encoders
        whole, has = bool({"joint", "fusion"} & set(self.spaces)), self.data.has
        own = [name for name in own_fields(self.method.card.needs) if name in has and whole]
        uses = [name for name in used_fields(self.method) if name in has and whole and name not in own]
        sides = ["sides"] if "sides" in self.spaces else []
        looks = tuple(look for look in ((*own, *uses), tuple(sides)) if look)
        views = Views(self.method.views, looks, tuple(self.notes))
        data, fields = Noted(self.data, [*self.notes, *uses]), [*own, *sides]
        loader = Loader(data, views, fields, self.batch, 0, shuffle=False, workers=self.workers)
        parts: dict[str, list[Features]] = {name: [] for name in encoders}
        samples: list[Sample] = []
        for batch in loader.once():
            if not batch.sample_keys:  # all its samples are broken
                continue
            there = batch.to(self.device)
            for name, encode in encoders.items():
                parts[name].append(encode(there))
            watchdog.now()
            samples += [notes.sample for notes in batch[NOTES]]
        loader.close()
        if loader.quarantine:
            log.warning("%d samples of %s could not be read and were left out.", len(loader.quarantine), self.data.name)
        if not samples:
            raise CannotEvaluate(f"{self.data.name} ({self.data.split}) has no sample that can be read.")
        return {name: joined(of) for name, of in parts.items()}, samples

    @property
    def _encoders(self) -> dict[str, Encoder]:
        """Batch -> features on the CPU, for each of the spaces."""
        found: dict[str, Encoder] = {}
        if "joint" in self.spaces:
            found["joint"] = self._joint
        if "fusion" in self.spaces:
            found["fusion"] = lambda batch: _stored(self.method.encode_image(batch))
        if "sides" in self.spaces:
            found["first"] = lambda batch: _stored(self.method.encode_image(_side(batch, 0)))
            found["second"] = lambda batch: _stored(self.method.encode_image(_side(batch, 1)))
        return found

    def _joint(self, batch: Batch) -> Features:
        features = self.method.embed_image(batch)
        if self.keep_tokens is None:
            self.keep_tokens = self._compares_tokens(features)
        return self._kept(features)

    def _tokens(self, texts: list[str]) -> Batch:
        return self.method.tokenize(texts).to(self.device)  # type: ignore[no-any-return]

    def _compares_tokens(self, image: Features) -> bool:
        """Whether the method's similarity reads tokens: not-a-number in them then reaches the result.

        Methods that compare pooled vectors only need not have N x P x D numbers kept for them.
        """
        text = self.method.embed_text(self._tokens(["a"]))
        poisoned = [
            side._replace(tokens=torch.full_like(side.tokens, math.nan)) for side in (image.take(slice(1)), text)
        ]
        return not all(bool(torch.isfinite(matrix).all()) for matrix in self.method.similarity(*poisoned))

    def _kept(self, features: Features) -> Features:
        if not self.keep_tokens:
            features = shortened(features, 0)
        return _stored(features)


def paired(image: Features, text: Features, pairs: Ints, device: str) -> Iterator[tuple[slice, Features, Features]]:
    """Features of pairs, (n, 2) rows of images and texts, a block at a time on the device, without common padding."""
    for some in blocks(len(pairs), PAIRS):
        yield some, rows_on(image, pairs[some, 0], device), rows_on(text, pairs[some, 1], device, padded=True)
        watchdog.now()


def rows_on(features: Features, rows: Ints, device: str, *, padded: bool = False) -> Features:
    """Rows of features on the device; what occurs several times is moved once. A grid of patches has no padding."""
    different, row = np.unique(rows, return_inverse=True)
    some = features.take(torch.from_numpy(different))
    shorter = trimmed(some) if padded or some.boxes is not None else some
    return moved(shorter, device).take(torch.from_numpy(row).to(device))


def joined(parts: Sequence[Features]) -> Features:
    """Features one below the other; shorter token lists are padded at the end, with a False mask."""
    width = max(part.mask.shape[1] for part in parts)
    tokens = [F.pad(part.tokens, (0, 0, 0, width - part.tokens.shape[1])) for part in parts]
    masks = [F.pad(part.mask, (0, width - part.mask.shape[1])) for part in parts]
    boxes = [F.pad(part.boxes, (0, 0, 0, width - part.boxes.shape[1])) for part in parts if part.boxes is not None]
    pooled = torch.cat([part.pooled for part in parts])
    return Features(torch.cat(tokens), pooled, torch.cat(masks), torch.cat(boxes) if boxes else None)


def moved(features: Features, device: str) -> Features:
    """The same features on another device."""
    return features.each(lambda part: part.to(device))


def shortened(features: Features, tokens: int) -> Features:
    """The same features with the first tokens only."""
    boxes = None if features.boxes is None else features.boxes[:, :tokens]
    return Features(features.tokens[:, :tokens], features.pooled, features.mask[:, :tokens], boxes)


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
    return shortened(features, longest)


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


def _spaces(method: Any, data: Dataset) -> set[Space]:
    """All that a method can encode samples of a data set for."""
    found: set[Space] = set()
    if isinstance(method, EmbedsImages):
        found.add("joint")
    if isinstance(method, EncodesPairs | Generates):
        found.add("fusion")
    if isinstance(method, JudgesStatements) and "sides" in data.has:
        found.add("sides")
    return found


def _side(batch: Batch, number: int) -> Batch:
    """The batch of one side: what views call `sides_NAME` (B, 2, ...), as NAME (B, ...)."""
    sides = {name.removeprefix(_SIDES): value for name, value in batch.items() if name.startswith(_SIDES)}
    return Batch({name: value[:, number] for name, value in sides.items()}, batch.sample_keys)


def _stored(features: Features) -> Features:
    """Features as they are kept: in float32 on the CPU."""
    return features.each(lambda part: (part if part.dtype == torch.bool else part.float()).cpu())


def _captions(sample: Sample) -> list[str]:
    if "texts" in sample:
        return [str(text) for text in sample["texts"]]
    return [str(sample["text"])] if "text" in sample else []


def _label(sample: Sample, index: dict[str, int]) -> int:
    if sample.get("category") in index:
        return index[sample["category"]]
    return int(sample["label"]) if sample.get("label") is not None else -1
