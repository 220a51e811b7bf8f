"""What a stranger could put into a shard: each case ends in a reason; nothing runs, is written or eats the memory."""

import gzip
import io
import itertools
import json
import os
import pickle
import resource
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from loader_helpers import forked
from PIL import Image
from shard_helpers import (
    bmp_header,
    gif_header,
    jpeg_header,
    members_of,
    npz,
    picture,
    png_header,
    special,
    tar_bytes,
    webp_header,
    write_set,
)

from diptych.batch import FIELDS
from diptych.data import tar as module
from diptych.data.dataset import ShardedData
from diptych.data.decode import (
    BrokenSample,
    Limits,
    decode_audio,
    decode_image,
    decode_json,
    decode_npz,
    decode_text,
    decode_video,
)
from diptych.data.fields import decode_sample
from diptych.data.files import open_files
from diptych.data.index import load, store
from diptych.data.loader import Loader
from diptych.data.shards import read_index
from diptych.data.tar import UnreadableTar, scan, split_name

fuzz = settings(
    deadline=None, max_examples=100, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Bomb:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def scanned(data):
    return scan(lambda offset, size: data[offset : offset + size], len(data))


def outcome(function, *arguments):
    """(what it gives, "") or (None, why not); any other exception fails the test."""
    try:
        return function(*arguments), ""
    except (BrokenSample, UnreadableTar, ModuleNotFoundError) as error:
        return None, str(error)


def keys(members):
    ends = [0, *members.key_ends]
    return [members.keys[a:b].decode() for a, b in itertools.pairwise(ends)]


# --- tars -------------------------------------------------------------------------------------------------------------

GOOD = [("a.txt", b"first"), ("z.txt", b"last")]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../etc/cron.d/x.txt", "the name leads out of its folder"),
        ("a/../../x.txt", "the name leads out of its folder"),
        ("/etc/passwd.txt", "the name is absolute"),
        ("~root/x.txt", "the name is absolute"),
        ("C:/x.txt", "the name is absolute"),
        ("..\\x.txt", "the name has control characters, backslashes or broken Unicode"),
        ("a\x1b[2J.txt", "the name has control characters, backslashes or broken Unicode"),
        ("a\udcff.txt", "the name has control characters, backslashes or broken Unicode"),
        ("x.pkl", "a pickle could run code"),
        ("x.tokens.PTH", "a pickle could run code"),
        ("x.pt.json", "a pickle could run code"),
        ("README", "the name has no key or no plain extension"),
        (".bashrc", "the name has no key or no plain extension"),
        ("x.$(reboot)", "the name has no key or no plain extension"),
        ("n" * 5000 + ".txt", "the name is too long"),
        (special("l.txt", tarfile.SYMTYPE, "/etc/passwd"), "a link"),
        (special("l.txt", tarfile.LNKTYPE, "a.txt"), "a link"),
        (special("d.txt", tarfile.CHRTYPE), "a device"),
        (special("d.txt", tarfile.BLKTYPE), "a device"),
        (special("p.txt", tarfile.FIFOTYPE), "a pipe"),
        (special("s.txt", tarfile.GNUTYPE_SPARSE), "a sparse file"),
        (special("v.txt", b"V"), "not a plain file"),
        ("a.txt", "its sample has another member with this extension"),
    ],
)
@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_with_no_business_in_a_shard_are_left_out(name, reason, kind):
    found = scanned(tar_bytes([GOOD[0], (name, b""), GOOD[1]], kind))
    assert found.skipped.counts == {reason: 1}
    assert keys(found) == ["a", "z"]
    assert list(found.size) == [5, 4]
    assert all(text.isprintable() for text in found.skipped.names[reason])  # safe to show


