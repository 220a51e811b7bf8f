"""The outlines of the drawn shapes, as signed distances.

Each shape fits into the circle of radius 1 around the origin, x to the right and y downwards. Its distance function
is negative inside, positive outside, and changes by about 1 for each unit of length near the outline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Distance = Callable[[Array, Array], Array]

SIDE = 512
"""side of the tables of distances; at a radius of 80 pixels the nearest entry is at most 0.2 pixels off"""
REACH = 1.25
"""the tables span [-REACH, REACH] in both directions"""


def disc(x: float, y: float, radius: float) -> Distance:
    """A full circle around (x, y)."""
    return lambda u, v: np.hypot(u - x, v - y) - radius


def polygon(*corners: tuple[float, float]) -> Distance:
    """A closed polygon, convex or not (exact distance; the side by the crossing rule)."""
    points = np.asarray(corners, np.float32)

    def distance(u: Array, v: Array) -> Array:
        nearest = np.full(np.broadcast(u, v).shape, np.inf, np.float32)
        inside = np.zeros(nearest.shape, bool)
        for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
            ex, ey, px, py = bx - ax, by - ay, u - ax, v - ay
            along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, (px - along * ex) ** 2 + (py - along * ey) ** 2)
            if ay != by:
                inside ^= ((ay > v) != (by > v)) & (px < ex * py / ey)
        return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(nearest)

    return distance


def union(*parts: Distance) -> Distance:
    """What lies in any of the parts."""
    return lambda u, v: reduce(np.minimum, (part(u, v) for part in parts))


def without(whole: Distance, hole: Distance) -> Distance:
    """What lies in `whole` and not in `hole`."""
    return lambda u, v: np.maximum(whole(u, v), -hole(u, v))


def _around(radii: Iterable[float], turn: float = 0.0) -> list[tuple[float, float]]:
    """Corners at these distances from the origin, at equal angles, the first one at the top."""
    radii = list(radii)
    angles = turn + 2 * np.pi * np.arange(len(radii)) / len(radii)
    return [(float(r * np.sin(a)), float(-r * np.cos(a))) for r, a in zip(radii, angles, strict=True)]


def _curve(x: Callable[[Array], Array], y: Callable[[Array], Array], steps: int = 64) -> Distance:
    """The polygon through points of a closed curve, given for angles 0 to 2 pi."""
    t = np.linspace(0, 2 * np.pi, steps, endpoint=False, dtype=np.float32)
    return polygon(*zip(x(t).tolist(), y(t).tolist(), strict=True))


_FLOWER = [disc(x, y, 0.36) for x, y in _around([0.6] * 5)]
DISTANCES: dict[str, Distance] = {
    "circle": disc(0, 0, 0.88),
    "square": polygon((-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)),
    "triangle": polygon((0, -0.98), (0.84, 0.5), (-0.84, 0.5)),
    "star": polygon(*_around([1.0, 0.42] * 5)),
    "heart": _curve(
        lambda t: 0.9 * np.sin(t) ** 3,
        lambda t: -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 18 - 0.1,
    ),
    "cross": polygon(
        (-0.3, -0.92), (0.3, -0.92), (0.3, -0.3), (0.92, -0.3), (0.92, 0.3), (0.3, 0.3),
        (0.3, 0.92), (-0.3, 0.92), (-0.3, 0.3), (-0.92, 0.3), (-0.92, -0.3), (-0.3, -0.3),
    ),
    "ring": without(disc(0, 0, 0.92), disc(0, 0, 0.46)),
    "crescent": without(disc(-0.05, 0, 0.93), disc(0.38, 0, 0.72)),
    "diamond": polygon((0, -1.0), (0.62, 0), (0, 1.0), (-0.62, 0)),
    "arrow": polygon(
        (-0.95, -0.28), (0.05, -0.28), (0.05, -0.75), (0.97, 0), (0.05, 0.75), (0.05, 0.28), (-0.95, 0.28)
    ),
    "boat": union(
        polygon((-0.95, 0.3), (0.95, 0.3), (0.55, 0.8), (-0.55, 0.8)),
        polygon((-0.05, -0.95), (0.75, 0.3), (-0.05, 0.3)),
        polygon((-0.05, -0.6), (-0.05, 0.3), (-0.65, 0.3)),
    ),
    "drop": union(disc(0, 0.35, 0.6), polygon((0, -1.0), (0.53, 0.07), (-0.53, 0.07))),
    "flower": union(*_FLOWER, disc(0, 0, 0.4)),
    "cloud": union(
        disc(-0.55, 0.2, 0.38), disc(-0.1, -0.18, 0.5), disc(0.5, 0.12, 0.43),
        polygon((-0.55, 0.1), (0.5, 0.1), (0.5, 0.57), (-0.55, 0.57)),
    ),
    "hourglass": polygon((-0.6, -0.79), (0.6, -0.79), (0.13, 0), (0.6, 0.79), (-0.6, 0.79), (-0.13, 0)),
    "lightning bolt": polygon(
        (0.1, -0.92), (-0.58, 0.14), (-0.06, 0.14), (-0.28, 0.95), (0.58, -0.26), (0.1, -0.26), (0.42, -0.9)
    ),
    "house": polygon(
        (0, -0.95), (0.94, -0.12), (0.64, -0.12), (0.64, 0.76), (0.2, 0.76), (0.2, 0.25), (-0.2, 0.25), (-0.2, 0.76),
        (-0.64, 0.76), (-0.64, -0.12), (-0.94, -0.12),
    ),
    "fish": union(
        _curve(lambda t: -0.22 + 0.72 * np.cos(t), lambda t: 0.5 * np.sin(t)),
        polygon((0.3, 0), (0.88, -0.45), (0.78, 0), (0.88, 0.45)),
    ),
    "tree": polygon(
        (0, -1.0), (0.5, -0.38), (0.28, -0.38), (0.68, 0.12), (0.4, 0.12), (0.78, 0.62), (0.18, 0.62), (0.18, 0.96),
        (-0.18, 0.96), (-0.18, 0.62), (-0.78, 0.62), (-0.4, 0.12), (-0.68, 0.12), (-0.28, -0.38), (-0.5, -0.38),
    ),
    "mushroom": union(
        without(disc(0, 0.05, 0.92), polygon((-2, 0.05), (2, 0.05), (2, 2), (-2, 2))),
        polygon((-0.28, 0), (0.28, 0), (0.36, 0.9), (-0.36, 0.9)),
    ),
    "hexagon": polygon(*_around([0.92] * 6, np.pi / 6)),
}  # fmt: skip


@cache
def table(shape: str) -> Array:
    """Distances of a shape on a grid of SIDE x SIDE points over [-REACH, REACH], row by row, flattened."""
    steps = np.linspace(-REACH, REACH, SIDE, dtype=np.float32)
    distances = DISTANCES[shape](*np.broadcast_arrays(steps[None, :], steps[:, None]))
    return np.ascontiguousarray(distances, np.float32).ravel()


def lookup(shape: str, u: Array, v: Array) -> Array:
    """`DISTANCES[shape](u, v)` from its table: the nearest entry, which is many times faster."""
    scale, middle = (SIDE - 1) / (2 * REACH), (SIDE - 1) / 2 + 0.5
    row, column = (np.minimum(np.maximum(w * scale + middle, 0), SIDE - 1).astype(np.int32) for w in (v, u))
    row *= SIDE
    row += column
    return table(shape).take(row)
