"""What stays -> new shards: members copied byte for byte, in the order of the originals; and the list of what went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.batch import FIELDS
from diptych.curation.blocks import Part, opened
from diptych.curation.measure import Facts, Progress
from diptych.curation.verdicts import BROKEN, NOBODY, Task, Verdicts
from diptych.data.decode import BrokenSample
from diptych.data.pack import Writers, free
from diptych.data.raw import list_words, split_order
from diptych.data.shards import write_dataset_json

DROPPED, SCORES = "dropped.parquet", "scores.parquet"
_SHARD = 256 << 20
_ROWS = 4096  # of a list that are in memory at a time


def write_shards(
    facts: Facts, parts: Sequence[Part], verdicts: Verdicts, task: Task, folder: Path, progress: Progress | None = None
) -> dict[str, tuple[int, int]]:
    """Writes what stays: split -> (samples, shards). What turns out to be broken only now is dropped then.

    A key that another sample has already gets a number behind it, as in a pack.
    """
    rows = np.flatnonzero(verdicts.stays & np.array([part.written for part in parts])[facts.part])
    keys: dict[str, set[str]] = {}
    again: dict[str, Counter[str]] = {}
    with Writers(folder, _SHARD) as writers:
        for done, row in enumerate(rows.tolist(), 1):
            part = parts[facts.part[row]]
            data, number = opened(part.path, part.split), int(facts.number[row])
            try:
                members = task.edit(facts, row, data.raw(number))
            except BrokenSample as broken:
                verdicts.drop(row, BROKEN, detail=broken.reason)
                continue
            taken = keys.setdefault(part.split, set())
            key = free(data.key(number), taken, again.setdefault(part.split, Counter()))
            taken.add(key)
            writers.of(part.split).add(key, members)
            if progress:
                progress(done, len(rows))
    order = sorted(writers.by_split, key=split_order)
    return {split: (writers.by_split[split].samples, writers.by_split[split].shards) for split in order}


def describe(
    parts: Sequence[Part],
    written: dict[str, tuple[int, int]],
    folder: Path,
    name: str,
    done: dict[str, Any],
    adds: Mapping[str, Sequence[str]],
) -> None:
    """Writes `dataset.json`: as the originals have it, with the new counts, the new fields and what was done."""
    own = [opened(part.path, part.split) for part in parts if part.written]
    infos = [dict(data.info) for data in own]
    told = {
        key: "; ".join(dict.fromkeys(str(info[key]) for info in infos if info.get(key)))
        for key in ("licence", "source")
    }
    splits = {split: {"samples": samples, "shards": shards} for split, (samples, shards) in written.items()}
    replaced = {file for field in adds for file in FIELDS[field].files}
    has = {field for field in frozenset.intersection(*(data.has for data in own)) if field in FIELDS}
    has = {field for field in has if not replaced & {*FIELDS[field].files}} | {*adds}
    names = {**infos[0].get("names", {}), **{field: list(names) for field, names in adds.items() if names}}
    info = {**infos[0], **told, "name": name, "classes": _classes(parts), "has": sorted(has), "splits": splits}
    info |= {"names": names} if names else {}
    write_dataset_json(folder, info | {"curated": [*infos[0].get("curated", []), done]})


def _classes(parts: Sequence[Part]) -> list[str]:
    """The one list of classes of all folders.

    Raises:
        ValueError: the folders number their classes differently.
    """
    told = {part.path: opened(part.path, part.split).info.get("classes", ()) for part in parts if part.written}
    lists = {tuple(classes): path for path, classes in told.items()}
    lists.pop((), None)
    if len(lists) > 1:
        raise ValueError(f"{list_words(lists.values())} number their classes differently; curate them one by one.")
    return list(next(iter(lists), ()))


def write_dropped(facts: Facts, parts: Sequence[Part], verdicts: Verdicts, path: Path) -> None:
    """Writes what went as Parquet, a row a sample, and a row a caption that was taken out of a sample.

    Columns: what (sample, caption), key, split, source, shard, reason, detail, figure, duplicate_of, in_split, caption.
    """
    rows = np.flatnonzero(~verdicts.stays & np.array([part.written for part in parts])[facts.part]).tolist()
    _write_rows(path, {**_SAMPLE, **_WHY}, _dropped(facts, parts, verdicts, rows))


def write_scores(facts: Facts, parts: Sequence[Part], verdicts: Verdicts, path: Path) -> None:
    """Writes the score of every sample as Parquet: key, split, source, shard, score, scores, kept."""
    rows = np.flatnonzero(facts.whole & np.array([part.written for part in parts])[facts.part]).tolist()
    score, scores = (facts.table[name] for name in ("score", "scores"))
    columns = {"score": "float", "scores": "list<float>", "kept": "bool"}
    values = (
        {
            **where(facts, parts, row),
            "score": score[row].as_py(),
            "scores": scores[row].as_py(),
            "kept": verdicts.stays[row],
        }
        for row in rows
    )
    _write_rows(path, {**_SAMPLE, **columns}, values)


_SAMPLE = {"key": "string", "split": "string", "source": "string", "shard": "string"}
_WHY = {
    "what": "string",
    "reason": "string",
    "detail": "string",
    "figure": "double",
    "duplicate_of": "string",
    "in_split": "string",
    "caption": "string",
}


def where(facts: Facts, parts: Sequence[Part], row: int) -> dict[str, str]:
    """Key, split, source and shard of a sample."""
    part = parts[facts.part[row]]
    data, number = opened(part.path, part.split), int(facts.number[row])
    return {"key": data.key(number), "split": part.split, "source": part.path, "shard": data.index.shard(number)}


def _dropped(facts: Facts, parts: Sequence[Part], verdicts: Verdicts, rows: list[int]) -> Iterator[dict[str, Any]]:
    for row in rows:
        partner = int(verdicts.partner[row])
        other = where(facts, parts, partner) if partner != NOBODY else {}
        yield where(facts, parts, row) | {
            "what": "sample",
            "reason": verdicts.reason[row],
            "detail": verdicts.detail.get(row),
            "figure": None if np.isnan(verdicts.figure[row]) else float(verdicts.figure[row]),
            "duplicate_of": other.get("key"),
            "in_split": other.get("split"),
        }
    for lost in verdicts.captions:
        why = {"what": "caption", "reason": lost.reason, "figure": lost.figure, "caption": lost.text}
        yield where(facts, parts, lost.row) | why


def _write_rows(path: Path, types: dict[str, str], rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from diptych.curation.measure import arrow_type

    schema = pa.schema([(name, arrow_type(kind)) for name, kind in types.items()])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        waiting: list[dict[str, Any]] = []
        for row in rows:
            waiting.append(row)
            if len(waiting) == _ROWS:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
                waiting = []
        writer.write_table(pa.Table.from_pylist(waiting, schema))