def header(name, size_field, kind=b"0"):
    """A header block with this size field, and the right checksum."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136], block[156:157] = size_field, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "field",
    [b"77777777777\0", b"\x80" + bytes(3) + (2**62).to_bytes(8, "big"), b"\x80" + b"\xff" * 11],
)
def test_sizes_beyond_the_end_are_left_out(field):
    found = scanned(header("huge.txt", field) + bytes(4096))
    assert keys(found) == []
    assert found.skipped.counts == {"the tar is cut short": 1}


@pytest.mark.parametrize("field", [b"-0000000777\0", b"\xff" * 12, b"12x4        ", b"\xff" + bytes(11)])
def test_sizes_that_lead_backwards_or_nowhere_end_the_scan(field):
    with pytest.raises(UnreadableTar, match="no tar header at byte 1024"):
        scanned(tar_bytes(GOOD[:1])[:1024] + header("x.txt", field) + bytes(1024))


@pytest.mark.parametrize("kind", [b"L", b"x", b"g", b"K"])
def test_a_giant_name_is_not_read(kind):
    with pytest.raises(UnreadableTar, match=r"claims \d+ bytes of name"):
        scanned(header("x", b"77777777777\0", kind) + bytes(4096))


@pytest.mark.parametrize(
    "record",
    [
        b"99999999 path=x\n",
        b"3 a\n",
        b"x path=y\n",
        b"-5 path=y\n",
        b"20 size=99999999999\n",
        b"0 \n",
        b"15 size=-4 4 4 4\n",
    ],
)
def test_malformed_pax_records_refuse_their_member_only(record):
    pax = header("pax", b"%011o\0" % len(record), b"x") + record.ljust(512, b"\0")
    found = scanned(tar_bytes(GOOD[:1])[:1024] + pax + tar_bytes([("x.txt", b"x"), GOOD[1]]))
    assert keys(found)[0] == "a"
    assert "x" not in keys(found)
    assert sum(found.skipped.counts.values()) >= 1


def test_the_size_in_a_pax_header_counts():
    record = b"12 size=600\n"
    data = header("pax", b"%011o\0" % len(record), b"x") + record.ljust(512, b"\0")
    data += header("x.txt", b"%011o\0" % 0) + bytes(1024) + tar_bytes(GOOD[1:])
    found = scanned(data)
    assert keys(found) == ["x", "z"]
    assert list(found.size) == [600, 4]


def test_a_tar_that_is_cut_short_keeps_what_is_whole():
    data = tar_bytes([("a.txt", b"x" * 600), ("b.txt", b"y" * 600)])
    found = scanned(data[: 512 + 1024 + 512 + 300])
    assert keys(found) == ["a"]
    assert found.skipped.counts == {"the tar is cut short": 1}


@pytest.mark.parametrize("data", [gzip.compress(tar_bytes(GOOD)), b"PK\x03\x04" * 500, b"\x89PNG" + bytes(2000)])
def test_what_is_no_tar_is_named(tmp_path, data):
    (tmp_path / "train-0.tar").write_bytes(data.ljust(1024, b"\1"))
    with pytest.raises(UnreadableTar, match=r"train-0\.tar is not a readable tar: .* byte 0; a compressed tar"):
        ShardedData(tmp_path)


def test_an_empty_tar_is_an_empty_data_set(tmp_path):
    for n, data in enumerate((b"", bytes(1024), tar_bytes([]))):
        (tmp_path / f"train-{n}.tar").write_bytes(data)
    data = ShardedData(tmp_path)
    assert (len(data), data.has, data.classes) == (0, frozenset(), ())


def test_many_members_cost_little_memory():
    block = tarfile.TarInfo("x.txt").tobuf(tarfile.GNU_FORMAT)
    count = 5_000
    tracemalloc.start()
    found = scan(lambda _, size: block * (size // 512), count * 512)  # a tar without an end, of empty members
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.skipped.counts == {"its sample has another member with this extension": count - 1}
    assert peak < 100_000  # 20 bytes a member


def test_a_sidecar_is_no_bomb(tmp_path):
    write_set(tmp_path, 40)
    size = (tmp_path / "train-00000.tar").stat().st_size
    names = pa.array(["x" * 4000, "y" * 4000]).take(pa.array(np.arange(120) % 2))  # 480 kB of names in a small table
    table = pq.read_table(tmp_path / "train-00000.index.parquet").set_column(0, "key", names)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    assert len(sink.getvalue()) < 30_000
    assert load(sink.getvalue(), "t", size) is None


def test_too_many_members_or_extensions_are_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_MEMBERS", 5)
    with pytest.raises(UnreadableTar, match="more than 5 members; pack it into several shards"):
        scanned(tar_bytes([(f"{n}.txt", b"") for n in range(6)]))
    monkeypatch.setattr(module, "MAX_EXTENSIONS", 3)
    found = scanned(tar_bytes([(f"a.e{n}", b"") for n in range(5)]))
    assert found.skipped.counts == {"too many different extensions": 2}


def test_reasons_are_counted_and_examples_are_few():
    found = scanned(tar_bytes([(f"{n}.pkl", b"") for n in range(500)]))
    assert found.skipped.counts == {"a pickle could run code": 500}
    assert len(found.skipped.names["a pickle could run code"]) == 20


# --- a folder of everything -------------------------------------------------------------------------------------------


def zoo(folder):
    """Ten good samples among every kind of bad one."""
    jpeg = picture((64, 64), Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG")
    bad = {
        "bad_truncated": {"jpg": jpeg[: len(jpeg) // 2], "txt": b"half a picture"},
        "bad_bomb": {"png": png_header(60_000, 60_000), "txt": b"60,000 pixels wide"},
        "bad_webp": {"webp": webp_header(16_000, 16_000), "txt": b"large"},
        "bad_caption": {"png": picture(), "txt": b"  \n"},
        "bad_picture": {"txt": b"no picture at all"},
        "bad_words": {"png": picture()},
        "bad_unicode": {"png": picture(), "txt": b"\xc3\x28"},
        "bad_json": {"png": picture(), "json": b'{"caption": "\\udc00"}'},
        "bad_text_as_png": {"png": b"#!/bin/sh\nreboot\n", "txt": b"script"},
    }
    ran = folder / "ran"
    rows = [(f"good_{n}.{ext}", data) for n in range(10) for ext, data in members_of(n).items()]
    rows += [(f"{key}.{ext}", data) for key, members in bad.items() for ext, data in members.items()]
    rows += [("../out.txt", b"x"), ("evil.pkl", pickle.dumps(Bomb(ran))), ("good_9.pth", pickle.dumps(Bomb(ran)))]
    rows += [(special("link.png", tarfile.SYMTYPE, "/etc/passwd"), b"")]
    (folder / "train-00000.tar").write_bytes(tar_bytes(rows))
    return set(bad)


def plain_views(sample, rng):
    return {"size": torch.tensor(sample.image.size), "words": len(sample.text)}


@pytest.mark.parametrize("workers", [0, 1])
def test_everything_bad_is_reported_and_harmless(tmp_path, workers):
    bad = zoo(tmp_path)
    before = {path for path in tmp_path.parent.rglob("*") if tmp_path in path.parents}
    data = ShardedData(tmp_path)
    loader = Loader(data, plain_views, ("image", "text"), 4, 0, workers=workers, max_broken=0.6)
    batches = list(loader.once())
    loader.close()
    assert sorted(key for batch in batches for key in batch.sample_keys) == sorted(f"good_{n}" for n in range(10))
    assert set(loader.quarantine) == bad
    assert all("\n" not in reason and len(reason) < 250 for reason in loader.quarantine.values())
    assert loader.quarantine["bad_bomb"] == "the picture has more than 89,478,485 pixels"
    assert loader.quarantine["bad_caption"] == "the text is empty"
    assert loader.quarantine["bad_picture"] == "it has no image"
    assert data.skipped["train-00000.tar"].counts == {
        "the name leads out of its folder": 1,
        "a pickle could run code": 2,
        "a link": 1,
    }
    after = {path for path in tmp_path.parent.rglob("*") if tmp_path in path.parents}
    assert after == before  # nothing was written, nothing ran


def test_pickles_are_in_no_list_of_members(tmp_path):
    zoo(tmp_path)
    data = ShardedData(tmp_path)
    assert not {"pkl", "pth"} & {ext for i in range(len(data)) for ext in data.index.members(i)}


def within_150_mib(say):
    bombs = [
        (decode_image, make(side, side)) for make in (png_header, bmp_header, jpeg_header) for side in (8_000, 60_000)
    ]
    bombs += [(decode_image, make(side, side)) for make in (webp_header, gif_header) for side in (8_000, 16_000)]
    bombs += [(decode_npz, npz(x=np.zeros(9_000_000))), (decode_json, b"[" * 4_000_000)]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (150 << 20),) * 2)
    for decode, data in bombs:
        _, reason = outcome(decode, data)
        say("refused" if reason and "MemoryError" not in reason else f"not refused: {data[:12]!r} {reason}")


@pytest.mark.skipif(sys.platform != "linux", reason="limits its address space")
def test_bombs_stay_within_150_mib():
    pid, told = forked(within_150_mib)
    assert told.read().splitlines() == ["refused"] * 12
    os.waitpid(pid, 0)


def test_many_frames_cost_one():
    frames = [Image.new("P", (500, 500), n) for n in range(60)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode_image(buffer.getvalue()).size == (500, 500)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 20_000  # KiB; all frames would take 45,000


# --- fuzzing ----------------------------------------------------------------------------------------------------------

SEED = tar_bytes([("a.txt", b"first"), ("long" * 40 + ".jpg", bytes(700)), ("ü.json", b"{}"), ("z.txt", b"")])
SEED_PAX = tar_bytes([("long" * 40 + ".jpg", bytes(700)), ("ü.json", b"{}"), ("z.txt", b"")], tarfile.PAX_FORMAT)
edits = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=12)


def edited(data, changes):
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    return bytes(changed)


def with_checksums(data):
    """The same tar with every block's checksum put right, so that edits get past it."""
    blocks = [bytearray(data[i : i + 512]) for i in range(0, len(data), 512)]
    for block in blocks:
        if block[257:262] == b"ustar" and len(block) == 512:
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(bytes(block) for block in blocks)


