"""The charts of a comparison's page: how each contestant learned, and what its quality cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from diptych import results
from diptych.app import curves, leaderboard, pages, wording
from diptych.app.comparison import Comparison, Cost
from diptych.app.curves import Line, Point
from diptych.app.leaderboard import Figure, Side
from diptych.app.runs import Run
from diptych.results import Row

_AT_MOST = 3  # metrics on the way
_BENDS = 40  # about so many of a loss curve are left after smoothing
_SECONDS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_OPERATIONS = ((1e18, "exaFLOP"), (1e15, "petaFLOP"), (1e12, "teraFLOP"), (1e9, "gigaFLOP"), (1.0, "FLOP"))
_BYTES = ((1.0, "GB"),)

Units = Sequence[tuple[float, str]]


def learning(sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """The loss, and what was evaluated on the way: a mean over the seeds, and each seed, faint."""
    losses = [line for side in sides for line in _lines(side, [_loss(run) for run in side.runs])]
    if any(line.x for line in losses):
        yield {"title": "Training loss", "svg": pages.safe(curves.chart(losses, x_label="samples seen"))}
    rows = [row for side in sides for run in side.runs for _, row in _measured(run)]
    for figure in _watched(rows):
        chance = next(row.chance for row in rows if _of(row) == figure)
        lines = [
            line for side in sides for line in _lines(side, [_values(run, figure) for run in side.runs], dots=True)
        ]
        svg = curves.chart(lines, x_label="samples seen", percent=True, chance=chance)
        yield {"title": f"{wording.metric_title(figure.metric)}, {figure.data}", "svg": pages.safe(svg)}


def trades(comparison: Comparison, sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """The headline figure against each cost that is known of at least two contestants."""
    figure = leaderboard.headline(comparison)
    scores = {side.label: figure.of(comparison, side.label) for side in sides} if figure else {}
    for title, cost_of, units in _TRADED:
        known = {cost.label: cost_of(cost) for cost in comparison.costs if 0 < cost_of(cost) < math.inf}
        size, unit = _unit(max(known.values(), default=0.0), units)
        points = [
            Point(side.name, known[side.label] / size, score.value, score.low, score.high, side.colour, score.by_seed)
            for side in sides
            if side.label in known and (score := scores.get(side.label))
        ]
        if len(points) > 1:
            yield {"title": title, "svg": pages.safe(curves.scatter(points, x_label=unit))}


def costs(comparison: Comparison, sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """A row a cost, a cell a contestant: the figure, and how many times that of the first contestant it is."""
    known = {cost.label: cost for cost in comparison.costs}
    told = [known.get(side.label) for side in sides]
    for title, cost_of, said in _COSTS:
        values = [cost_of(cost) if cost else math.nan for cost in told]
        if any(map(math.isfinite, values)):
            cells = [
                {"value": said(value), "ratio": _ratio(value, values[0]) if place else ""}
                if math.isfinite(value)
                else None
                for place, value in enumerate(values)
            ]
            yield {"title": title, "cells": cells}


def _operations(flops: float) -> str:
    size, unit = _unit(flops, _OPERATIONS)
    return f"{flops / size:.3g} {unit}"


def _unit(value: float, units: Units) -> tuple[float, str]:
    """The largest unit that a value has at least one of, else the smallest."""
    return next((one for one in units if one[0] <= value), units[-1])


def _ratio(value: float, first: float) -> str:
    return f"× {value / first:.2f}" if first > 0 else ""


_TRADED: tuple[tuple[str, Callable[[Cost], float], Units], ...] = (
    ("Time of training", lambda cost: cost.seconds, _SECONDS),
    ("Computation of training", lambda cost: cost.flops, _OPERATIONS),
    ("Largest memory", lambda cost: cost.memory_gb, _BYTES),
)
_COSTS: tuple[tuple[str, Callable[[Cost], float], Callable[[float], str]], ...] = (
    ("samples seen", lambda cost: cost.samples, wording.count),
    ("time of training", lambda cost: cost.seconds, wording.duration),
    ("samples a second", lambda cost: cost.samples_per_second, wording.count),
    ("largest memory", lambda cost: cost.memory_gb, lambda value: f"{value:.2f} GB"),
    ("parameters", lambda cost: cost.parameters, wording.count),
    ("parameters that train", lambda cost: cost.trained_parameters, wording.count),
    ("computation of training", lambda cost: cost.flops, _operations),
    ("padding in batches", lambda cost: cost.padding, lambda value: f"{100 * value:.0f} %"),
    ("time spent waiting for data", lambda cost: cost.wait, lambda value: f"{100 * value:.0f} %"),
)


def _lines(side: Side, seeds: Sequence[Line], dots: bool = False) -> list[Line]:
    """The mean of a contestant's seeds, and each of them, faint, where there are several."""
    there = [line for line in seeds if line.x]
    faint = [replace(line, colour=side.colour, faint=True) for line in there] if len(there) > 1 else []
    return [*faint, curves.mean_line(side.name, there, side.colour, dots=dots)]


def _loss(run: Run) -> Line:
    records = [record for record in run.log if "loss" in record]
    smoothed = curves.smooth([record["loss"] for record in records], window=max(1, len(records) // _BENDS))
    return Line(run.name, [record["samples"] for record in records], smoothed)


def _values(run: Run, figure: Figure) -> Line:
    points = [(at, row.value) for at, row in _measured(run) if _of(row) == figure]
    return Line(run.name, [at for at, _ in points], [value for _, value in points])


def _measured(run: Run) -> list[tuple[int, Row]]:
    """What was measured on the way, with the samples seen by then."""
    return [
        (record["samples"], row) for record in run.log for row in results.from_json(json.dumps(record.get("rows", [])))
    ]


def _watched(rows: Sequence[Row]) -> list[Figure]:
    """A few of the shares that were measured on the way, the more telling ones first."""
    shares = dict.fromkeys(_of(row) for row in rows if wording.is_share(row))
    return sorted(shares, key=leaderboard.importance)[:_AT_MOST]


def _of(row: Row) -> Figure:
    return Figure(row.data, row.task, row.metric)
