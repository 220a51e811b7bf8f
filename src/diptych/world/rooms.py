"""The world as a data set of solid things: a point cloud, a picture from one side with its depth, and words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.world.draw import RGB
from diptych.world.generate import stream
from diptych.world.made import Made
from diptych.world.solids import SOLIDS, Floats, Thing, photograph

DENSE = 7  # points a pixel of the picture, so that no holes are seen
STEEPEST = 80.0  # degrees of elevation: beyond, what is up in the picture is left to chance

Room = tuple[Thing, ...]


class _Draft:
    """One room in the making: every part is computed once, when it is first asked for."""

    def __init__(self, world: Solids, index: int) -> None:
        self.world, self.index, self.room, self.knobs = world, index, world.item(index), world.knobs

    def rng(self, what: str) -> np.random.Generator:
        """Random numbers for one purpose."""
        return np.random.default_rng(stream(what, self.world.seed, self.world.split, self.index).getrandbits(64))

    @cached_property
    def view(self) -> Floats:
        """Where the picture is taken from: azimuth, elevation, distance; every direction is as likely."""
        rng = self.rng("view")
        high = math.sin(math.radians(STEEPEST))
        return np.array([rng.uniform(-180, 180), np.rad2deg(np.arcsin(rng.uniform(-high, high))), 1], np.float32)

    @cached_property
    def cloud(self) -> tuple[Floats, NDArray[np.int64]]:
        """Points (N, 6) with colours in [0, 1], and which thing each is of."""
        knobs, rng = self.knobs, self.rng("cloud")
        points, _, of = self._surface(math.ceil(knobs.cloud / (1 - knobs.missing)), rng)
        side = rng.standard_normal(3)
        left = np.sort(np.argsort(points @ side, kind="stable")[: knobs.cloud])
        moved = points[left] + knobs.spread * rng.standard_normal((knobs.cloud, 3))
        return np.concatenate([moved, self._colours[of[left]] / 255], axis=1).astype(np.float32), of[left]

    @cached_property
    def photo(self) -> tuple[NDArray[np.uint8], Floats]:
        """The picture (H, W, 3) and its depth (H, W)."""
        knobs, rng = self.knobs, self.rng("picture")
        points, normals, of = self._surface(DENSE * knobs.pixels**2, rng)
        image, depth = photograph(points, normals, self._colours[of], (*map(float, self.view),), knobs.pixels)  # type: ignore[arg-type]
        noise = 255 * knobs.noise * rng.standard_normal(image.shape)
        return (image + noise).clip(0, 255).astype(np.uint8), depth

    @property
    def _colours(self) -> Floats:
        return np.array([RGB[thing.colour] for thing in self.room], np.float32)

    def _surface(self, count: int, rng: np.random.Generator) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Points and normals (count, 3) of all things, and which thing each is of, in random order."""
        shares = rng.multinomial(count, np.full(len(self.room), 1 / len(self.room)))
        drawn = [thing.surface(int(share), rng) for thing, share in zip(self.room, shares, strict=True)]
        points, normals = (np.concatenate(side) for side in zip(*drawn, strict=True))
        order = rng.permutation(count)
        return points[order], normals[order], np.repeat(np.arange(len(self.room)), shares)[order]


def _texts(draft: _Draft) -> list[str]:
    """With the colours and without."""
    named = (_listed([f"{thing.colour} {thing.category}" for thing in draft.room]), _listed(_tags(draft)))
    return list(dict.fromkeys(named))


def _listed(things: list[str]) -> str:
    """`a red ball, a blue cone and an arch`."""
    with_article = [f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}" for thing in things]
    first, last = with_article[:-1], with_article[-1]
    return f"{', '.join(first)} and {last}" if first else last


def _tags(draft: _Draft) -> list[str]:
    return [thing.category for thing in draft.room]


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "image": lambda draft: Image.fromarray(draft.photo[0]),
    "depth": lambda draft: draft.photo[1],
    "view": lambda draft: draft.view,
    "points": lambda draft: draft.cloud[0],
    "point_objects": lambda draft: draft.cloud[1],
    "object_names": _tags,
    "text": lambda draft: _texts(draft)[0],
    "texts": _texts,
    "tags": _tags,
    "category": lambda draft: draft.room[0].category,
    "label": lambda draft: draft.world.classes.index(draft.room[0].category),
}


class Solids(Made[Room]):
    """A data set of solid things, one by one or several on a floor: `points`, `image`, `depth`, `view`, `text`, ...

    A cloud lies in the unit sphere, y up. `knobs.missing` and `knobs.spread` spoil it; the picture shows what is whole.
    Arguments and errors are those of `Made`.
    """

    fields: ClassVar = _FIELDS

    @property
    def group_size(self) -> int:
        """One: samples stand alone."""
        return 1

    @property
    def classes(self) -> tuple[str, ...]:
        """What there is."""
        return tuple(SOLIDS)[: self.knobs.shapes]

    @property
    def has(self) -> frozenset[str]:
        """The fields that every sample has; a class, where each holds a single thing."""
        return frozenset(_FIELDS) - (frozenset() if self.knobs.objects == (1, 1) else {"category", "label"})

    def members(self, base: int) -> list[Room]:
        """Things of some colours and proportions, each in a cell of its own of a square floor."""
        rng = stream("solids", self.seed, self.split, base)
        count = rng.randint(*self.knobs.objects)
        cells = math.ceil(math.sqrt(count))
        things = []
        for cell in rng.sample(range(cells * cells), count):
            row, column = divmod(cell, cells)
            wide = 1.3 / cells  # so that a corner of the floor is within the unit sphere
            x, z = ((place - (cells - 1) / 2) * wide for place in (column, row))
            stretch = tuple(rng.uniform(0.75, 1.25) for _ in range(3))
            things.append(
                Thing(
                    category=rng.choice(self.classes),
                    colour=rng.choice(self.words.colours),
                    stretch=(stretch[0], stretch[1], stretch[2]),
                    turn=rng.uniform(0, 2 * math.pi),
                    at=(x, 0.0, z),
                    scale=rng.uniform(0.85, 1.0) * wide / 1.3,
                )
            )
        return [tuple(things)]

    def draft(self, index: int) -> _Draft:
        """What the fields of a sample are computed from."""
        return _Draft(self, index)