@fuzz
@given(st.sampled_from([SEED, SEED_PAX]), edits, st.booleans())
def test_fuzzed_tars_give_members_within_their_bounds_or_one_error(seed, changes, repaired):
    data = edited(seed, changes)
    found, reason = outcome(scanned, with_checksums(data) if repaired else data)
    if reason:
        return
    assert len(found.extension) == len(found.block) == len(found.size)
    for block, size in zip(found.block, found.size, strict=True):
        assert 512 <= block * 512 <= block * 512 + size <= len(data)
    for key in keys(found):
        assert split_name(f"{key}.txt") == (key, "txt")


@fuzz
@given(st.binary(max_size=3000))
def test_random_bytes_are_no_tar(data):
    found, reason = outcome(scanned, data)
    assert reason or len(found.size) == 0


@fuzz
@given(st.text("./\\~:aZ0 _-$\x00\x1b\n\x85\ud800üß語", max_size=40))
def test_every_name_is_a_plain_key_or_refused(name):
    try:
        key, extension = split_name(name)
    except ValueError:
        return
    assert split_name(f"{key}.{extension}") == (key, extension)
    assert ".." not in key.split("/")
    assert not key.startswith("/")


@fuzz
@given(edits)
def test_fuzzed_sidecars_never_point_outside(tmp_path, changes):
    if not (tmp_path / "train-00000.tar").exists():
        write_set(tmp_path, 4)
    sidecar = (tmp_path / "train-00000.index.parquet").read_bytes()
    size = (tmp_path / "train-00000.tar").stat().st_size
    index = load(edited(sidecar, changes), "t", size)
    if index is not None:
        assert (index.block.astype(int) * 512 + index.size <= size).all()
        assert all(index.members(i) and index.key(i) for i in range(len(index)))


