"""One self-contained HTML page about one or several runs: figures, curves, pictures, cost, and how to go on.

The page loads nothing from anywhere and runs no script; everything that comes from data is escaped.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diptych import __version__, results
from diptych.app import curves, pages, wording
from diptych.app.runs import Run
from diptych.results import Row

_PICTURES = {
    "text_to_image": (
        "What it finds for a caption",
        "Captions that the model never saw, with the pictures that it ranks first. Green frames the right one.",
    ),
    "image_to_text": (
        "What it says of a picture",
        "Pictures that the model never saw, with the captions that it ranks first. The right one is green.",
    ),
    "pointing": (
        "Whether words find their place",
        "How strongly each place answers a phrase. The dot is the strongest place, the frame the true box.",
    ),
    "words": (
        "Where it looks",
        "How strongly each place of the picture answers a word of its caption. The dot is the strongest place.",
    ),
    "forgetting": (
        "What it forgets",
        "Each task (rows) after each task that was learned (columns), among the pictures and captions of all tasks.",
    ),
    "confusion": ("What it takes for what", "Pictures by their true class (rows) and the class that was guessed."),
}
_WIDTH = 1600  # pixels of an inlined picture, at most
_LINE = 80  # characters of a line of a command
_LISTED = 200  # broken samples that the page lists


def write(shown: Sequence[Run], path: Path, *, title: str = "") -> None:
    """Writes the page about some runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(shown, title=title), encoding="utf-8")


def page(shown: Sequence[Run], *, title: str = "") -> str:
    """The page as text."""
    labels = _labels(shown)
    return pages.render(
        "report.html.j2",
        title=title or f"{wording.joined(labels)} on {wording.joined(_data_names(shown))}",
        lede=_lede(shown),
        runs=[_run(run, label, index) for index, (run, label) in enumerate(zip(shown, labels, strict=True))],
        headline=_headline(shown, labels),
        tables=list(_tables(shown)),
        legend=pages.safe(curves.legend(labels, dashed="chance")),
        charts=list(_charts(shown, labels)),
        pictures=list(_picture_parts(shown, labels)),
        train=command_for_own_pictures(shown[-1]),
        footer=_footer(shown),
    )


def _labels(shown: Sequence[Run]) -> list[str]:
    """What the page calls each run: the method's title, with the folder where two would be alike."""
    from diptych import methods

    titles = [methods.card(run.method).title if run.method in methods.IDS else run.method for run in shown]
    return [
        title if titles.count(title) == 1 else f"{title} ({run.name})" for title, run in zip(titles, shown, strict=True)
    ]


def _run(run: Run, label: str, colour: int) -> dict[str, Any]:
    """What the page says of one run."""
    done, recipe = run.finished, run.info["recipe"]
    last: dict[str, Any] = next(
        (record for record in reversed(run.log) if "loss" in record), {}
    )  # of a run that goes on
    steps, seconds = done.get("steps", last.get("step", 0)), done.get("seconds", last.get("seconds", 0))
    paused, skipped = (done.get(name, last.get(name, {})) for name in ("paused", "skipped"))
    broken = len(run.quarantine)
    return {
        "label": label,
        "method": run.method,
        "folder": pages.relative(run.folder),
        "colour": colour,
        "parameters": wording.count(done.get("parameters", math.nan)),
        "trained": wording.count(done.get("trained_parameters", math.nan)),
        "samples": wording.count(steps * recipe["batch"]),
        "batch": f"{recipe['batch']:,}",
        "steps": f"{steps:,}",
        "time": wording.duration(seconds),
        "saving": f"{paused.get('saving', 0):.2g} s",
        "speed": wording.count(done.get("samples_per_second", math.nan)),
        "device": done.get("device", "not finished"),
        "broken": "every sample could be read." if not broken else f"{broken:,} broken samples were skipped.",
        "skipped": f"{skipped:,} steps were skipped, as their loss or gradient was not finite." if skipped else "",
        "quarantine": sorted(run.quarantine.items())[:_LISTED],
        "command": command(run),
        "settings": _settings(run),
    }


def command(run: Run) -> str:
    """The command line that trains such a run again."""
    parts = [f"--data {shlex.quote(spec)}" for spec in run.info["data"]["data"]]
    parts += [f"--val {shlex.quote(spec)}" for spec in run.info["data"]["val"]]
    parts += _options(run)
    return " ".join(
        [f"diptych train {shlex.quote(run.method)}", *parts, f"--out {shlex.quote(pages.relative(run.folder))}"]
    )


