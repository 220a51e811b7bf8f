"""What a comparison found, as plain data: written by `compare`, read by its page and by claims."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

FILE = "comparison.json"


@dataclass(frozen=True)
class Score:
    """A metric of a contestant: its mean over the seeds, with a 95 % interval over seeds and samples."""

    label: str
    data: str
    """name/split, as in `results.Row`"""
    task: str
    metric: str
    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    """units judged with each seed"""
    chance: float = math.nan
    by_seed: tuple[float, ...] = ()


@dataclass(frozen=True)
class Difference:
    """A contestant minus the first one, paired by seed and sample; `p_holm` is corrected for several contestants."""

    label: str
    against: str
    data: str
    task: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class Cost:
    """What one run of a contestant took: means over the seeds, medians for times."""

    label: str
    samples: int
    seconds: float
    """spent on training steps"""
    samples_per_second: float
    memory_gb: float
    """largest memory of the device, or of the process on a CPU"""
    parameters: int
    trained_parameters: int
    flops: float
    """floating-point operations of the whole training, by torch's counter (NaN: not counted)"""
    padding: float
    """share of masked-out positions in the batches (NaN: no masks)"""
    wait: float = math.nan
    """share of the time that training waited for data"""


@dataclass(frozen=True)
class Contestant:
    """One side of a comparison. `label` is what was typed: `filip` or `filip:keep=0.5`."""

    label: str
    method: str
    title: str
    config: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    """folders of its runs, one a seed, relative to the comparison's folder"""


@dataclass(frozen=True)
class Comparison:
    """Contestants on the same data with the same budget; differences are to the first one."""

    contestants: tuple[Contestant, ...]
    seeds: tuple[int, ...]
    data: tuple[str, ...]
    val: tuple[str, ...]
    budget: str
    scores: tuple[Score, ...] = ()
    differences: tuple[Difference, ...] = ()
    costs: tuple[Cost, ...] = ()
    leaks: Mapping[str, Any] = field(default_factory=dict)
    """{"found": judged pictures that are also trained on, "judged", "trained": pictures, "pairs": [[key, key], ...]}"""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """{"kind", "device", "threads", "at_a_time", "versions", "commit", "started", "wall_seconds"}"""

    @property
    def first(self) -> Contestant:
        """The one that the others are measured against."""
        return self.contestants[0]

    def of(self, label: str) -> Iterator[Score]:
        """The scores of one contestant."""
        return (score for score in self.scores if score.label == label)

    def difference(self, label: str, data: str, task: str, metric: str) -> Difference | None:
        """One paired difference; None for the first contestant and for what could not be paired."""
        wanted = (label, data, task, metric)
        return next((d for d in self.differences if (d.label, d.data, d.task, d.metric) == wanted), None)


def write(comparison: Comparison, folder: Path) -> None:
    """Writes `comparison.json`, the old one or the new one whatever happens."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{FILE}.partial"
    partial.write_text(json.dumps(plain(asdict(comparison)), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, folder / FILE)


def read(folder: Path) -> Comparison:
    """The comparison that lies in a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no comparison (it has no {FILE}).")
    told = json.loads(path.read_text(encoding="utf-8"))
    parts: dict[str, type[Any]] = {"contestants": Contestant, "scores": Score, "differences": Difference, "costs": Cost}
    values: dict[str, Any] = {name: tuple(_made(kind, item) for item in told[name]) for name, kind in parts.items()}
    values |= {name: tuple(told[name]) for name in ("seeds", "data", "val")}
    return Comparison(**values, **{name: told[name] for name in ("budget", "leaks", "machine")})


def _made(kind: type[Any], told: Mapping[str, Any]) -> Any:
    floats = {f.name for f in fields(kind) if f.type == "float"}
    values = {name: math.nan if value is None and name in floats else value for name, value in told.items()}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def plain(value: Any) -> Any:
    """NaN becomes null, as JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
