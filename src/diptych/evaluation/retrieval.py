"""Image-text retrieval: does a picture find its captions among all captions, and a caption its pictures?

Every picture ranks the distinct captions of the data set by the method's image -> text similarity, every distinct
caption ranks the pictures by text -> image (FILIP's two differ). All captions of a picture are right answers for it,
and pictures that carry the same caption, letter by letter, are all right answers to it. A query's rank is that of its
best right answer among the wrong ones. Wrong answers that tie with it count as ranked before it, so that a method
that scores everything alike finds nothing; scores closer than `TIE` are a tie, as rounding could have parted them.

Methods that compare pooled vectors by their inner product are ranked by `neighbours.ranks`, exactly; others, such as
FILIP, through tiles of their own similarity; `pairs` ranks by a method's judgement of each pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from diptych import neighbours
from diptych.batch import Features
from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate, Ints, blocks, tile_side, trimmed
from diptych.evaluation.measures import Measure, Result, stacked

TIE = 1e-5
DEPTHS = (1, 5, 10)

Similarity = Callable[[Features, Features], tuple[Tensor, Tensor]]


class Way(Protocol):
    """A way in which a method says how well pictures and texts go together."""

    @property
    def images(self) -> Features:
        """Features of the N pictures."""
        ...

    def texts(self, strings: Sequence[str]) -> Features:
        """Features of texts."""
        ...

    def ranks(self, image: Features, text: Features, pairs: Ints) -> tuple[Ints, Ints]:
        """As `rank_of_best_positive`."""
        ...

    def matrices(self, image: Features, text: Features) -> tuple[np.ndarray, np.ndarray]:
        """Two whole (I, T) matrices of scores, image -> text and text -> image."""
        ...

    def scores(self, image: Features, text: Features, pairs: Ints) -> np.ndarray:
        """Scores (n,) of single pairs, (n, 2) rows of images and texts, image -> text."""
        ...


class TwoTowers:
    """By the similarity of features in the joint space."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    @property
    def images(self) -> Features:
        """Features of the N pictures in the joint space."""
        return self.bench.images

    def texts(self, strings: Sequence[str]) -> Features:
        """Features of texts in the joint space."""
        return self.bench.texts(strings)

    def ranks(self, image: Features, text: Features, pairs: Ints) -> tuple[Ints, Ints]:
        """As `rank_of_best_positive`, the fastest way that the method's similarity allows."""
        if not self.bench.multiplies:
            return rank_of_best_positive(self.bench.similarity, image, text, pairs)
        device = "cpu" if self.bench.device.startswith("mps") else self.bench.device  # mps has no double precision
        return neighbours.ranks(image.pooled.to(device), text.pooled.to(device), pairs, tie=TIE)

    def matrices(self, image: Features, text: Features) -> tuple[np.ndarray, np.ndarray]:
        """The two matrices, computed in tiles."""
        side = tile_side(image, text)
        shape = len(image.pooled), len(text.pooled)
        whole = np.empty(shape, np.float32), np.empty(shape, np.float32)
        for rows in blocks(shape[0], side):
            for columns in blocks(shape[1], side):
                parts = self.bench.similarity(image.take(rows), trimmed(text.take(columns)))
                for matrix, part in zip(whole, parts, strict=True):
                    matrix[rows, columns] = part.cpu().numpy()
        return whole

    def scores(self, image: Features, text: Features, pairs: Ints) -> np.ndarray:
        """Scores of single pairs, picture by picture."""
        found = np.empty(len(pairs), np.float32)
        for row in np.unique(pairs[:, 0]).tolist():
            own = np.flatnonzero(pairs[:, 0] == row)
            found[own] = self.matrices(image.take(slice(row, row + 1)), text.take(torch.from_numpy(pairs[own, 1])))[0][
                0
            ]
        return found


def rank_of_best_positive(
    similarity: Similarity, image: Features, text: Features, pairs: Ints, *, side: int | None = None
) -> tuple[Ints, Ints]:
    """Ranks, 1 is best, without ever holding more than a tile of the (I, T) matrix.

    Args:
        similarity: features of I pictures and T texts -> two (I, T) matrices, image -> text and text -> image.
        image: features of I pictures.
        text: features of T texts.
        pairs: (K, 2) the right answers: picture i belongs to text t.
        side: rows and columns of a tile; chosen from the number of tokens where None.

    Returns:
        Ranks of the best text of each picture (I,) and of the best picture of each text (T,); 0 for a picture or a
        text without a right answer. Not-a-number, in scores or features, ranks last.
    """
    if text.tokens.shape[1]:  # texts of like length share tiles, which then need little padding
        order = text.mask.sum(1).argsort(stable=True)
        pairs = np.stack([pairs[:, 0], order.argsort().numpy()[pairs[:, 1]]], axis=1)
        by_image, by_text = _by_tiles(similarity, image, text.take(order), pairs, side or tile_side(image, text))
        return by_image, by_text[order.argsort().numpy()]
    return _by_tiles(similarity, image, text, pairs, side or tile_side(image, text))


