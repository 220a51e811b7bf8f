"""Retrieval by a method's own judgement of pairs: each picture and text that are compared are fused.

Both sides are encoded once; what fuses them runs for every pair. All pairs are fused where that can be afforded, or
where the method has no other way to compare. Else a method that also has a joint space takes the `RERANKED` candidates
of each query that are the most similar there, and orders these by fusion (Li et al., Align before Fuse, 2021, section
3.4): a right answer that is not among them keeps its rank by similarity. Directions have candidates of their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np
import torch

from diptych.batch import Features
from diptych.card import ScoresPairs
from diptych.evaluation.embed import TILE, Bench, CannotEvaluate, Ints, blocks, paired
from diptych.evaluation.measures import Measure, Result
from diptych.evaluation.retrieval import TIE, TwoTowers, caption_pairs, recalls
from diptych.evaluation.statistics import Estimate

log = logging.getLogger("diptych.evaluation")

RERANKED = 32
"""Candidates of a query that are fused with it, where not all are."""
AFFORDED = 50_000
"""Pairs up to which all are fused: some ten minutes of a CPU."""
_TILE = 16  # neighbours in a run of pairs share pictures, and texts of like length
_SAID = 30.0  # seconds between two lines of the log


class Fused:
    """By the method's judgement of each pair, the same in both directions."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    @property
    def images(self) -> Features:
        """What fusion starts from, of the N pictures."""
        return self.bench.encoded_images

    def texts(self, strings: Sequence[str]) -> Features:
        """What fusion starts from, of texts."""
        return self.bench.encoded_texts(strings)

    def ranks(self, image: Features, text: Features, pairs: Ints) -> tuple[Ints, Ints]:
        """As `rank_of_best_positive`."""
        scores, _ = self.matrices(image, text)
        right = np.zeros(scores.shape, bool)
        right[pairs[:, 0], pairs[:, 1]] = True
        none = [np.zeros(count, np.int64) for count in scores.shape]
        return ranks_among(scores, right, none[0]), ranks_among(scores.T, right.T, none[1])

    def matrices(self, image: Features, text: Features) -> tuple[np.ndarray, np.ndarray]:
        """One whole (I, T) matrix, twice."""
        shape = len(image.pooled), len(text.pooled)
        scores = self.scores(image, text, np.indices(shape).reshape(2, -1).T).reshape(shape)
        return scores, scores

    def scores(self, image: Features, text: Features, pairs: Ints) -> np.ndarray:
        """Log-odds (n,) of single pairs, (n, 2) rows of images and texts; what pairs share is moved once."""
        found = np.empty(len(pairs), np.float32)
        length = text.mask.sum(1).argsort(stable=True).argsort().numpy()  # texts of like length need little padding
        order = np.lexsort((pairs[:, 0] // _TILE, length[pairs[:, 1]] // _TILE))
        said = time.monotonic()
        for some, images, texts in paired(image, text, pairs[order], self.bench.device):
            found[order[some]] = self.bench.method.match(images, texts).float().cpu().numpy()
            if time.monotonic() - said > _SAID:
                said = time.monotonic()
                log.info("fused %s of %s pairs", f"{some.stop:,}", f"{len(pairs):,}")
        return found


def pair_retrieval(bench: Bench) -> Result:
    """R@1, R@5, R@10 and median rank in both directions; `rerank_depth` where not all pairs were fused."""
    texts, pairs = caption_pairs(bench)
    depth = rerank_depth(bench, len(texts))
    if not depth:
        way = Fused(bench)
        log.info("pair_retrieval: all %s pairs are fused", f"{len(bench.samples) * len(texts):,}")
        return recalls(bench, texts, pairs, way.ranks(way.images, way.texts(texts), pairs))
    log.info("pair_retrieval: the %d candidates of each query that are the most similar are fused with it", depth)
    result = recalls(bench, texts, pairs, reranked(bench, texts, pairs, depth))
    said = Measure("rerank_depth", Estimate(depth, depth, depth, len(bench.samples) + len(texts)))
    return Result([*result.measures, said], result.samples)


def rerank_depth(bench: Bench, texts: int) -> int:
    """How many candidates of each query are fused with it; 0 means all.

    Raises:
        CannotEvaluate: the method has no similarity by which candidates are chosen, and re-ranking was asked for, or
            the task was not, and there are more than `AFFORDED` pairs.
    """
    towers, pairs = isinstance(bench.method, ScoresPairs), len(bench.samples) * texts
    if bench.rerank and not towers:
        raise CannotEvaluate(
            f"pair_retrieval cannot re-rank: method {bench.method.card.id} has no similarity to choose candidates by; "
            "leave out the depth, and all pairs are fused."
        )
    if bench.rerank is None and not towers and not bench.asked and pairs > AFFORDED:
        raise CannotEvaluate(f"pair_retrieval would fuse {pairs:,} pairs: ask for it by name, or judge fewer samples.")
    if bench.rerank is not None:
        return bench.rerank
    return RERANKED if towers and pairs > AFFORDED else 0


def reranked(bench: Bench, texts: Sequence[str], pairs: Ints, depth: int) -> tuple[Ints, Ints]:
    """As `rank_of_best_positive`, of which the `depth` most similar candidates of a query are ordered by fusion."""
    towers, fused, count = TwoTowers(bench), Fused(bench), len(texts)
    image, text = towers.images, towers.texts(texts)
    by_image, by_text = nearest(towers, image, text, depth)
    rows, columns = (np.arange(len(found))[:, None] for found in (by_image, by_text))
    codes = rows * count + by_image, by_text * count + columns  # of pairs; (I, k) and (T, k)
    asked = np.unique(np.concatenate([code.ravel() for code in codes]))
    scores = fused.scores(fused.images, fused.texts(texts), np.stack(np.divmod(asked, count), axis=1))
    right = pairs[:, 0] * count + pairs[:, 1]
    first, second = (
        ranks_among(scores[np.searchsorted(asked, code)], np.isin(code, right), ranks)
        for code, ranks in zip(codes, towers.ranks(image, text, pairs), strict=True)
    )
    return first, second


def nearest(towers: TwoTowers, image: Features, text: Features, k: int) -> tuple[Ints, Ints]:
    """The k texts most similar to each picture (I, k), and the k pictures most similar to each text (T, k)."""
    images, texts = len(image.pooled), len(text.pooled)
    by_image = [
        torch.from_numpy(towers.matrices(image.take(rows), text)[0]).topk(min(k, texts)).indices
        for rows in blocks(images, max(1, TILE // texts))
    ]
    by_text = [
        torch.from_numpy(towers.matrices(image, text.take(columns))[1].T).topk(min(k, images)).indices
        for columns in blocks(texts, max(1, TILE // images))
    ]
    return torch.cat(by_image).numpy(), torch.cat(by_text).numpy()


def ranks_among(scores: np.ndarray, right: np.ndarray, otherwise: Ints) -> Ints:
    """Rank (Q,) of each query's best right candidate among its wrong ones; ties lose, not-a-number is last.

    scores: (Q, k) of its candidates. right: (Q, k) which are right. otherwise: (Q,) the rank where none of them is.
    """
    best = np.where(right, scores, -np.inf).max(1, keepdims=True)
    ahead = (~(scores < best - TIE) & ~right).sum(1)
    return np.where(right.any(1), ahead + 1, otherwise)
