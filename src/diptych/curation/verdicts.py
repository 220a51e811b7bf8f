"""What stays and what goes, why, and what a person should see of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from diptych.curation.blocks import Part
    from diptych.curation.measure import Facts, Look

BROKEN = "broken"
NO_FIELDS: Mapping[str, Sequence[str]] = MappingProxyType({})
NOBODY = -1


class Verdicts:
    """For each of N samples: why it goes (empty: it stays), by which figure, and which sample it duplicates."""

    def __init__(self, judged: np.ndarray) -> None:
        self.judged = judged  # (N,) bool: others are never dropped
        self.reason = np.full(len(judged), "", dtype=object)
        self.detail: dict[int, str] = {}
        self.figure = np.full(len(judged), np.nan)
        self.partner = np.full(len(judged), NOBODY, dtype=np.int64)
        self.captions: list[LostCaption] = []

    def drop(self, row: int, reason: str, figure: float = np.nan, partner: int = NOBODY, detail: str = "") -> None:
        """Drops a sample that is broken, or judged; the first reason counts."""
        if (self.judged[row] or reason == BROKEN) and not self.reason[row]:
            self.reason[row], self.figure[row], self.partner[row] = reason, figure, partner
            if detail:
                self.detail[row] = detail

    @property
    def stays(self) -> np.ndarray:
        """(N,) bool."""
        return self.reason == ""

    @property
    def reasons(self) -> dict[str, int]:
        """Reason -> samples, the most frequent first."""
        return dict(Counter(self.reason[~self.stays].tolist()).most_common())


@dataclass(frozen=True)
class LostCaption:
    """A caption that was dropped from a sample, which may stay with its others."""

    row: int
    text: str
    reason: str
    figure: float


@dataclass(frozen=True)
class Histogram:
    """How often values fall between edges, and which of them stay."""

    title: str
    edges: tuple[float, ...]
    """K + 1 of them"""
    counts: tuple[int, ...]
    """K of them"""
    low: float | None = None
    """values below go"""
    high: float | None = None
    """values above go"""
    about: str = ""

    @classmethod
    def of(cls, title: str, values: np.ndarray, bins: int = 40, **more: Any) -> Histogram:
        """The histogram of finite values, in `bins` equal steps between their ends (of 0.5 and 99.5 % where far)."""
        values = values[np.isfinite(values)]
        if not len(values):
            return cls(title, (0.0, 1.0), (0,), **more)
        low, high = np.quantile(values, (0.005, 0.995))
        limits = [float(end) for end in (more.get("low"), more.get("high")) if end is not None]
        low, high = min([float(low), *limits]), max([float(high), *limits])
        if np.all(values == np.round(values)) and high - low < bins:
            edges = np.arange(np.floor(low) - 0.5, np.ceil(high) + 1.0)
        else:
            edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        return cls(title, tuple(edges.tolist()), tuple(counts.tolist()), **more)


@dataclass(frozen=True)
class Example:
    """A sample to be shown, beside the one that it duplicates where there is one."""

    row: int
    said: str
    partner: int = NOBODY
    captions: tuple[str, ...] = ()
    """what is said of it; its own captions where none are given"""


@dataclass(frozen=True)
class Group:
    """Examples of one kind."""

    title: str
    about: str
    examples: tuple[Example, ...]


@dataclass
class Findings:
    """What a task found out beside its verdicts."""

    histograms: list[Histogram] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """sentences"""


class Task(Protocol):
    """A kind of curation: what is found out of each sample, then what goes, then what is changed of what stays."""

    @property
    def name(self) -> str:
        """As the command line calls it."""
        ...

    @property
    def look(self) -> Look:
        """What is found out of each sample."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it was asked for."""
        ...

    @property
    def drops(self) -> bool:
        """False: nothing can go or change, so that no shards are written."""
        ...

    @property
    def adds(self) -> Mapping[str, Sequence[str]]:
        """Fields that samples did not have -> the names of their numbers, where these have names."""
        ...

    def decide(self, facts: Facts, parts: Sequence[Part], verdicts: Verdicts, work: Path) -> Findings:
        """Drops what has to go."""
        ...

    def edit(self, facts: Facts, row: int, members: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """The members of a sample that stays, as they are written: the same object where nothing changes."""
        ...
