"""Pictures as clips that stand still, so that data sets of pictures and of videos can be one."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from diptych.batch import Sample
from diptych.data.dataset import Dataset


class Stills:
    """A data set of pictures that has `video` too: a clip of one frame."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.name, self.split = dataset.name, dataset.split

    @property
    def has(self) -> frozenset[str]:
        """The fields of the data set, and `video`."""
        return self.dataset.has | {"video"}

    @property
    def classes(self) -> tuple[str, ...]:
        """As in the data set."""
        return self.dataset.classes

    def __len__(self) -> int:
        return len(self.dataset)

    def key(self, index: int) -> str:
        """As in the data set."""
        return self.dataset.key(index)

    def read(self, index: int, fields: Collection[str]) -> Sample:
        """The fields; the video is a list of the picture alone."""
        wanted = {"image" if name == "video" else name for name in fields}
        sample = self.dataset.read(index, tuple(wanted))
        return Sample(sample.key, {name: [sample.image] if name == "video" else sample[name] for name in fields})

    def order(self, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
        """As in the data set."""
        return self.dataset.order(epoch, seed, shuffle)


def as_clips(parts: Collection[Dataset]) -> list[Dataset]:
    """The data sets; where one of them has videos, those of pictures have them as well."""
    moving = any("video" in part.has for part in parts)
    return [Stills(part) if moving and "video" not in part.has and "image" in part.has else part for part in parts]
