"""What an object detector sees in the pictures of a data set, written down as regions: boxes, classes and features.

How many regions a picture keeps is UNITER's rule (Chen et al., arXiv 1909.11740): as many as are surer than a
threshold, within bounds. Features are the states from which the detector reads its boxes (`decoder`), or means of its
backbone's last map over each box, as those of older detectors are (`roi`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from diptych.curation.verdicts import Example, Findings, Group, Histogram, Verdicts
from diptych.data.decode import BrokenSample, decode_image
from diptych.data.fields import field_of
from diptych.data.freeze import npz

if TYPE_CHECKING:
    from torch import Tensor

    from diptych.curation.blocks import Part
    from diptych.curation.detect import Detector
    from diptych.curation.measure import Facts

MEMBER = "regions.npz"
FIELDS = ("regions", "region_boxes", "region_labels", "region_scores", "region_classes")
_SHOWN = 12


@dataclass(frozen=True)
class Regions:
    """Which of a detector's boxes are kept, and what is kept of them."""

    threshold: float = 0.2
    """regions that are surer than this are kept ..."""
    fewest: int = 10
    """... but at least so many, if the detector gives as many boxes"""
    most: int = 36
    """... and at most so many, the surest"""
    features: Literal["decoder", "roi"] = "decoder"
    """decoder: the state from which the detector reads the box; roi: the mean of the backbone's map over the box"""
    batch: int = 4
    """pictures of one size that the detector sees at a time"""

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most:
            raise ValueError(f"--fewest {self.fewest} and --most {self.most} leave no number: 1 <= fewest <= most.")
        if not 0 <= self.threshold <= 1 or self.batch < 1:
            raise ValueError("--threshold is a probability, from 0 to 1, and --batch at least 1.")


@dataclass(frozen=True)
class Seen:
    """The regions of every picture of a sample: of its own, and of the numbered ones of two sides."""

    detector: Detector
    fields = ("image", "images", "sides")
    columns = MappingProxyType(
        {"names": "list<string>", "arrays": "list<binary>", "counts": "list<int32>", "said": "string"}
    )

    @property
    def identity(self) -> str:
        """The model, and what is kept."""
        return f"regions 1 {self.detector.identity}"

    def see(self, key: str, members: Mapping[str, bytes]) -> list[tuple[str, dict[str, Tensor]]]:
        """The member that each picture's regions go to, and what the detector wants to see of it."""
        seen = []
        for extension, data in members.items():
            if field_of(extension) in ("image", "images"):
                prefix = extension.rpartition(".")[0]
                name = f"{prefix}.{MEMBER}" if prefix else MEMBER
                seen.append((name, self.detector.prepare(decode_image(data))))
        if not seen:
            raise BrokenSample(key, "it has no picture")
        return seen

    def tell(self, seen: Sequence[list[tuple[str, dict[str, Tensor]]]]) -> Iterator[dict[str, Any]]:
        """The columns of some samples."""
        found = self.detector.detect([prepared for pictures in seen for _, prepared in pictures])
        for pictures in seen:
            regions = [next(found) for _ in pictures]
            yield {
                "names": [name for name, _ in pictures],
                "arrays": [npz(one) for one in regions],
                "counts": [len(one["regions"]) for one in regions],
                "said": self._said(regions[0]),
            }

    def _said(self, regions: Mapping[str, np.ndarray]) -> str:
        surest = zip(regions["region_labels"][:5], regions["region_scores"][:5], strict=True)
        return ", ".join(f"{self.detector.labels[label]} {score:.2f}" for label, score in surest)


@dataclass(frozen=True)
class RegionTask:
    """Adds regions to every sample. Nothing is dropped but what is broken."""

    look: Seen
    name = "regions"
    drops = True  # shards are written always

    @property
    def settings(self) -> dict[str, Any]:
        """As they were given, with the detector."""
        return {"detector": self.look.detector.name, **asdict(self.look.detector.settings)}

    @property
    def adds(self) -> dict[str, tuple[str, ...]]:
        """The fields that are new, with the names of those numbers that mean something."""
        return dict.fromkeys(FIELDS, ()) | {"region_labels": self.look.detector.labels}

    def decide(self, facts: Facts, parts: Sequence[Part], verdicts: Verdicts, work: Path) -> Findings:
        """Drops nothing; shows how many regions there are, and what is seen in some pictures."""
        rows = np.flatnonzero(facts.whole)
        counts = [facts.table["counts"][row].as_py() for row in rows.tolist()]
        numbers = np.array([count for several in counts for count in several], dtype=np.float64)
        found = Findings([Histogram.of("regions of a picture", numbers)])
        found.told.append(f"{int(numbers.sum()):,} regions in {len(numbers):,} pictures.")
        some = rows[np.unique(np.linspace(0, len(rows) - 1, min(_SHOWN, len(rows))).astype(int))] if len(rows) else rows
        shown = tuple(Example(row, facts.table["said"][row].as_py()) for row in some.tolist())
        found.groups += [Group("What was seen", "The surest regions of some pictures.", shown)] if shown else []
        return found

    def edit(self, facts: Facts, row: int, members: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """The members with those of the regions, which replace older ones."""
        names, arrays = facts.table["names"][row].as_py(), facts.table["arrays"][row].as_py()
        return {**members, **dict(zip(names, arrays, strict=True))}
