"""Pictures and captions that occur more than once, above all on both sides of a split.

A picture is judged by three fingerprints: a digest of its pixels (exact copies), a 64-bit perceptual hash (a DCT of
the grey picture at 32 x 32, as in pHash, Zauner 2010) and a 16 x 16 colour thumbnail. Near-duplicates are pairs
whose hashes differ in at most 4 bits *and* whose thumbnails look alike: the hash alone takes a red square for a blue
one, and a small drawing on white for any other. Among the drawings of openclipart, of 615 pairs by the hash 37 remain,
all of them copies or variants of one drawing; of copies at 0.6 of the size and JPEG quality 60, 90 % (openclipart) to
99 % (photos) are found.

The search never compares all with all. Of 6 bands of the hash at least 2 stay whole when 4 bits differ, so every
near pair shares one of the 15 pairs of bands; hashes are sorted by each pair of bands, and only neighbours compared.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

DISTANCE = 4
"""Bits in which the hashes of near-duplicates may differ."""
ALIKE = 0.08
"""Root-mean-square difference of two thumbnails that look alike, as a share of their contrast (standard deviation)."""
FLAT = 2.0
"""The same in grey levels (of 255), for pictures with hardly any contrast."""
_BANDS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))  # (first bit, bits) of each band


class Fingerprint(NamedTuple):
    """What is kept of a picture: 8 bytes of a digest of its pixels, its perceptual hash, its (16, 16, 3) thumbnail."""

    exact: int
    perceptual: int
    thumbnail: np.ndarray


def _dct_rows(count: int, size: int) -> np.ndarray:
    """The first `count` rows of the orthogonal DCT-II of `size` points: (count, size)."""
    frequency, position = np.mgrid[0:count, 0:size]
    rows = np.cos(np.pi * (2 * position + 1) * frequency / (2 * size)) * np.sqrt(2 / size)
    rows[0] /= np.sqrt(2)
    return rows


_DCT = _dct_rows(8, 32)
_MASKS = [
    np.uint64((((1 << a_bits) - 1) << a) | (((1 << b_bits) - 1) << b))
    for (a, a_bits), (b, b_bits) in combinations(_BANDS, 2)
]
_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)
_WEIGHTS = np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64))


def phash(image: Image) -> int:
    """The 64-bit perceptual hash: which of the 8 x 8 lowest DCT coefficients lie above their median."""
    from PIL import Image as Pictures

    grey = np.asarray(image.convert("L").resize((32, 32), Pictures.Resampling.BILINEAR), dtype=np.float64)
    low = (_DCT @ grey @ _DCT.T).ravel()  # (64,)
    # coefficients of a flat picture are rounding noise: the margin makes its hash the same on every machine
    bits = low > np.median(low[1:]) + 1e-6
    return int((_WEIGHTS * bits).sum(dtype=np.uint64))


def fingerprint(image: Image) -> Fingerprint:
    """All three fingerprints of an RGB picture."""
    from PIL import Image as Pictures

    digest = hashlib.sha1(repr(image.size).encode() + image.tobytes()).digest()[:8]
    thumbnail = np.asarray(image.convert("RGB").resize((16, 16), Pictures.Resampling.BILINEAR))
    return Fingerprint(int.from_bytes(digest, "big"), phash(image), thumbnail)


def near_pairs(hashes: np.ndarray, distance: int = DISTANCE) -> np.ndarray:
    """All pairs of (N,) uint64 hashes that differ in at most `distance` bits: (M, 2) int64, i < j, sorted.

    Raises:
        ValueError: for a distance above 4, which the bands do not guarantee to find.
    """
    if distance > DISTANCE:
        raise ValueError(f"near_pairs finds differences of at most {DISTANCE} bits, not {distance}.")
    hashes = np.asarray(hashes, dtype=np.uint64)
    found = [np.zeros((0, 2), dtype=np.int64)]
    for number in range(len(_MASKS)):
        found += _pairs_within(hashes, number, distance)
    pairs = np.sort(np.concatenate(found), axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _pairs_within(hashes: np.ndarray, number: int, distance: int) -> Iterator[np.ndarray]:
    """Near pairs that agree under this mask and no earlier one; each hash is compared with the next k, k = 1, 2, ..."""
    mask = _MASKS[number]
    order = np.argsort(hashes & mask, kind="stable")
    keys, sorted_hashes = (hashes & mask)[order], hashes[order]
    left = np.arange(len(hashes))
    step = 1
    while True:
        left = left[left < len(hashes) - step]
        left = left[keys[left] == keys[left + step]]  # whoever has no k-th equal neighbour has no later one either
        if not len(left):
            return
        difference = sorted_hashes[left] ^ sorted_hashes[left + step]
        near = count_bits(difference) <= distance
        for earlier in _MASKS[:number]:
            near &= (difference & earlier) != 0
        yield np.stack([order[left[near]], order[left[near] + step]], axis=1)
        step += 1


def count_bits(values: np.ndarray) -> np.ndarray:
    """Ones in each of (N,) uint64 values, by the table of one byte."""
    return _ONES[values.view(np.uint8).reshape(-1, 8)].sum(axis=1)


def groups(pairs: np.ndarray, count: int) -> list[list[int]]:
    """Joins pairs (M, 2) over `count` items into groups of at least two, each sorted, the largest group first."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for a, b in pairs.tolist():
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    members = defaultdict(list)
    for item in np.unique(pairs).tolist():
        members[root(item)].append(item)
    return sorted(members.values(), key=lambda group: (-len(group), group[0]))


