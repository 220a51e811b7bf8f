"""Heat maps of words for data without boxes: nothing is scored, one only looks.

With boxes and spans the evaluation `pointing` draws and scores the same maps.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from diptych.card import EmbedsImages, EmbedsTexts, Grounds
from diptych.data.dataset import Dataset, Subset
from diptych.evaluation import pictures
from diptych.evaluation.embed import Bench, judging
from diptych.evaluation.pointing import Query, heat_maps

_PICTURES, _WORDS, _TRIED = 5, 4, 200
_WORD = re.compile(r"[^\W\d_]{3,}", re.UNICODE)
_EMPTY = frozenset(
    ["and", "are", "for", "from", "her", "his", "into", "its", "one", "photo", "picture", "some", "that", "the", "with"]
)


def draw(method: Any, data: Dataset, folder: Path, *, device: str = "cpu") -> Path | None:
    """Writes words.png: a few pictures, and where the words of their captions point.

    The pictures are drawn at random with a fixed seed, so that methods can be laid side by side; captions with fewer
    than two words that mean something are passed over.

    Returns:
        The file, or None where the method does not ground or the data have no captions.
    """
    if not isinstance(method, Grounds) or not isinstance(method, EmbedsImages) or not isinstance(method, EmbedsTexts):
        return None
    if not {"image", "texts"} <= set(data.has):
        return None
    chosen = _chosen(data)
    if not chosen:
        return None
    bench = Bench(method, Subset(data, list(chosen)), ("image", "texts"), device=device, keep_tokens=True)
    with judging(method, device):
        rows = [row for number, sample in enumerate(bench.samples) if (row := _row(bench, number, sample))]
    if not rows:
        return None
    title = getattr(method, "card").title  # noqa: B009
    subtitle = f"{title} · {data.name} ({data.split}) · pictures drawn at random. The dot is the strongest place"
    path = folder / "words.png"
    pictures.heat_map(rows, "Where words point", subtitle).save(path)
    return path


def _chosen(data: Dataset) -> list[int]:
    """Indices of some pictures whose first caption has at least two words that mean something."""
    found: list[int] = []
    for index in np.random.default_rng(0).permutation(len(data))[:_TRIED]:
        if len(_words(str(data.read(int(index), ("texts",)).texts[0]))) >= 2:
            found.append(int(index))
        if len(found) == _PICTURES:
            break
    return found


def _row(bench: Bench, number: int, sample: Any) -> pictures.WordHeat | None:
    text = str(sample["texts"][0])
    queries = [Query(number, text, start, end, -1) for start, end in _words(text)[:_WORDS]]
    maps = heat_maps(bench, queries)
    kept = [(query.phrase, heat) for query, heat in zip(queries, maps, strict=True) if np.isfinite(heat).all()]
    if not kept:
        return None
    return pictures.WordHeat(bench.picture(sample.key), [w for w, _ in kept], [h for _, h in kept], [None] * len(kept))


def _words(text: str) -> list[tuple[int, int]]:
    """Where the words that mean something are: (start, end) characters."""
    found = [match.span() for match in _WORD.finditer(text)]
    return [span for span in found if text[slice(*span)].lower() not in _EMPTY]
