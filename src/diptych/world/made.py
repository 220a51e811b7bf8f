"""What all data sets of the world share: samples that are made when they are read, the same ones every time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from diptych.batch import Sample, require
from diptych.config import nearest
from diptych.world.draw import Sprite
from diptych.world.generate import vocabulary
from diptych.world.knobs import Knobs

Item = TypeVar("Item")
SPLITS = ("train", "val", "test", "composition", "gallery")
KEPT = 128 * 2**20
"""bytes, about, of samples that a data set keeps in a process once they are made"""


class Made(Generic[Item]):
    """A data set without files, of items that are made from a seed: scenes, pairs of scenes, or clips.

    A subclass says what its items are (`members`), its fields, and what a field is computed from (`draft`).

    Args:
        split: one of `SPLITS`; they share no scene. `composition` names held-out (category, colour) pairs only.
        size: number of samples; by default `knobs.train` or `knobs.evaluation`. Whole groups only.
        seed: another seed is another world with the same rules.
        knobs: how hard it is.
        sprites: cut-outs to show in place of drawn shapes.

    Raises:
        ValueError: there is no such split, or the knobs allow no such scenes.
    """

    fields: ClassVar[Mapping[str, Callable[[Any], Any]]]

    def __init__(
        self,
        split: str = "train",
        size: int | None = None,
        seed: int = 0,
        knobs: Knobs = Knobs(),  # noqa: B008 (frozen)
        sprites: Sequence[Sprite] = (),
    ) -> None:
        if split not in SPLITS:
            raise ValueError(nearest(split, SPLITS, "split of the world called"))
        self.name = "world"
        self.split, self.seed, self.knobs = split, seed, knobs
        self.words = vocabulary(knobs, [sprite.name for sprite in sprites])
        if split == "composition" and not self.words.held_out:
            raise ValueError(
                "the split composition needs held-out pairs: set composition above 0, with at least two categories "
                "and two colours (cut-outs have colours only with tint=true)."
            )
        self.sprites = {sprite.name: sprite for sprite in sprites}
        wanted = size if size is not None else knobs.train if split == "train" else knobs.evaluation
        self._size = wanted - wanted % self.group_size
        self._last_group: tuple[int, Sequence[Item]] = (-1, ())
        self._kept: dict[int, dict[str, Any]] = {}
        if self._size < 1:
            raise ValueError(f"a world of {wanted} scenes has no whole group of {self.group_size}: ask for more.")
        self.item(0)  # knobs that allow no scene, or too few different ones, are found out here

    @property
    def group_size(self) -> int:
        """How many consecutive samples belong together."""
        raise NotImplementedError

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that `label` and `labels` count."""
        raise NotImplementedError

    def members(self, base: int) -> Sequence[Item]:
        """The items of the group that begins at `base`."""
        raise NotImplementedError

    def draft(self, index: int) -> Any:
        """What the fields of a sample are computed from."""
        raise NotImplementedError

    @property
    def has(self) -> frozenset[str]:
        """The fields that every sample has."""
        return frozenset(self.fields)

    def __len__(self) -> int:
        return self._size

    def key(self, index: int) -> str:
        """The name of a sample, unique over seeds and splits."""
        return f"{self.name}-{self.seed}-{self.split}-{index:06d}"

    def base(self, index: int) -> int:
        """Where the group of a sample begins."""
        return index - index % self.group_size

    def item(self, index: int) -> Item:
        """What is behind a sample.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= index < self._size:
            raise IndexError(f"the split {self.split} of this world has {self._size} scenes: there is no {index}.")
        base = self.base(index)
        if self._last_group[0] != base:
            self._last_group = base, self.members(base)
        return self._last_group[1][index - base]

    def read(self, index: int, fields: Collection[str]) -> Sample:
        """The fields asked for of one sample, and nothing else is computed; nothing twice, while there is room.

        Raises:
            MissingField: a field that this world does not have.
            IndexError: there is no such sample.
        """
        require(self.has, fields, who="the reader", source=f"the split {self.split} of the world")
        index = int(index)  # numpy integers are not JSON
        known = self._kept.get(index, {})
        new = [name for name in fields if name not in known]
        if new:
            draft = self.draft(index)
            known = {**known, **{name: self.fields[name](draft) for name in new}}
            if index in self._kept or len(self._kept) < self.room:
                self._kept[index] = known
        return Sample(self.key(index), {name: known[name] for name in fields})

    @property
    def room(self) -> int:
        """How many samples are kept; the first that are read."""
        knobs = self.knobs
        pictures = 0 if knobs.text else 2 if knobs.pairs else knobs.frames if knobs.video else 1
        return int(KEPT // (4096 + 3 * pictures * knobs.pixels**2))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": {}}

    def order(self, epoch: int, seed: int, shuffle: bool) -> NDArray[np.int64]:
        """The indices of one epoch, int64; groups are shuffled as wholes, so that they meet in a batch."""
        starts = np.arange(0, self._size, self.group_size, dtype=np.int64)
        if shuffle:
            np.random.default_rng([seed, epoch]).shuffle(starts)
        return (starts[:, None] + np.arange(self.group_size)).ravel()
