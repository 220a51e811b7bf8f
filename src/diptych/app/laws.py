"""From the runs of several budgets to laws: a fitted curve a figure, what it predicts, and what speaks against it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

from diptych.app import wording
from diptych.config import nearest
from diptych.results import Row

if TYPE_CHECKING:
    from diptych.app.runs import Run
    from diptych.evaluation.scaling import Curve

Key = tuple[str, str, str]  # data, task, metric
LOSS = ("training", "loss")
AHEAD = {2: "twice", 10: "ten times"}  # the largest budget
_SUFFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_POOR = 0.8  # R^2 below which a curve is said to fit badly
_FEW = 5  # misses on average below which a share is at its ceiling
_DRAWN = 61  # points at which a curve is told


@dataclass(frozen=True)
class Range:
    """A number with its 95 % interval; the bounds are NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Point:
    """What one run came to."""

    run: str
    seed: int
    x: float
    value: float


@dataclass(frozen=True)
class Prediction:
    """What a run with `times` the largest budget would come to, by extrapolation, with bounds for 95 % of such runs."""

    times: int
    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Law:
    """A figure over the budget x: error = floor + scale * x ** -alpha, where the error of a share is 1 - share."""

    data: str
    task: str
    metric: str
    chance: float
    n: int
    """units that each run was judged on"""
    points: tuple[Point, ...]
    alpha: Range
    floor: Range
    """the error that no budget removes; 0 without bounds where it was not fitted (fewer than five budgets)"""
    explained: float
    """R^2 of the mean log errors of the budgets; NaN where the curve has to go through all of them"""
    line: tuple[tuple[float, float, float, float], ...]
    """x, mean error of runs, and the bounds of its 95 % interval, from the smallest budget to the last prediction"""
    predictions: tuple[Prediction, ...]
    notes: tuple[str, ...]
    """what speaks against it, a sentence each"""

    @property
    def share(self) -> bool:
        """Whether the figure is a share, for which larger is better."""
        return 0 <= self.chance <= 1

    @property
    def title(self) -> str:
        """The figure as people call it."""
        return _title((self.data, self.task, self.metric))

    @property
    def budgets(self) -> list[float]:
        """The budgets, from small to large."""
        return sorted({point.x for point in self.points})

    def at(self, x: float) -> list[float]:
        """What the runs of a budget came to."""
        return [point.value for point in self.points if point.x == x]

    def error(self, value: float) -> float:
        """What the curve is fitted to; of a share without a single miss, half a miss."""
        return _error(value, self.share, self.n)

    def told(self, found: Range | Prediction) -> str:
        """A value of the figure with its interval: `41.3 % [37.2, 45.0]` or `2.31 [2.2, 2.4]`."""
        value = number(found.value, self.share)
        low, high = (number(bound, self.share).removesuffix(" %") for bound in (found.low, found.high))
        return f"{value} [{low}, {high}]" if low else value

    def sentence(self, unit: str) -> str:
        """What was found; `unit` is what the budget counts, such as `samples`."""
        last = self.predictions[-1]
        rises = self.alpha.value < 0
        what = f"{self.title}{': the error' if self.share else ''} {'grows' if rises else 'falls'} as {unit}"
        rest = (
            f", towards {number(self.floor.value, self.share)} that no budget removes" if self.floor.value > 0 else ""
        )
        sure = f" [{-self.alpha.high:.2f}, {-self.alpha.low:.2f}]" if math.isfinite(self.alpha.low) else ""
        return (
            f"{what}^{-self.alpha.value:.2f}{sure}{rest}; {AHEAD[last.times]} the {unit} would give {self.told(last)}, "
            "by extrapolation."
        )


def number(value: float, share: bool) -> str:
    """A figure as people read it, nothing for NaN."""
    if math.isnan(value):
        return ""
    return f"{100 * value:.1f} %" if share else f"{value:.3g}"


def short(amount: float) -> str:
    """`20k`, `1.5M`, `3.2P`."""
    size, suffix = next(((size, suffix) for size, suffix in _SUFFIXES if amount >= size), (1.0, ""))
    return f"{amount / size:.3g}{suffix}"


def laws(done: Sequence[tuple[float, Run]], metrics: Sequence[str] = ()) -> list[Law]:
    """A law for each figure.

    Args:
        done: the budget of each run, and the run.
        metrics: `task/metric`, such as `retrieval/text_to_image_r1` or `training/loss`; where none is given, the shares
            that say most of their tasks, and the training loss.

    Raises:
        ValueError: no such figure was measured, or it is negative.
    """
    figures = [{_key(row): row for row in rows(run)} for _, run in done]
    common = [key for key in figures[0] if all(key in one for one in figures)]
    return [
        _law(key, [(x, run.name, one[key]) for (x, run), one in zip(done, figures, strict=True)])
        for key in _chosen(common, figures, metrics)
    ]


