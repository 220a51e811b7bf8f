"""What stays is copied byte for byte, in order; what is broken goes and is listed; a killed command goes on."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from curation_helpers import contents, encoded, field, files, sample, write
from shard_helpers import drawing

from diptych.curation.blocks import blocks_of, parts_of
from diptych.curation.dedup import Dedup, DedupTask, Prints
from diptych.curation.filters import Filter, FilterTask, Seen
from diptych.curation.measure import Store, here, measured
from diptych.curation.run import curate
from diptych.data.dataset import ShardedData
from diptych.data.shards import sidecar

WORDS = FilterTask(Filter(words="2:"), Seen())


def many(count=20):
    return {f"s{n:03d}": sample(field((n, n, n)), "a dog" if n % 3 else "dog", number=n) for n in range(count)}


def test_what_stays_is_copied_byte_for_byte(tmp_path):
    samples = many()
    samples["extra"] = sample(field((1, 2, 3)), "two words") | {"depth.npz": b"not looked at", "flac": b"\0\1\2"}
    source = write(tmp_path / "in", samples, shard=8192, classes=["dog"], source="by hand")
    before = files(tmp_path / "in")
    assert sum(name.endswith(".tar") for name in before) > 3
    curate(WORDS, parts_of([source]), tmp_path / "out")
    expected = {key: members for key, members in samples.items() if b" " in members["txt"]}
    assert contents(tmp_path / "out") == expected
    assert files(tmp_path / "in") == before
    assert not (tmp_path / ".out.curation").exists()


def test_the_new_folder_is_a_data_set_like_the_old_one(tmp_path):
    source = write(tmp_path / "in", many(), classes=["dog"], source="by hand")
    curate(WORDS, parts_of([source]), tmp_path / "out")
    info = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (info["name"], info["licence"], info["source"], info["classes"]) == ("out", "CC0-1.0", "by hand", ["dog"])
    assert info["splits"] == {"train": {"samples": 13, "shards": 1}}
    assert info["curated"][0]["dropped"] == {"no caption left: too few words": 7}
    assert (tmp_path / "out" / sidecar("train-00000.tar")).is_file()
    curate(FilterTask(Filter(characters=":4"), Seen()), parts_of([str(tmp_path / "out")]), tmp_path / "empty")
    assert not list((tmp_path / "empty").glob("*.tar"))  # nothing is left, so that only the report is there
    curate(WORDS, parts_of([str(tmp_path / "out")]), tmp_path / "again")
    assert [done["task"] for done in json.loads((tmp_path / "again" / "dataset.json").read_text())["curated"]] == [
        "filter",
        "filter",
    ]


def test_what_is_broken_goes_and_is_listed(tmp_path):
    samples = {
        "whole": sample(encoded(drawing(0)), "a"),
        "cut": sample(encoded(drawing(1))[:200], "b"),
        "empty": sample(b"", "c"),
        "other": sample(encoded(drawing(2)), "d"),
    }
    source = write(tmp_path / "in", samples)
    outcome = curate(DedupTask(Dedup(), Prints()), parts_of([source]), tmp_path / "out")
    assert list(contents(tmp_path / "out")) == ["whole", "other"]
    assert outcome.reasons == {"broken": 2}
    rows = pq.read_table(tmp_path / "out" / "dropped.parquet").to_pylist()
    assert [(row["key"], row["reason"], row["shard"]) for row in rows] == [
        ("cut", "broken", "train-00000.tar"),
        ("empty", "broken", "train-00000.tar"),
    ]
    assert "cannot be decoded" in rows[0]["detail"]
    assert rows[1]["detail"] == "it has no image"


def test_what_goes_is_listed_with_what_it_duplicates(tmp_path):
    picture = encoded(drawing(0))
    source = write(tmp_path / "in", {"b": sample(picture, "a dog"), "a": sample(picture, "a dog")})
    curate(DedupTask(Dedup(), Prints()), parts_of([source]), tmp_path / "out")
    (row,) = pq.read_table(tmp_path / "out" / "dropped.parquet").to_pylist()
    expected = {"key": "b", "split": "train", "reason": "exact copy", "duplicate_of": "a", "in_split": "train"}
    assert row.items() >= {**expected, "figure": 0.0, "what": "sample", "source": source}.items()


def test_the_order_in_which_blocks_come_back_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.setattr("diptych.curation.blocks.SIZE", 3)

    def shuffled(look, blocks):
        yield from random.Random(0).sample(list(here(look, blocks)), len(blocks))

    source = write(tmp_path / "in", many(), shard=8192)
    curate(WORDS, parts_of([source]), tmp_path / "a" / "out")
    curate(WORDS, parts_of([source]), tmp_path / "b" / "out", spread=shuffled)
    assert files(tmp_path / "a" / "out") == files(tmp_path / "b" / "out")


def test_blocks_cover_every_sample_once_and_no_block_two_shards(tmp_path):
    source = write(tmp_path / "in", many(), shard=8192)
    data, blocks = ShardedData(source), blocks_of(parts_of([source]), 3)
    assert [n for block in blocks for n in range(block.begin, block.end)] == list(range(20))
    assert all(data.index.shard(block.begin) == data.index.shard(block.end - 1) for block in blocks)
    assert len({block.identity for block in blocks}) == len(blocks)


def test_a_shard_that_changed_is_measured_again(tmp_path):
    source = write(tmp_path / "in", many(), shard=8192)
    asked = []

    def counted(look, blocks):
        asked.append(len(blocks))
        return here(look, blocks)

    store, blocks = Store(tmp_path / "work"), blocks_of(parts_of([source]), 5)
    measured(WORDS.look, blocks, store, counted)
    measured(WORDS.look, blocks, store, counted)
    assert asked == [len(blocks)]  # nobody is asked where all is there
    os.utime(tmp_path / "in" / "train-00001.tar", (1, 1))
    again = blocks_of(parts_of([source]), 5)
    measured(WORDS.look, again, store, counted)
    assert asked[1:] == [sum(a.identity != b.identity for a, b in zip(blocks, again, strict=True))]
    assert 0 < asked[1] < len(blocks)


def test_a_dry_run_writes_the_report_alone_and_may_be_followed_by_a_real_one(tmp_path):
    source = write(tmp_path / "in", many())
    outcome = curate(WORDS, parts_of([source]), tmp_path / "out", dry_run=True)
    assert sorted(files(tmp_path / "out")) == ["curation.json", "dropped.parquet"]
    assert (outcome.after, outcome.written) == ({"train": 13}, {})
    curate(WORDS, parts_of([source]), tmp_path / "out")
    assert len(contents(tmp_path / "out")) == 13


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    source = write(tmp_path / "in", many(3))
    with pytest.raises(ValueError, match="is not empty"):
        curate(WORDS, parts_of([source]), tmp_path / "in")
    assert sorted(contents(source)) == ["s000", "s001", "s002"]


def test_several_folders_become_one_data_set(tmp_path):
    first = write(tmp_path / "one", {"k": sample(field((1, 1, 1)), "a dog"), "l": sample(field((2, 2, 2)), "dog")})
    second = write(tmp_path / "two", {"k": sample(field((3, 3, 3)), "a cat")})
    write(tmp_path / "two", {"v": sample(field((4, 4, 4)), "a cat")}, "val")
    outcome = curate(WORDS, parts_of([first, second]), tmp_path / "out")
    assert {key: members["txt"] for key, members in contents(tmp_path / "out").items()} == {
        "k": b"a dog",
        "k-2": b"a cat",
    }
    assert (outcome.before, outcome.after) == ({"train": 3, "val": 1}, {"train": 2, "val": 1})
    third = write(tmp_path / "three", {"m": sample(field((5, 5, 5)), "a cat")}, classes=["a"])
    fourth = write(tmp_path / "four", {"m": sample(field((5, 5, 5)), "a cat")}, classes=["b"])
    with pytest.raises(ValueError, match="number their classes differently"):
        curate(WORDS, parts_of([third, fourth]), tmp_path / "no")


def test_folders_whose_shards_have_no_split_in_their_names(tmp_path):
    write(tmp_path / "in", many(40))
    for name in ("train-00000.tar", sidecar("train-00000.tar")):
        (tmp_path / "in" / name).rename(tmp_path / "in" / name.replace("train-", ""))
    (tmp_path / "in" / "dataset.json").unlink()
    outcome = curate(WORDS, parts_of([str(tmp_path / "in")]), tmp_path / "out")
    assert sum(outcome.before.values()) == 40
    assert sorted({*contents(tmp_path / "out"), *contents(tmp_path / "out", "val")}) == [
        key for key, members in many(40).items() if b" " in members["txt"]
    ]


KILLED = """
import os, signal, sys
from pathlib import Path
from diptych.curation import blocks, measure, run
from diptych.curation.filters import Filter, FilterTask, Seen
blocks.SIZE = 3
work, after = Path(sys.argv[1]), int(sys.argv[2])
keep, done = measure.Store.keep, []
def counted(self, look, block, table):
    if len(done) == after:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(block)
    keep(self, look, block, table)
