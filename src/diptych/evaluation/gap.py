"""The modality gap: how far apart pictures and texts lie in the space that they share.

Sources: Liang et al., Mind the Gap, 2022 (distance of the centroids); Wang and Isola, Understanding Contrastive
Representation Learning through Alignment and Uniformity on the Hypersphere, 2020 (the other two).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate
from diptych.evaluation.measures import Measure, Result
from diptych.evaluation.statistics import Estimate

_AT_MOST = 1024  # samples of which all pairs are compared for uniformity


def gap(bench: Bench) -> Result:
    """Modality gap, alignment and uniformity of the normalised pooled features; each picture with its first caption.

    gap: distance of the two centroids, 0 to 2. alignment: mean squared distance of a picture and its caption, 0 to 4.
    image_uniformity, text_uniformity: log mean exp(-2 |x - y|^2) over pairs of different samples, lower is more even.
    """
    rows = [row for row, captions in enumerate(bench.captions) if captions]
    if len(rows) < 2:
        raise CannotEvaluate(f"gap needs at least two pictures with captions; {bench.data.name} has {len(rows)}.")
    image = F.normalize(bench.images.pooled[torch.tensor(rows)], dim=-1).double()  # (n, D)
    text = F.normalize(bench.texts([bench.captions[row][0] for row in rows]).pooled, dim=-1).double()
    apart = gap_of_pairs(image, text)
    squared = (image - text).square().sum(1).numpy()
    some = np.random.default_rng(0).permutation(len(rows))[:_AT_MOST]
    measures = [
        Measure("gap", statistics.mean(apart)),
        Measure("alignment", statistics.mean(squared)),
        Measure("image_uniformity", uniformity(image[some])),
        Measure("text_uniformity", uniformity(text[some])),
    ]
    keys = [bench.samples[row].key for row in rows]
    return Result(measures, {"key": keys, "gap": apart, "alignment": squared})


def gap_of_pairs(image: Tensor, text: Tensor) -> np.ndarray:
    """Values (n,) whose mean is the distance of the centroids of image (n, D) and text (n, D).

    Each pair's difference is measured along the line from one centroid to the other, which turns a distance into a
    mean and gives it an interval (the delta method: the line's own uncertainty is of second order).
    """
    between = (image.mean(0) - text.mean(0)).double()
    length = between.norm()
    line = between / length if length > 0 else between
    return ((image - text).double() @ line).numpy()


def uniformity(features: Tensor) -> Estimate:
    """Log mean exp(-2 |x - y|^2) over ordered pairs of different rows of features (n, D), with its interval."""
    potential = (-2 * torch.cdist(features, features).square()).exp().fill_diagonal_(0).numpy()  # (n, n)

    def resampled(counts: np.ndarray) -> np.ndarray:
        pairs = counts.sum(1) ** 2 - (counts**2).sum(1)  # a sample and its own copy are no pair
        with np.errstate(invalid="ignore"):  # a resample of one sample alone has no pairs and is left out
            return np.log(((counts @ potential) * counts).sum(1) / pairs)

    n = len(features)
    value = float(resampled(np.ones((1, n)))[0])
    low, high = statistics.bootstrap(resampled, n, resamples=500)
    return Estimate(value, float(low), float(high), n)
