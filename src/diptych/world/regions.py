"""What a detector would find in a scene: a region for each object, as exact or as noisy as is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diptych.world.generate import Vocabulary
from diptych.world.scene import Object

Array = NDArray[Any]

JITTER = 0.2
"""standard deviation of a box's sides in shares of its own size, for a noise of 1"""
_EXACT = 1e-3
"""the noise below which a detector is as sure as one without noise"""


class Regions(NamedTuple):
    """The fields of the same names: R regions, D = `width(words)` numbers each, C = 1 + the number of categories."""

    regions: Array  # float32 (R, D)
    region_boxes: Array  # float32 (R, 4)
    region_labels: Array  # int64 (R,)
    region_scores: Array  # float32 (R,)
    region_attributes: Array  # int64 (R,)
    region_attribute_scores: Array  # float32 (R,)
    region_classes: Array  # float32 (R, C)


def detect(
    objects: Sequence[Object], boxes: Array, words: Vocabulary, noise: float, extra: int, rng: np.random.Generator
) -> Regions:
    """A region for each object of which something is visible, in an order that tells nothing.

    Features are a one for each of the object's words (category, colour, texture, size) among zeros, with Gaussian
    noise added; labels, colours and their shares are the posterior of just these features. Boxes are moved and
    stretched by `JITTER` times the noise.

    Args:
        objects: what there is.
        boxes: (R, 4), where it is; zeros where it cannot be seen.
        words: the words that objects may have, which number the features.
        noise: standard deviation of the noise of the features; 0 is exact.
        extra: at most so many false detections besides, whose features are noise alone.
        rng: where noise, order and false detections come from.
    """
    seen = np.flatnonzero(boxes[:, 2] > boxes[:, 0]).tolist()
    false = int(rng.integers(0, extra + 1)) if extra else 0
    order = rng.permutation(len(seen) + false)
    clean, places = _one_hot([objects[i] for i in seen], words), boxes[seen]
    if false:
        clean = np.concatenate([clean, np.zeros((false, clean.shape[1]))])
        places = np.concatenate([places, _anywhere(false, rng)])
    features = (clean[order] + noise * rng.standard_normal(clean.shape)).astype(np.float32)
    classes = _posterior(features[:, : len(words.categories)], noise)
    colours = _posterior(features[:, len(words.categories) :][:, : len(words.colours)], noise)
    return Regions(
        features,
        _moved(places[order], JITTER * noise, rng),
        classes[:, 1:].argmax(1),
        classes[:, 1:].max(1),
        colours[:, 1:].argmax(1) if words.colours else np.full(len(order), -1),
        colours[:, 1:].max(1, initial=0.0),
        classes,
    )


def width(words: Vocabulary) -> int:
    """D, the number of features of a region."""
    return sum(len(words.of(name)) for name in _NAMES)


_NAMES = ("category", "colour", "texture", "size")


def _one_hot(objects: Sequence[Object], words: Vocabulary) -> Array:
    """(R, D): a one for each word of an object."""
    found, first = np.zeros((len(objects), width(words))), 0
    for name in _NAMES:
        values = words.of(name)
        if values:
            found[range(len(objects)), [first + values.index(getattr(thing, name)) for thing in objects]] = 1
        first += len(values)
    return found


def _posterior(features: Array, noise: float) -> Array:
    """(R, 1 + K): how likely nothing, and each of K words, is given noisy one-hot features (R, K).

    By Bayes' rule with equal priors: against all zeros, a one in place k changes the likelihood by
    exp((features_k - 1/2) / noise^2).
    """
    logits = (features - 0.5) / max(noise, _EXACT) ** 2
    logits = np.concatenate([np.zeros((len(features), 1)), logits], axis=1)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32)


def _anywhere(count: int, rng: np.random.Generator) -> Array:
    """Boxes of false detections, (R, 4): a tenth to a third of the picture's side, wholly inside."""
    size = rng.uniform(0.1, 0.33, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * (1 - size)
    return np.concatenate([corner, corner + size], axis=1)


def _moved(boxes: Array, jitter: float, rng: np.random.Generator) -> Array:
    """Boxes whose sides are moved by normal shares of their own sizes, inside the picture."""
    corners = boxes.reshape(-1, 2, 2)  # (R, corner, axis)
    size = corners[:, 1:] - corners[:, :1]
    moved = np.sort(corners + jitter * size * rng.standard_normal(corners.shape), axis=1)
    return np.clip(moved, 0, 1).reshape(-1, 4).astype(np.float32)