def command_for_own_pictures(run: Run) -> str:
    """The command line that trains the same method, in the same way, on somebody's shards, in lines for a terminal."""
    lines = [f"diptych train {shlex.quote(run.method)} --data my_shards --out runs/mine"]
    for option in _options(run, without=("workers", "evaluations", "checkpoints")):
        if len(lines) > 1 and len(lines[-1]) + len(option) < _LINE:
            lines[-1] += f" {option}"
        else:
            lines.append(option)
    return " \\\n    ".join(lines)


def _options(run: Run, without: Sequence[str] = ()) -> list[str]:
    """The options that differ from the defaults, as one types them."""
    return [_option(name, value) for name, value in run.info.get("changed", {}).items() if name not in without]


def _option(name: str, value: Any) -> str:
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return shlex.quote(f"--{name}" if value else f"--no-{name}")
    values = value if isinstance(value, list) else [value]
    return " ".join([shlex.quote(f"--{name}"), *(shlex.quote(str(item)) for item in values)])


def _settings(run: Run) -> list[tuple[str, str]]:
    """Every option with its value, and the versions."""
    options = {**run.info["config"], **run.info["recipe"]}
    versions = ", ".join(f"{name} {version}" for name, version in run.info.get("versions", {}).items())
    return [(name, _plain(value)) for name, value in options.items()] + [("versions", versions)]


# ------------------------------------------------------------------------------------------------------------ head


def _lede(shown: Sequence[Run]) -> str:
    """What was trained on what, in a few sentences."""
    if not all(run.finished for run in shown):
        return "Training goes on; what is here is what there is so far."
    return " ".join([_trained_on(shown), _judged_on(shown), _frozen(shown)]).strip()


def _trained_on(shown: Sequence[Run]) -> str:
    data = list(dict.fromkeys(wording.data(run.finished["train"]) for run in shown))
    seen = list(dict.fromkeys(wording.count(run.finished["steps"] * run.info["recipe"]["batch"]) for run in shown))
    times = [wording.duration(run.finished["seconds"]).replace(" ", "\N{NO-BREAK SPACE}") for run in shown]
    each = " by each" if len(shown) > 1 and len(seen) == 1 else ""
    return f"Trained on {'; on '.join(data)} ({wording.joined(seen)} samples seen{each}, {wording.joined(times)})."


def _judged_on(shown: Sequence[Run]) -> str:
    data = dict.fromkeys(wording.data(run.finished["val"]) for run in shown)
    return f"Judged on {'; on '.join(data)}, which were held out."


def _frozen(shown: Sequence[Run]) -> str:
    """A sentence about parameters that were not trained here, where that is so of all runs alike."""
    sizes = {(run.finished["trained_parameters"], run.finished["parameters"]) for run in shown}
    trained, there = sizes.pop()
    if sizes or trained == there:
        return ""
    return (
        f"Of the {wording.count(there)} parameters{' of each' if len(shown) > 1 else ''}, {wording.count(trained)} "
        "were trained here; the others are frozen."
    )


def _headline(shown: Sequence[Run], labels: Sequence[str]) -> list[dict[str, Any]]:
    """The figures that say most, large: one of each run, or up to three where there is one run."""
    common = set.intersection(*({row.metric for row in run.rows} for run in shown))
    metrics = [name for name in wording.HEADLINES if name in common][: 3 if len(shown) == 1 else 1]
    return [
        _card(next(row for row in run.rows if row.metric == metric), label, colour)
        for metric in metrics
        for colour, (run, label) in enumerate(zip(shown, labels, strict=True))
    ]


def _card(row: Row, label: str, colour: int) -> dict[str, Any]:
    return {
        "name": label,
        "colour": colour,
        "value": wording.figure(row, row.value),
        "meaning": wording.headline(row),
        "interval": f"95 % interval {wording.interval(row)}; guessing gives {wording.figure(row, row.chance)}",
        "data": row.data,
    }


# ---------------------------------------------------------------------------------------------------------- figures


