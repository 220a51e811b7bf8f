"""Depth maps of point clouds, forward and backward: all maps at once against scatters that are looped over.

Both loops do what one writes first. `maps`: map after map, each pixel of the discs by one scatter of its points.
`points`: map after map and point after point, each drawn into its window; it takes so long that it draws fewer maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diptych.app.bench.measure import Aim, Case, Form, Step
from diptych.encoders.rasterise import NOTHING, VIEWS, cameras, depth_maps


@dataclass(frozen=True)
class Options:
    """Sizes: those of CLIP2Point's pre-training are the defaults, with a smaller batch."""

    batch: int = 32
    """clouds"""
    points: int = 1024
    """points of a cloud"""
    views: int = 10
    """maps of a cloud: 6 or 10"""
    size: int = 224
    """side of a map in pixels"""
    radius: float = 0.02
    """of a point, as a share of half a side"""
    few: int = 1
    """clouds that are drawn point after point"""
    device: str = "cpu"
    """cpu or cuda"""
    repeats: int = 5
    """turns"""


def cases(options: Options) -> list[Case]:
    """Forward and backward pass, against the loop over maps, and with fewer clouds against the loop over points."""
    return [
        Case(
            title=f"Depth maps, {clouds} x {options.views} of {options.size} pixels, N {options.points}",
            forms={
                "at once": Form(partial(step_of, options, clouds, "at once")),
                loop: Form(partial(step_of, options, clouds, loop), memory=clouds == options.batch),
            },
            aims=(Aim("speed", "at once", loop, at_least=least),),
            unit="maps",
            units=clouds * options.views,
            repeats=options.repeats,
        )
        for clouds, loop, least in ((options.batch, "map after map", 3.0), (options.few, "point after point", 30.0))
    ]


def step_of(options: Options, clouds: int, form: str) -> Step:
    """Random clouds in the unit sphere, and a step."""
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(clouds, options.points, 3, generator=generator), dim=-1)
    points = (points * torch.rand(clouds, options.points, 1, generator=generator)).to(options.device).requires_grad_()
    views, distance = cameras(*VIEWS[options.views]), torch.ones(clouds, options.views, device=options.device)
    draw = {"at once": depth_maps, "map after map": by_map, "point after point": by_point}[form]

    def step() -> None:
        draw(points, views, distance, options.size, options.radius).sum().backward()
        points.grad = None

    return step


def by_map(points: Tensor, views: Tensor, distance: Tensor, size: int, radius: float) -> Tensor:
    """A loop over maps and over the pixels of a disc, with a scatter of depths each."""
    reach, maps = radius * size / 2, []
    steps = range(math.floor(2 * reach) + 1)
    for row, column, depth in _each(points, views, distance, size):
        seen = depth.new_full((size * size,), math.inf)
        for down in steps:
            for across in steps:
                i, j = (row - reach).ceil() + down, (column - reach).ceil() + across
                covered = ((i - row) ** 2 + (j - column) ** 2 < reach**2) & (depth >= 0)
                covered &= (i >= 0) & (i < size) & (j >= 0) & (j < size)
                cell = (i * size + j)[covered].long()
                seen = seen.scatter_reduce(0, cell, depth[covered], "amin")
        maps.append(torch.where(seen.isinf(), NOTHING, seen).view(size, size))
    return torch.stack(maps).unflatten(0, distance.shape)


def by_point(points: Tensor, views: Tensor, distance: Tensor, size: int, radius: float) -> Tensor:
    """A loop over maps and points, each drawn into its window; which is seen is noted for the gradient."""
    reach, maps = radius * size / 2, []
    place = torch.arange(size, device=points.device)
    for row, column, depth in _each(points, views, distance, size):
        seen, nearest = depth.new_full((size, size), math.inf), torch.full((size, size), -1, device=points.device)
        with torch.no_grad():
            for n in range(len(depth)):
                window = tuple(
                    slice(max(0, math.ceil(at - reach)), max(0, math.floor(at + reach) + 1))
                    for at in (row[n].item(), column[n].item())
                )
                near = (place[window[0], None] - row[n]) ** 2 + (place[window[1]] - column[n]) ** 2 < reach**2
                near &= (depth[n] >= 0) & (depth[n] < seen[window])
                seen[window] = torch.where(near, depth[n], seen[window])
                nearest[window] = torch.where(near, n, nearest[window])
        maps.append(torch.where(nearest < 0, NOTHING, depth[nearest.clamp(min=0)]))
    return torch.stack(maps).unflatten(0, distance.shape)


def _each(points: Tensor, views: Tensor, distance: Tensor, size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Rows, columns and depths (N,) of every map."""
    found = []
    for cloud, ahead in zip(points, distance, strict=True):
        for view, far in zip(views.to(cloud), ahead, strict=True):
            right, up, depth = (cloud @ view.T / far).unbind(1)
            found.append((((1 - up) * size - 1) / 2, ((1 + right) * size - 1) / 2, depth + far))
    return found
