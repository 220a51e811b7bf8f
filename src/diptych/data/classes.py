"""Parts of a data set by class: a few samples of each, and the samples of some classes as a data set of its own.

The halves are those of the base-to-new protocol (Zhou et al., Conditional Prompt Learning for Vision-Language Models,
2022, section 4.1): of the classes in their order the first ceil(C / 2) are `base`, the others `new`.

Tasks to be learned one after the other are groups of classes that stand together in their order: so many of about equal
size, or one for each first part of the classes' names (`animals` of `animals/birds`), as in P9D, whose tasks are
industries (Zhu et al., CTP, 2023, arXiv 2308.07146, section 3).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np

from diptych.batch import Sample
from diptych.data.dataset import Dataset, Subset
from diptych.data.decode import BrokenSample
from diptych.data.mixture import Mixture

Half = Literal["base", "new"]


class OfClasses(Subset):
    """The samples of some classes of a data set; `label` counts these classes alone, from 0.

    `of` has the label of each sample, where it is known already.

    Raises:
        ValueError: the data set has no such class, or no sample of any of them.
    """

    def __init__(self, dataset: Dataset, classes: Sequence[str], called: str, of: np.ndarray | None = None) -> None:
        every = list(dataset.classes)
        unknown = [name for name in classes if name not in every]
        if unknown:
            raise ValueError(f"{dataset.name} has no class {unknown[0]!r}.")
        self._label = {every.index(name): label for label, name in enumerate(classes)}
        super().__init__(dataset, np.flatnonzero(np.isin(labels(dataset) if of is None else of, list(self._label))))
        if not len(self):
            raise ValueError(f"{dataset.name} ({dataset.split}) has no sample of the classes of {called!r}.")
        self._classes = tuple(classes)
        self.name = f"{dataset.name} {called}"

    @property
    def classes(self) -> tuple[str, ...]:
        """These classes."""
        return self._classes

    def read(self, index: int, fields: Collection[str]) -> Sample:
        """Reads from the whole data set, and counts the label anew."""
        sample = super().read(index, fields)
        if "label" not in sample:
            return sample
        return Sample(sample.key, {**sample, "label": self._label[int(sample.label)]}, sample.lacks)


def labels(dataset: Dataset) -> np.ndarray:
    """The label of each sample (N,) int64, -1 where it has none or cannot be read.

    Raises:
        ValueError: the data set has no classes.
    """
    if "label" not in dataset.has or len(dataset.classes) < 2:
        raise ValueError(f"{dataset.name} has no classes: give each sample a `category` (a folder a class will do).")
    found = np.full(len(dataset), -1, np.int64)
    for index in range(len(dataset)):
        try:
            found[index] = int(dataset.read(index, ("label",)).label)
        except BrokenSample:
            continue
    return found


def halves(classes: Sequence[str]) -> dict[Half, tuple[str, ...]]:
    """The classes of the base-to-new protocol."""
    middle = (len(classes) + 1) // 2
    return {"base": tuple(classes[:middle]), "new": tuple(classes[middle:])}


def half(dataset: Dataset, which: Half) -> OfClasses:
    """The samples of the base or of the new classes."""
    return OfClasses(dataset, halves(dataset.classes)[which], which)


def tasks(dataset: Dataset, groups: Mapping[str, Sequence[str]]) -> Mixture:
    """The samples of groups of classes as the parts of a mixture, which come as often as their sizes say.

    Raises:
        ValueError: a group has no sample.
    """
    of = labels(dataset)
    parts = [OfClasses(dataset, classes, name, of) for name, classes in groups.items()]
    return Mixture([(part, float(len(part))) for part in parts])


def groups_of_equal_size(dataset: Dataset, count: int) -> dict[str, tuple[str, ...]]:
    """The classes in their order, cut into so many groups where the samples before come nearest to equal shares.

    Raises:
        ValueError: fewer than two groups are asked for, or a class is so large that a group would be empty.
    """
    before = np.cumsum(np.bincount(_known(labels(dataset)), minlength=len(dataset.classes)))
    ideal = before[-1] * np.arange(1, count) / max(1, count)
    ends = [0, *(1 + np.abs(before - share).argmin() for share in ideal), len(before)]
    if count < 2 or any(end <= start for start, end in itertools.pairwise(ends)):
        raise ValueError(
            f"the {len(before)} classes of {dataset.name} cannot be cut into {count} tasks of about equal size: take "
            "two, or some more."
        )
    cuts = enumerate(itertools.pairwise(ends), start=1)
    return {f"task{number}": tuple(dataset.classes[start:end]) for number, (start, end) in cuts}


def groups_by_name(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """The classes by the first part of their names, in the order in which it is met.

    Raises:
        ValueError: there are not two such parts.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in dataset.classes:
        first = name.partition("/")[0]
        found[first] = (*found.get(first, ()), name)
    if len(found) < 2:
        raise ValueError(
            f"the classes of {dataset.name} have no names such as GROUP/CLASS of at least two groups: say how many "
            "tasks to make of them, as in SPEC#tasks5."
        )
    return found


def _known(of: np.ndarray) -> np.ndarray:
    return of[of >= 0]


def few_shot(dataset: Dataset, shots: int, draw: int = 0) -> Subset:
    """So many samples of each class, drawn by lot; all of a class that has fewer.

    The samples of one shot are among those of two in the same draw, and so on.

    Raises:
        ValueError: fewer than one sample of each class is asked for, or there are no classes.
    """
    if shots < 1:
        raise ValueError(f"{shots} samples of each class cannot be drawn: draw at least one.")
    of = labels(dataset)
    kept = [
        np.random.default_rng([draw, label]).permutation(np.flatnonzero(of == label))[:shots]
        for label in range(len(dataset.classes))
    ]
    return Subset(dataset, np.sort(np.concatenate(kept)))
