"""Modality integration rate: how far apart a language model holds what it sees from what it reads, layer by layer.

A figure for the quality of pre-training, before any tuning on instructions: lower is better. In every layer the hidden
states of visual tokens and of the text behind them are taken as two clouds, brought to the scale of the text, freed of
outliers, and their Frechet distance is measured; the figure is the logarithm of the sum.

Source: Huang et al., Deciphering Cross-Modal Alignment in Large Vision-Language Models with Modality Integration Rate,
arXiv 2410.07167, section 3. The paper writes log without a base, its code takes 10, as here.

Letters: N pictures with a text each, L layers, D width, V and T visual and text tokens of all N.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from diptych.evaluation.embed import Bench, CannotEvaluate, blocks, moved
from diptych.evaluation.frechet import frechet, official_fast
from diptych.evaluation.measures import Measure, Result
from diptych.evaluation.statistics import Estimate
from diptych.training import watchdog

log = logging.getLogger("diptych.evaluation")

Clouds = tuple[list[Tensor], list[Tensor]]
"""The visual and the text states of one layer, (tokens, D) for each of N samples."""

HELD = 2**31
"""numbers of hidden states that are held at a time, 8 GB; what a model has beyond takes another pass over the data"""
_GROUPS, _STUDENT = 5, 2.776  # groups of samples, each left out once for the interval; 97.5 % of t with 4 degrees
_ENOUGH = 10  # tokens for each dimension, below which the covariances are poorly known


def text_centric(visual: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Both clouds (V, D), (T, D) divided by the mean length of the text's vectors."""
    scale = 1 / text.norm(dim=-1).mean()
    return scale * visual, scale * text


def without_outliers(cloud: Tensor) -> Tensor:
    """(N, D) with every row replaced by the median row whose length is more than 3 deviations from the median length.

    Of an even number of values the median is the lower middle one; the outliers count in median and deviation.
    """
    lengths = cloud.norm(dim=-1)
    outliers = (lengths - lengths.median()).abs() > 3 * lengths.std()
    return torch.where(outliers[:, None], cloud.median(0).values, cloud)


def layer_distance(visual: Tensor, text: Tensor, distance: Callable[[Tensor, Tensor], float] = frechet) -> float:
    """FID_k of one layer: visual states (V, D) and text states (T, D), by `frechet` or by `official_fast`."""
    visual, text = text_centric(visual.float(), text.float())
    return distance(without_outliers(visual), without_outliers(text))


def rate(distances: Sequence[float], base: float = 10) -> float:
    """MIR: the logarithm of the sum over the layers; not a number where `official_fast` made the sum negative."""
    total = math.fsum(distances)
    return math.log(total, base) if total > 0 else math.nan


def mir(bench: Bench, base: float = 10) -> Result:
    """MIR of the model over all samples with captions, the text of each being all of its captions.

    mir: with the matrix root as it should be. official: as the authors' code computes it by default (`official_fast`).
    Layers count from the first decoder layer; the last one's states are after the final norm. The interval of mir is
    a jackknife over five groups of samples. The rows of the table are the layers.

    Raises:
        CannotEvaluate: fewer than five samples have captions.
    """
    rows = [row for row, captions in enumerate(bench.captions) if captions]
    if len(rows) < _GROUPS:
        raise CannotEvaluate(f"mir needs at least {_GROUPS} samples with captions; {bench.data.name} has {len(rows)}.")
    parts = np.array_split(np.random.default_rng(0).permutation(len(rows)), _GROUPS)
    kept = [np.setdiff1d(np.arange(len(rows)), part).tolist() for part in parts]
    whole, fast, left = [], [], []
    for number, (visual, text) in enumerate(_layers(bench, rows)):
        if number == 0:
            _warn(visual, text)
        cat = partial(_joined, visual, text)
        whole.append(layer_distance(*cat(range(len(rows)))))
        fast.append(layer_distance(*cat(range(len(rows))), distance=official_fast))
        left.append([layer_distance(*cat(some)) for some in kept])
        watchdog.now()
    value = rate(whole, base)
    low, high = _jackknife(value, [rate(layers, base) for layers in zip(*left, strict=True)])
    official = rate(fast, base)
    measures = [
        Measure("mir", Estimate(value, low, high, len(rows))),
        Measure("official", Estimate(official, math.nan, math.nan, len(rows))),
    ]
    return Result(measures, {"layer": list(range(1, len(whole) + 1)), "distance": whole, "distance_official": fast})


def _joined(visual: Sequence[Tensor], text: Sequence[Tensor], some: Sequence[int]) -> tuple[Tensor, Tensor]:
    return torch.cat([visual[row] for row in some]), torch.cat([text[row] for row in some])


def _jackknife(value: float, without: Sequence[float]) -> tuple[float, float]:
    """95 % interval from the values that are found with one group of samples left out each."""
    half = _STUDENT * math.sqrt(float(np.var(without)) * (_GROUPS - 1))
    return value - half, value + half


def _layers(bench: Bench, rows: Sequence[int]) -> Iterator[Clouds]:
    """The states of one layer after the other, as many of them at a time as may be held."""
    states, _, _ = _states(bench, rows[: bench.batch])
    count, held = len(states), states[0][0].numel() * len(rows)
    for layers in blocks(count, max(1, HELD // held)):
        found: list[Clouds] = [([], []) for _ in range(count)[layers]]
        for some in blocks(len(rows), bench.batch):
            states, visual, text = _states(bench, rows[some])
            for (seen, read), state in zip(found, states[layers], strict=True):
                seen += _cut(state, visual)
                read += _cut(state, text)
            watchdog.now()
        yield from found


def _states(bench: Bench, rows: Sequence[int]) -> tuple[Sequence[Tensor], Tensor, Tensor]:
    image = moved(bench.encoded_images.take(torch.tensor(rows)), bench.device)
    return bench.method.hidden_states(image, [" ".join(bench.captions[row]) for row in rows])  # type: ignore[no-any-return]


def _cut(state: Tensor, mask: Tensor) -> list[Tensor]:
    """(B, T, D), (B, T) -> for each row the states that count, on the CPU."""
    return [row[there].cpu() for row, there in zip(state.detach(), mask, strict=True)]


def _warn(visual: Sequence[Tensor], text: Sequence[Tensor]) -> None:
    for name, cloud in (("visual", visual), ("text", text)):
        count, width = sum(map(len, cloud)), cloud[0].shape[-1]
        if count < _ENOUGH * width:
            log.warning(
                "mir rests on %d %s tokens for %d dimensions, fewer than %d times as many: compare it only with runs "
                "that were measured on the same samples, or measure on more.",
                *(count, name, width, _ENOUGH),
            )
