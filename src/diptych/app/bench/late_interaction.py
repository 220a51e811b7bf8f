"""FILIP's late interaction, forward and backward: the tiled form against the plain one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from diptych.app.bench.measure import Aim, Case, Form, Limit, Step, matrix_rate
from diptych.batch import Features
from diptych.objectives.late_interaction import filip_loss


@dataclass(frozen=True)
class Options:
    """Sizes."""

    batch: int = 256
    """pairs in the batch"""
    patches: int = 49
    """tokens of an image"""
    words: int = 32
    """tokens of a text, of which a quarter at least are real"""
    width: int = 256
    """numbers in a token's feature"""
    keep: float = 1.0
    """share of the tokens that are compared"""
    tile: int = 16
    """images and texts of a tile"""
    device: str = "cpu"
    """cpu or cuda"""
    repeats: int = 5
    """turns"""


def cases(options: Options) -> list[Case]:
    """The loss of FILIP on all pairs of a batch."""
    # the forward alone: its backward touches the winners only, one row of D numbers each
    product = 2 * options.batch**2 * options.patches * options.words * options.width
    sizes = f"B {options.batch}, {options.patches} x {options.words} tokens, D {options.width}"
    return [
        Case(
            title=f"Late interaction, {sizes}" + (f", keep {options.keep}" if options.keep != 1 else ""),
            forms={name: Form(partial(make, options, tile)) for name, tile in (("tiled", options.tile), ("plain", 0))},
            aims=(Aim("time", "tiled", "plain", 1.0), Aim("memory", "tiled", "plain", 1 / 10)),
            unit="pairs",
            units=options.batch,
            repeats=options.repeats,
            limit=Limit("one matrix product of all tokens", lambda: product / matrix_rate(device=options.device)),
        )
    ]


def make(options: Options, tile: int) -> Step:
    """Inputs of one process, and a step of forward and backward."""
    torch.manual_seed(0)
    place = torch.device(options.device)
    patches, words = (
        F.normalize(torch.randn(options.batch, count, options.width, device=place), dim=-1).requires_grad_()
        for count in (options.patches, options.words)
    )
    length = torch.randint(options.words // 4, options.words + 1, (options.batch, 1), device=place)
    masks = patches.new_ones(patches.shape[:2], dtype=torch.bool), torch.arange(options.words, device=place) < length
    scale = torch.tensor(14.0, device=place)

    def step() -> None:
        image, text = Features(patches, patches[:, 0], masks[0]), Features(words, words[:, 0], masks[1])
        filip_loss(image, text, scale, keep=options.keep, tile=tile).backward()

    return step
