"""GradCache: a large batch in parts under one loss, against one as small as a part and against the large one whole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from diptych import methods
from diptych.app.bench.measure import Aim, Case, Form, Step as Timed
from diptych.batch import Batch, Step
from diptych.recipe import Recipe
from diptych.training.grad_cache import embedding


@dataclass(frozen=True)
class Options:
    """Sizes."""

    method: str = "clip"
    """method, with the small towers of its defaults"""
    batch: int = 4096
    """pairs in the batch"""
    part: int = 256
    """pairs in a part"""
    tile: int = 256
    """rows and columns of a tile of the loss"""
    device: str = "cpu"
    """cpu or cuda"""
    repeats: int = 1
    """turns"""


def cases(options: Options) -> list[Case]:
    """Forward and backward pass, without the optimiser's step."""
    whole = f"{options.batch:,} at once"
    forms = {
        f"{options.batch:,} in parts": (options.batch, options.batch // options.part),
        f"{options.part:,} at once": (options.part, 0),
        whole: (options.batch, 0),
    }
    ours, small, _ = forms
    return [
        Case(
            title=f"GradCache, {options.method}, {options.batch:,} in parts of {options.part:,}",
            forms={name: Form(partial(make, options, *sizes)) for name, sizes in forms.items()},
            # features, their gradients and the tiles of the loss are those of the large batch
            aims=(Aim("memory", ours, small, 1.05), Aim("time", ours, whole, 4 / 3)),
            unit="pairs",
            units=options.batch,
            repeats=options.repeats,
        )
    ]


def make(options: Options, size: int, parts: int) -> Timed:
    """A method and random pictures and captions, and a step: in so many parts, or plain where there are none."""
    torch.manual_seed(0)
    config = methods.config_class(options.method)(tile=options.tile)
    method: Any = methods.build(options.method, config).to(options.device)
    generator = torch.Generator().manual_seed(0)
    context, words = config.context, method.text.tokenizer.vocab_size
    batch = Batch(
        {
            "image": torch.randint(256, (size, 3, *2 * [config.image_size]), dtype=torch.uint8, generator=generator),
            "text": torch.randint(words, (size, context), generator=generator),
            "text_mask": torch.ones(size, context, dtype=torch.bool),
        }
    ).to(options.device)
    few = Batch({name: value[: max(1, parts)] for name, value in batch.items()})

    def timed(rows: Batch = batch) -> None:
        step = Step(embed=embedding(Recipe(accumulate=max(1, parts), grad_cache=parts > 0)))
        method.loss(rows, step).total.backward()
        method.zero_grad()

    timed(few)  # torch's checkpoints import its compiler when the first is made: code, 70 MB, is no part of a step
    return timed
