"""Retrieval where the wrong answers are almost right: galleries of look-alikes, and captions with one word changed.

Both go by the similarity of two towers, or, as `pair_hard_gallery` and `pair_foils`, by a method's judgement of each
pair.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate
from diptych.evaluation.measures import Measure, Result
from diptych.evaluation.pairs import Fused
from diptych.evaluation.retrieval import TwoTowers, Way


def hard_gallery(bench: Bench) -> Result:
    """`look_alikes` by the similarity of two towers."""
    return look_alikes(bench, TwoTowers(bench))


def pair_hard_gallery(bench: Bench) -> Result:
    """`look_alikes` by the method's judgement of each pair."""
    return look_alikes(bench, Fused(bench))


def foils(bench: Bench) -> Result:
    """`above_foils` by the similarity of two towers."""
    return above_foils(bench, TwoTowers(bench))


def pair_foils(bench: Bench) -> Result:
    """`above_foils` by the method's judgement of each pair."""
    return above_foils(bench, Fused(bench))


def look_alikes(bench: Bench, way: Way) -> Result:
    """R@1 within groups of look-alikes, both directions; ties lose, equal captions are all right.

    A group is the samples with the same `scene["group"]`; each picture ranks the distinct captions of its group, each
    caption the group's pictures. A caption that several pictures of the group share is a query once for each.
    """
    groups = _groups(bench)
    captions = [list(dict.fromkeys(bench.captions[row][0] for row in rows)) for rows in groups]
    features = way.texts([text for texts in captions for text in texts])
    keys, hits, chances, ids, start = [], [], [], [], 0
    for group, (rows, texts) in enumerate(zip(groups, captions, strict=True)):
        own = np.array([texts.index(bench.captions[row][0]) for row in rows])
        pairs = np.stack([np.arange(len(rows)), own], axis=1)
        gallery = features.take(slice(start, start + len(texts)))
        start += len(texts)
        by_image, by_text = way.ranks(way.images.take(torch.tensor(rows)), gallery, pairs)
        hits.append(np.stack([by_image == 1, by_text[own] == 1], axis=1))
        pictures_of_caption = np.bincount(own)[own]
        chances += [(1 / len(texts), pictures / len(rows)) for pictures in pictures_of_caption]
        keys += [bench.samples[row].key for row in rows]
        ids += [group] * len(rows)
    values = np.concatenate(hits).astype(np.int64)
    estimates = statistics.means(values, clusters=ids)
    table = {"image_to_text_r1": values[:, 0], "text_to_image_r1": values[:, 1]}
    figures = zip(table, estimates, np.mean(chances, axis=0).tolist(), strict=True)
    return Result([Measure(*figure) for figure in figures], {"key": keys, "group": ids, **table})


def above_foils(bench: Bench, way: Way) -> Result:
    """Does the caption score above its `negatives`? Ties lose.

    accuracy: share of captions that are above all k of them, chance 1 / (1 + k). pairwise: mean share of them that the
    caption is above, chance 1/2. Foils lie around the caption: a method that scores words at random finds it above
    about half of them, and hence above all of them less often than 1 / (1 + k).
    """
    choices = {
        row: [bench.captions[row][0], *negatives]
        for row, sample in enumerate(bench.samples)
        if bench.captions[row] and (negatives := [text for text in sample.get("negatives") or [] if text.strip()])
    }
    if not choices:
        raise CannotEvaluate(f"foils needs captions with negatives; no sample of {bench.data.name} has both.")
    pairs = np.array([(row, column) for column, row in enumerate(row for row in choices for _ in choices[row])])
    scores = way.scores(way.images, way.texts([text for texts in choices.values() for text in texts]), pairs)
    ends = np.cumsum([len(texts) for texts in choices.values()])[:-1]
    hits = []
    for own in np.split(scores, ends):  # (1 + k,)
        above = own[0] > own[1:]  # no hit where a score is not a number
        hits.append((float(above.min()), float(above.mean())))
    accuracy, pairwise = statistics.means(hits)
    chance = float(np.mean([1 / len(texts) for texts in choices.values()]))
    measures = [Measure("accuracy", accuracy, chance), Measure("pairwise", pairwise, 0.5)]
    keys = [bench.samples[row].key for row in choices]
    columns = dict(zip(("accuracy", "pairwise"), zip(*hits, strict=True), strict=True))
    return Result(measures, {"key": keys, **columns})


def _groups(bench: Bench) -> list[list[int]]:
    """Rows of the samples of each group of at least two different captions."""
    found: dict[Any, list[int]] = {}
    for row, sample in enumerate(bench.samples):
        scene = sample.get("scene")
        group = scene.get("group") if isinstance(scene, dict) else None
        if group is not None and bench.captions[row]:
            found.setdefault(group, []).append(row)
    groups = [rows for rows in found.values() if len({bench.captions[row][0] for row in rows}) > 1]
    if not groups:
        raise CannotEvaluate(
            f"hard_gallery needs samples that come in groups (scene['group']); {bench.data.name} has none: "
            "draw a world of groups, or pack look-alikes with a common `group` in their scene."
        )
    return groups
