"""Boxes for words: where is what a phrase or an expression names, and which region does a word belong to?

A box is right that overlaps a true one by half of what both cover together (IoU at least 0.5). Where a phrase names
several boxes, any of them will do (the "any box" protocol of Kamath et al., MDETR, 2021). Equal scores lose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.batch import Features
from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate, paired
from diptych.evaluation.measures import Column, Measure, Result, stacked
from diptych.evaluation.pairs import ranks_among
from diptych.evaluation.pointing import overlapping, queries
from diptych.evaluation.retrieval import DEPTHS
from diptych.views.regions import overlap

RIGHT = 0.5  # intersection over union
_MISSED = 2**31  # rank where no box is right


@dataclass(frozen=True)
class Named:
    """Characters `start` to `end` of `text` name some of the boxes of the sample of row `row`."""

    row: int
    text: str
    start: int
    end: int
    boxes: tuple[int, ...]

    @property
    def phrase(self) -> str:
        """The words that name."""
        return self.text[self.start : self.end]


def phrases(bench: Bench) -> list[Named]:
    """The phrases of captions, each with all boxes that it names."""
    boxes: dict[tuple[int, str, int, int], list[int]] = {}
    for query in queries(bench):
        boxes.setdefault((query.row, query.text, query.start, query.end), []).append(query.box)
    return [Named(*place, tuple(of)) for place, of in boxes.items()]


def expressions(bench: Bench) -> list[Named]:
    """The referring expressions, each of which means one box."""
    return [
        Named(row, str(text), 0, len(text), (int(box),))
        for row, sample in enumerate(bench.samples)
        if sample.get("boxes") is not None
        for text, box in sample.get("expressions") or []
        if str(text).strip() and 0 <= int(box) < len(sample["boxes"])
    ]


def grounding(bench: Bench) -> Result:
    """R@1, R@5 and R@10: is one of the first 1, 5 or 10 boxes right? For phrases of captions and for expressions.

    R@1 is the accuracy at IoU 0.5 of RefCOCO and the first figure of Flickr30k Entities. Chance is the same of the
    method's own boxes in random order. Depths that no picture has as many boxes for are left out.

    Raises:
        CannotEvaluate: no sample has a box that a phrase or an expression names.
    """
    found = {"phrase": phrases(bench), "expression": expressions(bench)}
    if not any(found.values()):
        raise CannotEvaluate(
            f"grounding needs boxes with spans or expressions; no sample of {bench.data.name} has both."
        )
    measures, tables = [], []
    for kind, asked in found.items():
        if asked:
            own, table = _recalls(bench, kind, asked)
            measures += own
            tables.append(table)
    return Result(measures, stacked(*tables))


def located(bench: Bench, asked: Sequence[Named]) -> Iterator[tuple[Named, Tensor, Tensor]]:
    """Each of `asked` with its boxes (N, 4) and their scores (N,), the best first; none if its words were cut off."""
    for some, image, text, tokens in _pairs(bench, asked):
        boxes, scores = (part.float().cpu() for part in bench.method.locate(image, text, tokens.to(bench.device)))
        for one, own, score, about in zip(asked[some], boxes, scores, tokens, strict=True):
            order = score.argsort(descending=True, stable=True)
            order = order[score[order].isfinite() & about.any()]
            yield one, own[order], score[order]


def word_regions(bench: Bench) -> Result:
    """accuracy: does the region to which the words of a phrase belong the most overlap the box that they name?

    Weights of regions are summed over the tokens of the phrase. Regions that tie count by the share that is right;
    chance is the share of all regions that is right, one in R where only one is.

    Raises:
        CannotEvaluate: no phrase names a box, or the method does not say where the tokens of an image are.
    """
    asked = phrases(bench)
    if not asked:
        raise CannotEvaluate(
            f"word_regions needs captions with spans and boxes; no sample of {bench.data.name} has both."
        )
    if bench.encoded_images.boxes is None:
        raise CannotEvaluate(
            f"word_regions needs tokens that are regions; those of {bench.method.card.id} have no boxes."
        )
    hits, chances = [], []
    for some, image, text, tokens in _pairs(bench, asked):
        weights = bench.method.align(image, text).float().cpu()  # (B, T, P)
        summed = (weights * tokens[..., None]).sum(1)  # (B, P)
        parts = zip(asked[some], summed, image.boxes.cpu(), image.mask.cpu(), tokens, strict=True)  # type: ignore[union-attr]
        for one, weight, boxes, real, about in parts:
            right = right_boxes(bench, one, boxes[real]).numpy()
            strongest = (weight[real] == weight[real].amax()).numpy() if about.any() and real.any() else right[:0]
            hits.append(float(right[strongest].mean()) if strongest.any() else 0.0)
            chances.append(float(right.mean()) if len(right) else 0.0)
    estimate = statistics.mean(hits, clusters=[one.row for one in asked])
    keys = [bench.samples[one.row].key for one in asked]
    table: dict[str, Column] = {"key": keys, "text": [one.phrase for one in asked], "accuracy": hits, "chance": chances}
    return Result([Measure("accuracy", estimate, float(np.mean(chances)))], table)


def right_boxes(bench: Bench, one: Named, boxes: Tensor) -> Tensor:
    """Which of boxes (N, 4) overlap one that is named, (N,) bool."""
    return (overlap(boxes, true_boxes(bench, one)) >= RIGHT).any(1)


def true_boxes(bench: Bench, one: Named) -> Tensor:
    """The boxes (n, 4) that are named."""
    return torch.as_tensor(np.asarray(bench.samples[one.row]["boxes"], np.float32)[list(one.boxes)])


def _pairs(bench: Bench, asked: Sequence[Named]) -> Iterator[tuple[slice, Features, Features, Tensor]]:
    """Encoded pairs of some of `asked`, and which tokens of each text are its words, (B, T) bool on the CPU."""
    texts = {text: place for place, text in enumerate(dict.fromkeys(one.text for one in asked))}
    offsets = bench.method.token_offsets(list(texts))
    pairs = np.array([(one.row, texts[one.text]) for one in asked])
    for some, image, text in paired(bench.encoded_images, bench.encoded_texts(list(texts)), pairs, bench.device):
        tokens = torch.zeros(text.mask.shape, dtype=torch.bool)
        for row, one in enumerate(asked[some]):
            own = [at for at in overlapping(offsets[texts[one.text]], one.start, one.end) if at < tokens.shape[1]]
            tokens[row, own] = True
        yield some, image, text, tokens


def _recalls(bench: Bench, kind: str, asked: Sequence[Named]) -> tuple[list[Measure], dict[str, list[Any]]]:
    """The figures of one kind of words, and a table of them with the first box that was found and a true one."""
    ranks, right, counts, first = [], [], [], []
    for one, boxes, scores in located(bench, asked):
        hit = right_boxes(bench, one, boxes).numpy()
        ranks.append(_rank(scores.numpy(), hit))
        right.append(int(hit.sum()))
        counts.append(len(hit))
        first.append(boxes[0].tolist() if len(hit) else None)
    depths = [depth for depth in DEPTHS if depth == 1 or depth < max(counts)]
    values = np.stack([np.array(ranks) <= depth for depth in depths], axis=1).astype(np.int64)
    estimates = statistics.means(values, clusters=[one.row for one in asked])
    names = [f"{kind}_r{depth}" for depth in depths]
    chances = [_chance(right, counts, depth) for depth in depths]
    measures = [Measure(*figure) for figure in zip(names, estimates, chances, strict=True)]
    table = {
        "key": [bench.samples[one.row].key for one in asked],
        "text": [one.phrase for one in asked],
        "first": first,
        "true": [true_boxes(bench, one)[0].tolist() for one in asked],
    }
    return measures, {**table, **dict(zip(names, values.T.tolist(), strict=True))}


def _rank(scores: np.ndarray, right: np.ndarray) -> int:
    """The rank of the best right box among the wrong ones; scores and whether they are right, (N,)."""
    if not right.any():
        return _MISSED
    return int(ranks_among(scores[None], right[None], np.array([_MISSED]))[0])


def _chance(right: Sequence[int], counts: Sequence[int], depth: int) -> float:
    """Mean probability that the first boxes of a random order hold a right one, of `right` among `counts`."""
    return float(
        np.mean([statistics.chance_of_recall([m], n, depth) if n else 0.0 for m, n in zip(right, counts, strict=True)])
    )
