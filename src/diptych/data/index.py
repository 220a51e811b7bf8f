"""Where every member of every sample lies, as a few flat arrays: about 60 bytes a sample, no Python object in them.

On disk an index is a Parquet table with one row a member (key, ext, offset, size). A table from somewhere else is not
believed: it must agree with the size of its tar, and no row may point outside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diptych.data.tar import BLOCK, MAX_EXTENSIONS, MAX_MEMBERS, MAX_SIZE, Members, Skipped, split_name

_TAR_SIZE, _SKIPPED = b"diptych.tar_size", b"diptych.skipped"


@dataclass(frozen=True)
class Index:
    """The samples of one or several tars.

    Sample i has the members `first[i]` to `first[i + 1]` and the key `keys[key_ends[i]:key_ends[i + 1]]` (UTF-8);
    shard s has the samples `starts[s]` to `starts[s + 1]`. A member is `size` bytes from `block` * 512 of its tar, with
    the extension `extensions[extension]`.
    """

    keys: np.ndarray  # uint8
    key_ends: np.ndarray  # int64 (N + 1)
    first: np.ndarray  # int64 (N + 1)
    extension: np.ndarray  # uint16 (M)
    block: np.ndarray  # uint32 (M)
    size: np.ndarray  # uint32 (M)
    extensions: tuple[str, ...]
    shards: tuple[str, ...]
    starts: np.ndarray  # int64 (S + 1)
    skipped: dict[str, Skipped] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.first) - 1

    def key(self, sample: int) -> str:
        """The key of a sample."""
        return self.keys[self.key_ends[sample] : self.key_ends[sample + 1]].tobytes().decode("utf-8")

    def shard(self, sample: int) -> str:
        """The tar that holds a sample."""
        return self.shards[int(np.searchsorted(self.starts, sample, "right")) - 1]

    def members(self, sample: int) -> dict[str, tuple[int, int]]:
        """Extension -> (offset, size) of the members of a sample, in the order of the tar."""
        rows = slice(*self.first[sample : sample + 2].tolist())
        columns = self.extension[rows].tolist(), self.block[rows].tolist(), self.size[rows].tolist()
        return {self.extensions[ext]: (block * BLOCK, size) for ext, block, size in zip(*columns, strict=True)}

    def member_name(self, member: int) -> str:
        """The name of a member by its row, as key and extension."""
        sample = int(np.searchsorted(self.first, member, "right")) - 1
        return f"{self.key(sample)}.{self.extensions[self.extension[member]]}"

    def counts(self) -> dict[str, int]:
        """How many samples have each extension."""
        counted = np.bincount(self.extension, minlength=len(self.extensions))
        return {name: int(count) for name, count in zip(self.extensions, counted, strict=True)}

    def take(self, samples: np.ndarray) -> Index:
        """The index of some samples only, given by their sorted numbers."""
        lengths = np.diff(self.first)[samples]
        rows = _ranges(self.first[samples], lengths)
        widths = np.diff(self.key_ends)[samples]
        return Index(
            self.keys[_ranges(self.key_ends[samples], widths)],
            _ends(widths),
            _ends(lengths),
            self.extension[rows],
            self.block[rows],
            self.size[rows],
            self.extensions,
            self.shards,
            np.searchsorted(samples, self.starts).astype(np.int64),
            self.skipped,
        )


def from_members(members: Members, tar: str) -> Index:
    """The index of one tar from what a scan or a writer collected."""
    count, rows = len(members.first), len(members.size)
    return Index(
        np.frombuffer(bytes(members.keys), np.uint8),
        np.concatenate([[0], np.array(members.key_ends, np.int64)]).astype(np.int64),
        np.concatenate([np.array(members.first, np.int64), [rows]]).astype(np.int64),
        np.array(members.extension, np.uint16),
        np.array(members.block, np.uint32),
        np.array(members.size, np.uint32),
        tuple(members.extensions),
        (tar,),
        np.array([0, count], np.int64),
        {tar: members.skipped} if members.skipped else {},
    )


def join(parts: Sequence[Index]) -> Index:
    """One index over several tars, in the order given."""
    extensions = {name: None for part in parts for name in part.extensions}
    number = {name: i for i, name in enumerate(extensions)}
    recode = [np.array([number[name] for name in part.extensions] or [0], np.uint16) for part in parts]
    return Index(
        np.concatenate([part.keys for part in parts]),
        _ends(np.concatenate([np.diff(part.key_ends) for part in parts])),
        _ends(np.concatenate([np.diff(part.first) for part in parts])),
        np.concatenate([codes[part.extension] for codes, part in zip(recode, parts, strict=True)]),
        np.concatenate([part.block for part in parts]),
        np.concatenate([part.size for part in parts]),
        tuple(extensions),
        tuple(name for part in parts for name in part.shards),
        _ends(np.concatenate([np.diff(part.starts) for part in parts])),
        {tar: skipped for part in parts for tar, skipped in part.skipped.items()},
    )


def _ends(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers starts[i] .. starts[i] + lengths[i] - 1, for all i in a row."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


# --- Parquet ----------------------------------------------------------------------------------------------------------


def store(index: Index, tar_size: int) -> bytes:
    """The index of one tar as a Parquet file (zstd), with the size of the tar and what was left out of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = pa.LargeStringArray.from_buffers(len(index), pa.py_buffer(index.key_ends), pa.py_buffer(index.keys))
    owner = np.repeat(np.arange(len(index)), np.diff(index.first))
    columns = {
        "key": keys.take(pa.array(owner)).cast(pa.string()),
        "ext": pa.DictionaryArray.from_arrays(pa.array(index.extension), pa.array(index.extensions, pa.string())),
        "offset": pa.array(index.block.astype(np.int64) * BLOCK),
        "size": pa.array(index.size.astype(np.int64)),
    }
    skipped = [(each.counts, each.names) for each in index.skipped.values()]
    table = pa.table({**columns, "ext": columns["ext"].cast(pa.string())})
    table = table.replace_schema_metadata({_TAR_SIZE: str(tar_size), _SKIPPED: json.dumps(skipped)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def load(data: bytes, tar: str, tar_size: int) -> Index | None:
    """Reads what `store` wrote; None for anything that is damaged, belongs to another tar, or points outside it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=["key", "ext"])
        metadata = file.schema_arrow.metadata or {}
        rows = file.metadata.num_rows
        if int(metadata[_TAR_SIZE]) != tar_size or rows > min(MAX_MEMBERS, tar_size // BLOCK):
            return None
        table = file.read(["key", "ext", "offset", "size"]).unify_dictionaries()
        table.validate(full=True)  # Arrow itself believes the numbers in a file
        skipped = [Skipped(dict(counts), dict(names)) for counts, names in json.loads(metadata[_SKIPPED])]
        return _from_table(table, tar, tar_size, skipped)
    except (KeyError, ValueError, TypeError, OSError, pa.ArrowException):
        return None


def _from_table(table: Any, tar: str, tar_size: int, skipped: list[Skipped]) -> Index | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(table):
        return from_members(Members(skipped=skipped[0] if skipped else Skipped()), tar)
    if any(column.null_count for column in table.columns):
        return None
    offset, size = (table[name].to_numpy().astype(np.int64) for name in ("offset", "size"))
    wrong = (offset < BLOCK) | (offset % BLOCK != 0) | (size < 0) | (size > MAX_SIZE) | (offset + size > tar_size)
    key, ext = (table[name].combine_chunks() for name in ("key", "ext"))  # dictionaries: a long name costs once
    extensions = tuple(ext.dictionary.to_pylist())
    if wrong.any() or len(extensions) > MAX_EXTENSIONS or any(not _plain(name) for name in extensions):
        return None
    numbers = key.indices.to_numpy()
    begins = np.flatnonzero(np.diff(numbers, prepend=-1))
    chosen = pa.array(numbers[begins])
    if pc.sum(pc.binary_length(key.dictionary).take(chosen)).as_py() > tar_size:  # names lie in the tar as well
        return None
    keys = key.dictionary.cast(pa.large_string()).take(chosen)
    if _unfit(keys, pc):
        return None
    return Index(
        np.frombuffer(keys.buffers()[2] or b"", np.uint8),
        np.frombuffer(keys.buffers()[1], np.int64)[: len(keys) + 1],
        np.append(begins, len(size)).astype(np.int64),
        ext.indices.to_numpy().astype(np.uint16),
        (offset // BLOCK).astype(np.uint32),
        size.astype(np.uint32),
        extensions,
        (tar,),
        np.array([0, len(begins)], np.int64),
        dict.fromkeys([tar], skipped[0]) if skipped else {},
    )


def _plain(extension: str) -> bool:
    return split_name(f"x.{extension}") == ("x", extension)  # raises ValueError for a pickle


def _unfit(keys: Any, pc: Any) -> bool:
    """Whether any key could be more than a name: control characters, or an absolute or climbing path."""
    text = np.frombuffer(keys.buffers()[2] or b"", np.uint8)
    control = bool(((text < 0x20) | (text == 0x7F) | (text == ord("\\"))).any())
    climbs = pc.or_(pc.match_substring(keys, ".."), pc.starts_with(keys, "/"))
    return control or bool(pc.any(climbs).as_py())
