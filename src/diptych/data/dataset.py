"""Data sets: numbered samples that are read one by one, in any order, decoding only the fields that are asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from diptych.batch import Sample
from diptych.data.decode import NORMAL, BrokenSample, Limits
from diptych.data.fields import SHARED, decode_sample, field_of, fields_of, held, wanted
from diptych.data.files import Files, open_files
from diptych.data.index import Index, join
from diptych.data.shards import cache_file, read_dataset_json, read_index, shards_of, split_of, write_file

_PROBES = 200  # samples that are looked into to learn which fields a data set has
_ENOUGH = 0.95  # share of samples that must have a field before the data set is said to have it
_CLASS_SCAN = 1_000_000  # samples whose categories are collected where dataset.json names no classes
_GAP = 1 << 16  # bytes between two members that are read along rather than asked for separately


@runtime_checkable
class Dataset(Protocol):
    """What loaders and evaluations ask of a data set."""

    name: str
    split: str

    @property
    def has(self) -> frozenset[str]:
        """The fields that (nearly) every sample has."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that `label` counts; empty if there are none."""
        ...

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """The name of a sample."""
        ...

    def read(self, index: int, fields: Collection[str]) -> Sample:
        """The sample with these fields, no others; raises `BrokenSample` if one of them cannot be had."""
        ...

    def order(self, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
        """int64 (N,): the indices of one epoch in the order in which they are read."""
        ...


def permutation(length: int, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
    """int64 (length,): every index once, shuffled by seed and epoch alone, or in order."""
    if not shuffle:
        return np.arange(length, dtype=np.int64)
    return np.random.default_rng([seed, epoch]).permutation(length).astype(np.int64, copy=False)


class ShardedData:
    """One split of a folder of shards, on disk or behind an fsspec URL.

    `part` = (i, n) takes the i-th of n equal runs of samples. `side` lets large JPEGs be decoded smaller (see
    `decode_image`). Tars without a split in their names are divided by key into train and val (9 : 1).

    `skipped` says which members of which tar were left out, and why; `coverage` which share of samples has a field.

    Raises:
        FileNotFoundError: no such folder, no shards in it, or no such split; the message says what to do.
        UnreadableTar: a shard is no tar.
        ValueError: dataset.json is malformed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str = "train",
        limits: Limits = NORMAL,
        part: tuple[int, int] | None = None,
        side: int = 0,
    ) -> None:
        self._arguments = (os.fspath(path), split, limits, part, side)
        self.files = open_files(path)
        self.info = read_dataset_json(self.files)
        self.name = self.info.get("name") or self.files.path.rstrip("/").rsplit("/", 1)[-1]
        self.split, self.limits, self._side = split, limits, side
        self._shards = _shards(self.files, self.info)
        self.index = _index(self.files, self._shards, split)
        if part is not None:
            ends = np.linspace(0, len(self.index), part[1] + 1).astype(np.int64)
            self.index = self.index.take(np.arange(ends[part[0]], ends[part[0] + 1]))
        self.skipped = self.index.skipped

    def __len__(self) -> int:
        return len(self.index)

    def key(self, index: int) -> str:
        """The name of a sample."""
        return self.index.key(index)

    def order(self, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
        """Every index once; a permutation by seed and epoch if `shuffle`."""
        return permutation(len(self), epoch, seed, shuffle)

    def read(self, index: int, fields: Collection[str]) -> Sample:
        """Reads and decodes the members that hold `fields`; of those that only `some` samples have, where it has them.

        Raises:
            BrokenSample: a field is absent, damaged, empty or larger than the limits.
        """
        key, there = self.index.key(index), self.index.members(index)
        lacks = frozenset(fields) & (self.some - self.has) - held(there)
        fields = [name for name in fields if name not in lacks]
        members = self._members(index, key, {name: there[name] for name in wanted(there, fields)})
        numbering = self.classes if "label" in fields else tuple(self.info.get("classes", ()))
        sample = decode_sample(key, members, fields, classes=numbering, limits=self.limits, side=self._side)
        return Sample(key, sample, lacks) if lacks else sample

    def raw(self, index: int, fields: Collection[str] | None = None) -> dict[str, bytes]:
        """The members of a sample by extension, undecoded: all, or those that hold some fields.

        Raises:
            BrokenSample: one of them is over `limits.bytes`, or cut short.
        """
        there = self.index.members(index)
        chosen = there if fields is None else {name: there[name] for name in wanted(there, fields)}
        return self._members(index, self.index.key(index), chosen)

    @cached_property
    def has(self) -> frozenset[str]:
        """The fields that (nearly) every sample has: from dataset.json, else by looking."""
        told = self.info.get("has")
        return frozenset(told) if told else frozenset(name for name, share in self.coverage.items() if share >= _ENOUGH)

    @cached_property
    def some(self) -> frozenset[str]:
        """What it has, and what is seen in some of its samples only: dataset.json says so."""
        return self.has | frozenset(self.info.get("some", ()))

    @cached_property
    def coverage(self) -> dict[str, float]:
        """Field -> share of samples that have it: counted for members of their own, else from some hundred samples."""
        counted: dict[str, float] = {}
        for extension, count in self.index.counts().items():
            name = field_of(extension)
            if name and extension not in SHARED and not extension[0].isdigit():
                counted[name] = min(1.0, counted.get(name, 0.0) + count / max(1, len(self)))
        if "text" in counted:
            counted["texts"] = counted["text"]
        probes = np.unique(np.linspace(0, len(self) - 1, min(_PROBES, len(self))).astype(np.int64))
        seen: dict[str, int] = {}
        for index in probes:
            for name in self._look(int(index)):
                seen[name] = seen.get(name, 0) + 1
        probed = {name: count / len(probes) for name, count in seen.items()}
        return {name: max(counted.get(name, 0.0), probed.get(name, 0.0)) for name in sorted(counted | probed)}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names: from dataset.json, else the sorted categories of all splits, so that splits agree."""
        told = self.info.get("classes")
        if told:
            return tuple(told)
        tars = [tar for names in self._shards.values() for tar in names]
        cached = cache_file("classes", "\n".join(self.files.stamp(tar) for tar in tars), ".json")
        with suppress(OSError, ValueError):  # not there yet, or damaged
            return tuple(map(str, json.loads(cached.read_bytes())))
        found: set[str] = set()
        if "category" in self.coverage:
            found = {category for tar in tars for category in _categories(self.files, tar, self.limits)}
        write_file(cached, json.dumps(sorted(found), ensure_ascii=False).encode("utf-8"))
        return tuple(sorted(found))

    def _look(self, index: int) -> set[str]:
        """The fields of a sample; only those of its members are read that hold several."""
        there = self.index.members(index)
        inside = {name: span for name, span in there.items() if name in SHARED}
        try:
            members = dict.fromkeys(there, b"") | self._members(index, self.key(index), inside)
            return fields_of(members, classes=tuple(self.info.get("classes", ())), limits=self.limits)
        except BrokenSample:
            return set()

    def _members(self, index: int, key: str, spans: Mapping[str, tuple[int, int]]) -> dict[str, bytes]:
        for extension, (_, size) in spans.items():
            if size > self.limits.bytes:
                raise BrokenSample(key, f"its .{extension} has {size:,} bytes; the limit is {self.limits.bytes:,}")
        return _read(self.files, self.index.shard(index), key, spans)

    def __reduce__(self) -> Any:  # another process opens the files anew; indices are not sent around
        return ShardedData, self._arguments


def some_of(dataset: Dataset) -> frozenset[str]:
    """The fields that at least some samples have; most data sets are of one kind, and have no others."""
    return getattr(dataset, "some", dataset.has)


class Subset:
    """Some samples of a data set, by their indices there, in the order given."""

    def __init__(self, dataset: Dataset, indices: Collection[int] | np.ndarray) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), dtype=np.int64)
        if len(self.indices) and (self.indices.min() < 0 or self.indices.max() >= len(dataset)):
            raise IndexError(f"indices must lie in 0 to {len(dataset) - 1} of {dataset.name}.")
        self.name, self.split = dataset.name, dataset.split

    @property
    def has(self) -> frozenset[str]:
        """As in the whole data set."""
        return self.dataset.has

    @property
    def some(self) -> frozenset[str]:
        """As in the whole data set."""
        return some_of(self.dataset)

    @property
    def classes(self) -> tuple[str, ...]:
        """As in the whole data set."""
        return self.dataset.classes

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        """The name of a sample."""
        return self.dataset.key(int(self.indices[index]))

    def read(self, index: int, fields: Collection[str]) -> Sample:
        """Reads from the whole data set."""
        return self.dataset.read(int(self.indices[index]), fields)

    def order(self, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
        """Every index of the subset once."""
        return permutation(len(self), epoch, seed, shuffle)


# --- folders ----------------------------------------------------------------------------------------------------------


def splits(path: str | os.PathLike[str]) -> list[str]:
    """The splits of a folder of shards; `train` and `val` where tars carry none in their names.

    Raises:
        FileNotFoundError: no such folder, or no shards in it.
    """
    files = open_files(path)
    names = set(_shards(files, read_dataset_json(files)))
    return sorted(names - {""} | ({"train", "val"} if "" in names else set()))


def _shards(files: Files, info: Mapping[str, Any]) -> dict[str, list[str]]:
    counts = {split: entry.get("shards") for split, entry in info.get("splits", {}).items()}
    if "://" in files.path and counts and all(isinstance(count, int) for count in counts.values()):
        return {split: [f"{split}-{i:05d}.tar" for i in range(count)] for split, count in counts.items()}  # no listing
    names = files.names()
    found = shards_of(names)
    if found:
        return found
    if any(name.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz")) for name in names):
        raise FileNotFoundError(
            f"{files.path} has only compressed tars, which cannot be read at random: unpack them to .tar (gzip -d)."
        )
    raise FileNotFoundError(
        f"{files.path} holds no shards (*.tar). Make some with `diptych pack {files.path} DST` and use the folder DST."
    )


def _index(files: Files, shards: Mapping[str, list[str]], split: str) -> Index:
    if split in shards:
        return join([read_index(files, tar) for tar in shards[split]])
    longer = [name for name in shards if name.replace("_", "-").endswith(f"-{split}")]  # such as imagenet-train
    if len(longer) == 1:
        return join([read_index(files, tar) for tar in shards[longer[0]]])
    if set(shards) == {""} and split in ("train", "val"):
        whole = join([read_index(files, tar) for tar in shards[""]])
        return whole.take(np.array([i for i in range(len(whole)) if split_of(whole.key(i)) == split], np.int64))
    there = ", ".join(sorted(shards)) if set(shards) != {""} else "train, val"
    raise FileNotFoundError(f"{files.path} has no split {split!r}; it has {there}.")


def _read(files: Files, tar: str, key: str, spans: Mapping[str, tuple[int, int]]) -> dict[str, bytes]:
    """The bytes of some members of one sample; neighbours come in one read."""
    if not spans:
        return {}
    begin, end = min(start for start, _ in spans.values()), max(start + size for start, size in spans.values())
    if end - begin <= sum(size for _, size in spans.values()) + _GAP:
        run = files.read(tar, begin, end - begin)
        found = {name: run[start - begin : start - begin + size] for name, (start, size) in spans.items()}
    else:
        found = {name: files.read(tar, start, size) for name, (start, size) in spans.items()}
    for name, (_, size) in spans.items():
        if len(found[name]) != size:
            raise BrokenSample(key, f"{tar} ends within its .{name}")
    return found


def _categories(files: Files, tar: str, limits: Limits) -> Iterator[str]:
    index = read_index(files, tar)
    if len(index) > _CLASS_SCAN:
        raise ValueError(
            f"{files.path} has no list of classes and is too large to be searched for them: "
            'write {"classes": [...]} into its dataset.json.'
        )
    for sample in range(len(index)):
        there = index.members(sample)
        if "json" not in there or there["json"][1] > limits.bytes:
            continue
        try:
            members = _read(files, tar, index.key(sample), {"json": there["json"]})
            yield str(decode_sample(index.key(sample), members, ("category",), limits=limits)["category"])
        except BrokenSample:  # without a category; it is reported when it is read
            continue