def _by_tiles(similarity: Similarity, image: Features, text: Features, pairs: Ints, side: int) -> tuple[Ints, Ints]:
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    best_text, best_image = _best_scores(similarity, image, text, pairs, min(side, 64))
    ahead_text, ahead_image = (torch.zeros(len(best), dtype=torch.long) for best in (best_text, best_image))
    for rows in blocks(len(best_text), side):
        for columns in blocks(len(best_image), side):
            to_text, to_image = similarity(image.take(rows), trimmed(text.take(columns)))
            # "not below" rather than "above or equal": a score that is not a number then counts as ahead
            text_ahead = ~(to_text < best_text[rows, None].to(to_text) - TIE)
            image_ahead = ~(to_image < best_image[None, columns].to(to_image) - TIE)
            right = torch.from_numpy(_inside(pairs, rows, columns)).to(to_text.device)
            text_ahead[right[:, 0], right[:, 1]] = False
            image_ahead[right[:, 0], right[:, 1]] = False
            ahead_text[rows] += text_ahead.sum(1, dtype=torch.int32).cpu()  # int32: four times as fast
            ahead_image[columns] += image_ahead.sum(0, dtype=torch.int32).cpu()
    found = (ahead_text + 1).numpy(), (ahead_image + 1).numpy()
    for side_of_pair, rank in enumerate(found):
        rank[~np.isin(np.arange(len(rank)), pairs[:, side_of_pair])] = 0
    return found


def _best_scores(
    similarity: Similarity, image: Features, text: Features, pairs: Ints, side: int
) -> tuple[Tensor, Tensor]:
    """Scores of each picture's best right text (I,) and of each text's best right picture (T,), on the CPU."""
    best_text = torch.full((len(image.pooled),), -torch.inf)
    best_image = torch.full((len(text.pooled),), -torch.inf)
    for some in blocks(len(pairs), side):  # gives side x side scores, of which only the diagonal is needed
        rows, row = np.unique(pairs[some, 0], return_inverse=True)
        columns, column = np.unique(pairs[some, 1], return_inverse=True)
        scores = similarity(image.take(torch.from_numpy(rows)), trimmed(text.take(torch.from_numpy(columns))))
        to_text, to_image = (matrix[row, column].float().cpu() for matrix in scores)
        best_text.scatter_reduce_(0, torch.from_numpy(pairs[some, 0]), to_text, "amax")
        best_image.scatter_reduce_(0, torch.from_numpy(pairs[some, 1]), to_image, "amax")
    return best_text, best_image


def _inside(pairs: Ints, rows: slice, columns: slice) -> Ints:
    """The pairs that lie in a tile, in the tile's own coordinates; `pairs` is sorted by picture."""
    first, last = np.searchsorted(pairs[:, 0], (rows.start, rows.stop))
    some = pairs[first:last]
    some = some[(some[:, 1] >= columns.start) & (some[:, 1] < columns.stop)]
    return some - (rows.start, columns.start)


def caption_pairs(bench: Bench) -> tuple[list[str], Ints]:
    """The distinct captions, in order of appearance, and which picture belongs to which: (K, 2)."""
    texts, pairs = distinct(bench.captions)
    if len(texts) < 2:
        raise CannotEvaluate(f"retrieval needs at least two different captions; {bench.data.name} has {len(texts)}.")
    return texts, pairs


def distinct(captions: Sequence[Sequence[str]]) -> tuple[list[str], Ints]:
    """The distinct texts among the captions of some pictures, and which belongs to which: (K, 2)."""
    index: dict[str, int] = {}
    pairs = [
        (row, index.setdefault(text, len(index))) for row, own in enumerate(captions) for text in dict.fromkeys(own)
    ]
    return list(index), np.array(pairs, dtype=np.int64).reshape(-1, 2)


def retrieval(bench: Bench) -> Result:
    """R@1, R@5, R@10 and median rank in both directions, in [0, 1] and in ranks from 1."""
    texts, pairs = caption_pairs(bench)
    return recalls(bench, texts, pairs, TwoTowers(bench).ranks(bench.images, bench.texts(texts), pairs))


def recalls(bench: Bench, texts: Sequence[str], pairs: Ints, ranks: tuple[Ints, Ints]) -> Result:
    """The figures of retrieval from the ranks of right answers: of the N pictures and of the texts."""
    by_image, by_text = ranks
    of_image = np.bincount(pairs[:, 0], minlength=len(by_image))  # right answers of each query
    of_text = np.bincount(pairs[:, 1], minlength=len(by_text))
    keys = np.array([sample.key for sample in bench.samples], dtype=object)
    first_image = pairs[np.unique(pairs[:, 1], return_index=True)[1], 0]
    asked = by_image > 0  # a picture without a caption is a distractor, not a query
    image_measures, image_table = _recalls("image_to_text", by_image[asked], of_image[asked], len(texts))
    # captions of one picture are no independent samples: they are resampled together
    text_measures, text_table = _recalls("text_to_image", by_text, of_text, len(by_image), clusters=first_image)
    samples = stacked({"key": keys[asked], **image_table}, {"key": keys[first_image], "text": texts, **text_table})
    return Result(image_measures + text_measures, samples)


def _recalls(
    direction: str, ranks: Ints, positives: Ints, gallery: int, clusters: Ints | None = None
) -> tuple[list[Measure], dict[str, Ints]]:
    """The figures of one direction, and a column of values for each."""
    depths = [depth for depth in DEPTHS if depth < gallery]
    table = {f"{direction}_r{depth}": (ranks <= depth).astype(np.int64) for depth in depths}
    estimates = statistics.means(np.stack(list(table.values()), axis=1), clusters=clusters)
    chances = [statistics.chance_of_recall(positives, gallery, depth) for depth in depths]
    measures = [Measure(*figure) for figure in zip(table, estimates, chances, strict=True)]
    median = f"{direction}_median_rank"
    chance = statistics.chance_of_median_rank(positives, gallery)
    measures.append(Measure(median, statistics.median(ranks, clusters=clusters), chance))
    return measures, {**table, median: ranks}
