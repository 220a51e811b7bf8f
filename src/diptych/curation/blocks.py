"""The samples to be curated, in blocks: runs of samples of one shard, which is what a worker does at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from diptych.data.dataset import ShardedData, splits

SIZE = 256
"""Samples of a block."""


@dataclass(frozen=True)
class Part:
    """One split of a folder of shards."""

    path: str
    split: str
    written: bool = True
    """False: samples are only compared with these (`--against`)"""
    judged: bool = True
    """False: nothing of it is dropped"""


@dataclass(frozen=True)
class Block:
    """The samples `begin` to `end` of a part, by their numbers in it."""

    part: int
    """place of the part among all"""
    path: str
    split: str
    begin: int
    end: int
    identity: str
    """changes whenever these samples may have changed: address, size and time of their shard, and which of it"""

    def __len__(self) -> int:
        return self.end - self.begin


def parts_of(paths: Sequence[str], against: Sequence[tuple[str, str]] = (), only: Sequence[str] = ()) -> list[Part]:
    """Every split of some folders, then those of `against` (folder, split; an empty split stands for all).

    Args:
        paths: folders or URLs of shards.
        against: what the samples are compared with.
        only: splits of which samples may be dropped; all where none is named.

    Raises:
        FileNotFoundError: there is no such folder, or no shards in it.
        ValueError: `only` names a split that there is not.
    """
    own = [(path, split) for path in paths for split in splits(path)]
    for name in only:
        if name not in {split for _, split in own}:
            there = ", ".join(sorted({split for _, split in own}))
            raise ValueError(f"there is no split {name!r}; there are {there}.")
    others = [(path, split) for path, chosen in against for split in ([chosen] if chosen else splits(path))]
    return [Part(path, split, True, not only or split in only) for path, split in own] + [
        Part(path, split, False, False) for path, split in others
    ]


def blocks_of(parts: Sequence[Part], size: int = 0) -> list[Block]:
    """All samples of all parts, in order, in blocks of at most `size`, or of the usual size."""
    return [block for number, part in enumerate(parts) for block in _blocks(number, part, size or SIZE)]


def _blocks(number: int, part: Part, size: int) -> Iterator[Block]:
    data = opened(part.path, part.split)
    for shard, (first, last) in zip(data.index.shards, pairwise(data.index.starts.tolist()), strict=True):
        stamp = data.files.stamp(shard)
        for begin in range(first, last, size):
            end = min(begin + size, last)
            which = f"{stamp}\n{part.split}\n{begin - first}\n{end - first}"
            yield Block(number, part.path, part.split, begin, end, which)


@lru_cache(maxsize=64)
def opened(path: str, split: str) -> ShardedData:
    """A split of a folder, opened once a process."""
    return ShardedData(path, split)
