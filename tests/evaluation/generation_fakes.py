"""A method that writes, whose words and chances are written by hand: it sees the numbers of samples."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diptych.batch import Batch, Features, Sample
from diptych.card import Card

Seen = tuple[int, ...]
HALF = math.log(0.5)


class Writer(nn.Module):
    """Writes what `says` (numbers of the samples seen, prompt) says; an answer's words have the chances of `holds`.

    `holds` (numbers, prompt, answer, word) is the log probability of a word, 0.5 by default; a word is the likeliest
    where that is -0.1 or more.
    """

    card = Card(id="writer", title="Writer", year=2026, arxiv="", family="generative", needs=("regions", "text"))
    config = None

    def __init__(
        self,
        says: Callable[[Seen, str], str] = lambda seen, prompt: "",
        holds: Callable[[Seen, str, str, str], float] = lambda seen, prompt, answer, word: HALF,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.says, self.holds = says, holds
        self.prompts = prompts or {"caption": "Say:", "question": "Q: {} A:", "choice": "{} Letter:", "yes_no": "{}"}
        self.encoded = 0
        self.asked: list[list[tuple[Seen, str]]] = []

    def views(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        return {"regions": torch.as_tensor(sample.regions)}

    def encode_image(self, batch: Batch) -> Features:
        assert not self.training
        self.encoded += len(batch.regions)
        return Features(batch.regions, batch.regions[:, 0], torch.ones(batch.regions.shape[:2]).bool())

    def caption(self, image: Features) -> list[str]:
        return self.respond(image, [self.prompts["caption"]] * len(image.tokens))

    def respond(self, image: Features | None, prompts: Sequence[str], longest: int = 32, beams: int = 1) -> list[str]:
        return [self.says(*pair) for pair in self.pairs(image, prompts)]

    def likelihood(
        self, image: Features | None, prompts: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        tokens = self.token_likelihood(image, prompts, answers)
        sums = [sum(chance for _, _, chance, _ in row) for row in tokens]
        return torch.tensor(sums), torch.tensor([len(row) for row in tokens])

    def token_likelihood(
        self, image: Features | None, prompts: Sequence[str], answers: Sequence[str]
    ) -> list[list[tuple[int, int, float, bool]]]:
        found = []
        for (seen, prompt), answer in zip(self.pairs(image, prompts), answers, strict=True):
            words = list(re.finditer(r"\S+", answer))
            chances = [self.holds(seen, prompt, answer, word.group()) for word in words]
            found.append([(*word.span(), chance, chance >= -0.1) for word, chance in zip(words, chances, strict=True)])
        return found

    def pairs(self, image: Features | None, prompts: Sequence[str]) -> list[tuple[Seen, str]]:
        seen = [()] * len(prompts) if image is None else [tuple(row) for row in image.tokens[..., 0].long().tolist()]
        self.asked.append(list(zip(seen, prompts, strict=True)))
        return self.asked[-1]
