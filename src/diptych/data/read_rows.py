"""Rows of tables: CSV, TSV, JSON Lines, a JSON list of objects, and Parquet, one dictionary a row.

A row that cannot be read is yielded as a `BrokenSample` under its place in the file, and reading goes on behind it.
"""

from __future__ import annotations

import csv
import json
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any, AnyStr

from diptych.data.decode import BrokenSample
from diptych.data.raw import SourceError, read_json

SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".jsonl", ".ndjson"})
_LONGEST_LINE = 16 << 20
_AT_ONCE = 64  # rows of a Parquet table
_ROOM = 64 << 20  # bytes that these may have
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
        yield from json_lines(path)
    elif suffix == ".json":
        yield from _json_list(path)
    else:
        yield from _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[Row]:
    encoding, errors = _encoding(path)
    with path.open(encoding=encoding, errors=errors, newline="") as file:
        start = file.readline(_LONGEST_LINE)
        file.seek(0)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=start.count)
        reader = csv.reader(_lines(file, path), delimiter=delimiter)
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


def _encoding(path: Path) -> tuple[str, str]:
    """UTF-16 where the file says so by its first bytes, else UTF-8; and what becomes of bytes that are neither."""
    with path.open("rb") as file:
        return (
            ("utf-16", "replace") if file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE) else ("utf-8-sig", "surrogateescape")
        )


def _lines(file: IO[AnyStr], path: Path) -> Iterator[AnyStr]:
    """The lines of a file, none of which can fill the memory.

    Raises:
        SourceError: a line is too long.
    """
    for number in count(1):
        line = file.readline(_LONGEST_LINE)
        if len(line) == _LONGEST_LINE:
            raise SourceError(f"line {number} of {path.name} is longer than {_LONGEST_LINE:,}: it is no table.")
        if not line:
            return
        yield line


def json_lines(path: Path) -> Iterator[Row]:
    """Every row of a file with a JSON object a line, whatever its name ends in."""
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file, path), start=1):
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
    content = read_json(path)
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
            rows = (row for batch in file.iter_batches(batch_size=_at_once(file.metadata)) for row in _converted(batch))
            for number, row in enumerate(rows, start=1):
                place = f"{path.name}:{number}"
                yield BrokenSample(place, row) if isinstance(row, str) else (place, row)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last from names of columns
        yield BrokenSample(path.name, f"the table cannot be read to its end ({error})")


def _at_once(metadata: Any) -> int:
    """So many rows that they fit into memory, though each had the largest value that a column holds once."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size for group in groups), default=0)
    return max(1, min(_AT_ONCE, _ROOM // max(largest, 1)))


def _converted(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch; in place of one that Python has no values for (dates, text), the reason."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            yield f"the row cannot be read ({error})"
            return
        for index in range(len(batch)):
            yield from _converted(batch.slice(index, 1))
