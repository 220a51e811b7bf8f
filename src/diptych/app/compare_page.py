"""The self-contained HTML page of a comparison: who is ahead and how sure that is, curves, costs, and single samples.

Like the page of a run it loads nothing from anywhere and runs no script; everything that comes from data is escaped.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diptych import __version__
from diptych.app import compare_cases, compare_charts, curves, leaderboard, pages, wording
from diptych.app.comparison import Comparison, Difference
from diptych.app.leaderboard import Figure, Side

_NAMED = 4  # contestants, at most, whose names the heading holds
_TOPS = (0.02, 0.05, 0.1, 0.2, 0.5)  # where the scale of a bar may end, else at 1


def write(comparison: Comparison, folder: Path, path: Path | None = None) -> None:
    """Writes the page of a comparison.

    Args:
        comparison: what was found.
        folder: where it lies; the runs of the contestants are looked for below it.
        path: the file; `folder/index.html` where none is given.
    """
    path = path or folder / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(comparison, folder), encoding="utf-8")


def page(comparison: Comparison, folder: Path) -> str:
    """The page as text."""
    sides = leaderboard.sides(comparison, folder)
    names = [side.name for side in sides]
    return pages.render(
        "compare.html.j2",
        title=_title(comparison, sides),
        lede=_lede(comparison, sides),
        footer=f"diptych {__version__} · {str(comparison.machine.get('started', ''))[:10]} · {pages.relative(folder)}",
        sides=sides,
        seeds=len(comparison.seeds),
        leaks=comparison.leaks,
        headline=_headline(comparison),
        verdicts=list(_verdicts(comparison, sides)),
        columns=[_column(comparison, figure) for figure in leaderboard.columns(comparison)],
        board=_board(comparison, sides),
        tables=list(_tables(comparison, sides)),
        legend=pages.safe(curves.legend(names, dashed="chance")),
        charts=list(compare_charts.learning(sides)),
        names=pages.safe(curves.legend(names)),
        trades=list(compare_charts.trades(comparison, sides)),
        costs=list(compare_charts.costs(comparison, sides)),
        groups=compare_cases.groups(comparison, sides),
        command=command(comparison, folder),
        settings=_settings(comparison, sides),
        machine=_machine(comparison),
        checked=_checked(comparison),
    )


def command(comparison: Comparison, folder: Path) -> str:
    """The command line that makes the same comparison again, in lines for a terminal."""
    plan = folder / "plan.json"
    contest = json.loads(plan.read_text(encoding="utf-8"))["contest"] if plan.is_file() else {}
    labels = [one.label for one in comparison.contestants]
    lines = [f"diptych compare {shlex.join(labels)} --out {shlex.quote(pages.relative(folder))}"]
    for flag, values in (
        ("data", comparison.data),
        ("val", contest.get("val", comparison.val)),
        ("task", contest.get("tasks", ())),
        ("set", contest.get("settings", ())),
        ("budget", filter(None, [contest.get("budget", comparison.budget)])),
        ("seeds", [str(len(comparison.seeds))]),
    ):
        parts = [f"--{flag} {shlex.quote(value)}" for value in values]
        lines += [" ".join(parts)] if parts else []
    return " \\\n    ".join(lines)


# ------------------------------------------------------------------------------------------------------------ words


def _lede(comparison: Comparison, sides: Sequence[Side]) -> str:
    done = _finished(sides)
    train = [f"{one['samples']:,} samples of {one['name']}" for one in done.get("train", [])] or list(comparison.data)
    judged = [f"{one['samples']:,} samples of {one['name']}/{one['split']}" for one in done.get("val", [])]
    seeds = len(comparison.seeds)
    kind, _, length = comparison.budget.partition("=")
    budget = f"{int(length):,} {kind}" if length.isdigit() else f"{length} {kind}"
    return (
        f"{wording.joined([side.name for side in sides])} learned from the same {wording.joined(train)} in the same "
        f"order: {seeds} seed{'s' if seeds > 1 else ''} each, {budget.strip()} a run. They were judged on "
        f"{wording.joined(judged or list(comparison.val))}, which were held out."
    )


def _title(comparison: Comparison, sides: Sequence[Side]) -> str:
    who = wording.joined([side.name for side in sides]) if len(sides) <= _NAMED else f"{len(sides)} contestants"
    data = [one["name"] for one in _finished(sides).get("train", [])] or list(comparison.data)
    return f"{who} head to head on {wording.joined(data)}"


def _finished(sides: Sequence[Side]) -> dict[str, Any]:
    """What is told of some run that came to its end: data, device and the like."""
    return next((run.finished for side in sides for run in side.runs if run.finished), {})


def _verdicts(comparison: Comparison, sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """The sentence about each contestant, with its difference drawn around zero."""
    found = leaderboard.verdicts(comparison)
    reach = _reach([verdict.difference for verdict in found])
    for verdict in found:
        colour = next(side.colour for side in sides if side.label == verdict.label)
        svg = _around_zero(verdict.difference, reach, colour)
        ends = [leaderboard.points(-reach), "0", f"{leaderboard.points(reach)} points"]
        yield {"claim": verdict.claim, "evidence": verdict.evidence, "colour": colour, "svg": svg, "ends": ends}


def _headline(comparison: Comparison) -> str:
    """The headline figure in words: `caption → picture, R@1 (Retrieval, world/val)`."""
    figure = leaderboard.headline(comparison)
    return f"{wording.metric_title(figure.metric)} ({_short(figure.task)}, {figure.data})" if figure else ""


def _short(task: str) -> str:
    return wording.task_title(task).partition(":")[0]


def _checked(comparison: Comparison) -> str:
    """What is known of judged pictures that are also trained on."""
    judged, found = comparison.leaks.get("judged", 0), comparison.leaks.get("found", 0)
    if not judged:
        return "Nobody looked whether judged pictures are also trained on."
    said = f"{found:,} are nearly the same" if found else "none is nearly the same"
    return f"{judged:,} judged pictures were compared with the trained ones: {said}."


def _settings(comparison: Comparison, sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Every option of each contestant with its value."""
    return [
        {"name": side.name, "colour": side.colour, "options": [(name, _plain(value)) for name, value in told.items()]}
        for side, one in zip(sides, comparison.contestants, strict=True)
        for told in [{**one.config, **one.recipe, "runs": list(one.runs)}]
    ]


