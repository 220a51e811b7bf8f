"""A data set in memory and methods whose embeddings are written by hand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from diptych.batch import Batch, Features, Sample
from diptych.card import Card
from diptych.data.decode import BrokenSample

_PIXEL = Image.new("RGB", (8, 8), (200, 220, 240))


class MemoryData:
    """Samples from a list of dictionaries; `reads` counts how often each field was decoded."""

    def __init__(
        self,
        samples: Sequence[Mapping[str, Any]],
        *,
        classes: Sequence[str] = (),
        name: str = "memory",
        split: str = "val",
    ) -> None:
        self.records = [{"image": _PIXEL, **sample} for sample in samples]
        self.name = name
        self.split = split
        self.classes = tuple(classes)
        self.has = frozenset(name for record in self.records for name in record)
        self.reads: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.records)

    def key(self, index: int) -> str:
        return f"s{index:05d}"

    def read(self, index: int, fields: Collection[str]) -> Sample:
        record = self.records[index]
        for name in fields:
            if record.get(name) is None:
                raise BrokenSample(self.key(index), f"no {name}")
            self.reads[name] = self.reads.get(name, 0) + 1
        values = {name: record[name] for name in fields}
        if "image" in values:  # the sample's number travels in the picture
            values["image"] = _numbered(record["image"], index)
        return Sample(self.key(index), values)

    def order(self, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
        return np.arange(len(self), dtype=np.int64)


class TableMethod(nn.Module):
    """One vector a picture and a text, from tables; tokens are the same vectors. Compares pooled vectors."""

    card = Card(id="table", title="Table", year=2026, arxiv="", family="contrastive")
    config = None
    prompts: tuple[str, ...] = ()
    prompt_ensemble = "features"

    def __init__(self, images: Any, texts: Mapping[str, Sequence[float]] | None = None) -> None:
        super().__init__()
        table = torch.as_tensor(images, dtype=torch.float32)
        self.table = table if table.ndim == 3 else table[:, None]  # (N, P, D)
        self.texts = {text: torch.as_tensor(row, dtype=torch.float32) for text, row in (texts or {}).items()}
        self.names: list[str] = []
        self.embedded_images = 0
        self.embedded_texts: list[str] = []
        self.dropout = nn.Dropout()

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        assert rng is None
        assert isinstance(sample.texts[0], str)
        return {"image": torch.tensor(sample.image.info["number"])}

    def embed_image(self, batch: Batch) -> Features:
        assert not self.training
        self.embedded_images += len(batch.image)
        return self._features(self.table[batch.image])

    def tokenize(self, texts: list[str]) -> Batch:
        self.names += [text for text in texts if text not in self.names]
        ids = torch.tensor([self.names.index(text) for text in texts])
        return Batch({"text": ids[:, None], "text_mask": torch.ones(len(texts), 1, dtype=torch.bool)})

    def embed_text(self, batch: Batch) -> Features:
        words = [self.names[number] for number in batch.text[:, 0]]
        self.embedded_texts += words
        width = self.table.shape[-1]
        rows = [self.texts.get(word, torch.ones(width)) for word in words]
        return self._features(torch.stack([row if row.ndim == 2 else row[None] for row in rows]))

    def similarity(self, image: Features, text: Features) -> tuple[Tensor, Tensor]:
        scores = image.pooled @ text.pooled.T
        return scores, scores

    def _features(self, tokens: Tensor) -> Features:
        return Features(tokens, F.normalize(tokens.mean(1), dim=-1), torch.ones(tokens.shape[:2], dtype=torch.bool))


class TokenMethod(TableMethod):
    """Compares tokens, with two different matrices, and says where words are: tokens are split at spaces."""

    prompt_ensemble = "similarities"
    grid = (2, 2)

    def similarity(self, image: Features, text: Features) -> tuple[Tensor, Tensor]:
        pairs = torch.einsum("ipd,jtd->ijpt", image.tokens, text.tokens)
        return pairs.amax(3).mean(2), pairs.amax(2).mean(2)

    def heat(self, image: Features, text: Features) -> Tensor:
        return torch.einsum("bpd,btd->btp", image.tokens, text.tokens).unflatten(-1, self.grid)

    def tokenize(self, texts: list[str]) -> Batch:
        """Start token, then a token a word; embeddings of words come from the table of texts."""
        longest = max(len(text.split()) for text in texts) + 1
        ids, mask = (
            torch.zeros(len(texts), longest, dtype=torch.long),
            torch.zeros(len(texts), longest, dtype=torch.bool),
        )
        for row, text in enumerate(texts):
            for place, word in enumerate(["<start>", *text.split()]):
                if word not in self.names:
                    self.names.append(word)
                ids[row, place], mask[row, place] = self.names.index(word), True
        return Batch({"text": ids, "text_mask": mask})

    def embed_text(self, batch: Batch) -> Features:
        zero = torch.zeros(self.table.shape[-1])
        tokens = torch.stack([torch.stack([self.texts.get(self.names[i], zero) for i in row]) for row in batch.text])
        tokens = tokens * batch.text_mask[..., None]
        return Features(tokens, F.normalize(tokens.sum(1), dim=-1), batch.text_mask)

    def token_offsets(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        offsets = []
        for text in texts:
            found, at = [(0, 0)], 0
            for word in text.split():
                start = text.index(word, at)
                at = start + len(word)
                found.append((start, at))
            offsets.append(found)
        return offsets


class ImagesOnly(nn.Module):
    """A method that embeds pictures and nothing else."""

    card = Card(id="eyes", title="Eyes", year=2026, arxiv="", family="vision", needs=("image",))
    config = None

    def __init__(self, images: Any) -> None:
        super().__init__()
        self.inner = TableMethod(images)

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        return self.inner.views(sample, rng)

    def embed_image(self, batch: Batch) -> Features:
        return self.inner.embed_image(batch)


def _numbered(picture: Image.Image, index: int) -> Image.Image:
    copy = picture.copy()
    copy.info["number"] = index
    return copy
