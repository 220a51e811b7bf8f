"""Duplicates are found and the better one stays; different pictures stay; nothing is dropped over a chain of others."""

import io

import numpy as np
import pytest
from curation_helpers import Colours, encoded, field, kept, sample, write
from PIL import Image
from shard_helpers import drawing

from diptych.curation.blocks import parts_of
from diptych.curation.dedup import COPY, Dedup, DedupTask, Prints, fates
from diptych.curation.embed import Embedder
from diptych.curation.run import curate


def always(stays, goes):
    return True


def decided(order, pairs, allowed=always, copies=None):
    representative = np.arange(max(order) + 1)
    for row, first in (copies or {}).items():
        representative[row] = first
    return fates(np.array(order), representative, np.array(pairs).reshape(-1, 2), allowed)


# -- which of them goes ------------------------------------------------------------------------------------------------


def test_the_first_in_order_stays():
    assert decided([0, 1], [(0, 1)]) == {1: (0, 1)}
    assert decided([1, 0], [(0, 1)]) == {0: (1, 0)}


def test_the_end_of_a_chain_stays():
    """0 and 2 are both like 1, but not like each other: 2 is like none that stays."""
    assert decided([0, 1, 2], [(0, 1), (1, 2)]) == {1: (0, 1)}
    assert decided([1, 0, 2], [(0, 1), (1, 2)]) == {0: (1, 0), 2: (1, 2)}


def test_copies_share_the_fate_of_the_first():
    assert decided([0, 1, 2], [], copies={1: 0, 2: 0}) == {1: (0, 1), 2: (0, 2)}
    assert decided([0, 1, 2], [(0, 1)], copies={2: 1}) == {1: (0, 1), 2: (0, 1)}


def test_what_may_not_go_stays():
    def leaks(stays, goes):
        return (stays < 2) != (goes < 2)  # 0 and 1 are one split, 2 and 3 the other

    assert decided([0, 1, 2, 3], [(0, 1), (1, 2), (2, 3)], leaks) == {2: (1, 2)}
    assert decided([0, 2, 3], [(0, 2)], leaks, copies={3: 2}) == {2: (0, 2), 3: (0, 2)}
    assert decided([2, 3], [], leaks, copies={3: 2}) == {}


@pytest.mark.parametrize("seed", range(5))
def test_what_stays_is_not_alike_and_what_goes_is_like_one_that_stays(seed):
    rng = np.random.default_rng(seed)
    pairs = {tuple(sorted(pair)) for pair in rng.integers(0, 30, (40, 2)).tolist() if pair[0] != pair[1]}
    gone = decided(rng.permutation(30), sorted(pairs))
    assert all(a in gone or b in gone for a, b in pairs)
    assert all(stays not in gone and tuple(sorted((row, stays))) in pairs for row, (stays, _) in gone.items())


# -- on shards ---------------------------------------------------------------------------------------------------------

PERCEPTUAL = DedupTask(Dedup(), Prints())


def planted(image, kind):
    if kind == "resized":
        return encoded(image.resize((60, 60), Image.Resampling.LANCZOS))
    if kind == "recompressed":
        return encoded(Image.open(io.BytesIO(encoded(image, "JPEG", quality=60))))
    return encoded(image)


@pytest.mark.parametrize("kind", ["copied", "resized", "recompressed"])
def test_planted_duplicates_go_and_different_pictures_stay(tmp_path, kind):
    samples = {f"a{seed}": sample(encoded(drawing(seed)), "a drawing of discs") for seed in range(12)}
    samples |= {f"b{seed}": sample(planted(drawing(seed), kind), "discs") for seed in range(0, 12, 3)}
    assert kept(PERCEPTUAL, parts_of([write(tmp_path / "in", samples)]), tmp_path / "out") == [
        f"a{seed}" for seed in range(12)
    ]


def test_the_larger_picture_then_the_longer_caption_then_the_smaller_key_stays(tmp_path):
    small, large = encoded(drawing(0, 96).resize((48, 48))), encoded(drawing(0, 96))
    one, other = encoded(drawing(1)), encoded(drawing(2))
    samples = {
        "small": sample(small, "a long caption of the smaller one"),
        "large": sample(large, "short"),
        "less": sample(one, "discs"),
        "more": sample(one, "discs on a ground"),
        "b": sample(other, "same"),
        "a": sample(other, "same"),
    }
    assert kept(PERCEPTUAL, parts_of([write(tmp_path / "in", samples)]), tmp_path / "out") == ["large", "more", "a"]


def test_of_two_splits_the_training_sample_goes(tmp_path):
    write(tmp_path / "in", {"t": sample(encoded(drawing(0, 128)), "large"), "u": sample(encoded(drawing(1)), "other")})
    write(tmp_path / "in", {"v": sample(encoded(drawing(0, 128).resize((64, 64))), "small")}, "val")
    outcome = curate(PERCEPTUAL, parts_of([str(tmp_path / "in")]), tmp_path / "out")
    assert outcome.after == {"train": 1, "val": 1}
    assert outcome.reasons == {"looks like another, which is in val": 1}


def test_duplicates_of_a_test_set_go_and_it_is_not_written(tmp_path):
    shared, own = encoded(drawing(0)), encoded(drawing(1))
    source = write(tmp_path / "in", {"leak": sample(shared, "a"), "x": sample(own, "b"), "y": sample(own, "b")})
    other = write(tmp_path / "other", {"t": sample(shared, "c"), "t2": sample(shared, "c")}, "test")
    parts = parts_of([source], [(other, "test")])
    outcome = curate(PERCEPTUAL, parts, tmp_path / "out")
    assert outcome.reasons == {f"{COPY}, which is in the set compared with": 1, COPY: 1}
    assert outcome.before == {"train": 3}
    leaks = DedupTask(Dedup(leaks_only=True), Prints())
    assert kept(leaks, parts, tmp_path / "leaks") == ["x", "y"]


def test_a_split_that_is_not_named_loses_nothing(tmp_path):
    same = sample(encoded(drawing(0)), "same")
    write(tmp_path / "in", {"t": same, "t2": same})
    source = write(tmp_path / "in", {"v": same, "v2": same}, "val")
    outcome = curate(PERCEPTUAL, parts_of([source], only=["train"]), tmp_path / "out")
    assert outcome.after == {"train": 0, "val": 2}
    with pytest.raises(ValueError, match="there are train, val"):
        parts_of([source], only=["test"])


def test_features_find_what_shows_the_same(tmp_path):
    """Mean colours (1, 0, 0), (1, 0.2, 0) and (1, 1, 0): cosines 0.9806, 0.7071 and 0.8321."""
    colours = {"red": (255, 0, 0), "reddish": (255, 51, 0), "yellow": (255, 255, 0)}
    samples = {key: sample(field(colour, (16, 16 + len(key))), "x") for key, colour in colours.items()}
    parts = parts_of([write(tmp_path / "in", samples)])

    def by(threshold):
        task = DedupTask(Dedup(by="embedding", threshold=threshold), Prints(Embedder(Colours(), texts=False)))
        return curate(task, parts, tmp_path / str(threshold))

    first = by(0.97)
    assert first.facts.table["key"].to_pylist()[int(np.flatnonzero(~first.verdicts.stays)[0])] == "red"
    assert np.nanmax(first.verdicts.figure) == pytest.approx(0.980581, abs=1e-5)
    assert by(0.99).reasons == {}
    assert [group.title for group in by(0.985).findings.groups] == ["Just not duplicates"]
    assert by(0.82).after == {"train": 1}  # both others are like "reddish", which is the largest
