"""Methods that fuse pairs, whose judgements are written by hand: they see the number of a sample and read its texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diptych.batch import Batch, Features, Sample
from diptych.card import Card


def numbered(number: int, regions: int = 1) -> np.ndarray:
    """Regions (R, 2) that carry the number of their sample, and their own."""
    return np.array([[number, region] for region in range(regions)], dtype=np.float32)


class FusedMethod(nn.Module):
    """Sees regions, and says of each pair what `verdict` (number of the sample, text) says."""

    card = Card(id="fused", title="Fused", year=2026, arxiv="", family="fusion", needs=("regions", "texts"))
    config = None

    def __init__(self, verdict: Callable[[int, str], float] = lambda number, text: 0.0) -> None:
        super().__init__()
        self.verdict = verdict
        self.names: list[str] = []
        self.encoded_images = 0
        self.encoded_texts: list[str] = []
        self.fused = 0

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        assert rng is None
        assert isinstance(sample.texts[0], str)
        seen = {name: torch.as_tensor(sample[name]) for name in ("regions", "region_boxes") if name in sample}
        if "sides" in sample:
            seen["sides_regions"] = torch.stack([torch.as_tensor(side.regions) for side in sample.sides])
        return seen

    def tokenize(self, texts: list[str]) -> Batch:
        self.names += [text for text in texts if text not in self.names]
        ids = torch.tensor([self.names.index(text) for text in texts])
        longest = max(len(text.split()) for text in texts)
        mask = torch.tensor([[place < len(text.split()) for place in range(longest)] for text in texts])
        return Batch({"text": ids[:, None].expand(-1, longest), "text_mask": mask})

    def encode_image(self, batch: Batch) -> Features:
        assert not self.training
        self.encoded_images += len(batch.regions)
        real = batch.regions[..., 0] >= 0  # those of padding have the number -1
        return Features(batch.regions, batch.regions[:, 0], real, batch.get("region_boxes"))

    def encode_text(self, batch: Batch) -> Features:
        self.encoded_texts += [self.names[row] for row in batch.text[:, 0]]
        ids = batch.text[..., None].float()
        return Features(ids * batch.text_mask[..., None], ids[:, 0], batch.text_mask)

    def match(self, image: Features, text: Features) -> Tensor:
        self.fused += len(image.pooled)
        return torch.tensor([self.verdict(*pair) for pair in self.pairs(image, text)])

    def pairs(self, image: Features, text: Features) -> list[tuple[int, str]]:
        """Which pairs were handed in; each text has as many tokens as words."""
        words = [self.names[int(row)] for row in text.pooled[:, 0]]
        assert text.mask.sum(1).tolist() == [len(word.split()) for word in words]
        return list(zip(image.pooled[:, 0].long().tolist(), words, strict=True))


class TwoWays(FusedMethod):
    """Has a joint space too, in which `near` (number of the sample, text) is the similarity of a pair."""

    prompts: tuple[str, ...] = ()
    prompt_ensemble = "features"

    def __init__(self, verdict: Callable[[int, str], float], near: Callable[[int, str], float]) -> None:
        super().__init__(verdict)
        self.near = near
        self.embedded = 0

    def embed_image(self, batch: Batch) -> Features:
        self.embedded += len(batch.regions)
        return Features(batch.regions, batch.regions[:, 0], torch.ones(batch.regions.shape[:2]).bool())

    def embed_text(self, batch: Batch) -> Features:
        ids = batch.text[..., None].float()
        return Features(ids, ids[:, 0], batch.text_mask)

    def similarity(self, image: Features, text: Features) -> tuple[Tensor, Tensor]:
        numbers = image.pooled[:, 0].long().tolist()
        words = [self.names[int(row)] if float(row).is_integer() else "" for row in text.pooled[:, 0]]
        scores = torch.tensor([[self.near(number, word) for word in words] for number in numbers])
        return scores, scores


class Answers(FusedMethod):
    """Answers questions as a table says: (number of the sample, question) -> answer."""

    answers: tuple[str, ...] = ("yes", "no", "2", "red")

    def __init__(self, table: Mapping[tuple[int, str], str]) -> None:
        super().__init__()
        self.table = table

    def answer(self, image: Features, question: Features) -> Tensor:
        self.fused += len(image.pooled)
        said = [self.table.get(pair) for pair in self.pairs(image, question)]
        return torch.tensor([[float(answer == one) if one else torch.nan for answer in self.answers] for one in said])


def sides(*numbers: int) -> Sequence[Sample]:
    """Two sides that carry numbers of their own."""
    return [Sample(f"side {number}", {"regions": numbered(number)}) for number in numbers]


class Judges(FusedMethod):
    """Judges statements about two sides as a table says: (first number, second number, statement) -> log-odds."""

    def __init__(self, table: Mapping[tuple[int, int, str], float]) -> None:
        super().__init__()
        self.table = table

    def judge(self, first: Features, second: Features, text: Features) -> Tensor:
        pairs = zip(self.pairs(first, text), second.pooled[:, 0].long().tolist(), strict=True)
        return torch.tensor([self.table[number, other, statement] for (number, statement), other in pairs])


class Places(FusedMethod):
    """Says where words are: `table` maps (number of the sample, marked words) to a score for each region."""

    card = Card(id="places", title="Places", year=2026, arxiv="", family="fusion", needs=("regions", "region_boxes"))

    def __init__(self, table: Mapping[tuple[int, str], Sequence[float]]) -> None:
        super().__init__()
        self.table = table

    def token_offsets(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        return [[found.span() for found in re.finditer(r"\S+", text)] for text in texts]

    def locate(self, image: Features, text: Features, about: Tensor) -> tuple[Tensor, Tensor]:
        scores = []
        for (number, words), marked in zip(self.pairs(image, text), about.tolist(), strict=True):
            named = " ".join(word for word, own in zip(words.split(), marked, strict=False) if own)
            scores.append(self.scores(number, named, image))
        assert image.boxes is not None
        return image.boxes, torch.tensor(scores).float().masked_fill(~image.mask, -torch.inf)

    def scores(self, number: int, words: str, image: Features) -> Sequence[float]:
        """Of each region, padding included: 9 where the table says no more."""
        regions = image.mask.shape[1]
        return [*self.table.get((number, words), [0.0] * regions), *[9.0] * regions][:regions]

    def align(self, image: Features, text: Features) -> Tensor:
        weights = torch.zeros(*text.mask.shape, image.mask.shape[1])
        for row, (number, words) in enumerate(self.pairs(image, text)):
            for place, word in enumerate(words.split()[: text.mask.shape[1]]):
                weights[row, place] = torch.tensor(self.scores(number, word, image))
        return weights

    def probe(self, image: Features, text: Features) -> Tensor:
        return image.tokens[..., 2:]

    def caption(self, image: Features) -> list[str]:
        return [
            next(words for number, words in self.table if number == own) for own in image.pooled[:, 0].long().tolist()
        ]
