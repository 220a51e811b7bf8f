"""Pointing: does a word find its place in the picture? (The pointing game, Zhang et al., 2016, on a patch grid.)

For a phrase of the caption that names a box, the method's heat maps of the tokens that overlap the phrase are
averaged, and the strongest position of the grid is taken. It hits if its centre lies in the box; a box so small that
it holds no centre is given the position that its own centre falls on. Positions that tie for the strongest count by
the share of them that hit, so that a flat map scores chance: the mean share of the grid that the boxes cover. A map
that finds some object, whichever, scores well above that: about one in the number of objects.

Boxes are relative to the whole picture: the method's deterministic view must show all of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diptych.batch import Sample
from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate, blocks, moved
from diptych.evaluation.measures import Measure, Result

_PAIRS = 256  # pictures and texts of which heat maps are computed at a time


@dataclass(frozen=True)
class Query:
    """Where in the picture of row `row` is what characters `start` to `end` of `text` name? In its box number `box`."""

    row: int
    text: str
    start: int
    end: int
    box: int

    @property
    def phrase(self) -> str:
        """The words that point."""
        return self.text[self.start : self.end]

    def alone(self) -> Query:
        """The same question with the phrase as the whole text."""
        return Query(self.row, self.phrase, 0, len(self.phrase), self.box)


def pointing(bench: Bench) -> Result:
    """Pointing accuracy in [0, 1] of phrases in their caption, of the noun in them, and of phrases alone.

    The noun (metric `word`) is asked only where the box's `attributes`, or the scene's object, name a `category` or a
    `shape` that the phrase contains.
    """
    phrases = queries(bench)
    if not phrases:
        raise CannotEvaluate(f"pointing needs captions with spans and boxes; no sample of {bench.data.name} has both.")
    words = [(position, word) for position, query in enumerate(phrases) if (word := _noun(bench, query))]
    table: dict[str, np.ndarray] = {}
    measures = []
    asked = {
        "phrase": (np.arange(len(phrases)), phrases),
        "word": (np.array([position for position, _ in words], dtype=np.int64), [word for _, word in words]),
        "phrase_alone": (np.arange(len(phrases)), [query.alone() for query in phrases]),
    }
    for name, (positions, questions) in asked.items():
        if not questions:
            continue
        hits, chances = point(bench, questions)
        estimate = statistics.mean(hits, clusters=[query.row for query in questions])
        measures.append(Measure(name, estimate, float(chances.mean())))
        table[name] = np.full(len(phrases), np.nan)
        table[name][positions] = hits
        table.setdefault("chance", chances)
    keys = [bench.samples[query.row].key for query in phrases]
    return Result(measures, {"key": keys, "text": [query.phrase for query in phrases], **table})


def queries(bench: Bench) -> list[Query]:
    """One query for each span of each caption whose box is there."""
    found = []
    for row, sample in enumerate(bench.samples):
        text, boxes = sample.get("text"), sample.get("boxes")
        if not text or boxes is None:
            continue
        for start, end, box in sample.get("spans") or []:
            if 0 <= int(box) < len(boxes) and text[int(start) : int(end)].strip():
                found.append(Query(row, text, int(start), int(end), int(box)))
    return found


def point(bench: Bench, questions: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
    """Hits (n,) in [0, 1] and chances (n,) of queries. A phrase that the tokenizer cut off is a miss."""
    hits, chances = [], []
    for query, heat in zip(questions, heat_maps(bench, questions), strict=True):
        cover = covered(bench.samples[query.row]["boxes"][query.box], (heat.shape[0], heat.shape[1]))
        strongest = heat == heat.max()  # all False where the heat is not a number
        hits.append(float(cover[strongest].mean()) if strongest.any() else 0.0)
        chances.append(float(cover.mean()))
    return np.array(hits), np.array(chances)


def heat_maps(bench: Bench, questions: Sequence[Query]) -> list[np.ndarray]:
    """The heat (h, w) of each query: the mean over the tokens that overlap its phrase; NaN where none does."""
    texts = list(dict.fromkeys(query.text for query in questions))
    offsets = dict(zip(texts, bench.method.token_offsets(texts), strict=True))
    features = bench.texts(texts)
    place = {text: position for position, text in enumerate(texts)}
    maps = []
    for some in blocks(len(questions), _PAIRS):
        asked = questions[some]
        images = bench.images.take(torch.tensor([query.row for query in asked]))
        words = features.take(torch.tensor([place[query.text] for query in asked]))
        heat = bench.method.heat(moved(images, bench.device), moved(words, bench.device)).float().cpu()  # (B, T, h, w)
        maps += [
            _mean_over_tokens(one, overlapping(offsets[query.text], query.start, query.end)).numpy()
            for one, query in zip(heat, asked, strict=True)
        ]
    return maps


def overlapping(offsets: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    """The tokens that cover any of the characters start to end; special tokens, (0, 0), cover none."""
    return [token for token, (first, last) in enumerate(offsets) if first < end and last > start and last > first]


def covered(box: Sequence[float], grid: tuple[int, int]) -> np.ndarray:
    """Which positions (h, w) of the grid have their centre in the box x0, y0, x1, y1; at least one."""
    height, width = grid
    x0, y0, x1, y1 = box
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    cover = np.outer((y >= y0) & (y <= y1), (x >= x0) & (x <= x1))
    if not cover.any():
        row, column = int((y0 + y1) / 2 * height), int((x0 + x1) / 2 * width)
        cover[min(max(row, 0), height - 1), min(max(column, 0), width - 1)] = True
    return cover


def _mean_over_tokens(heat: Tensor, tokens: Sequence[int]) -> Tensor:
    kept = [token for token in tokens if token < len(heat)]
    return heat[kept].mean(0) if kept else torch.full(heat.shape[1:], torch.nan)


def category(sample: Sample, box: int) -> str:
    """What a box holds, by the sample's attributes or its scene: a category or a shape; empty where they do not say."""
    described = sample.get("attributes")
    if described is None:
        scene = sample.get("scene")
        described = scene.get("objects") if isinstance(scene, dict) else None
    about = described[box] if described is not None and box < len(described) else None
    return str(about.get("category") or about.get("shape") or "") if isinstance(about, dict) else ""


def _noun(bench: Bench, query: Query) -> Query | None:
    """The query narrowed to the word for what the box holds, where the sample says it and the phrase contains it."""
    noun = category(bench.samples[query.row], query.box)
    found = re.search(rf"\b{re.escape(noun)}\b", query.phrase, re.IGNORECASE) if noun else None
    if found is None:
        return None
    return Query(query.row, query.text, query.start + found.start(), query.start + found.end(), query.box)
