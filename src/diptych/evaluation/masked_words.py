"""Masked words: does the picture say which word is missing from its caption?

One word of the caption that names an attribute of an object is masked, and the method guesses it with the whole
picture before it. A word of several tokens is right if each of them is. Guessing the commonest word is chance.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diptych.batch import Batch, Sample
from diptych.evaluation import statistics
from diptych.evaluation.embed import PAIRS, Bench, CannotEvaluate, blocks, moved
from diptych.evaluation.measures import Measure, Result


@dataclass(frozen=True)
class Blank:
    """Characters `start` to `end` of `text`, which name the attribute `name` of an object of the sample in `row`."""

    row: int
    text: str
    start: int
    end: int
    name: str

    @property
    def word(self) -> str:
        """What is missing."""
        return self.text[self.start : self.end]


def masked_words(bench: Bench) -> Result:
    """Share of words that are guessed right, for each attribute by its name, such as `colour`."""
    asked = blanks(bench)
    if not asked:
        raise CannotEvaluate(
            f"masked_words needs captions whose spans contain words of attributes; {bench.data.name} has none."
        )
    hits, names = fill(bench, asked), np.array([blank.name for blank in asked])
    measures, table = [], {}
    for name in sorted(set(names)):
        chosen = np.flatnonzero(names == name)
        clusters = [asked[index].row for index in chosen]
        common = Counter(asked[index].word for index in chosen).most_common(1)[0][1]
        measures.append(Measure(name, statistics.mean(hits[chosen], clusters=clusters), common / len(chosen)))
        table[name] = np.where(names == name, hits, np.nan)
    keys = [bench.samples[blank.row].key for blank in asked]
    return Result(measures, {"key": keys, "word": [blank.word for blank in asked], **table})


def blanks(bench: Bench) -> list[Blank]:
    """Every word of a caption's spans that is an attribute of the span's object."""
    return [
        Blank(row, text, start + there.start(), start + there.end(), str(name))
        for row, sample in enumerate(bench.samples)
        for text, start, end, named in _spans(sample)
        for name, word in named.items()
        if (there := re.search(rf"\b{re.escape(str(word))}\b", text[start:end]))
    ]


def _spans(sample: Sample) -> Iterator[tuple[str, int, int, Mapping[str, Any]]]:
    """The caption, the characters of each of its spans, and the attributes of the span's object."""
    text, attributes = sample.get("text") or "", sample.get("attributes") or []
    for start, end, box in sample.get("spans") or []:
        if 0 <= box < len(attributes):
            yield text, start, end, attributes[box]


def fill(bench: Bench, asked: list[Blank]) -> np.ndarray:
    """(n,) 1.0 where a blank is filled with the word that stood there; a word that was cut off is a miss."""
    hits = []
    for some in blocks(len(asked), PAIRS):
        texts = [blank.text for blank in asked[some]]
        tokens = bench.method.tokenize(texts)
        hidden = torch.zeros_like(tokens.text_mask)
        for row, (blank, offsets) in enumerate(zip(asked[some], bench.method.token_offsets(texts), strict=True)):
            for index, (start, end) in enumerate(offsets):
                hidden[row, index] = max(start, blank.start) < min(end, blank.end)
        masked = Batch({**tokens, "text": tokens.text.masked_fill(hidden, bench.method.mask_id)})
        images = bench.encoded_images.take(torch.tensor([blank.row for blank in asked[some]]))
        logits = bench.method.fill(moved(images, bench.device), bench.method.encode_text(masked.to(bench.device)))
        right = (logits.argmax(-1).cpu() == tokens.text) | ~hidden  # (B, T)
        hits.append((right.all(1) & hidden.any(1)).double().numpy())
    return np.concatenate(hits)
