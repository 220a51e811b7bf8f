"""Zero-shot classification: the class whose name, put into sentences, is most similar to the picture.

Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, section 3.1.4
(prompts and ensembles); methods that compare tokens average similarities instead of features (FILIP, Yao et al., 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.batch import Features
from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate, blocks, tile_side
from diptych.evaluation.measures import Measure, Result
from diptych.evaluation.templates import template_of
from diptych.text import readable

TEMPLATES: tuple[str, ...] = (
    "{}",
    "a {}",
    "a picture of a {}",
    "a photo of a {}",
    "a drawing of a {}",
    "a painting of a {}",
    "clip art of a {}",
    "an icon of a {}",
    "a small picture of a {}",
    "a large picture of a {}",
    "a close-up of a {}",
    "a picture of one {}",
    "a picture of many {}",
    "this is a {}",
)
"""Sentences for general pictures, for methods and data that bring none; `{}` takes the name of the class."""


def zero_shot(bench: Bench, templates: Sequence[str] = ()) -> Result:
    """Top-1 and top-5 accuracy and the mean of the classes' accuracies, in [0, 1]; ties lose."""
    rows = labelled(bench)
    return classification(bench, rows, *ranked(bench, rows, templates))


def ranked(
    bench: Bench, rows: np.ndarray, templates: Sequence[str] = (), groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the true classes of rows (n,), and the predicted classes (n,).

    Args:
        bench: method and data.
        rows: (n,), of samples with a class.
        templates: sentences for the names; else the method's own, those of the data set, or the usual ones.
        groups: (C,), where each picture is classified among the classes of its own class's group alone.
    """
    own = bench.method.prompts  # of a method that writes too, prompts by task: none of them names a class
    templates = templates or (() if isinstance(own, Mapping) else own) or template_of(bench.data.name) or TEMPLATES
    images = bench.images.take(torch.from_numpy(rows))
    labels = bench.labels[rows]
    ranks, predicted = [], []
    prompts = class_features(bench, bench.classes, templates)
    for some in blocks(len(rows), _rows_at_a_time(images, prompts)):
        scores = class_scores(bench, images.take(some), prompts, len(bench.classes)).cpu()
        if groups is not None:
            others = groups[None, :] != groups[labels[some]][:, None]  # (B, C)
            scores = scores.masked_fill(torch.from_numpy(others), -torch.inf)
        ranks.append(rank_of_class(scores, torch.from_numpy(labels[some])))
        predicted.append(scores.argmax(dim=1).numpy())
    return np.concatenate(ranks), np.concatenate(predicted)


def class_features(bench: Bench, classes: Sequence[str], templates: Sequence[str]) -> Features:
    """Features of the prompts: (C, ...) averaged where the method averages features, else (C x templates, ...)."""
    prompts = bench.texts([template.format(readable(name)) for name in classes for template in templates])
    if bench.method.prompt_ensemble == "similarities":
        return prompts
    pooled = F.normalize(prompts.pooled, dim=-1).unflatten(0, (len(classes), len(templates))).mean(1)
    pooled = F.normalize(pooled, dim=-1)  # (C, D)
    return Features(pooled[:, None], pooled, torch.ones(len(classes), 1, dtype=torch.bool))


def class_scores(bench: Bench, images: Features, prompts: Features, classes: int) -> Tensor:
    """Similarities of B pictures to C classes (B, C): image -> text, averaged over a class's prompts."""
    scores = bench.similarity(images, prompts)[0]  # (B, C) or (B, C x templates)
    return scores.unflatten(1, (classes, -1)).mean(-1)


def rank_of_class(scores: Tensor, labels: Tensor) -> np.ndarray:
    """Rank (B,) from 1 of the true class among scores (B, C); wrong classes that tie with it stand before it."""
    own = scores.gather(1, labels[:, None])  # (B, 1)
    return (~(scores < own)).sum(1).numpy()  # the class itself is not below itself, which makes the first rank 1


def classification(bench: Bench, rows: np.ndarray, ranks: np.ndarray, predicted: np.ndarray) -> Result:
    """The figures of a classifier from the ranks of the true classes and the predicted classes, both (n,)."""
    return classified(bench, rows, bench.classes, bench.labels[rows], (ranks, predicted))


def classified(
    bench: Bench,
    rows: np.ndarray,
    classes: Sequence[str],
    labels: np.ndarray,
    found: tuple[np.ndarray, np.ndarray],
) -> Result:
    """The figures of a classifier of things that the samples of rows (n,) show; one sample may show several.

    labels: (n,) their true classes. found: ranks of the true classes, and the predicted classes, both (n,).
    """
    ranks, predicted = found
    table = {f"top{k}": (ranks <= k).astype(np.int64) for k in (1, 5) if k < len(classes)}
    estimates = statistics.means(np.stack(list(table.values()), axis=1), clusters=rows)
    measures = [
        Measure(name, estimate, int(name[3:]) / len(classes)) for name, estimate in zip(table, estimates, strict=True)
    ]
    per_class = statistics.mean_per_class(table["top1"], labels, clusters=rows)
    measures.append(Measure("mean_per_class", per_class, 1 / len(classes)))
    names = np.array(classes, dtype=object)
    keys = [bench.samples[row].key for row in rows]
    return Result(measures, {"key": keys, "category": names[labels], "predicted": names[predicted], **table})


def confusion(result: Result, classes: Sequence[str]) -> np.ndarray:
    """Counts (C, C) of a classifier's result: rows are the true classes, columns the predicted ones."""
    index = {name: position for position, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for true, guess in zip(result.samples["category"], result.samples["predicted"], strict=True):
        counts[index[true], index[guess]] += 1
    return counts


def labelled(bench: Bench) -> np.ndarray:
    """Rows of the samples that have a known class.

    Raises:
        CannotEvaluate: there are fewer than two classes, or no sample has one.
    """
    rows = np.flatnonzero((bench.labels >= 0) & (bench.labels < len(bench.classes)))
    if len(bench.classes) < 2 or len(rows) == 0:
        raise CannotEvaluate(
            f"classification needs samples of at least two classes; {bench.data.name} has {len(bench.classes)} classes "
            f"and {len(rows)} samples with one: give each sample a `category`."
        )
    return rows


def _rows_at_a_time(images: Features, prompts: Features) -> int:
    side = tile_side(images, prompts)
    return max(1, side * side // len(prompts.pooled))
