"""Fuzzing by hypothesis: twenty-five examples a target in the quick tests, five thousand in the slow ones."""

import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from shard_helpers import film, picture, tar_bytes, write_set

from diptych import methods
from diptych.app import contestants, runs, sources
from diptych.batch import FIELDS
from diptych.config import from_dict, to_dict
from diptych.data.decode import (
    BrokenSample,
    Limits,
    decode_audio,
    decode_image,
    decode_json,
    decode_npz,
    decode_text,
)
from diptych.data.fields import decode_sample
from diptych.data.index import load
from diptych.data.pack import Packing, pack
from diptych.data.raw import SourceError
from diptych.data.tar import UnreadableTar, scan, split_name
from diptych.data.video import Video
from diptych.recipe import Recipe
from diptych.results import Row

FULL = os.environ.get("DIPTYCH_FUZZ") == "full"
fuzz = settings(
    deadline=None,
    max_examples=5000 if FULL else 25,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


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
FILMS = {
    "mp4": {},
    "mkv": {"container": "matroska", "codec": "libx264", "bf": "2"},
    "webm": {"container": "webm", "codec": "libvpx"},
    "avi": {"container": "avi"},
    "video.gif": {"container": "gif", "codec": "gif"},
}
_film = cache(film)
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
@given(st.sampled_from(sorted(FILMS)), edits)
def test_fuzzed_videos_are_decoded_or_broken(container, changes):
    data = edited(_film(**FILMS[container]), changes)
    frames, reason = outcome(lambda: list(Video(data, Limits(pixels=100_000), container)))
    assert "\n" not in reason
    assert reason or sum(frame.width * frame.height for frame in frames) <= 4_000_000


@fuzz
@given(
    st.binary(max_size=200),
    st.sampled_from([decode_text, decode_json, decode_npz, decode_image, decode_audio, Video]),
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


# --- packers ----------------------------------------------------------------------------------------------------------

cells = st.text("ab,;\t\"'\n\r\0é\ud800=../\\\x1b 019-²", max_size=12) | st.sampled_from(
    ["good.png", "train", "val", "[1]", "{"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | cells,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(cells, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["image", "caption", "label", "split", "key", "boxes", "tags", "spans", "points", "x"])


def packed(folder, name, data):
    """Packs a fuzzed source; it is packed, or refused by a sentence, and nothing is left beside it."""
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "good.png").write_bytes(picture())
    (folder / "in" / name).write_bytes(data)
    before = sorted(folder.iterdir())
    out = folder / f"out{len(before)}-{len(data)}"
    with contextlib.suppress(SourceError):
        report = pack(folder / "in" / name, out, packing=Packing(max_broken=1.0))
        assert report.written == sum(report.splits.values())
        assert str(report)
        json.loads((out / "dataset.json").read_text(encoding="utf-8"))
        for path in sorted(out.iterdir()):
            path.unlink()
        out.rmdir()
    assert sorted(folder.iterdir()) == before


@fuzz
@given(st.lists(st.lists(cells, max_size=5), max_size=6), st.sampled_from([",", ";", "\t"]))
def test_fuzzed_csv(tmp_path, lines, delimiter):
    text = "\n".join(["image,caption,label,split".replace(",", delimiter), *(delimiter.join(line) for line in lines)])
    packed(tmp_path, "t.csv", text.encode("utf-8", "surrogatepass"))


@fuzz
@given(st.binary(max_size=300))
def test_random_bytes_as_a_table(tmp_path, data):
    for name in ("t.csv", "t.jsonl", "t.json", "t.parquet"):
        packed(tmp_path, name, data)


@fuzz
@given(st.lists(st.dictionaries(names, json_values, max_size=4), max_size=5))
def test_fuzzed_json_lines(tmp_path, rows):
    rows = [{"image": "good.png", "caption": "a"} | row for row in rows]
    packed(tmp_path, "t.jsonl", "\n".join(json.dumps(row) for row in rows).encode("utf-8", "surrogatepass"))


_TEXTS = ("file_name", "filename", "filepath")
_VALUES = "id image_id width height caption category_id iscrowd name sentences"
entries = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(_TEXTS, cells)
    | dict.fromkeys(_VALUES.split(), json_values)
    | {"bbox": st.lists(json_values, max_size=5)},
)


@fuzz
@given(
    st.lists(entries, max_size=3),
    json_values | st.lists(entries, max_size=4),
    json_values | st.lists(entries, max_size=2),
)
def test_fuzzed_coco_and_karpathy(tmp_path, images, annotations, categories):
    images = [{"id": 1, "file_name": "good.png", "filename": "good.png"}, *images]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    packed(tmp_path, "captions_train.json", json.dumps(whole).encode("utf-8", "surrogatepass"))
    packed(tmp_path, "dataset_x.json", json.dumps({"images": images, "sentences": []}).encode("utf-8", "surrogatepass"))


TABLE = io.BytesIO()
pq.write_table(pa.table({"image": ["good.png"] * 9, "caption": [f"text {n}" for n in range(9)], "n": range(9)}), TABLE)


@fuzz
@given(edits)
def test_fuzzed_parquet(tmp_path, changes):
    packed(tmp_path, "t.parquet", edited(TABLE.getvalue(), changes))


# --- configuration ----------------------------------------------------------------------------------------------------

USUAL = {cls: to_dict(cls()) for cls in (Recipe, methods.config_class("clip"), methods.config_class("filip"))}


@fuzz
@given(st.sampled_from(list(USUAL)), st.data())
def test_fuzzed_options_are_of_their_types_or_refused(cls, data):
    changes = data.draw(st.dictionaries(st.sampled_from([*USUAL[cls], "x"]), json_values, max_size=3))
    try:
        made = from_dict(cls, USUAL[cls] | changes)
    except ValueError:
        return
    for name, usual in USUAL[cls].items():
        kinds = (int, float) if isinstance(usual, float) else type(usual)
        assert isinstance(to_dict(made)[name], kinds)


@fuzz
@given(st.dictionaries(st.sampled_from(["method", "config", "recipe", "data", "finished", "changed"]), json_values))
def test_fuzzed_runs_are_read_or_refused(tmp_path, changes):
    info = {"method": "clip", "config": {}, "recipe": {"batch": 1, "seed": 0}, "data": {"data": [], "val": []}}
    (tmp_path / "run.json").write_text(json.dumps(info | changes))
    try:
        run = runs.read(tmp_path)
    except runs.DamagedRun:
        return
    assert isinstance(run.method, str)
    assert isinstance(run.info["recipe"]["batch"], int)


@fuzz
@given(st.lists(st.dictionaries(st.sampled_from([*Row.__dataclass_fields__, "x"]), json_values), max_size=3))
def test_fuzzed_results_are_rows_or_refused(tmp_path, rows):
    info = {"method": "clip", "config": {}, "recipe": {"batch": 1, "seed": 0}, "data": {"data": [], "val": []}}
    (tmp_path / "run.json").write_text(json.dumps(info))
    (tmp_path / "results.json").write_text(json.dumps(rows))
    with contextlib.suppress(runs.DamagedRun):
        assert all(isinstance(row.value, float | int) for row in runs.read(tmp_path).rows)


@fuzz
@given(st.text("world:starter@#.=,_ -0159objectsnamed/~\0\ud800\x1b", max_size=30))
def test_fuzzed_sources_are_opened_or_refused(tmp_path, text):
    with contextlib.suppress(ValueError, OSError):
        sources.with_split(text, "val")
        assert len(sources.open_sources("world:" + text.partition(":")[2], "val")) >= 0


@fuzz
@given(st.text("clipfilip:=,.-_ lrkeeptau0159'\"\\\0é[]{}", max_size=30))
def test_fuzzed_contestants_are_read_or_refused(text):
    silent = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with contextlib.suppress(ValueError, SystemExit), silent[0], silent[1]:
        assert contestants.side("clip:" + text).method == "clip"


@pytest.mark.slow
def test_thousands_of_examples_a_target():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-q", "-m", "not slow"],
        env=os.environ | {"DIPTYCH_FUZZ": "full"},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stdout[-5000:]
