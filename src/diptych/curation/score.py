"""How well picture and caption go together, by any method that scores pairs: what CLIP-score filtering rests on.

Source: Hessel et al., "CLIPScore", EMNLP 2021; as a filter: Gadre et al., "DataComp", NeurIPS 2023. The score of a
sample is that of its best caption; a late interaction, whose two directions differ, counts by their mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.curation.captions import with_record
from diptych.curation.embed import Embedder
from diptych.curation.verdicts import NO_FIELDS, Example, Findings, Group, Histogram, Verdicts
from diptych.data.fields import decode_sample

if TYPE_CHECKING:
    from diptych.curation.blocks import Part
    from diptych.curation.measure import Facts

LOW = "score below the threshold"
_SHOWN = 12


@dataclass(frozen=True)
class Score:
    """Which scores stay."""

    keep: float | None = None
    """share of the samples that stays, the best ones: 0.3 is usual"""
    at_least: float | None = None
    """score from which a sample stays"""
    into_json: bool = False
    """write the score into the json of each sample too"""

    def __post_init__(self) -> None:
        if self.keep is not None and self.at_least is not None:
            raise ValueError("--keep and --at-least both set the threshold; give one of them.")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"--keep is a share of the samples, above 0 and at most 1, not {self.keep:g}.")


@dataclass(frozen=True)
class Scores:
    """The similarity of a picture with each of its captions."""

    embedder: Embedder
    fields = ("image", "texts")
    columns = {"score": "float", "scores": "list<float>"}  # noqa: RUF012

    @property
    def identity(self) -> str:
        """The model."""
        return f"scores 1 {self.embedder.identity}"

    def see(self, key: str, members: Mapping[str, bytes]) -> tuple[Any, list[str]]:
        """The view of the picture, and the captions."""
        sample = decode_sample(key, members, self.fields)
        return self.embedder.view(key, sample.image), list(sample.texts)

    def tell(self, seen: Sequence[tuple[Any, list[str]]]) -> list[dict[str, Any]]:
        """The columns of some samples."""
        if not seen:
            return []
        images = self.embedder.images([view for view, _ in seen])
        captions = self.embedder.texts([text for _, texts in seen for text in texts])
        rows, start = [], 0
        for number, (_, texts) in enumerate(seen):
            end = start + len(texts)
            found = self.embedder.scores(images.take(slice(number, number + 1)), captions.take(slice(start, end)))
            rows.append({"score": max(found), "scores": found})
            start = end
        return rows


@dataclass(frozen=True)
class ScoreTask:
    """Scores every sample, and drops those below a threshold or not among the best share."""

    score: Score
    look: Scores
    name = "score"
    adds = NO_FIELDS

    @property
    def settings(self) -> dict[str, Any]:
        """As they were given."""
        return asdict(self.score)

    @property
    def drops(self) -> bool:
        """Without a threshold nothing goes; shards are written where the score goes into them."""
        return self.score.keep is not None or self.score.at_least is not None or self.score.into_json

    def decide(self, facts: Facts, parts: Sequence[Part], verdicts: Verdicts, work: Path) -> Findings:
        """Drops the samples below the threshold."""
        scores = facts.column("score", np.nan).astype(np.float64)
        rows = np.flatnonzero(facts.whole & verdicts.judged)
        order = rows[np.argsort(-scores[rows], kind="stable")]  # the best first; of equal ones the first
        least = threshold(scores[order], self.score)
        stays = (
            round(self.score.keep * len(order)) if self.score.keep is not None else int((scores[order] >= least).sum())
        )
        for row in order[stays:].tolist():
            verdicts.drop(row, LOW, float(scores[row]))
        cut = None if least == -np.inf else least
        found = Findings([Histogram.of("score of picture and caption", scores[rows], low=cut)])
        if cut is not None and len(order):
            found.told.append(f"Scores of at least {least:.4f} stay.")
        places = {
            "Lowest scores": ("Pictures and captions that fit least.", order[::-1][:_SHOWN]),
            "Just below the threshold": ("The best of those that go.", order[stays : stays + _SHOWN // 2]),
            "Just above the threshold": ("The worst of those that stay.", order[max(0, stays - _SHOWN // 2) : stays]),
            "Highest scores": ("Pictures and captions that fit best.", order[:_SHOWN]),
        }
        for title, (about, chosen) in places.items():
            if len(chosen) and (cut is not None or "threshold" not in title):
                shown = tuple(Example(int(row), f"score {scores[row]:.3f}") for row in chosen.tolist())
                found.groups.append(Group(title, about, shown))
        return found

    def edit(self, facts: Facts, row: int, members: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Adds the score to the json, where that is wanted."""
        if not self.score.into_json:
            return members
        return with_record(members, {"score": facts.table["score"][row].as_py()})


def threshold(scores: np.ndarray, score: Score) -> float:
    """The lowest score that stays, of (N,) scores, the best first; minus infinity where all stay."""
    if score.at_least is not None:
        return score.at_least
    if score.keep is None or not len(scores):
        return -np.inf
    return float(scores[max(1, round(score.keep * len(scores))) - 1])
