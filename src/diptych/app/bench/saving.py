"""Saving a run: how long training stands still when the rest is done by a thread, against saving at once.

What training stands still for is the copy into memory of all that a checkpoint holds; `training.saving` hands that to
the thread. Here nothing is written meanwhile, so that the forms do not disturb each other.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch

from diptych import methods
from diptych.app.bench.measure import Aim, Case, Form, Limit, Step, copy_rate
from diptych.recipe import Recipe
from diptych.training import checkpoint, snapshot
from diptych.training.distributed import Place
from diptych.training.state import Run


@dataclass(frozen=True)
class Options:
    """Sizes."""

    layers: int = 7
    """layers of each tower"""
    width: int = 768
    """numbers in a token"""
    folder: str = ""
    """on the disk of this folder; default: that of temporary files"""
    device: str = "cpu"
    """cpu or cuda"""
    repeats: int = 5
    """turns"""


def cases(options: Options) -> list[Case]:
    """One run with the state of AdamW."""
    parameters, size = _size(options)
    return [
        Case(
            title=f"A save of {parameters / 1e6:.0f} M parameters with AdamW, {size / 1e9:.1f} GB",
            forms={name: Form(partial(make, options, name), memory=False) for name in ("asynchronous", "synchronous")},
            aims=(Aim("time", "asynchronous", "synchronous", 1 / 5),),
            unit="saves",
            repeats=options.repeats,
            limit=Limit("one copy in memory", lambda: 2 * size / copy_rate(device="cpu")),
        )
    ]


def make(options: Options, name: str) -> Step:
    """A run after its first step, and what its training stands still for at a save."""
    run, folder = _run(options), tempfile.TemporaryDirectory(dir=options.folder or None)  # goes when `save` goes
    taken = [snapshot.take(run)]

    def stall() -> None:
        taken[0] = snapshot.take(run, taken[0])

    def save() -> None:
        stall()
        checkpoint.write(taken[0], Path(folder.name) / "last")

    return stall if name == "asynchronous" else save


@cache
def _run(options: Options) -> Run:
    """Weights and optimiser state, shared by the forms."""
    place = Place(torch.device(options.device))
    run = Run(_method(options).to(place.device), Recipe(precision="fp32"), place, Path())
    run.enter(run.span)
    for value in run.method.parameters():
        value.grad = torch.zeros_like(value)
    run.optimiser.step()
    run.optimiser.zero_grad()
    return run


def _method(options: Options) -> torch.nn.Module:
    config = methods.config_class("clip")(
        image_size=224,
        patch=32,
        image_width=options.width,
        image_layers=options.layers,
        text_width=options.width,
        text_layers=options.layers,
        embed=512,
    )
    return methods.build("clip", config, weights=False)


def _size(options: Options) -> tuple[int, int]:
    """Parameters, and bytes of a checkpoint."""
    with torch.device("meta"):
        values = list(_method(options).parameters())
    return sum(value.numel() for value in values), 3 * sum(value.nbytes for value in values)
