"""Sequences of pictures and words packed into rows, against the same ones padded: loss and gradients of one batch.

Their lengths are skewed as those of captions, dialogues and documents together are: most are short, few are long. Both
forms compute logits only where a token is learned, so that what differs is the padding alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from diptych import methods
from diptych.app.bench.measure import Aim, Case, Form, Step as Timed
from diptych.batch import Batch, Step
from diptych.models.packing import pack


@dataclass(frozen=True)
class Options:
    """Sizes."""

    batch: int = 64
    """sequences, each about a picture"""
    median: int = 24
    """words of the middle one"""
    spread: float = 1.0
    """standard deviation of the logarithm of how many words there are"""
    longest: int = 448
    """words of the longest there may be"""
    width: int = 128
    """of the language model"""
    layers: int = 4
    """of the language model"""
    budget: int = 1
    """tokens of a row; at least those of the longest sequence"""
    attention: str = "sdpa"
    """how the language model attends; flex_attention is for CUDA, with a large budget"""
    device: str = "cpu"
    """cpu or cuda"""
    repeats: int = 5
    """turns"""


def cases(options: Options) -> list[Case]:
    """Forward and backward pass of the whole model, without the optimiser's step."""
    length = made(options).length
    packed = pack(length.tolist(), int(length.max()), options.budget)
    shares = f"{float(packed.padding):.0%} padding against {1 - float((length / length.max()).mean()):.0%}"
    return [
        Case(
            title=f"Packed sequences, {options.batch} of {int(length.min())} to {int(length.max())} tokens, {shares}",
            forms={
                "packed": Form(partial(step_of, options)),
                "padded": Form(partial(step_of, replace(options, budget=0))),
            },
            aims=(Aim("speed", "packed", "padded", at_least=2.0), Aim("memory", "packed", "padded", 1.0)),
            unit="sequences",
            units=options.batch,
            repeats=options.repeats,
        )
    ]


def step_of(options: Options) -> Timed:
    """A model and a batch, and a step: padded where the budget is 0."""
    torch.manual_seed(0)
    batch = made(options).to(options.device)
    config = {"image_size": 32, "width": options.width, "layers": options.layers, "context": batch.ids.shape[1]}
    told = {"tasks": ("pretrain",), "weights": "equal", "scored_by": "nobody"}  # no reference: plain next tokens
    asked = {"pack": options.budget, "attention": options.attention if options.budget else "sdpa"}
    method: Any = methods.build("prior", {**config, **told, **asked}).to(options.device)

    def timed() -> None:
        method.loss(batch, Step()).total.backward()
        method.zero_grad()

    return timed


def made(options: Options) -> Batch:
    """Random pictures of 16 tokens, each with so many words behind it."""
    drawn = np.random.default_rng(0).lognormal(np.log(options.median), options.spread, options.batch)
    words = np.clip(drawn.astype(np.int64), 2, options.longest)
    words[0] = options.longest  # a batch has one of the longest, whatever is drawn
    seen, length = 16, torch.from_numpy(words) + 16
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 4096, (options.batch, int(length.max())), generator=generator)
    visual = torch.arange(ids.shape[1]).expand_as(ids) < seen
    image = torch.randint(256, (options.batch, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = ids.masked_fill(visual, -100)
    return Batch({"image": image, "ids": ids, "labels": labels, "visual": visual, "length": length})
