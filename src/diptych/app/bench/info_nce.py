"""InfoNCE, forward and backward: the tiled form against the plain one, with one, soft and several positives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from diptych.app.bench.measure import Aim, Case, Form, Limit, Step, matrix_rate
from diptych.objectives.contrastive import info_nce

_PRODUCTS = (
    4  # matrix products of B x B x D that the tiled form needs: one forward, and logits again with two gradients back
)


@dataclass(frozen=True)
class Options:
    """Sizes."""

    batch: int = 16_384
    """pairs in the batch"""
    width: int = 512
    """numbers in a feature"""
    tile: int = 1024
    """rows and columns of a tile"""
    device: str = "cpu"
    """cpu or cuda"""
    repeats: int = 3
    """turns"""


def cases(options: Options) -> list[Case]:
    """The plain loss, and that with several positives."""
    product = 2 * options.batch**2 * options.width
    limit = Limit(f"{_PRODUCTS} matrix products", lambda: _PRODUCTS * product / matrix_rate(device=options.device))
    return [
        Case(
            title=f"{title}, B {options.batch:,}, D {options.width}",
            forms={
                name: Form(partial(make, options, title, tile))
                for name, tile in (("tiled", options.tile), ("plain", 0))
            },
            aims=(Aim("time", "tiled", "plain", 1.2), Aim("memory", "tiled", "plain", 1 / 20)),
            unit="pairs",
            units=options.batch,
            repeats=options.repeats,
            limit=limit,
        )
        for title in ("InfoNCE", "InfoNCE, several positives")
    ]


def make(options: Options, title: str, tile: int) -> Step:
    """Inputs of one process, and a step of forward and backward."""
    torch.manual_seed(0)
    place = torch.device(options.device)
    image, text = (
        F.normalize(torch.randn(options.batch, options.width, device=place), dim=-1).requires_grad_() for _ in range(2)
    )
    scale = torch.tensor(14.0, device=place, requires_grad=True)
    ids = torch.arange(options.batch, device=place) // 2 if "several" in title else None

    def step() -> None:
        info_nce(image, text, scale, targets=ids, tile=tile).backward()

    return step