measure.Store.keep = counted
task = FilterTask(Filter(words="2:"), Seen())
run.curate(task, blocks.parts_of([str(work / "in")]), work / "out")
print(len(done))
"""


def test_a_killed_command_goes_on_where_it_stopped(tmp_path):
    source = write(tmp_path / "in", many(), shard=8192)

    def start(after):
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(after)]
        return subprocess.run(command, capture_output=True, text=True)

    total = len(blocks_of(parts_of([source]), 3))
    assert start(2).returncode == -9
    assert start(2).returncode == -9
    assert not (tmp_path / "out").exists()
    last = start(-1)
    assert int(last.stdout) == total - 4
    curate(WORDS, parts_of([source]), tmp_path / "unbroken" / "out")
    assert files(tmp_path / "out") == files(tmp_path / "unbroken" / "out")


def test_features_lie_in_a_file_and_not_in_memory(tmp_path):
    source = write(
        tmp_path / "in", {f"s{n}": sample(encoded(drawing(n)), "x") for n in range(7)} | {"z": sample(b"", "x")}
    )
    facts = measured(Prints(), blocks_of(parts_of([source]), 3), Store(tmp_path / "work"))
    rows = np.array([0, 2, 3, 6])
    array = facts.matrix("thumbnail", rows, (16, 16, 3), "uint8", tmp_path / "t.npy")
    assert isinstance(array, np.memmap)
    expected = [np.frombuffer(facts.table["thumbnail"][int(row)].as_py(), "uint8").reshape(16, 16, 3) for row in rows]
    np.testing.assert_array_equal(array, expected)
    assert Path(tmp_path / "t.npy").is_file()
