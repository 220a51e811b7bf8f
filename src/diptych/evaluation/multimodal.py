"""Multi-modal retrieval: does a picture with its caption find others of its category?

Picture and caption of a sample are one vector: the method's own (`EmbedsPairs`), or the normalised sum of both in the
joint space. A split `query` is compared with the split `gallery` beside it; in any other set each sample asks all
others. As in CTP (Zhu et al., 2023, arXiv 2308.07146; `product_evaluation.py`), AP@k is the mean precision at the hits
among the first min(k, right answers) of the list, and 0 without a hit. Samples without a right answer ask nothing.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych import neighbours
from diptych.card import EmbedsPairs
from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate, Ints, paired
from diptych.evaluation.measures import Measure, Result
from diptych.evaluation.retrieval import DEPTHS


def multimodal_retrieval(bench: Bench) -> Result:
    """mAP@1, mAP@5 and mAP@10, and the category of each query."""
    gallery = bench.train if bench.train is not None and bench.train.data.split == "gallery" else None
    asking, asked = (_categories(one) for one in (bench, gallery or bench))
    right = np.array([(asked == name).sum() for name in asking]) - (gallery is None)
    rows = np.flatnonzero((asking != "") & (right > 0))
    if not len(rows):
        raise CannotEvaluate(
            f"no two samples of {bench.data.name} share a category, which they should find each other by."
        )
    queries = _vectors(bench)
    answers = queries if gallery is None else _vectors(gallery)
    first = _first(queries[torch.from_numpy(rows)], answers, rows if gallery is None else np.full(len(rows), -1))
    found = (asked[first] == asking[rows, None]) & (first >= 0)
    others = len(answers) - (gallery is None)
    drawn = _drawn(right[rows], others, found.shape[1])
    columns = {f"map{depth}": average_precision(found, np.minimum(depth, right[rows])) for depth in DEPTHS}
    chances = [average_precision(drawn, np.minimum(depth, right[rows])).mean() for depth in DEPTHS]
    estimates = statistics.means(np.stack(list(columns.values()), axis=1))
    measures = [Measure(*figure) for figure in zip(columns, estimates, map(float, chances), strict=True)]
    keys = np.array([bench.samples[row].key for row in rows], dtype=object)
    return Result(measures, {"key": keys, "category": asking[rows], **columns})


def average_precision(found: np.ndarray, depth: Ints) -> np.ndarray:
    """The mean precision at the hits of each list, 0 without any.

    Args:
        found: (Q, L) which answers are right, best first.
        depth: (Q,) how many of them count.
    """
    places = np.arange(found.shape[1])
    counted = found & (places < np.asarray(depth)[:, None])
    precision = counted.cumsum(1) / (places + 1)
    return np.asarray((precision * counted).sum(1) / np.maximum(1, counted.sum(1)))


def _first(queries: Tensor, answers: Tensor, own: Ints) -> Ints:
    """The first ten answers of each query (Q, 10 or less), best first, without its `own`, which is -1 where none is.

    Behind the last answer there is -1.
    """
    _, index = neighbours.top_k(queries, answers, DEPTHS[-1] + 1)
    there = index.numpy()
    is_own = there == own[:, None]
    order = is_own.argsort(axis=1, kind="stable")  # its own moves behind all others
    there = np.where(np.take_along_axis(is_own, order, 1), -1, np.take_along_axis(there, order, 1))
    return np.asarray(there[:, : DEPTHS[-1]])


def _drawn(right: Ints, others: int, length: int) -> np.ndarray:
    """Which of the first answers would be right in an order drawn by lot (Q, length)."""
    rng, found = np.random.default_rng(0), np.zeros((len(right), length), bool)
    for place in range(length):
        found[:, place] = rng.random(len(right)) * max(1, others - place) < right - found.sum(1)
    return found


def _categories(bench: Bench) -> np.ndarray:
    """The name of each sample's category (N,), empty where it has none or no caption to be asked with."""
    names = np.array([*bench.classes, ""], dtype=object)[bench.labels]
    return np.where([bool(captions) for captions in bench.captions], names, "")


def _vectors(bench: Bench) -> Tensor:
    """A vector for each sample and its first caption, (N, D) of length 1 on the CPU."""
    texts = [captions[0] if captions else "" for captions in bench.captions]
    if not isinstance(bench.method, EmbedsPairs):
        return F.normalize(
            F.normalize(bench.images.pooled, dim=-1) + F.normalize(bench.texts(texts).pooled, dim=-1), dim=-1
        )
    pairs = np.repeat(np.arange(len(texts))[:, None], 2, axis=1)
    parts = paired(bench.encoded_images, bench.encoded_texts(texts), pairs, bench.device)
    return F.normalize(torch.cat([bench.method.embed_pair(*pair).float().cpu() for _, *pair in parts]), dim=-1)
