"""InfoNCE, forward and backward: tiled against plain, with one, several and soft positives; and in two processes."""

from __future__ import annotations

import multiprocessing
import tempfile
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch.nn import functional as F

from diptych.app.bench.measure import Aim, Case, Form, Limit, Step, gapless, growth, matrix_rate
from diptych.batch import Gather
from diptych.objectives.contrastive import info_nce
from diptych.training.distributed import join

_PRODUCTS = 4  # of B x B x D, which the tiled form needs: one forward; the logits again and two gradients back


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
    """One positive a row, several, soft ones, and half of the rows in each of two processes."""
    product = 2 * options.batch**2 * options.width
    limit = Limit(f"{_PRODUCTS} matrix products", lambda: _PRODUCTS * product / matrix_rate(device=options.device))
    found = [
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
        for title in ("InfoNCE", "InfoNCE, several positives", "InfoNCE, soft targets")
    ]
    if options.device == "cpu":
        found.append(in_two(options))
    return found


def in_two(options: Options) -> Case:
    """Memory of one of two processes that share the batch, as gloo joins them; its time is that without sending."""
    each, alone = partial(make, options, "", options.tile, Half()), partial(make, options, "", options.tile)
    return Case(
        title=f"Tiled InfoNCE, B {options.batch:,}, D {options.width}, two processes",
        forms={"one of two": Form(each, partial(largest_of_two, options)), "one alone": Form(alone)},
        aims=(Aim("memory", "one of two", "one alone", 0.7), Aim("time", "one of two", "one alone", 1.0)),
        unit="pairs",
        units=options.batch,
        repeats=options.repeats,
    )


def make(options: Options, title: str, tile: int, gather: Gather | None = None) -> Step:
    """Inputs of one process, and a step of forward and backward."""
    torch.manual_seed(0)
    place, gather = torch.device(options.device), gather or Gather()
    rows = options.batch // gather.world
    image, text = (
        F.normalize(torch.randn(rows, options.width, device=place), dim=-1).requires_grad_() for _ in range(2)
    )
    scale = torch.tensor(14.0, device=place, requires_grad=True)
    targets = torch.arange(rows, device=place) // 2 if "several" in title else None
    if "soft" in title:
        targets = torch.full((rows, rows), 1 / rows, device=place)

    def step() -> None:
        info_nce(image, text, scale, gather, targets=targets, tile=tile).backward()

    return step


class Half(Gather):
    """The first of two processes, the other of which holds the same rows."""

    world = 2

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (2 * B, ...)."""
        return torch.cat([x, x.detach()])


def largest_of_two(options: Options) -> int:
    """Bytes that a step takes in the larger of two processes."""
    with tempfile.TemporaryDirectory() as folder, gapless(), multiprocessing.get_context("spawn").Pool(2) as pool:
        return max(pool.starmap(_in_process, [(options, rank, f"file://{folder}/store") for rank in range(2)], 1))


def _in_process(options: Options, rank: int, store: str) -> int:
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    gather = join("cpu").gather
    gather(torch.zeros(1, requires_grad=True)).sum().backward()  # connects
    return growth(partial(make, options, "", options.tile, gather))
