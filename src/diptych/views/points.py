"""Views of a point cloud (N, 3+), xyz first: what is taken of it, and how it is changed in training.

Every function returns a new array; columns behind xyz (colours) go with their points. Where a generator may be None,
nothing is random without it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Cloud = NDArray[np.float32]


def take(points: Cloud, count: int, rng: np.random.Generator | None = None) -> Cloud:
    """(count, 3+): random ones, in evaluation evenly spread over the order; repeated where there are too few.

    Raises:
        ValueError: there is no point.
    """
    if not len(points):
        raise ValueError("the point cloud is empty.")
    if rng is None or len(points) < count:
        return points[np.arange(count) * len(points) // count]
    return points[rng.choice(len(points), count, replace=False)]


def unit(points: Cloud) -> Cloud:
    """Centred on the mean, the farthest point at a distance of 1 (a single place stays at the origin)."""
    xyz = points[:, :3] - points[:, :3].mean(axis=0)
    return _with(points, xyz / max(float(np.linalg.norm(xyz, axis=1).max()), 1e-12))


def upright(points: Cloud) -> Cloud:
    """From z up to y up, as CLIP2Point turns ModelNet's: (x, y, z) becomes (-y, z, -x)."""
    x, y, z = points[:, :3].T
    return _with(points, np.stack([-y, z, -x], axis=1))


def scale(points: Cloud, rng: np.random.Generator, low: float = 0.8, high: float = 1.25) -> Cloud:
    """Larger or smaller as a whole (PointNet++, arXiv 1706.02413, released code)."""
    return _with(points, points[:, :3] * np.float32(rng.uniform(low, high)))


def shift(points: Cloud, rng: np.random.Generator, most: float = 0.1) -> Cloud:
    """Moved by up to `most` along each axis (ibid.)."""
    return _with(points, points[:, :3] + rng.uniform(-most, most, 3).astype(np.float32))


def turn(points: Cloud, rng: np.random.Generator, up: Literal["y", "z"] = "y", step: float = 0.0) -> Cloud:
    """Turned about the axis that is up by any angle, or by a multiple of `step` degrees (SceneVerse: 90)."""
    angle = rng.uniform(0, 360) if step == 0 else step * int(rng.integers(round(360 / step)))
    return _with(points, points[:, :3] @ turned_by(angle, up).T)


def turned_by(degrees: float, up: Literal["y", "z"] = "y") -> Cloud:
    """(3, 3): the rotation by an angle, counterclockwise as seen from above."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    rows = [[c, -s, 0], [s, c, 0], [0, 0, 1]] if up == "z" else [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    return np.array(rows, dtype=np.float32)


def jitter(points: Cloud, rng: np.random.Generator, sigma: float = 0.01, most: float = 0.05) -> Cloud:
    """Each coordinate moved by normal noise that is cut off at `most` (ibid.)."""
    noise = (sigma * rng.standard_normal((len(points), 3))).clip(-most, most)
    return _with(points, points[:, :3] + noise.astype(np.float32))


def drop(points: Cloud, rng: np.random.Generator, most: float = 0.875) -> Cloud:
    """A random share of up to `most` of the points replaced by the first, so that the number stays (ibid.)."""
    lost = rng.random(len(points)) < rng.uniform(0, most)
    return np.where(lost[:, None], points[:1], points)


def _with(points: Cloud, xyz: NDArray) -> Cloud:
    return np.concatenate([xyz, points[:, 3:]], axis=1).astype(np.float32, copy=False)
