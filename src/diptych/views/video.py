"""Views of a video: which frames are taken, and all of them cut and changed alike; (F, 3, H, W) uint8 comes out.

A sampler says which `count` of `length` frames are taken, in order of time: random where it is given a generator, the
usual fixed choice for evaluation where it is not. A clip that is shorter than `count` has frames shown repeatedly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from diptych.views.image import Crop, resampled, to_picture, to_tensor, whole

if TYPE_CHECKING:
    from torch import Tensor

Sampler = Callable[[int, int, np.random.Generator | None], np.ndarray]


def uniform(length: int, count: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """One frame of each of `count` equal parts: its middle one, or in training a random one (TSN, arXiv 1608.00859).

    Returns:
        (count,) int64, as all samplers do.
    """
    place = np.full(count, 0.5) if rng is None else rng.random(count)
    return ((np.arange(count) + place) * length / count).astype(np.int64)


def headtail(length: int, count: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Half of the frames from the first half of the clip and half from the second, each by `scattered` (ALPRO)."""
    half = max(1, length // 2)
    rest = max(1, length - half)
    tail = length - rest + scattered(rest, count - count // 2, rng)
    return np.concatenate([scattered(half, count // 2, rng), tail])


def scattered(length: int, count: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Any frames, none twice where there are enough of them; in evaluation those of `uniform`."""
    if rng is None or length < count:
        return uniform(length, count)
    return np.sort(rng.choice(length, count, replace=False)).astype(np.int64)


def dense(length: int, count: int, rng: np.random.Generator | None = None, stride: int = 1) -> np.ndarray:
    """Every `stride`-th frame from a random one on, in evaluation around the middle; `stride` shrinks in short clips.

    Seven frames of stride 12 are HD-VILA's middle frame with its neighbours.
    """
    if length < count:
        return uniform(length, count)
    stride = min(stride, (length - 1) // max(1, count - 1))
    free = length - 1 - stride * (count - 1)
    start = free // 2 if rng is None else int(rng.integers(free + 1))
    return start + stride * np.arange(count, dtype=np.int64)


def ends(length: int, count: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Equal steps from the first frame to the last, never random (Valley)."""
    return np.linspace(0, length - 1, count).astype(np.int64)


def segments(length: int, count: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """The rule of PLLaVA's code: `count` equal steps that never reach the last frame; in training as `uniform`."""
    if rng is not None:
        return uniform(length, count, rng)
    step = (length - 1) / count
    return int(step / 2) + np.round(step * np.arange(count)).astype(np.int64)


SAMPLERS: dict[str, Sampler] = {
    "uniform": uniform,
    "headtail": headtail,
    "scattered": scattered,
    "dense": dense,
    "ends": ends,
    "segments": segments,
}


def view(
    video: Sequence[Image.Image] | Image.Image,
    size: int,
    count: int,
    sampler: Sampler = uniform,
    rng: np.random.Generator | None = None,
    crop: Crop = whole,
    augment: Callable[[Image.Image, np.random.Generator], Image.Image] | None = None,
) -> Tensor:
    """(count, 3, size, size) uint8: frames that are chosen, cut by one box, and changed by the same operations.

    Only the chosen frames are decoded. A picture is a clip of `count` equal frames.

    Args:
        video: frames that can be indexed, or one picture.
        size: side of a frame, in pixels.
        count: F, the number of frames.
        sampler: which frames.
        rng: None in evaluation, where nothing is random and nothing is augmented.
        crop: (width, height, rng) -> the box that is kept, such as `whole`, `square` or a `partial` of them.
        augment: changes a picture, such as `rand_augment`; called for each frame with the same random numbers.
    """
    frames = [video] if isinstance(video, Image.Image) else video
    chosen = sampler(len(frames), count, rng)
    taken, places = np.unique(chosen, return_inverse=True)
    pictures = [frames[int(number)] for number in taken]
    box = crop(*pictures[0].size, rng)
    clip = [resampled(picture, box, size) for picture in pictures]
    if augment is not None and rng is not None:
        seed = int(rng.integers(1 << 63))
        clip = [to_tensor(augment(to_picture(frame), np.random.default_rng(seed))) for frame in clip]
    return torch.stack(clip)[torch.from_numpy(places)]
