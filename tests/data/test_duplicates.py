"""Equal and similar pictures are found, different ones are not, and the search is complete within its distance."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from shard_helpers import drawing

from diptych.data.duplicates import (
    Leak,
    find_duplicates,
    fingerprint,
    groups,
    near_pairs,
    phash,
    repeated_captions,
)


def again(image: Image.Image, scale: float = 0.7, quality: int = 70) -> Image.Image:
    """The same picture at another size, through JPEG."""
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def bits(a: int, b: int) -> int:
    return bin(a ^ b).count("1")


def test_hash_survives_size_and_compression_and_tells_pictures_apart() -> None:
    hashes = [phash(drawing(seed)) for seed in range(30)]
    assert np.mean([bits(h, phash(again(drawing(s)))) <= 4 for s, h in enumerate(hashes)]) >= 0.95
    assert min(bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 8


def test_hash_of_a_flat_picture_does_not_hang_on_rounding() -> None:
    assert len({phash(Image.new("RGB", (64, 48), (v, v, v))) for v in (3, 77, 128, 200, 255)}) == 1


def test_near_pairs_equal_brute_force() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 400, dtype=np.uint64) * np.uint64(2) + rng.integers(0, 2, 400, dtype=np.uint64)
    for index in range(200, 400):  # neighbours of the first ones, 0 to 6 bits away, anywhere in the hash
        flips = rng.choice(64, index % 7, replace=False)
        hashes[index] = hashes[index - 200] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    expected = [(i, j) for i in range(400) for j in range(i + 1, 400) if bits(int(hashes[i]), int(hashes[j])) <= 4]
    found = [tuple(pair) for pair in near_pairs(hashes).tolist()]
    assert found == expected
    assert len(found) > 100
    assert near_pairs(hashes, 2).tolist() == [[i, j] for i, j in expected if bits(int(hashes[i]), int(hashes[j])) <= 2]


def test_near_pairs_refuses_a_distance_it_would_miss() -> None:
    with pytest.raises(ValueError, match="at most 4"):
        near_pairs(np.zeros(3, dtype=np.uint64), 5)
    assert near_pairs(np.zeros(0, dtype=np.uint64)).shape == (0, 2)


def test_groups_join_chains() -> None:
    assert groups(np.array([[4, 5], [0, 2], [2, 3]]), 7) == [[0, 2, 3], [4, 5]]


def test_exact_near_and_leaks() -> None:
    a, b, c = drawing(1), drawing(2), drawing(3)
    pictures = {"a": a, "a-copy": a.copy(), "b": b, "b-small": again(b), "c": c, "a-val": again(a), "c-val": c.copy()}
    splits = ["val" if key.endswith("-val") else "train" for key in pictures]
    found = find_duplicates(list(pictures), splits, [fingerprint(image) for image in pictures.values()])
    assert sorted(found.exact) == [["a", "a-copy"], ["c", "c-val"]]
    assert sorted(found.near) == [["a", "a-copy", "a-val"], ["b", "b-small"]]
    assert sorted(found.leaks, key=lambda leak: leak.keys) == [
        Leak(("a", "a-val"), ("train", "val")),
        Leak(("c", "c-val"), ("train", "val")),
    ]


def test_colour_and_small_objects_keep_pictures_apart() -> None:
    """What the hash takes for equal and the thumbnail tells apart."""
    grounds = [Image.new("RGB", (64, 64), colour) for colour in ((200, 0, 0), (0, 0, 200), (255, 255, 255))]
    smalls = []
    for shape in ("ellipse", "line"):
        image = Image.new("RGB", (96, 96), "white")
        getattr(ImageDraw.Draw(image), shape)((44, 44, 54, 54), fill="black")
        smalls.append(image)
    pictures = grounds + smalls
    assert phash(grounds[0]) == phash(grounds[1])
    keys = [str(n) for n in range(len(pictures))]
    found = find_duplicates(keys, ["train"] * len(keys), [fingerprint(image) for image in pictures])
    assert found.exact == []
    assert found.near == []


def test_many_copies_stay_fast_and_complete() -> None:
    one = fingerprint(drawing(0))
    found = find_duplicates([str(n) for n in range(5000)], ["train"] * 4999 + ["test"], [one] * 5000)
    assert len(found.exact) == 1
    assert len(found.exact[0]) == 5000
    assert found.near == []
    assert found.leaks == [Leak(("0", "4999"), ("train", "test"))]


def test_nothing_gives_nothing() -> None:
    assert find_duplicates([], [], []).exact == []


def test_repeated_captions_ignore_case_and_spacing() -> None:
    found = repeated_captions(["1", "2", "3", "4"], ["train", "train", "val", "val"], ["A cat", "dog", "a  CAT", "cow"])
    assert found.exact == [["1", "3"]]
    assert found.leaks == [Leak(("1", "3"), ("train", "val"))]
