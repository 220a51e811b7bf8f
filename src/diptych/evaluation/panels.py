"""Chooses what the pictures of an evaluation show: samples drawn at random with a fixed seed, none hand-picked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from diptych.batch import Features
from diptych.evaluation import pictures
from diptych.evaluation.embed import Bench, blocks, tile_side
from diptych.evaluation.measures import Result
from diptych.evaluation.pointing import Query, heat_maps, queries
from diptych.evaluation.retrieval import caption_pairs
from diptych.evaluation.zero_shot import confusion, readable

_QUERIES, _SHOWN = 6, 5
_PICTURES, _WORDS = 4, 5
_CLASSES = 25


def draw_retrieval(bench: Bench, result: Result, folder: Path) -> None:
    """Writes text_to_image.png and image_to_text.png: six queries each, with the first five answers."""
    texts, pairs = caption_pairs(bench)
    rng = np.random.default_rng(0)
    subtitle = f"{bench.method.card.title} · {_source(bench)} · queries drawn at random"
    features = bench.texts(texts)
    asked = rng.permutation(len(texts))[:_QUERIES]
    found = []
    scores = _scores(bench, bench.images, features.take(torch.from_numpy(asked)))[1].T  # (queries, pictures)
    for query, row in zip(asked, scores, strict=True):
        right = pairs[pairs[:, 1] == query, 0]
        first, rank, best = _ranked(row, right)
        shown = [bench.picture(bench.samples[place].key) for place in first]
        answer = bench.picture(bench.samples[best].key)
        found.append(pictures.FoundPictures(texts[query], shown, np.isin(first, right).tolist(), rank, answer))
    title = f"Captions look for their picture among {len(bench.samples):,}"
    pictures.text_to_image_grid(found, title, subtitle).save(folder / "text_to_image.png")
    asked = rng.permutation(np.unique(pairs[:, 0]))[:_QUERIES]
    listed = []
    scores = _scores(bench, bench.images.take(torch.from_numpy(asked)), features)[0]  # (queries, captions)
    for query, row in zip(asked, scores, strict=True):
        right = pairs[pairs[:, 0] == query, 1]
        first, rank, best = _ranked(row, right)
        picture = bench.picture(bench.samples[query].key)
        shown_texts = [texts[place] for place in first]
        listed.append(pictures.FoundTexts(picture, shown_texts, np.isin(first, right).tolist(), rank, texts[best]))
    title = f"Pictures look for their caption among {len(texts):,}"
    pictures.image_to_text_grid(listed, title, subtitle).save(folder / "image_to_text.png")


def draw_heat(bench: Bench, result: Result, folder: Path) -> None:
    """Writes pointing.png: four pictures, and where up to five of their phrases and words point."""
    by_row: dict[int, list[Query]] = {}
    for query in queries(bench):
        by_row.setdefault(query.row, []).append(query)
    shown = []
    for row in sorted(np.random.default_rng(0).permutation(sorted(by_row))[:_PICTURES].tolist()):
        asked = [query for query in by_row[row] if query.phrase.strip()][:_WORDS]
        maps = heat_maps(bench, asked)
        kept = [(query, heat) for query, heat in zip(asked, maps, strict=True) if np.isfinite(heat).all()]
        if kept:
            sample = bench.samples[row]
            boxes = [sample["boxes"][query.box] for query, _ in kept]
            words, heats = [query.phrase for query, _ in kept], [heat for _, heat in kept]
            shown.append(pictures.WordHeat(bench.picture(sample.key), words, heats, boxes))
    if not shown:
        return
    subtitle = (
        f"{bench.method.card.title} · {_source(bench)} · pictures drawn at random. The dot is the strongest place, "
        "the dashed frame what the words name (green: hit, red: missed)"
    )
    pictures.heat_map(shown, "Where words point", subtitle).save(folder / "pointing.png")


def draw_confusion(bench: Bench, result: Result, folder: Path) -> None:
    """Writes confusion.png: true against predicted classes; beyond 25 the rarest are put together."""
    counts, names = _largest(confusion(result, bench.classes), [readable(name) for name in bench.classes])
    top1 = result.measures[0]
    subtitle = (
        f"{bench.method.card.title} · {_source(bench)} · {top1.estimate.value:.1%} of {top1.estimate.n:,} right, "
        f"guessing gives {top1.chance:.1%}"
    )
    pictures.confusion_matrix(counts, names, "Which class is taken for which", subtitle).save(folder / "confusion.png")


def _largest(counts: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The matrix of the classes that occur most, the others folded into one; classes that never occur are left out."""
    seen = counts.sum(0) + counts.sum(1)
    order = np.argsort(-counts.sum(1), kind="stable")
    order = order[seen[order] > 0]
    if len(order) <= _CLASSES:
        order = np.sort(order)
        return counts[np.ix_(order, order)], [names[place] for place in order]
    kept = np.sort(order[: _CLASSES - 1])
    fold = np.full(len(names), len(kept))
    fold[kept] = np.arange(len(kept))
    folded = np.zeros((_CLASSES, _CLASSES), dtype=np.int64)
    np.add.at(folded, (fold[:, None], fold[None, :]), counts)
    return folded, [*(names[place] for place in kept), f"{len(order) - len(kept)} other classes"]


def _scores(bench: Bench, image: Features, text: Features) -> tuple[np.ndarray, np.ndarray]:
    """The two whole (I, T) matrices, computed in tiles; one of the sides is a handful of queries."""
    side = tile_side(image, text)
    shape = len(image.pooled), len(text.pooled)
    whole = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for rows in blocks(shape[0], side):
        for columns in blocks(shape[1], side):
            for matrix, part in zip(whole, bench.similarity(image.take(rows), text.take(columns)), strict=True):
                matrix[rows, columns] = part.cpu().numpy()
    return whole


def _ranked(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, int, int]:
    """The first places of a ranking, and the rank and the place of the best right answer."""
    order = np.argsort(-scores, kind="stable")
    best = int(np.flatnonzero(np.isin(order, right))[0])
    return order[:_SHOWN], best + 1, int(order[best])


def _source(bench: Bench) -> str:
    return f"{bench.data.name} ({bench.data.split})" if bench.data.split else bench.data.name
