"""Shards written by hand, and a method whose similarities can be computed in the head."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from diptych.batch import Batch, Features
from diptych.card import Card
from diptych.curation.run import curate
from diptych.data.dataset import ShardedData
from diptych.data.shards import ShardWriter, write_dataset_json


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def field(colour: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> bytes:
    return encoded(Image.new("RGB", size, colour))


def sample(image: bytes, *texts: str, **record: Any) -> dict[str, bytes]:
    """The members of a sample, as a pack writes them."""
    members = {"png": image} if image else {}
    if texts:
        members["txt"] = texts[0].encode()
    record |= {"texts": list(texts)} if len(texts) > 1 else {}
    return members | ({"json": json.dumps(record).encode()} if record else {})


def write(
    folder: Path, samples: Mapping[str, Mapping[str, bytes]], split: str = "train", shard: int = 512 << 20, **info: Any
) -> str:
    """Writes samples by key as one split of a folder of shards."""
    with ShardWriter(folder, split, max_bytes=shard) as writer:
        for key, members in samples.items():
            writer.add(key, members)
    write_dataset_json(folder, {"name": folder.name, "licence": "CC0-1.0", **info})
    return str(folder)


def contents(folder: Path | str, split: str = "train") -> dict[str, dict[str, bytes]]:
    """All members of all samples of a split, by key."""
    data = ShardedData(folder, split)
    return {data.key(number): data.raw(number) for number in range(len(data))}


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def kept(task: Any, parts: Any, out: Path, **options: Any) -> list[str]:
    """The keys that stay."""
    outcome = curate(task, parts, out, **options)
    stays = outcome.verdicts.stays
    own = [part.written for part in parts]
    return [
        key
        for key, stay, part in zip(outcome.facts.table["key"].to_pylist(), stays, outcome.facts.part, strict=True)
        if stay and own[part]
    ]


@dataclass(frozen=True)
class Settings:
    """Options of `Colours`."""

    directions: bool = False


class Colours(nn.Module):
    """A picture is its mean colour (three shares), a text the colour that it names: cosines are easily computed.

    With `directions` the similarity of a text to a picture is half of that of the picture to the text.
    """

    card = Card(id="colours", title="Colours", year=2026, arxiv="", family="contrastive")
    prompts = ()
    prompt_ensemble = "features"

    def __init__(self, directions: bool = False) -> None:
        super().__init__()
        self.config = Settings(directions)
        self.register_buffer("named", torch.eye(3))
        self.calls = 0

    def views(self, sample: Any, rng: Any) -> dict[str, Any]:
        assert sample.text
        return {"image": np.asarray(sample.image, dtype=np.float32).mean(axis=(0, 1)) / 255}

    def embed_image(self, batch: Batch) -> Features:
        self.calls += 1
        return _features(batch.image)

    def tokenize(self, texts: Sequence[str]) -> Batch:
        names = ["red", "green", "blue"]
        return Batch(
            {"text": torch.tensor([next(i for i, name in enumerate(names) if name in text) for text in texts])}
        )

    def embed_text(self, batch: Batch) -> Features:
        return _features(self.named[batch.text])

    def similarity(self, image: Features, text: Features) -> tuple[Tensor, Tensor]:
        cosine = image.pooled @ text.pooled.T
        return cosine, cosine / 2 if self.config.directions else cosine


def _features(vectors: Tensor) -> Features:
    pooled = F.normalize(vectors, dim=-1)
    return Features(pooled[:, None], pooled, torch.ones(len(pooled), 1, dtype=torch.bool))
