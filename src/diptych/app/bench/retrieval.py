"""Retrieval in both directions among many pictures and captions: ranks, against chunks of rows as people write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych import neighbours
from diptych.app.bench.measure import Aim, Case, Form, Limit, Step, matrix_rate
from diptych.evaluation.retrieval import TIE

MEMORY = 1e9  # bytes that may be taken beside the vectors


@dataclass(frozen=True)
class Options:
    """Sizes."""

    items: int = 100_000
    """pictures, and as many captions"""
    width: int = 512
    """numbers in a vector"""
    side: int = neighbours.SIDE
    """rows and columns of a tile"""
    chunk: int = 1000
    """rows that the usual way takes at a time"""
    device: str = "cpu"
    """cpu or cuda"""
    repeats: int = 1
    """turns"""


def cases(options: Options) -> list[Case]:
    """Ranks of the right answers in both directions, and the ten nearest captions of each picture.

    The usual ways are measured on fewer items, as they take many minutes.
    """
    fewer, few = (replace(options, items=max(16, options.items // part)) for part in (5, 10))
    return [
        _case("Retrieval", options, {"tiles": "counted in tiles"}, share=0.7),
        _case("Retrieval", fewer, {"tiles": "counted in tiles", "chunks": "counted in chunks"}),
        _case("Retrieval", few, {"tiles": "counted in tiles", "sorted chunks": "sorted in chunks"}),
        _case("Ten nearest", fewer, {"tiles": "nearest in tiles", "chunks": "nearest in chunks"}),
    ]


def _case(what: str, options: Options, forms: Mapping[str, str], share: float = 0.0) -> Case:
    """Ours and the usual way; `share` is that of the rate of matrix products which is aimed at."""
    product = 2 * options.items**2 * options.width
    ours, *usual = forms
    return Case(
        title=f"{what}, {options.items:,} x {options.items:,} x {options.width}",
        forms={name: Form(partial(make, options, form)) for name, form in forms.items()},
        aims=(
            *([Aim("share", ours, at_least=share)] if share else []),
            Aim("memory", ours, at_most=MEMORY),
            *(Aim("time", ours, other, at_most=1.0) for other in usual),
        ),
        unit="pictures",
        units=options.items,
        repeats=options.repeats,
        limit=Limit("one matrix product", lambda: product / matrix_rate(device=options.device)),
    )


def make(options: Options, form: str) -> Step:
    """Captions scattered around their pictures, so that ranks go from the first to the last, and a step of a form."""
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(options.items, options.width, generator=generator) for _ in range(2))
    spread = 0.1 * torch.arange(options.items)[:, None].remainder(1000)
    text = F.normalize(image + spread * noise, dim=-1).to(options.device)
    image = F.normalize(image, dim=-1).to(options.device)
    pairs = np.stack([np.arange(options.items)] * 2, axis=1)
    steps: dict[str, Step] = {
        "counted in tiles": partial(neighbours.ranks, image, text, pairs, tie=TIE, side=options.side),
        "counted in chunks": partial(both_ways, counted, image, text, options.chunk),
        "sorted in chunks": partial(both_ways, sorted_places, image, text, options.chunk),
        "nearest in tiles": partial(neighbours.top_k, image, text, 10, side=options.side),
        "nearest in chunks": partial(nearest, image, text, options.chunk),
    }
    return steps[form]


Ranks = Callable[[Tensor, Tensor], Tensor]


def both_ways(ranks: Ranks, image: Tensor, text: Tensor, chunk: int) -> list[Tensor]:
    """The usual way: chunk after chunk of rows against all of the other side, then the same the other way round."""
    return [in_chunks(ranks, *sides, chunk) for sides in ((image, text), (text, image))]


def in_chunks(ranks: Ranks, queries: Tensor, keys: Tensor, chunk: int) -> Tensor:
    """Ranks (Q,), 1 is best, where key i is right for query i."""
    found = []
    for start in range(0, len(queries), chunk):
        scores = queries[start : start + chunk] @ keys.T
        found.append(ranks(scores, torch.arange(start, start + len(scores), device=scores.device)[:, None]))
    return torch.cat(found)


def counted(scores: Tensor, right: Tensor) -> Tensor:
    """Ranks (r,) by the number of scores (r, K) that are not below those at `right` (r, 1)."""
    return (scores >= scores.gather(1, right) - TIE).sum(1)


def sorted_places(scores: Tensor, right: Tensor) -> Tensor:
    """Ranks (r,) by the place of `right` (r, 1) in the order of the scores (r, K)."""
    return (scores.argsort(dim=1, descending=True) == right).int().argmax(1) + 1


def nearest(queries: Tensor, keys: Tensor, chunk: int, k: int = 10) -> tuple[Tensor, Tensor]:
    """The usual way: the k best of a chunk of rows, chunk after chunk."""
    found = [(queries[start : start + chunk] @ keys.T).topk(k, dim=1) for start in range(0, len(queries), chunk)]
    return torch.cat([values for values, _ in found]), torch.cat([places for _, places in found])
