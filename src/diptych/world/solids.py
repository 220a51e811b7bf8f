"""Solid things made of boxes, balls, cones and rings: points of their surfaces, and pictures of these points.

y is up. A thing stands in the unit sphere, its parts within [-0.5, 0.5] along each axis before it is turned and scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Part(NamedTuple):
    """A body: `box` and `ball` with half sizes along x, y and z, `cone` and `ring` about an axis.

    The sizes of a cone are its radius below, half its height and its radius above; of a ring its radius, nothing, and
    the radius of its tube.
    """

    kind: str
    at: tuple[float, float, float]
    size: tuple[float, float, float]
    axis: str = "y"


def _legs(top: float, foot: float, reach: float = 0.36, thick: float = 0.04) -> list[Part]:
    middle, half = (top + foot) / 2, (top - foot) / 2
    return [Part("box", (x, middle, z), (thick, half, thick)) for x in (-reach, reach) for z in (-reach, reach)]


SOLIDS: dict[str, list[Part]] = {
    "cube": [Part("box", (0, 0, 0), (0.4, 0.4, 0.4))],
    "ball": [Part("ball", (0, 0, 0), (0.45, 0.45, 0.45))],
    "cone": [Part("cone", (0, 0, 0), (0.42, 0.48, 0.0))],
    "ring": [Part("ring", (0, 0, 0), (0.36, 0, 0.11), "z")],
    "table": [Part("box", (0, 0.3, 0), (0.46, 0.04, 0.46)), *_legs(0.28, -0.42)],
    "chair": [
        Part("box", (0, 0, 0), (0.3, 0.04, 0.3)),
        Part("box", (0, 0.27, -0.27), (0.3, 0.25, 0.04)),
        *_legs(0, -0.48, 0.26),
    ],
    "lamp": [
        Part("cone", (0, -0.44, 0), (0.24, 0.04, 0.24)),
        Part("cone", (0, -0.08, 0), (0.03, 0.36, 0.03)),
        Part("cone", (0, 0.3, 0), (0.32, 0.18, 0.16)),
    ],
    "cylinder": [Part("cone", (0, 0, 0), (0.28, 0.46, 0.28))],
    "dumbbell": [
        Part("ball", (-0.32, 0, 0), (0.18, 0.18, 0.18)),
        Part("ball", (0.32, 0, 0), (0.18, 0.18, 0.18)),
        Part("cone", (0, 0, 0), (0.05, 0.2, 0.05), "x"),
    ],
    "arch": [
        Part("box", (-0.32, -0.1, 0), (0.12, 0.38, 0.14)),
        Part("box", (0.32, -0.1, 0), (0.12, 0.38, 0.14)),
        Part("box", (0, 0.36, 0), (0.44, 0.09, 0.14)),
    ],
    "stairs": [
        Part("box", (-0.32, -0.32, 0), (0.16, 0.12, 0.4)),
        Part("box", (0, -0.2, 0), (0.16, 0.24, 0.4)),
        Part("box", (0.32, -0.08, 0), (0.16, 0.36, 0.4)),
    ],
    "bottle": [
        Part("cone", (0, -0.18, 0), (0.22, 0.3, 0.22)),
        Part("cone", (0, 0.18, 0), (0.22, 0.06, 0.08)),
        Part("cone", (0, 0.34, 0), (0.08, 0.1, 0.08)),
    ],
}
"""What there is, by name."""


@dataclass(frozen=True)
class Thing:
    """A solid: its name and colour, the stretch along its axes, the turn about the vertical, its place and scale."""

    category: str
    colour: str
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)
    turn: float = 0.0
    at: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    def surface(self, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Points (count, 3) drawn over its parts by their areas, and the directions (count, 3) away from it."""
        parts = SOLIDS[self.category]
        areas = np.array([_area(part) for part in parts])
        shares = rng.multinomial(count, areas / areas.sum())
        drawn = [_drawn(part, int(share), rng) for part, share in zip(parts, shares, strict=True)]
        points, normals = (np.concatenate(side) for side in zip(*drawn, strict=True))
        points, normals = points * self.stretch, normals / self.stretch
        c, s = np.cos(self.turn), np.sin(self.turn)
        about = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        normals = normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(min=1e-9)
        return (points @ about.T * self.scale + self.at).astype(np.float32), (normals @ about.T).astype(np.float32)


def _area(part: Part) -> float:
    """About how large a surface is."""
    a, b, c = part.size
    if part.kind == "box":
        return 8 * (a * b + b * c + a * c)
    if part.kind == "ball":
        return 4 * np.pi * (a * b + b * c + a * c) / 3
    if part.kind == "ring":
        return 4 * np.pi**2 * a * c
    return float(np.pi * ((a + c) * np.hypot(2 * b, a - c) + a * a + c * c))


