"""A data set in memory whose samples say who they are."""

import os

import numpy as np
import torch

from diptych.batch import Sample
from diptych.data.dataset import permutation
from diptych.data.decode import BrokenSample


class Numbers:
    """Sample i has the number i; those in `broken` cannot be read."""

    has = frozenset({"number", "label"})

    def __init__(self, size, broken=(), name="numbers", classes=("a", "b")):
        self.size, self.broken, self.name, self.split = size, frozenset(broken), name, "train"
        self.classes = tuple(classes)

    def __len__(self):
        return self.size

    def key(self, index):
        return f"{self.name}_{index}"

    def read(self, index, fields):
        if index in self.broken:
            raise BrokenSample(self.key(index), "damaged")
        return Sample(self.key(index), {"number": index, "label": index % len(self.classes)})

    def order(self, epoch, seed, shuffle):
        return permutation(self.size, epoch, seed, shuffle)


def views(sample, rng):
    """The number of a sample, and one random number."""
    noise = 0.0 if rng is None else rng.random()
    return {"number": sample.number, "noise": torch.tensor([noise], dtype=torch.float64)}


def numbers(batches):
    return [batch["number"].tolist() for batch in batches]


def flat(batches):
    return np.concatenate(numbers(batches)).astype(int).tolist()


def forked(function):
    """Runs `function(say)` in a child of its own; gives the child's id and a file with the words that it says."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            function(lambda *words: os.write(writing, (" ".join(map(str, words)) + "\n").encode()))
        finally:
            os._exit(0)
    os.close(writing)
    return pid, os.fdopen(reading)
