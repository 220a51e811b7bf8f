"""Several data sets as one, drawn by weight.

Which data set the p-th draw comes from is a fixed function of p, so that a run can go on anywhere and every stretch of
it has the right proportions: after any number of draws each data set has had its share to within two samples. Within a
data set its own epochs follow one another, each shuffled anew.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diptych.batch import Sample
from diptych.data.dataset import Dataset, Subset, some_of
from diptych.data.decode import BrokenSample
from diptych.data.stills import as_clips


class Mixture:
    """Data sets with weights. Sample i of part k has the index `offsets[k] + i`; an epoch is as long as all parts.

    It has the fields that all parts have (pictures are videos too where another part has videos), and `some` are those
    that a part has: read of each sample as far as its part has them. Classes are united, and labels renumbered
    accordingly. `names` (the parts' own names by default) are prefixes of the keys, and the names
    that `part` knows.

    Raises:
        ValueError: no parts, an empty part, a weight that is not above zero, or two equal names.
    """

    def __init__(self, parts: Sequence[tuple[Dataset, float]], names: Sequence[str] | None = None) -> None:
        self.parts = as_clips([dataset for dataset, _ in parts])
        self.names = tuple(names) if names else _distinct([dataset.name for dataset in self.parts])
        weights = [float(weight) for _, weight in parts]
        _check(self.parts, weights, self.names)
        self.weights = tuple(weight / sum(weights) for weight in weights)
        self.name, self.split = " + ".join(self.names), self.parts[0].split
        self.offsets = np.concatenate([[0], np.cumsum([len(dataset) for dataset in self.parts])]).astype(np.int64)
        self._tree = _tree(self.weights)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def has(self) -> frozenset[str]:
        """The fields that every part has."""
        return frozenset.intersection(*(dataset.has for dataset in self.parts))

    @cached_property
    def some(self) -> frozenset[str]:
        """The fields that at least one part has."""
        return frozenset.union(*map(some_of, self.parts))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes of all parts: as they are if they agree, else united and sorted."""
        each = [dataset.classes for dataset in self.parts]
        return each[0] if len(set(each)) == 1 else tuple(sorted(set().union(*each)))

    def part(self, name: str) -> Dataset:
        """One of the data sets by its name.

        Raises:
            KeyError: no part has this name; the message lists those that there are.
        """
        if name not in self.names:
            raise KeyError(f"the mixture has no part {name!r}; it has {', '.join(self.names)}.")
        return self.parts[self.names.index(name)]

    def key(self, index: int) -> str:
        """The name of a sample: part/key."""
        which, inner = self._locate(index)
        return f"{self.names[which]}/{self.parts[which].key(inner)}"

    def read(self, index: int, fields: Collection[str]) -> Sample:
        """Reads from the part that the index belongs to; a label counts the classes of the mixture.

        A field that this part does not have and another one does is not read: the sample `lacks` it.
        """
        which, inner = self._locate(index)
        lacks = frozenset(fields) & self.some - some_of(self.parts[which])
        fields = [name for name in fields if name not in lacks]
        own = self.parts[which].classes if "label" in fields else ()
        try:
            sample = self.parts[which].read(inner, fields)
        except BrokenSample as error:
            raise BrokenSample(f"{self.names[which]}/{error.key}", error.reason) from error
        values = dict(sample)
        if own and own != self.classes:
            values["label"] = self.classes.index(own[values["label"]])
        return Sample(f"{self.names[which]}/{sample.key}", values, lacks | sample.lacks)

    def order(self, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
        """int64 (N,): the draws `epoch` * N to (`epoch` + 1) * N. Samples come as often as the weights say."""
        draws = np.empty(len(self), np.int64)
        for which, places, turns in self._turns(epoch * len(self), len(self)):
            part = self.parts[which]
            # parts of one length must not be shuffled alike, so that each has a seed of its own
            own_seed = int(np.random.SeedSequence([seed, which]).generate_state(1)[0])
            passes = turns // len(part)
            for number in np.unique(passes):
                now = passes == number
                indices = part.order(int(number), own_seed, shuffle)[turns[now] % len(part)]
                draws[places[now]] = self.offsets[which] + indices
        return draws

    def _locate(self, index: int) -> tuple[int, int]:
        which = int(np.searchsorted(self.offsets, index, "right")) - 1
        return which, index - int(self.offsets[which])

    def _turns(self, start: int, count: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each part: its places among the draws start .. start + count, and how many it had before each."""
        pending = [(self._tree, np.arange(count), np.arange(start, start + count))]
        while pending:
            node, places, turns = pending.pop()
            if node.leaf is not None:
                yield node.leaf, places, turns
                continue
            # of the first t turns of this node, its first branch has round(t * share)
            before, after = (np.floor(t * node.share + 0.5).astype(np.int64) for t in (turns, turns + 1))
            first = after > before
            pending.append((node.branches[0], places[first], before[first]))
            pending.append((node.branches[1], places[~first], (turns - before)[~first]))


def parts_of(dataset: Dataset) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the parts of a mixture, or of some samples of one, and the number of each sample's part (N,).

    Of any other data set there is a single part, with its own name.
    """
    if isinstance(dataset, Mixture):
        return dataset.names, np.repeat(np.arange(len(dataset.parts)), [len(part) for part in dataset.parts])
    if isinstance(dataset, Subset):
        names, numbers = parts_of(dataset.dataset)
        return names, numbers[dataset.indices]
    return (dataset.name,), np.zeros(len(dataset), np.int64)


@dataclass(frozen=True)
class _Node:
    weight: float
    leaf: int | None = None
    branches: tuple[_Node, ...] = ()

    @property
    def share(self) -> float:
        return self.branches[0].weight / self.weight


def _tree(weights: Sequence[float]) -> _Node:
    """Huffman's tree: heavy parts near the root, so that the errors of rounding add up least."""
    tie = itertools.count()
    heap = [(weight, next(tie), _Node(weight, leaf=i)) for i, weight in enumerate(weights)]
    heapq.heapify(heap)
    while len(heap) > 1:
        (a, _, light), (b, _, heavy) = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (a + b, next(tie), _Node(a + b, branches=(heavy, light))))
    return heap[0][2]


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names made different by numbers: a, b, a -> a, b, a2."""
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    used: dict[str, int] = {}
    result = []
    for name in names:
        used[name] = used.get(name, 0) + 1
        result.append(name if used[name] == 1 else f"{name}{used[name]}")
    return tuple(result)


def _check(parts: Sequence[Dataset], weights: Sequence[float], names: Sequence[str]) -> None:
    if not parts:
        raise ValueError("a mixture needs at least one data set.")
    if len(set(names)) != len(parts):
        raise ValueError(f"a mixture of {len(parts)} data sets needs as many different names, not {', '.join(names)}.")
    for dataset, weight in zip(parts, weights, strict=True):
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"the weight of {dataset.name} is {weight}; it must be above 0.")
        if not len(dataset):
            raise ValueError(f"{dataset.name} ({dataset.split}) has no samples; leave it out of the mixture.")
