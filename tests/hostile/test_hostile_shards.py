"""What a stranger could put into a shard: each case ends in a reason; nothing runs, is written or eats the memory."""

import gzip
import io
import itertools
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
from hypothesis import HealthCheck, settings
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

from diptych.data import tar as module
from diptych.data.dataset import ShardedData
from diptych.data.decode import (
    BrokenSample,
    decode_image,
    decode_json,
    decode_npz,
)
from diptych.data.files import open_files
from diptych.data.index import load, store
from diptych.data.loader import Loader
from diptych.data.shards import read_index
from diptych.data.tar import UnreadableTar, scan

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


def test_reading_after_a_hostile_sidecar_stays_inside(tmp_path):
    write_set(tmp_path, 3)
    index = read_index(open_files(tmp_path), "train-00000.tar")
    index.block[:] = 2**31
    (tmp_path / "train-00000.index.parquet").write_bytes(store(index, (tmp_path / "train-00000.tar").stat().st_size))
    assert ShardedData(tmp_path).read(1, ("text",)).text == "number 1"
