"""What a comparison comes to: the figures that stand for the others, and a sentence for each contestant."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych.app import curves, runs, wording
from diptych.app.comparison import Comparison, Difference, Score
from diptych.app.runs import Run
from diptych.results import Row

LEVEL = 0.05
"""a difference counts where its corrected p-value is below this"""

_COLUMNS = 6


@dataclass(frozen=True)
class Figure:
    """A metric of a task on a data set, as all contestants have it."""

    data: str
    task: str
    metric: str

    def of(self, comparison: Comparison, label: str) -> Score | None:
        """A contestant's score; None where it was not measured."""
        return next((score for score in comparison.of(label) if figure_of(score) == self), None)

    def difference(self, comparison: Comparison, label: str) -> Difference | None:
        """A contestant's difference to the first; None for the first and where none could be paired."""
        return comparison.difference(label, self.data, self.task, self.metric)


@dataclass(frozen=True)
class Side:
    """A contestant as a page shows it: what it is called, the number of its colour, its runs."""

    label: str
    name: str
    colour: int
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Verdict:
    """What the headline figure says of a contestant against the first one."""

    label: str
    claim: str
    """`FILIP is ahead of CLIP by 3.1 points.`"""
    evidence: str
    """the figures, the interval and the p-value"""
    difference: Difference


def figure_of(score: Score) -> Figure:
    """What a score is a value of."""
    return Figure(score.data, score.task, score.metric)


def row(score: Score) -> Row:
    """A score as a row, for `wording`."""
    return Row(
        method=score.label,
        run="",
        data=score.data,
        task=score.task,
        metric=score.metric,
        value=score.value,
        low=score.low,
        high=score.high,
        n=score.n,
        chance=score.chance,
    )


def figures(comparison: Comparison) -> list[Figure]:
    """Everything that was measured, in the order of the scores."""
    return list(dict.fromkeys(figure_of(score) for score in comparison.scores))


def telling(comparison: Comparison) -> list[Figure]:
    """The share that says most of each task on each data set."""
    found: dict[tuple[str, str], Figure] = {}
    shares = [figure_of(score) for score in comparison.scores if wording.is_share(row(score))]
    for figure in sorted(dict.fromkeys(shares), key=importance):
        found.setdefault((figure.data, figure.task), figure)
    return [figure for figure in dict.fromkeys(shares) if figure in found.values()]


def columns(comparison: Comparison) -> list[Figure]:
    """At most six of the telling figures: every task once before any of them twice."""
    seen: Counter[str] = Counter()
    turns = []
    for place, figure in enumerate(telling(comparison)):
        turns.append((seen[figure.task], place, figure))
        seen[figure.task] += 1
    return [figure for _, _, figure in sorted(sorted(turns, key=lambda turn: turn[:2])[:_COLUMNS], key=lambda t: t[1])]


def importance(figure: Figure) -> int:
    """The order in which figures say something: 0 is the most telling."""
    return wording.HEADLINES.index(figure.metric) if figure.metric in wording.HEADLINES else len(wording.HEADLINES)


def headline(comparison: Comparison) -> Figure | None:
    """The figure that the leaderboard is sorted by; None where no share was measured."""
    return next(iter(columns(comparison)), None)


def ranked(comparison: Comparison) -> list[str]:
    """The labels, the best by the headline figure first."""
    figure = headline(comparison)
    labels = [one.label for one in comparison.contestants]
    scores = {label: figure.of(comparison, label) if figure else None for label in labels}
    return sorted(labels, key=lambda label: -score.value if (score := scores[label]) else math.inf)


def names(comparison: Comparison) -> dict[str, str]:
    """What people call each contestant, by label: its title, with the label where two would be alike."""
    titles = [one.title for one in comparison.contestants]
    return {
        one.label: one.title if titles.count(one.title) == 1 else f"{one.title} ({one.label})"
        for one in comparison.contestants
    }


def sides(comparison: Comparison, folder: Path) -> list[Side]:
    """The contestants with those of their runs that are there."""
    named = names(comparison)
    return [
        Side(one.label, named[one.label], place % curves.COLOURS, tuple(_runs(folder, one.runs)))
        for place, one in enumerate(comparison.contestants)
    ]


def verdicts(comparison: Comparison) -> list[Verdict]:
    """A sentence about each contestant but the first, by the headline figure, where the two could be compared."""
    figure = headline(comparison)
    differences = [figure.difference(comparison, one.label) for one in comparison.contestants] if figure else []
    return [_verdict(comparison, difference) for difference in differences if difference]


def shown(difference: Difference) -> bool:
    """Whether a difference is more than chance would make."""
    return difference.p_holm < LEVEL


def points(value: float, share: bool = True) -> str:
    """A difference with its sign: of shares in points (hundredths), else with three digits; nothing for NaN."""
    if math.isnan(value):
        return ""
    return (f"{100 * value:+.1f}" if share else f"{value:+.3g}").replace("-", "\N{MINUS SIGN}")


def p_value(p: float) -> str:
    """`p < 0.001`, `p = 0.004`, `p = 0.32`; nothing for NaN."""
    if math.isnan(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _verdict(comparison: Comparison, difference: Difference) -> Verdict:
    named = names(comparison)
    ours, first = named[difference.label], named[difference.against]
    side = "ahead of" if difference.value > 0 else "behind"
    claim = f"No difference between {ours} and {first} could be shown."
    if shown(difference):
        claim = f"{ours} is {side} {first} by {abs(100 * difference.value):.1f} points."
    return Verdict(difference.label, claim, _evidence(comparison, difference), difference)


def _evidence(comparison: Comparison, difference: Difference) -> str:
    figure = Figure(difference.data, difference.task, difference.metric)
    scores = [figure.of(comparison, label) for label in (difference.label, difference.against)]
    rows = [row(score) for score in scores if score]
    values = " against ".join(wording.figure(one, one.value) for one in rows)
    corrected = " after Holm's correction" if len(comparison.contestants) > 2 else ""
    bounds = f"{points(difference.low)} to {points(difference.high)}"
    said = [f"difference {points(difference.value)} points"]
    said += [f"95 % interval {bounds}"] if not math.isnan(difference.low) else []
    said += [f"{p_value(difference.p_holm)}{corrected}"] if not math.isnan(difference.p_holm) else []
    return f"{values} {wording.headline(rows[0])} ({', '.join(said)})."


def _runs(folder: Path, names: Sequence[str]) -> Iterator[Run]:
    return (runs.read(folder / name) for name in names if (folder / name / runs.RUN).is_file())
