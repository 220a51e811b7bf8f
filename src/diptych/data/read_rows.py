"""Rows of tables: CSV, TSV, JSON Lines, a JSON list of objects, and Parquet, one dictionary a row.

A row that cannot be read is yielded as a `BrokenSample` under its place in the file, and reading goes on behind it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diptych.data.decode import BrokenSample
from diptych.data.raw import SourceError

SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".jsonl", ".ndjson"})
_MAX_LINES = 100  # of one row; more of them are a quote that is not closed, which would swallow the rest of the table

Row = tuple[str, dict[str, Any]] | BrokenSample
"""(`FILE:LINE`, column -> cell), or what is wrong with the row."""


def rows(path: Path) -> Iterator[Row]:
    """Every row of a table, by the ending of its name.

    Raises:
        SourceError: a package for this kind of table is missing.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_rows(path)
    elif suffix in (".jsonl", ".ndjson"):
        yield from _json_rows(path)
    elif suffix == ".json":
        yield from _json_list(path)
    else:
        yield from _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        start = file.readline()
        file.seek(0)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=start.count)
        reader = csv.reader(file, delimiter=delimiter)
        header: list[str] = []
        while True:
            place = f"{path.name}:{reader.line_num + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield BrokenSample(place, f"the row cannot be read ({error}; is a quote not closed?)")
                continue
            if cells is None:
                return
            if not header:
                header = [name.strip() for name in cells]
            elif reader.line_num - int(place.rpartition(":")[2]) > _MAX_LINES:
                yield BrokenSample(place, f"the row ends at line {reader.line_num}; is a quote not closed?")
            elif len(cells) > len(header):
                yield BrokenSample(place, f"the row has {len(cells)} cells, the header {len(header)}")
            elif cells:
                yield place, dict(zip(header, cells, strict=False))


def _json_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path.name}:{number}"
            try:
                row = json.loads(line) if line.strip() else {}
            except (ValueError, RecursionError):
                yield BrokenSample(place, "the row is not valid JSON")
                continue
            if not isinstance(row, dict):
                yield BrokenSample(place, "the row is no JSON object")
            elif row:
                yield place, row


def _json_list(path: Path) -> Iterator[Row]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not valid JSON ({error}).") from None
    for number, row in enumerate(content if isinstance(content, list) else [], start=1):
        place = f"{path.name}: row {number}"
        yield (place, row) if isinstance(row, dict) else BrokenSample(place, "the row is no JSON object")


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise SourceError("Parquet tables need pyarrow: pip install pyarrow.") from None
    try:
        with pq.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(batch_size=64) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"{path.name}:{number}", row
    except (pa.ArrowException, OSError) as error:
        yield BrokenSample(path.name, f"the table cannot be read to its end ({error})")