def _tables(shown: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """A table a task and data set, a row a metric, a cell a run."""
    groups = dict.fromkeys((row.task, row.data) for run in shown for row in run.rows)
    for task, data in groups:
        by_run = [{row.metric: row for row in run.rows if (row.task, row.data) == (task, data)} for run in shown]
        metrics = list(dict.fromkeys(metric for rows in by_run for metric in rows))
        shares = [row for rows in by_run for row in rows.values() if wording.is_share(row)]
        top = _round_up(max((row.high if math.isfinite(row.high) else row.value for row in shares), default=1.0))
        yield {
            "title": wording.task_title(task),
            "data": data,
            "note": f"Bars run from 0 to {100 * top:g} %." if shares else "",
            "rows": [_metric_row([rows.get(metric) for rows in by_run], metric, top) for metric in metrics],
        }


def _metric_row(rows: Sequence[Row | None], metric: str, top: float) -> dict[str, Any]:
    some = next(row for row in rows if row is not None)
    return {
        "metric": wording.metric_title(metric),
        "chance": wording.figure(some, some.chance),
        "cells": [_cell(row, colour, top) if row else None for colour, row in enumerate(rows)],
    }


def _cell(row: Row, colour: int, top: float) -> dict[str, Any]:
    bar = curves.interval(row.value, row.low, row.high, row.chance, colour, top) if wording.is_share(row) else ""
    return {"value": wording.figure(row, row.value), "interval": wording.interval(row), "svg": pages.safe(bar)}


def _round_up(value: float) -> float:
    return next((top for top in (0.02, 0.05, 0.1, 0.2, 0.5) if value <= top), 1.0)


# ----------------------------------------------------------------------------------------------------------- curves


def _charts(shown: Sequence[Run], labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The loss, and what was evaluated on the way, over the samples seen."""
    losses = []
    for colour, (run, label) in enumerate(zip(shown, labels, strict=True)):
        records = [record for record in run.log if "loss" in record]
        smoothed = curves.smooth([record["loss"] for record in records], window=max(1, len(records) // 40))
        losses.append(curves.Line(label, [record["samples"] for record in records], smoothed, colour))
    if any(line.x for line in losses):
        yield {"title": "Training loss", "svg": pages.safe(curves.chart(losses, x_label="samples seen"))}
    for metric in _watched(shown):
        lines, chance = [], math.nan
        for colour, (run, label) in enumerate(zip(shown, labels, strict=True)):
            points = [(record["samples"], row) for record in run.log for row in _measured(record, metric)]
            chance = points[0][1].chance if points else chance
            values = [row.value for _, row in points]
            lines.append(curves.Line(label, [at for at, _ in points], values, colour, dots=True))
        svg = curves.chart(lines, x_label="samples seen", percent=True, chance=chance)
        yield {"title": wording.metric_title(metric), "svg": pages.safe(svg)}


def _watched(shown: Sequence[Run]) -> list[str]:
    """At most three shares that were measured on the way, in the order in which the evaluation told them."""
    rows = [row for run in shown for record in run.log for row in _measured(record)]
    shares = list(dict.fromkeys(row.metric for row in rows if wording.is_share(row)))
    wanted = [name for name in (*wording.HEADLINES, "text_to_image_r5") if name in shares]
    return list(dict.fromkeys([*wanted, *shares]))[:3]


def _measured(record: dict[str, Any], metric: str = "") -> list[Row]:
    rows = results.from_json(json.dumps(record.get("rows", [])))
    return [row for row in rows if row.metric == metric][:1] if metric else rows


# --------------------------------------------------------------------------------------------------------- pictures


def _picture_parts(shown: Sequence[Run], labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The pictures that the evaluations drew, those of one kind together."""
    for stem, (title, about) in _PICTURES.items():
        found = [
            {"name": label, "colour": colour, **picture}
            for colour, (run, label) in enumerate(zip(shown, labels, strict=True))
            for path in run.pictures
            if path.stem == stem and (picture := _inlined(path))
        ]
        if found:
            yield {"title": title, "about": about, "pictures": found}


def _inlined(path: Path) -> dict[str, Any] | None:
    """A picture as a data URI, no wider than the page needs; None where it is none."""
    from diptych.data.decode import NORMAL, BrokenSample, decode_image
    from diptych.data.raw import read_file

    try:
        return pages.inlined(decode_image(read_file(path, path.name, NORMAL.bytes)), _WIDTH)
    except BrokenSample:
        return None


# ------------------------------------------------------------------------------------------------------------ words


def _footer(shown: Sequence[Run]) -> str:
    started = min(str(run.info.get("started", "")) for run in shown)
    return f"diptych {__version__} · {started[:10]} · {wording.joined([pages.relative(run.folder) for run in shown])}"


def _data_names(shown: Sequence[Run]) -> list[str]:
    names = [
        [one["name"] for one in run.finished["train"]] if run.finished else run.info["data"]["data"] for run in shown
    ]
    return list(dict.fromkeys(name for some in names for name in some))


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