def rows(run: Run) -> list[Row]:
    """The figures of a run, with its training loss: the mean over the last tenth of its samples."""
    losses = [(line["samples"], line["loss"]) for line in run.log if "loss" in line]
    if not losses:
        return run.rows
    last = losses[-1][0]
    end = [loss for samples, loss in losses if samples > 0.9 * last]
    seen = last - max((samples for samples, _ in losses if samples <= 0.9 * last), default=0)
    data = "+".join(f"{part['name']}/{part['split']}" for part in run.finished["train"])
    seed = run.info["recipe"]["seed"]
    return [*run.rows, Row(run.method, run.name, data, *LOSS, mean(end), n=round(seen), seed=seed)]


def _key(row: Row) -> Key:
    return row.data, row.task, row.metric


def _title(key: Key) -> str:
    data, task, metric = key
    if (task, metric) == LOSS:
        return f"Training loss on {data}"
    return f"{task.replace('_', ' ').capitalize()} on {data}, {wording.metric_title(metric)}"


def _chosen(common: Sequence[Key], figures: Sequence[Mapping[Key, Row]], metrics: Sequence[str]) -> list[Key]:
    """The figures that were asked for, or those that say most."""
    names = {f"{task}/{metric}" for _, task, metric in common}
    for name in metrics:
        if name not in names:
            raise ValueError(nearest(name, names, "figure of these runs"))
    if metrics:
        return [key for key in common if "/".join(key[1:]) in metrics]
    shares = [key for key in common if wording.is_share(figures[0][key])]
    positive = all(one[key].value > 0 for key in common if key[1:] == LOSS for one in figures)  # as power laws are
    losses = [key for key in common if key[1:] == LOSS and positive]
    return ([key for key in shares if key[2] in wording.HEADLINES] or shares) + losses


def _law(key: Key, found: Sequence[tuple[float, str, Row]]) -> Law:
    from diptych.evaluation import scaling

    some = found[0][2]
    share = 0 <= some.chance <= 1
    errors = [_error(row.value, share, row.n) for _, _, row in found]
    try:
        curve = scaling.fit([x for x, _, _ in found], errors)
    except ValueError as error:
        raise ValueError(f"{'/'.join(key[1:])} on {key[0]} cannot be fitted: {error}") from None
    smallest, largest = min(x for x, _, _ in found), max(x for x, _, _ in found)
    last = max(AHEAD) * largest
    line = [smallest * (last / smallest) ** (step / (_DRAWN - 1)) for step in range(_DRAWN)]
    return Law(
        *key,
        chance=some.chance,
        n=some.n,
        points=tuple(Point(name, row.seed, x, row.value) for x, name, row in found),
        alpha=Range(curve.alpha.value, curve.alpha.low, curve.alpha.high),
        floor=Range(curve.floor.value, curve.floor.low, curve.floor.high),
        explained=curve.explained,
        line=tuple(zip(line, *(bound.tolist() for bound in curve.at(line)), strict=True)),
        predictions=tuple(_prediction(curve, times, largest, share) for times in AHEAD),
        notes=tuple(_notes(curve, found, share)),
    )


def _error(value: float, share: bool, n: int) -> float:
    return max(1 - value, 0.5 / n) if share else value


def _prediction(curve: Curve, times: int, largest: float, share: bool) -> Prediction:
    value, low, high = (float(bound[0]) for bound in curve.of_a_run(times * largest))
    if share:
        value, low, high = (_clipped(1 - error) for error in (value, high, low))
    return Prediction(times, times * largest, value, low, high)


def _clipped(share: float) -> float:
    return share if math.isnan(share) else min(1.0, max(0.0, share))


def _notes(curve: Curve, found: Sequence[tuple[float, str, Row]], share: bool) -> Iterator[str]:
    budgets = sorted({x for x, _, _ in found})
    if math.isnan(curve.alpha.low):
        yield "Two runs say nothing of how sure this is: add a budget, or seeds."
    elif curve.alpha.low <= 0 <= curve.alpha.high:
        yield "The interval of the exponent includes zero: these runs do not show that a larger budget helps."
    if len(budgets) == 2 and not math.isnan(curve.alpha.low):
        yield "Two budgets always lie on a curve: a third would show whether this is one."
    elif curve.explained < _POOR:
        yield f"The curve explains only {100 * max(0.0, curve.explained):.0f} % of how the budgets differ (R²)."
    if not share:
        return
    first, last = ([row for x, _, row in found if x == budget] for budget in (budgets[0], budgets[-1]))
    if mean(row.value if math.isnan(row.low) else row.low for row in first) <= first[0].chance:
        yield "The smallest budget is no better than guessing, where no power law holds: begin with a larger one."
    if mean((1 - row.value) * row.n for row in last) < _FEW:
        yield "The largest budget leaves fewer than five misses: the figure is at its ceiling, harder data are needed."
