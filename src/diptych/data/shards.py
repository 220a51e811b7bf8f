"""Shards on disk: uncompressed tars in the WebDataset layout, each with a sidecar index beside it.

    DATA/train-00000.tar               the members of one sample lie side by side: KEY.webp, KEY.txt, KEY.json, ...
    DATA/train-00000.index.parquet     where each member lies: columns key, ext, offset, size
    DATA/dataset.json                  optional: name, licence, source, classes, has, splits

The index makes reading random-access. Folders without sidecars work as well: their tars are scanned once and the index
is kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from diptych.data.files import Files, open_files
from diptych.data.index import Index, from_members, load, store
from diptych.data.tar import BLOCK, MAX_NAME, MAX_SIZE, Members, UnreadableTar, scan, split_name
from diptych.text import one_line

DESCRIPTION = "dataset.json"
_DESCRIPTION_BYTES = 16 << 20
_PARQUET = 1 << 16  # bytes of the frame of a table
_LARGEST_SIDECAR = 1 << 30
_MOST_SHARDS = 1_000_000  # of a split
_SPLIT = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*[A-Za-z_]|[A-Za-z]")  # no path can be written so
_SHARD = re.compile(r"(?P<split>.*?)[-_.]?\d+(-of-\d+)?\.tar")


def split_of(key: str, every: int = 10) -> str:
    """The split of a sample whose source knows none: one key in `every`, by its SHA-1, is `val`, the others `train`."""
    digest = hashlib.sha1(key.encode("utf-8"), usedforsecurity=False).hexdigest()
    return "val" if int(digest, 16) % every == 0 else "train"


def shards_of(names: list[str]) -> dict[str, list[str]]:
    """File names -> the tars of each split, in order; tars without a split in their name are under ''."""
    splits: dict[str, list[str]] = {}
    for name in sorted(names):
        match = _SHARD.fullmatch(name)
        if match or name.endswith(".tar"):
            splits.setdefault(match["split"] if match else name.removesuffix(".tar"), []).append(name)
    return splits


def sidecar(tar: str) -> str:
    """Name of the index beside a tar."""
    return tar.removesuffix(".tar") + ".index.parquet"


# --- reading ----------------------------------------------------------------------------------------------------------


def read_index(files: Files, tar: str) -> Index:
    """The index of one tar: from its sidecar if that is fresh, else from the cache, else by scanning the headers.

    Raises:
        UnreadableTar: the file is no uncompressed tar; the message names it.
    """
    size = files.size(tar)
    beside = _load_sidecar(files, tar, size)
    if beside is not None:
        return beside
    cached = cache_file("index", files.stamp(tar), ".parquet")
    if cached.exists():
        index = load(cached.read_bytes(), tar, size)
        if index is not None:
            return index
    try:
        members = scan(lambda offset, length: files.read(tar, offset, length), size, readahead=files.readahead)
    except UnreadableTar as error:
        raise UnreadableTar(f"{files.path}/{tar} is not a readable tar: {error}.") from None
    index = from_members(members, tar)
    write_file(cached, store(index, size))
    return index


def _load_sidecar(files: Files, tar: str, size: int) -> Index | None:
    """The index beside the tar; None where there is none or where it belongs to another tar."""
    try:
        length = files.size(sidecar(tar))
        if length > min(size + _PARQUET, _LARGEST_SIDECAR):  # what it lists lies in the tar as well
            return None
        index = load(files.read(sidecar(tar), 0, length), tar, size)
    except FileNotFoundError:
        return None
    if index is None or not len(index):
        return None
    ends = (0, len(index.block) - 1)  # a tar that was written again, with the same size, has other headers here
    return index if all(_header_agrees(files, tar, index, member) for member in ends) else None


def _header_agrees(files: Files, tar: str, index: Index, member: int) -> bool:
    header = files.read(tar, (int(index.block[member]) - 1) * BLOCK, BLOCK)
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    name = index.member_name(member)
    return info.size == index.size[member] and (len(name) > 90 or info.name.lower().endswith(name.lower()))


def cache_file(kind: str, identity: str, suffix: str) -> Path:
    """Where something that was computed from the data `identity` is kept (DIPTYCH_CACHE, else ~/.cache/diptych)."""
    folder = Path(os.environ.get("DIPTYCH_CACHE") or Path.home() / ".cache" / "diptych").expanduser()
    return folder / kind / (hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:32] + suffix)


def write_file(path: Path, data: bytes) -> None:
    """Writes a file of the cache; where there is no room or no right to write, it is computed again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)
    except OSError:
        return


