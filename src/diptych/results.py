"""The one schema of every figure that the project prints or stores: rows of method, run, data, task, metric, value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from diptych.config import from_dict


@dataclass(frozen=True)
class Row:
    """One measured figure. `low` and `high` bound its 95 % interval, `chance` is what guessing would give."""

    method: str
    run: str
    data: str
    task: str
    metric: str
    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    chance: float = math.nan
    seed: int = 0
    how: str = ""
    """of models that write: the prompts, and what read their answers, with its version"""


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Row))


def to_json(rows: Iterable[Row]) -> str:
    """Rows as a JSON array, one row a line; NaN becomes null, as JSON has no NaN."""
    lines = (json.dumps({k: _json_value(v) for k, v in asdict(row).items()}, ensure_ascii=False) for row in rows)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def from_json(text: str) -> list[Row]:
    """The inverse of `to_json`."""

    def known(row: dict[str, Any]) -> dict[str, Any]:
        return {name: math.nan if value is None else value for name, value in row.items()}

    rows = json.loads(text)
    if not isinstance(rows, list):
        raise ValueError("rows of results are a list")
    return [from_dict(Row, known(row)) for row in rows]


def write(rows: Sequence[Row], folder: Path, name: str = "results") -> None:
    """Writes `NAME.json` and `NAME.parquet` into `folder`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(to_json(rows), encoding="utf-8")
    columns = {column: [getattr(row, column) for row in rows] for column in COLUMNS}
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def _json_value(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value