def _drawn(part: Part, count: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    points, normals = _DRAW[part.kind](*part.size, count, rng)
    order = {"y": (0, 1, 2), "x": (1, 0, 2), "z": (0, 2, 1)}[part.axis]
    return points[:, order] + part.at, normals[:, order]


def _box(a: float, b: float, c: float, count: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    half = np.array([a, b, c])
    faces = np.array([b * c, a * c, a * b])
    axis = rng.choice(3, count, p=faces / faces.sum())
    points = rng.uniform(-1, 1, (count, 3))
    normals = np.zeros((count, 3))
    rows = np.arange(count)
    normals[rows, axis] = points[rows, axis] = rng.choice([-1.0, 1.0], count)
    return points * half, normals


def _ball(a: float, b: float, c: float, count: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    away = rng.standard_normal((count, 3))
    away /= np.linalg.norm(away, axis=1, keepdims=True).clip(min=1e-9)
    return away * [a, b, c], away / [a, b, c]


def _cone(below: float, half: float, above: float, count: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """The mantle, and the two discs that close it."""
    mantle = (below + above) * np.hypot(2 * half, below - above)
    sides = np.array([mantle, below**2, above**2])
    which, angle = rng.choice(3, count, p=sides / sides.sum()), rng.uniform(0, 2 * np.pi, count)
    share = rng.random(count)
    wide = below**2 + share * (above**2 - below**2)  # so that wider places get more points
    height = np.where(abs(above - below) < 1e-9, share, (np.sqrt(wide) - below) / ((above - below) or 1))
    flat = np.sqrt(share)
    radius = np.select([which == 0, which == 1], [below + height * (above - below), below * flat], above * flat)
    y = np.select([which == 0, which == 1], [(2 * height - 1) * half, -half], half)
    lean = (below - above) / (2 * half)
    up = np.select([which == 0, which == 1], [lean, -1.0], 1.0)
    out = np.where(which == 0, 1.0, 0.0)
    around = np.stack([np.cos(angle), np.zeros(count), np.sin(angle)], axis=1)
    normals = around * out[:, None]
    normals[:, 1] = up
    points = around * radius[:, None]
    points[:, 1] = y
    return points, normals


def _ring(radius: float, _: float, tube: float, count: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    around, within = rng.uniform(0, 2 * np.pi, (2, count))
    out = np.stack([np.cos(around), np.zeros(count), np.sin(around)], axis=1)
    normals = out * np.cos(within)[:, None]
    normals[:, 1] = np.sin(within)
    return out * radius + normals * tube, normals


_DRAW = {"box": _box, "ball": _ball, "cone": _cone, "ring": _ring}


def camera(azimuth: float, elevation: float) -> Floats:
    """(3, 3): rows that point right, up and forwards, of a camera that looks at the origin; degrees, no pole."""
    a, e = np.deg2rad([azimuth, elevation])
    right = [np.cos(a), 0, -np.sin(a)]
    up = [-np.sin(e) * np.sin(a), np.cos(e), -np.sin(e) * np.cos(a)]
    forward = [-np.cos(e) * np.sin(a), -np.sin(e), -np.cos(e) * np.cos(a)]
    return np.array([right, up, forward], dtype=np.float32)


def photograph(
    points: Floats, normals: Floats, colours: Floats, view: tuple[float, float, float], pixels: int
) -> tuple[NDArray[np.uint8], Floats]:
    """A picture of dense points from one side, lit from the camera and from above, and the depth of each pixel.

    Args:
        points: (N, 3) in the unit sphere, so many that they leave no holes.
        normals: (N, 3), away from the surface.
        colours: (N, 3) in [0, 255].
        view: azimuth and elevation in degrees, and distance, at which things shrink as in CLIP2Point's depth maps.
        pixels: side of the picture.

    Returns:
        (H, W, 3) uint8 on white, (H, W) float32, 0 where nothing is.
    """
    axes, far = camera(*view[:2]), view[2]
    right, up, ahead = axes @ points.T / far
    depth = ahead + far
    light = np.clip(normals @ (0.5 * np.array([0, 1, 0], np.float32) - axes[2]), 0, 1)
    shaded = colours * (0.35 + 0.65 * np.clip(light, 0, 1))[:, None]
    column, row = ((1 + right) * pixels - 1) / 2, ((1 - up) * pixels - 1) / 2
    every = np.repeat(np.argsort(-depth), 4)  # the nearest comes last, and stays; each point covers four pixels
    y = np.floor(row[every]).astype(int) + np.tile([0, 0, 1, 1], len(depth))
    x = np.floor(column[every]).astype(int) + np.tile([0, 1, 0, 1], len(depth))
    image, distance = np.full((pixels, pixels, 3), 255, np.float32), np.zeros((pixels, pixels), np.float32)
    inside = (y >= 0) & (y < pixels) & (x >= 0) & (x < pixels) & (depth[every] > 0)
    image[y[inside], x[inside]] = shaded[every[inside]]
    distance[y[inside], x[inside]] = depth[every[inside]]
    return image.clip(0, 255).astype(np.uint8), distance
