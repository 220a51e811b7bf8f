"""Depth maps of point clouds from several sides: an orthographic camera, discs, and the nearest point of each pixel.

As CLIP2Point (arXiv 2210.01055) renders: cameras of PyTorch3D's `look_at_view_transform` (up is +Y), its rule of which
pixels a point covers (`PointsRasterizer`), depth along the view. What is seen of a point is its depth alone; the
gradient goes to the depth of the nearest point of each pixel, exactly one.

Letters: B clouds, N points, V views, S side of a map in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

VIEWS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    6: ((0, 0, 0, 0, 90, -90), (0, 90, 180, 270, 0, 180)),
    10: ((0, 90, 180, 270, 225, 225, 315, 315, 0, 0), (0, 0, 0, 0, -45, 45, -45, 45, -90, 90)),
}
"""Elevations and azimuths in degrees, of so many views (MVTN's settings, as CLIP2Point's released code has them)."""
NOTHING = -1.0
"""depth of a pixel that no point covers"""
DARKEST = 200 / 255
"""the lightest that a point may be; what no point covers is white"""
_NO_KEY = torch.iinfo(torch.int64).max


def cameras(elevation: Tensor | Sequence[float] | float, azimuth: Tensor | Sequence[float] | float) -> Tensor:
    """Cameras that look at the origin: degrees (...,) -> (..., 3, 3), float32; rows point right, up and forwards.

    At the poles up is no guide, and the roll depends on how a cosine is rounded, so that all is computed in float32 on
    the CPU as in PyTorch3D: an axis that is zero there is replaced by the product of the other two.
    """
    high, round_ = (torch.as_tensor(x, dtype=torch.float32).cpu() * (math.pi / 180) for x in (elevation, azimuth))
    place = torch.stack([high.cos() * round_.sin(), high.sin(), high.cos() * round_.cos()], dim=-1)
    forward = F.normalize(-place, eps=1e-5, dim=-1)
    above = torch.tensor([0.0, 1.0, 0.0]).expand_as(forward)
    left = F.normalize(torch.linalg.cross(above, forward), eps=1e-5, dim=-1)
    up = F.normalize(torch.linalg.cross(forward, left), eps=1e-5, dim=-1)
    lost = (left.abs() < 5e-3).all(-1, keepdim=True)
    left = torch.where(lost, F.normalize(torch.linalg.cross(up, forward), eps=1e-5, dim=-1), left)
    return torch.stack([-left, up, forward], dim=-2)


def depth_maps(points: Tensor, views: Tensor, distance: Tensor, size: int, radius: float = 0.02) -> Tensor:
    """What cameras see of clouds, all pixels of all maps at once.

    Args:
        points: (B, N, 3), in the unit sphere to be wholly seen from a distance of 1.
        views: (V, 3, 3) or (B, V, 3, 3), of `cameras`.
        distance: (B, V), of each camera from the origin; the cloud shrinks with it about the origin.
        size: S.
        radius: of a point's disc, as a share of half a side; a pixel whose centre is nearer than that is covered.

    Returns:
        (B, V, S, S): depth of the nearest point that is not behind the camera, `NOTHING` where there is none.
    """
    row, column, depth = _placed(points, views, distance, size)  # (M, N), M = B V
    reach, cells = radius * size / 2, size * size
    with torch.no_grad():
        number = torch.arange(depth.shape[1], device=depth.device)
        bits = (
            depth.detach().float().add(0.0).view(torch.int32).long()
        )  # in the order of the depths, where these are >= 0
        key = torch.where(depth >= 0, bits << 32 | number, _NO_KEY)
        top, left = (row - reach).ceil(), (column - reach).ceil()
        best = key.new_full((len(key), cells), _NO_KEY)
        steps = range(math.floor(2 * reach) + 1)
        for down in steps:
            for across in steps:
                i, j = top + down, left + across
                covered = (i - row) ** 2 + (j - column) ** 2 < reach**2
                covered &= (i >= 0) & (i < size) & (j >= 0) & (j < size)
                cell = (i.clamp(0, size - 1) * size + j.clamp(0, size - 1)).long()
                best.scatter_reduce_(1, cell, torch.where(covered, key, _NO_KEY), "amin")
        hit = best != _NO_KEY
        nearest = torch.where(hit, best & 0xFFFFFFFF, 0)
    found = torch.where(hit, depth.gather(1, nearest), NOTHING)
    return found.unflatten(0, distance.shape).unflatten(-1, (size, size))


def depth_maps_plain(points: Tensor, views: Tensor, distance: Tensor, size: int, radius: float = 0.02) -> Tensor:
    """The same, point after point: what `depth_maps` is tested against."""
    row, column, depth = _placed(points, views, distance, size)
    place = torch.arange(size, device=points.device)
    maps = []
    for y, x, z in zip(row.detach(), column.detach(), depth, strict=True):
        seen = z.new_full((size, size), math.inf)
        for n in range(len(z)):
            near = (place[:, None] - y[n]) ** 2 + (place - x[n]) ** 2 < (radius * size / 2) ** 2
            seen = torch.where(near & (z[n] >= 0) & (z[n] < seen), z[n], seen)
        maps.append(torch.where(seen.isinf(), NOTHING, seen))
    return torch.stack(maps).unflatten(0, distance.shape)


def _placed(points: Tensor, views: Tensor, distance: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column, in pixels (the first pixel's centre is 0), and depth of every point in every map, (B V, N)."""
    views = views.to(points).expand(len(points), -1, 3, 3)
    with torch.autocast(points.device.type, enabled=False):  # half precision would move points by pixels
        seen = torch.einsum("bnc,bvrc->bvrn", points, views) / distance[..., None, None]
    right, up, ahead = seen.flatten(0, 1).unbind(1)
    return ((1 - up) * size - 1) / 2, ((1 + right) * size - 1) / 2, ahead + distance.flatten()[:, None]


def shades(depth: Tensor, norm: Literal["official", "clean"] = "official") -> Tensor:
    """Depth maps (..., S, S) -> grey in [0, 1], near is dark, nothing is white.

    `official` is the released code's: the nearest depth counts an empty pixel as 1, and what is divided by is the
    farthest depth, not the range, so that an object beyond 1 has min 1. `clean` spreads each object over the whole
    range of greys.
    """
    hit = depth > 0
    found = depth.detach()
    high = found.amax((-2, -1), keepdim=True)
    if norm == "official":
        low = torch.where(hit, found, 1.0).amin((-2, -1), keepdim=True)
        return torch.where(hit, (depth - low) / high * DARKEST, 1.0)
    low = torch.where(hit, found, math.inf).amin((-2, -1), keepdim=True)
    return torch.where(hit, (depth - low) / (high - low).clamp(min=1e-6) * DARKEST, 1.0)
