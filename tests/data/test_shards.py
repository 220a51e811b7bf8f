import hashlib
import itertools
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from shard_helpers import members_of, tar_bytes, write_set

from diptych.data import shards
from diptych.data.files import open_files
from diptych.data.index import join
from diptych.data.shards import (
    ShardWriter,
    read_dataset_json,
    read_index,
    shards_of,
    sidecar,
    split_of,
    write_dataset_json,
)
from diptych.data.tar import scan, split_name

TAR = "train-00000.tar"


def index_of(folder, tar=TAR):
    return read_index(open_files(folder), tar)


def same(one, other):
    columns = ("keys", "key_ends", "first", "extension", "block", "size", "starts")
    equal = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)
    return equal and one.extensions == other.extensions


# --- the writer -------------------------------------------------------------------------------------------------------


def test_stdlib_tarfile_reads_what_was_written(tmp_path):
    write_set(tmp_path, 3)
    with tarfile.open(tmp_path / TAR) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}
    expected = {f"sample_{n:05d}.{ext}": data for n in range(3) for ext, data in members_of(n).items()}
    assert found == expected


def test_webdataset_reads_what_was_written(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    write_set(tmp_path, 3)
    samples = list(webdataset.WebDataset(str(tmp_path / TAR), shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [f"sample_{n:05d}" for n in range(3)]
    assert [sample["txt"] for sample in samples] == [b"number 0", b"number 1", b"number 2"]


def test_the_same_samples_give_the_same_bytes(tmp_path):
    for name in "ab":
        write_set(tmp_path / name, 5)
    for file in (TAR, sidecar(TAR)):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with tarfile.open(tmp_path / "a" / TAR) as tar:
        info = tar.getmembers()[0]
    assert (info.mtime, info.uid, info.gid, info.uname) == (0, 0, 0, "")


def test_the_sidecar_points_at_the_bytes_of_each_member(tmp_path):
    write_set(tmp_path, 4)
    data = (tmp_path / TAR).read_bytes()
    rows = pq.read_table(tmp_path / sidecar(TAR)).to_pylist()
    assert [(row["key"], row["ext"]) for row in rows[:4]] == [
        ("sample_00000", "png"),
        ("sample_00000", "txt"),
        ("sample_00000", "json"),
        ("sample_00001", "png"),
    ]
    for row in rows:
        expected = members_of(int(row["key"][-5:]))[row["ext"]]
        assert data[row["offset"] : row["offset"] + row["size"]] == expected


def test_a_new_shard_begins_before_the_limit_is_passed(tmp_path):
    with ShardWriter(tmp_path, "val", max_bytes=10_000) as writer:
        for n in range(8):
            writer.add(f"k{n}", {"bin": bytes(4000)})
    assert (writer.samples, writer.shards) == (8, 4)  # two samples of 4,000 bytes in 10,000
    names = shards_of([path.name for path in tmp_path.iterdir()])["val"]
    whole = join([index_of(tmp_path, name) for name in names])
    assert [whole.key(i) for i in range(8)] == [f"k{n}" for n in range(8)]
    assert [whole.shard(i) for i in (0, 1, 2, 7)] == [names[0], names[0], names[1], names[3]]


def test_a_sample_larger_than_the_limit_gets_a_shard_of_its_own(tmp_path):
    with ShardWriter(tmp_path, "val", max_bytes=1000) as writer:
        for n in range(3):
            writer.add(f"k{n}", {"bin": bytes(4000)})
    assert writer.shards == 3


def test_an_error_while_writing_leaves_nothing_behind(tmp_path):
    def failing():
        with ShardWriter(tmp_path, "train", max_bytes=1000) as writer:
            for n in range(5):
                writer.add(f"k{n}", {"bin": bytes(600)})
            raise RuntimeError("power failure")

    with pytest.raises(RuntimeError, match="power failure"):
        failing()
    assert list(tmp_path.iterdir()) == []


def test_shards_have_their_names_only_when_all_are_complete(tmp_path):
    with ShardWriter(tmp_path, "train", max_bytes=1000) as writer:
        for n in range(3):
            writer.add(f"k{n}", {"bin": bytes(600)})
        assert shards_of([path.name for path in tmp_path.iterdir()]) == {}
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == [f"train-{n:05d}.tar" for n in range(3)]


def test_a_split_is_never_overwritten(tmp_path):
    write_set(tmp_path, 1)
    with pytest.raises(FileExistsError, match=r"train-00000\.tar exists; delete the split 'train'"):
        ShardWriter(tmp_path, "train")
    write_set(tmp_path, 1, split="val")


@pytest.mark.parametrize(
    ("key", "extension"),
    [
        ("../up", "txt"),
        ("/etc/passwd", "txt"),
        ("a.b", "txt"),
        ("", "txt"),
        ("folder/", "txt"),
        ("a\nb", "txt"),
        ("a", ""),
        ("a", "TXT"),
        ("a", "pkl"),
        ("a", "x.pth"),
        ("\ud800", "txt"),
        ("C:a", "txt"),
    ],
)
def test_names_that_could_not_be_read_back_are_refused(tmp_path, key, extension):
    with (
        pytest.raises(ValueError, match=r"cannot be a member|read back as"),
        ShardWriter(tmp_path, "t") as writer,
    ):
        writer.add(key, {extension: b"x"})
    assert list(tmp_path.iterdir()) == []


def test_the_same_key_twice_in_a_row_is_refused(tmp_path):
    with ShardWriter(tmp_path, "t") as writer:
        writer.add("a", {"txt": b"1"})
        with pytest.raises(ValueError, match="comes twice"):
            writer.add("a", {"txt": b"2"})
        with pytest.raises(ValueError, match="has no members"):
            writer.add("b", {})


# --- names and the scan -----------------------------------------------------------------------------------------------


def test_names_are_split_at_the_first_dot_of_the_basename():
    assert split_name("a.b/c.d.JPG") == ("a.b/c", "d.jpg")
    assert split_name("./x.txt") == ("x", "txt")


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_scanning_finds_what_the_standard_library_finds(kind):
    long = "folder/" * 20 + "name" * 10 if kind != tarfile.USTAR_FORMAT else "folder/" * 18 + "name" * 10
    names = ["a.txt", "a.jpg", "ü/ß.txt", f"{long}.txt", f"{long}.json", "z.txt"]
    data = tar_bytes([(name, name.encode() * n) for n, name in enumerate(names)], kind)
    found = scan(lambda offset, size: data[offset : offset + size], len(data), readahead=700)
    contents = [
        data[512 * block : 512 * block + size].decode() for block, size in zip(found.block, found.size, strict=True)
    ]
    assert contents == [name * n for n, name in enumerate(names)]
    ends = [0, *found.key_ends]
    keys = [found.keys[a:b].decode() for a, b in itertools.pairwise(ends)]
    assert keys == ["a", "ü/ß", long, "z"]
    assert list(found.first) == [0, 2, 3, 5]
    assert not found.skipped


def test_folders_are_no_members():
    folder = tarfile.TarInfo("a")
    folder.type = tarfile.DIRTYPE
    data = tar_bytes([(folder, b""), ("a/x.txt", b"hello")])
    found = scan(lambda offset, size: data[offset : offset + size], len(data))
    assert bytes(found.keys) == b"a/x"
    assert not found.skipped


def test_an_index_costs_few_bytes_a_sample(tmp_path):
    write_set(tmp_path, 300)
    index = index_of(tmp_path)
    columns = (index.keys, index.key_ends, index.first, index.extension, index.block, index.size)
    assert sum(column.nbytes for column in columns) / len(index) < 64  # a key of 12 bytes and three members


# --- the index --------------------------------------------------------------------------------------------------------


def test_sidecar_scan_and_cache_agree(tmp_path, cache, monkeypatch):
    write_set(tmp_path, 7)
    beside = index_of(tmp_path)
    (tmp_path / sidecar(TAR)).unlink()
    scanned = index_of(tmp_path)
    assert len(list(cache.rglob("*.parquet"))) == 1
    monkeypatch.setattr(shards, "scan", lambda *_, **__: pytest.fail("scanned although cached"))
    assert same(beside, scanned)
    assert same(beside, index_of(tmp_path))


def test_a_changed_tar_is_scanned_again(tmp_path, cache):
    path = tmp_path / TAR
    path.write_bytes(tar_bytes([("a.txt", b"1")]))
    assert index_of(tmp_path).key(0) == "a"
    path.write_bytes(tar_bytes([("b.txt", b"1"), ("c.txt", b"1")]))
    assert len(index_of(tmp_path)) == 2


def _append(folder):
    path = folder / TAR
    path.write_bytes(path.read_bytes()[:-1024] + tar_bytes([("extra.txt", b"1")]))


def _same_size_other_names(folder):
    write_set(folder / "other", 4, first=50)
    (folder / TAR).write_bytes((folder / "other" / TAR).read_bytes())


def _garbage(folder):
    (folder / sidecar(TAR)).write_bytes(b"PAR1" + bytes(100))


def _points_outside(folder):
    table = pq.read_table(folder / sidecar(TAR))
    rows = table.to_pydict()
    rows["size"][2] = 10**9
    changed = type(table).from_pydict(rows, schema=table.schema)
    pq.write_table(changed, folder / sidecar(TAR))


def _names_a_pickle(folder):
    table = pq.read_table(folder / sidecar(TAR))
    rows = table.to_pydict()
    rows["ext"][1] = "pkl"
    pq.write_table(type(table).from_pydict(rows, schema=table.schema), folder / sidecar(TAR))


@pytest.mark.parametrize("spoil", [_append, _same_size_other_names, _garbage, _points_outside, _names_a_pickle])
def test_a_sidecar_that_does_not_fit_its_tar_is_not_believed(tmp_path, spoil):
    write_set(tmp_path, 4)
    spoil(tmp_path)
    index = index_of(tmp_path)
    (tmp_path / sidecar(TAR)).unlink()
    assert same(index, index_of(tmp_path))
    assert "pkl" not in index.extensions


def test_what_was_left_out_is_remembered_by_the_cache(tmp_path):
    (tmp_path / TAR).write_bytes(tar_bytes([("a.txt", b"1"), ("../b.txt", b"1"), ("c.pkl", b"1")]))
    for _ in range(2):
        skipped = index_of(tmp_path).skipped[TAR]
        assert skipped.counts == {"the name leads out of its folder": 1, "a pickle could run code": 1}
        assert skipped.names["a pickle could run code"] == ["c.pkl"]


def test_an_unwritable_cache_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "file" / "below"))
    (tmp_path / TAR).write_bytes(tar_bytes([("a.txt", b"1")]))
    assert len(index_of(tmp_path)) == 1


def test_taking_some_samples_keeps_their_members(tmp_path):
    write_set(tmp_path, 9, max_bytes=8_000)
    files = open_files(tmp_path)
    whole = join([read_index(files, tar) for tar in shards_of(files.names())["train"]])
    chosen = np.array([1, 4, 5, 8])
    part = whole.take(chosen)
    for new, old in enumerate(chosen):
        assert part.key(new) == whole.key(old)
        assert part.members(new) == whole.members(old)
        assert part.shard(new) == whole.shard(old)


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_urls_give_what_the_disk_gives(tmp_path, scheme):
    import fsspec

    write_set(tmp_path, 5)
    url = f"file://{tmp_path}"
    if scheme == "memory":
        url = "memory://bucket/folder"
        system = fsspec.filesystem("memory")
        for path in tmp_path.iterdir():
            system.pipe_file(f"/bucket/folder/{path.name}", path.read_bytes())
    files = open_files(url)
    assert files.names() == open_files(tmp_path).names()
    index = read_index(files, TAR)
    assert same(index, index_of(tmp_path))
    offset, size = index.members(3)["txt"]
    assert files.read(TAR, offset, size) == b"number 3"
    if scheme == "memory":  # without the sidecar its tar is scanned through ranged reads
        system.rm_file(f"/bucket/folder/{sidecar(TAR)}")
        assert same(read_index(open_files(url), TAR), index)


def test_a_remote_read_is_tried_again(tmp_path, monkeypatch):
    from diptych.data import files as module

    write_set(tmp_path, 1)
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    files = open_files(f"file://{tmp_path}")
    system = files._files()
    honest, failures = system.cat_file, iter([TimeoutError("lost"), ConnectionError("lost"), None])

    def flaky(*args, **options):
        error = next(failures, None)
        if error:
            raise error
        return honest(*args, **options)

    monkeypatch.setattr(system, "cat_file", flaky)
    assert len(files.read(TAR, 0, 512)) == 512
    monkeypatch.setattr(system, "cat_file", lambda *_, **__: (_ for _ in ()).throw(TimeoutError("lost")))
    with pytest.raises(OSError, match=r"could not be read after 4 tries: lost"):
        files.read(TAR, 0, 512)


def test_many_shards_need_few_open_files(tmp_path):
    for n in range(140):
        (tmp_path / f"f{n}").write_bytes(bytes([n]))
    files = open_files(tmp_path)
    assert [files.read(f"f{n}", 0, 1)[0] for n in (*range(140), *range(140))] == [*range(140), *range(140)]
    assert len(files._open) == 128


# --- names of splits, dataset.json ------------------------------------------------------------------------------------


def test_splits_are_read_off_the_names():
    names = ["val-00000.tar", "train-00001.tar", "train-00000.tar", "00000.tar", "cc-train-000-of-010.tar", "x.txt"]
    assert shards_of(names) == {
        "val": ["val-00000.tar"],
        "train": ["train-00000.tar", "train-00001.tar"],
        "": ["00000.tar"],
        "cc-train": ["cc-train-000-of-010.tar"],
    }


def test_split_of_takes_one_key_in_ten_by_its_sha1():
    for key in ("oc_1", "emoji_a9", "ü"):
        expected = "val" if int(hashlib.sha1(key.encode()).hexdigest(), 16) % 10 == 0 else "train"
        assert split_of(key) == expected
    share = np.mean([split_of(str(n)) == "val" for n in range(5000)])
    assert 0.08 < share < 0.12


def test_dataset_json_round_trip(tmp_path):
    info = {"name": "x", "licence": "CC0", "classes": ["ä", "b"], "splits": {"train": {"samples": 3, "shards": 1}}}
    write_dataset_json(tmp_path, info)
    assert read_dataset_json(tmp_path) == info
    assert read_dataset_json(tmp_path.parent) == {}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[]", "not an object"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"classes": "a"}', "'classes' is not a list of strings"),
        ('{"has": [1]}', "'has' is not a list of strings"),
        ('{"splits": {"train": 3}}', "'splits' is not an object of objects"),
        ('{"name": ["x"]}', "'name' is not a string"),
    ],
)
def test_a_malformed_dataset_json_is_named(tmp_path, text, wrong):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=wrong) as raised:
        read_dataset_json(tmp_path)
    assert "dataset.json" in str(raised.value)


def test_dataset_json_that_could_not_be_read_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="'classes'"):
        write_dataset_json(tmp_path, {"classes": [1]})
    assert json.dumps(read_dataset_json(tmp_path)) == "{}"