def _replace(path: Path, data: bytes) -> None:
    """Writes a file so that it is whole or not there."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    os.replace(part, path)


# --- the description --------------------------------------------------------------------------------------------------


def read_dataset_json(folder: str | os.PathLike[str] | Files) -> dict[str, Any]:
    """The content of `dataset.json`, checked; empty where there is none.

    Raises:
        ValueError: it is malformed; the message says where and how.
    """
    files = open_files(folder) if isinstance(folder, str | os.PathLike) else folder
    try:
        data = files.read(DESCRIPTION, 0, _DESCRIPTION_BYTES)
    except FileNotFoundError:
        return {}
    place = f"{files.path}/{DESCRIPTION}"
    try:
        info = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not valid JSON ({error}); correct or delete it.") from None
    wrong = _fault(info)
    if wrong:
        raise ValueError(f"{place} is malformed: {wrong}.")
    return dict(info)


def write_dataset_json(folder: str | os.PathLike[str], info: Mapping[str, Any]) -> None:
    """Writes `dataset.json`: name, licence, source, classes, has, some, splits ({split: {samples, shards}}).

    Raises:
        ValueError: `info` is not what `read_dataset_json` accepts.
    """
    wrong = _fault(dict(info))
    if wrong:
        raise ValueError(f"{DESCRIPTION} would be malformed: {wrong}.")
    text = json.dumps(dict(info), ensure_ascii=False, indent=1, sort_keys=True)
    _replace(Path(folder) / DESCRIPTION, (text + "\n").encode("utf-8"))


def _fault(info: Any) -> str:
    if not isinstance(info, dict):
        return "it is not an object"
    for name in ("classes", "has", "some"):
        value = info.get(name, [])
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            return f"{name!r} is not a list of strings"
    for name in ("name", "licence", "source"):
        if not isinstance(info.get(name, ""), str):
            return f"{name!r} is not a string"
    if info.get("name", "") != one_line(info.get("name", ""), 200):
        return "'name' is not one line of at most 200 printable characters"
    splits = info.get("splits", {})
    if not isinstance(splits, dict) or not all(isinstance(value, dict) for value in splits.values()):
        return "'splits' is not an object of objects"
    for split, told in splits.items():
        shards = told.get("shards", 0)
        if not _SPLIT.fullmatch(split) or not isinstance(shards, int) or not 0 <= shards <= _MOST_SHARDS:
            return f"the split {one_line(split, 80)!r} has no plain name, or no plain number of shards"
    return ""


# --- writing ----------------------------------------------------------------------------------------------------------


class ShardWriter:
    """Writes the shards of one split, with their sidecars; the same samples give the same bytes.

    with ShardWriter("DATA", "train") as writer:
        writer.add("animals/cat_1", {"webp": picture, "txt": b"a cat", "json": b"{}"})

    The shards get their names when the block ends without an error: a split is complete or not there.
    `samples` and `shards` say what was written.

    Raises:
        FileExistsError: the split is already there.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str, *, max_bytes: int = 512 << 20) -> None:
        if not _SPLIT.fullmatch(split):
            raise ValueError(f"a split is named with letters, not {split!r}; use train, val or test.")
        self.folder, self.split, self.max_bytes = Path(folder), split, max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        there = shards_of(os.listdir(self.folder)).get(split)
        if there:
            raise FileExistsError(f"{self.folder}/{there[0]} exists; delete the split {split!r} or use another folder.")
        self.samples, self.shards = 0, 0
        self._file: BinaryIO | None = None
        self._members, self._position = Members(), 0
        self._previous: str | None = None

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Adds a sample: its members by extension (without the leading dot), in the order given.

        Raises:
            ValueError: the key or an extension is not fit to be read back, or the sample comes twice in a row.
        """
        if not members or key == self._previous:
            raise ValueError(f"sample {key!r} {'comes twice' if members else 'has no members'}.")
        for extension, data in members.items():
            self._check(key, extension, data)
        if self._file and self._position + sum(map(len, members.values())) > self.max_bytes:
            self._finish()
        for extension, data in members.items():
            self._append(key, extension, data)
        self._members.keys += key.encode("utf-8")
        self._members.key_ends.append(len(self._members.keys))
        self._members.first.append(len(self._members.size) - len(members))
        self._previous = key
        self.samples += 1

    def close(self) -> None:
        """Finishes the last shard and gives all of them their names."""
        if self._file:
            self._finish()
        for number in range(self.shards):
            for name in (self._name(number), sidecar(self._name(number))):
                os.replace(self._part(name), self.folder / name)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        if self._file:
            self._file.close()
        for number in range(self.shards + 1):
            for name in (self._name(number), sidecar(self._name(number))):
                self._part(name).unlink(missing_ok=True)

    def _check(self, key: str, extension: str, data: bytes) -> None:
        try:
            read_back = split_name(f"{key}.{extension}")
        except ValueError as error:
            raise ValueError(f"{key}.{extension} cannot be a member of a shard: {error}.") from None
        if read_back != (key, extension):
            raise ValueError(f"key {key!r} with extension {extension!r} would be read back as {read_back}.")
        if len(data) > MAX_SIZE or len(key) + len(extension) > MAX_NAME // 4:
            raise ValueError(f"{key[:80]}.{extension} is too large for a shard.")

    def _append(self, key: str, extension: str, data: bytes) -> None:
        if self._file is None:
            self._file = open(self._part(self._name(self.shards)), "wb")  # noqa: SIM115
        info = tarfile.TarInfo(f"{key}.{extension}")  # mode 644, owner 0, time 0: the same bytes every time
        info.size = len(data)
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8")
        self._file.write(header)
        self._file.write(data)
        self._file.write(bytes(-len(data) % BLOCK))
        members = self._members
        members.extension.append(members.extensions.setdefault(extension, len(members.extensions)))
        members.block.append((self._position + len(header)) // BLOCK)
        members.size.append(len(data))
        self._position += len(header) + len(data) + -len(data) % BLOCK

    def _finish(self) -> None:
        assert self._file
        self._file.write(bytes(2 * BLOCK))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        name = self._name(self.shards)
        index = from_members(self._members, name)
        self._part(sidecar(name)).write_bytes(store(index, self._position + 2 * BLOCK))
        self.shards += 1
        self._file, self._members, self._position = None, Members(), 0

    def _name(self, number: int) -> str:
        return f"{self.split}-{number:05d}.tar"

    def _part(self, name: str) -> Path:
        return self.folder / f".{name}.part"