@dataclass(frozen=True)
class Leak:
    """The same content in two splits: `keys` names one sample of each, `splits` their splits."""

    keys: tuple[str, str]
    splits: tuple[str, str]


@dataclass(frozen=True)
class Duplicates:
    """What occurs more than once. Groups hold sample keys; a leak is a pair of samples of different splits."""

    exact: list[list[str]] = field(default_factory=list)
    """groups of pictures that are equal pixel by pixel"""
    near: list[list[str]] = field(default_factory=list)
    """groups of pictures that look the same, exact copies included where a group has a third picture"""
    leaks: list[Leak] = field(default_factory=list)
    """pairs of pictures, equal or alike, that stand in different splits: one pair a picture of the later split"""


def find_duplicates(keys: Sequence[str], splits: Sequence[str], prints: Sequence[Fingerprint]) -> Duplicates:
    """Exact and near duplicates among N pictures, and those of them that stand in different splits."""
    exact, perceptual = (np.array([p[place] for p in prints], dtype=np.uint64) for place in (0, 1))
    thumbnails = np.stack([p.thumbnail for p in prints]) if prints else np.zeros((0, 16, 16, 3), dtype=np.uint8)
    representative = first_copies(exact)
    copies = np.stack([representative, np.arange(len(prints))], axis=1)
    copies = copies[copies[:, 0] != copies[:, 1]]
    near = alike_pairs(np.unique(representative), perceptual, thumbnails)
    every = np.concatenate([copies, near])
    alike = groups(every, len(prints))
    near_items = set(near.ravel().tolist())
    return Duplicates(
        exact=[[keys[i] for i in group] for group in groups(copies, len(prints))],
        near=[[keys[i] for i in group] for group in alike if not near_items.isdisjoint(group)],
        leaks=_leaks(alike, keys, splits),
    )


def first_copies(exact: np.ndarray) -> np.ndarray:
    """(N,) digests of pixels -> (N,) index of the first picture with the same pixels, which may be itself."""
    first, copy_of = np.unique(exact, return_index=True, return_inverse=True)[1:]
    return np.asarray(first[copy_of.ravel()])


def alike_pairs(
    chosen: np.ndarray, perceptual: np.ndarray, thumbnails: np.ndarray, distance: int = DISTANCE
) -> np.ndarray:
    """Pairs of pictures that look alike, by hash and by thumbnail: (M, 2) int64, i < j.

    Args:
        chosen: (K,) sorted indices of the pictures to be compared.
        perceptual: (N,) uint64 hashes of all.
        thumbnails: (N, 16, 16, 3) uint8 of all; of these only the pairs near by hash are read.
        distance: bits in which the hashes may differ, at most 4.
    """
    near = near_pairs(perceptual[chosen], distance)
    near = chosen[near] if len(near) else near
    return near[_alike(thumbnails, near)]


def _alike(thumbnails: np.ndarray, pairs: np.ndarray, block: int = 16_384) -> np.ndarray:
    """(M,) bool: whether the (N, 16, 16, 3) thumbnails of each pair look alike."""
    parts = [np.zeros(0, dtype=bool)]
    for start in range(0, len(pairs), block):
        a, b = thumbnails[pairs[start : start + block].T].astype(np.float32)
        difference = np.sqrt(np.square(a - b).mean(axis=(1, 2, 3)))
        contrast = (a.std(axis=(1, 2)).mean(axis=1) + b.std(axis=(1, 2)).mean(axis=1)) / 2
        parts.append(difference <= np.maximum(FLAT, ALIKE * contrast))
    return np.concatenate(parts)


def _leaks(alike: Iterable[Sequence[int]], keys: Sequence[str], splits: Sequence[str]) -> list[Leak]:
    """For each group that spans splits: every member outside the training (or the first) split, with one in it."""
    found = []
    for group in alike:
        home = min((splits[i] for i in group), key=lambda split: (split != "train", split))
        inside = next(i for i in group if splits[i] == home)
        found += [Leak((keys[inside], keys[i]), (home, splits[i])) for i in group if splits[i] != home]
    return found


def repeated_captions(keys: Sequence[str], splits: Sequence[str], texts: Sequence[str]) -> Duplicates:
    """Captions that several samples share, letter case and spacing aside; `near` stays empty.

    Short captions repeat without harm ("a cat"), so these are reported apart from pictures.
    """
    same = defaultdict(list)
    for index, text in enumerate(texts):
        same[" ".join(text.casefold().split())].append(index)
    repeated = sorted((group for group in same.values() if len(group) > 1), key=lambda group: (-len(group), group[0]))
    return Duplicates(exact=[[keys[i] for i in group] for group in repeated], leaks=_leaks(repeated, keys, splits))