PICTURES = [
    picture((24, 24), Image.effect_noise((24, 24), 80).convert("RGB"), kind)
    for kind in ("PNG", "WEBP", "GIF", "JPEG", "BMP")
]
ARRAYS = io.BytesIO()
np.savez(ARRAYS, a=np.arange(10), b=np.eye(3))


@fuzz
@given(st.sampled_from(PICTURES), edits)
def test_fuzzed_pictures_are_decoded_or_broken(data, changes):
    image, reason = outcome(decode_image, edited(data, changes), Limits(pixels=1_000_000))
    assert "\n" not in reason
    if not reason:
        assert image.mode == "RGB"
        assert image.width * image.height <= 1_000_000


@fuzz
@given(edits)
def test_fuzzed_arrays_are_decoded_or_broken(changes):
    found, reason = outcome(decode_npz, edited(ARRAYS.getvalue(), changes), Limits(bytes=10_000))
    assert reason or sum(array.nbytes for array in found.values()) <= 10_000


@fuzz
@given(
    st.binary(max_size=200),
    st.sampled_from([decode_text, decode_json, decode_npz, decode_image, decode_audio, decode_video]),
)
def test_random_bytes_are_decoded_or_broken(data, decode):
    found, reason = outcome(decode, data)
    assert reason or found is not None


words = st.text("ab ü\ud800\n", max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=8,
)
JSON_KEYS = sorted({key for field in FIELDS.values() for key in field.files if not key.startswith(".")} | {"caption"})
JSON_FIELDS = sorted({"text"} | {name for name, field in FIELDS.items() if {*field.files} & {*JSON_KEYS}})


@fuzz
@given(st.dictionaries(st.sampled_from(JSON_KEYS), values, max_size=5), st.sampled_from(JSON_FIELDS))
def test_any_json_gives_a_field_or_a_broken_sample(record, name):
    members = {"json": json.dumps(record).encode("utf-8", "surrogatepass"), "txt": b"a dog"}
    sample, reason = outcome(decode_sample, "k", members, [name])
    assert reason or sample[name] is not None


def test_reading_after_a_hostile_sidecar_stays_inside(tmp_path):
    write_set(tmp_path, 3)
    index = read_index(open_files(tmp_path), "train-00000.tar")
    index.block[:] = 2**31
    (tmp_path / "train-00000.index.parquet").write_bytes(store(index, (tmp_path / "train-00000.tar").stat().st_size))
    assert ShardedData(tmp_path).read(1, ("text",)).text == "number 1"