def _machine(comparison: Comparison) -> list[tuple[str, str]]:
    told = dict(comparison.machine)
    told["versions"] = [f"{name} {version}" for name, version in told.get("versions", {}).items()]
    if "wall_seconds" in told:
        told["time, all in all"] = wording.duration(told.pop("wall_seconds"))
    return [(name.replace("_", " "), _plain(value, ", ")) for name, value in told.items()]


def _plain(value: Any, between: str = " ") -> str:
    return between.join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


# ---------------------------------------------------------------------------------------------------------- figures


def _column(comparison: Comparison, figure: Figure) -> dict[str, Any]:
    scores = [score for one in comparison.contestants if (score := figure.of(comparison, one.label))]
    row = leaderboard.row(scores[0])
    return {
        "metric": wording.metric_title(figure.metric),
        "task": _short(figure.task),
        "data": figure.data,
        "chance": wording.figure(row, row.chance),
    }


def _board(comparison: Comparison, sides: Sequence[Side]) -> list[dict[str, Any]]:
    """The contestants by the headline figure, the best first, with the figures that stand for the others."""
    columns = leaderboard.columns(comparison)
    by_label = {side.label: side for side in sides}
    tops = [_top(comparison, [figure]) for figure in columns]
    return [
        {
            "name": by_label[label].name,
            "colour": by_label[label].colour,
            "first": label == comparison.first.label,
            "cells": [_cell(comparison, by_label[label], *pair) for pair in zip(columns, tops, strict=True)],
        }
        for label in (leaderboard.ranked(comparison) if columns else [])
    ]


def _tables(comparison: Comparison, sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """A table a task and data set, a row a metric, a column a contestant and one a difference."""
    every = leaderboard.figures(comparison)
    for data, task in dict.fromkeys((figure.data, figure.task) for figure in every):
        figures = [figure for figure in every if (figure.data, figure.task) == (data, task)]
        top = _top(comparison, figures)
        yield {
            "title": wording.task_title(task),
            "data": data,
            "note": f"Bars run from 0 to {100 * top:g} %." if top else "",
            "rows": [_metric_row(comparison, sides, figure, top) for figure in figures],
        }


def _metric_row(comparison: Comparison, sides: Sequence[Side], figure: Figure, top: float) -> dict[str, Any]:
    some = leaderboard.row(next(score for score in comparison.scores if leaderboard.figure_of(score) == figure))
    return {
        "metric": wording.metric_title(figure.metric),
        "chance": wording.figure(some, some.chance),
        "cells": [_cell(comparison, side, figure, top) for side in sides],
    }


def _cell(comparison: Comparison, side: Side, figure: Figure, top: float) -> dict[str, Any] | None:
    """A mean with its interval and seeds, and the difference to the first contestant; None where it is not known."""
    score = figure.of(comparison, side.label)
    if score is None:
        return None
    row = leaderboard.row(score)
    share = wording.is_share(row)
    bar = (row.value, row.low, row.high, row.chance, side.colour, top)
    difference = figure.difference(comparison, side.label)
    return {
        "value": wording.figure(row, row.value),
        "interval": wording.interval(row),
        "svg": pages.safe(curves.interval(*bar, seeds=score.by_seed)) if share else "",
        "difference": _difference(difference, share, figure.metric) if difference else None,
    }


def _difference(difference: Difference, share: bool, metric: str) -> dict[str, Any]:
    """A difference in words; whether more is better is known of shares and of ranks."""
    better = difference.value if share else -difference.value if metric.endswith("_rank") else 0
    low, high = (leaderboard.points(bound, share) for bound in (difference.low, difference.high))
    return {
        "value": leaderboard.points(difference.value, share),
        "interval": f"{low} to {high}" if low and high else "",
        "p": leaderboard.p_value(difference.p_holm),
        "shown": leaderboard.shown(difference),
        "arrow": "▲" if better > 0 else "▼" if better < 0 else "",
    }


def _around_zero(difference: Difference, reach: float, colour: int) -> Any:
    bounds = (difference.value, difference.low, difference.high, 0.0, colour)
    return pages.safe(curves.interval(*bounds, top=reach, bottom=-reach))


def _reach(differences: Sequence[Difference]) -> float:
    ends = [abs(end) for one in differences for end in (one.value, one.low, one.high) if math.isfinite(end)]
    return 1.1 * max(ends, default=1.0) or 1.0


def _top(comparison: Comparison, figures: Sequence[Figure]) -> float:
    """Where the scale of the bars of some shares ends; 0 where none is a share."""
    rows = [leaderboard.row(score) for score in comparison.scores if leaderboard.figure_of(score) in figures]
    ends = [end for row in rows if wording.is_share(row) for end in (row.value, row.high, row.chance) if end == end]
    return next((top for top in _TOPS if max(ends) <= top), 1.0) if ends else 0.0
