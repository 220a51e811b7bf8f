"""The failure browser of a comparison's page: the samples on which contestants disagree most, with their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from diptych.app import disagreement, leaderboard, pages, wording
from diptych.app.comparison import Comparison
from diptych.app.disagreement import Case
from diptych.app.leaderboard import Side

if TYPE_CHECKING:
    from diptych.data.dataset import Dataset

_A_TASK = 24  # cases; about 7 kB each
_FEWEST = 3  # each way
_WIDTH, _QUALITY = 176, 72  # of a picture
_FIELDS = ("image", "text", "category", "negatives", "boxes", "spans")
_CLASSIFIERS = ("zero_shot", "knn", "linear_probe")
_FOILS = 3  # false captions that are shown


def groups(comparison: Comparison, sides: Sequence[Side]) -> list[dict[str, Any]]:
    """A group a task and data set: in which cases each contestant is better, and in which worse, than the first."""
    at_most = max(_FEWEST, _A_TASK // (2 * max(1, len(sides) - 1)))
    shown = []
    for data, figure, cases in _tasks(comparison, sides):
        samples = _Samples(data)
        parts = [
            {
                "better": ahead,
                "worse": behind,
                "cases": [_case(case, figure.task, samples.of(case.key), sides) for case in chosen],
            }
            for other in range(1, len(sides))
            for chosen, ahead, behind in zip(
                disagreement.most(cases, other, at_most),
                (sides[other], sides[0]),
                (sides[0], sides[other]),
                strict=True,
            )
            if chosen
        ]
        if parts:
            title, metric = wording.task_title(figure.task), wording.metric_title(figure.metric)
            shown.append({"title": title, "data": figure.data, "metric": metric, "parts": parts})
    return shown


def _tasks(comparison: Comparison, sides: Sequence[Side]) -> Iterator[tuple[Dataset, leaderboard.Figure, list[Case]]]:
    """The tasks whose samples are known of all runs, by the figures that say most of them."""
    sets = _opened(comparison.val or comparison.data)
    named = {name: (place, data) for place, data in sets.items() for name in (f"{data.name}/{data.split}", data.name)}
    for figure in leaderboard.telling(comparison):
        if figure.data not in named:
            continue
        place, data = named[figure.data]
        folders = [[_results(run.folder, data, place) for run in side.runs] for side in sides]
        tables = [[disagreement.read(folder, figure.task) for folder in of] for of in folders]
        cases = disagreement.cases(tables, figure.metric)
        if cases:
            yield data, figure, cases


def _opened(specs: Sequence[str]) -> dict[int, Dataset]:
    """The data sets that can still be opened, by their place among all."""
    from diptych.app import measure

    sets: dict[int, Dataset] = {}
    for position, spec in enumerate(specs):
        with suppress(OSError, ValueError):  # moved since; the page then shows no samples of it
            sets[position] = measure.judged([spec], "val")[0].data
    return sets


def _results(run: Path, data: Dataset, position: int) -> Path:
    """Where a run keeps what it found on a data set: on the first one, in its own folder."""
    from diptych.app import measure

    return run if position == 0 else measure.folder_of(run, data)


class _Samples:
    """The samples of a data set by their keys."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.fields = [name for name in _FIELDS if name in data.has]
        self.places = {data.key(index): index for index in range(len(data))}

    def of(self, key: str) -> dict[str, Any]:
        """The fields of a sample that can be had; none where it is gone."""
        from diptych.data.decode import BrokenSample

        found: dict[str, Any] = {}
        for name in self.fields if key in self.places else ():
            with suppress(BrokenSample):  # the others may still be there
                found[name] = self.data.read(self.places[key], (name,))[name]
        return found


def _case(case: Case, task: str, sample: Mapping[str, Any], sides: Sequence[Side]) -> dict[str, Any]:
    """What the page shows of one case."""
    box = _box(case, sample) if task == "pointing" else ""
    return {
        "picture": pages.inlined(sample["image"], _WIDTH, _QUALITY) if "image" in sample else None,
        "box": box,
        "text": case.text or sample.get("category" if task in _CLASSIFIERS else "text") or case.key,
        "within": sample.get("text", "") if box else "",
        "against": list(sample.get("negatives") or [])[:_FOILS] if task == "foils" else [],
        "marks": [_mark(case, position, side) for position, side in enumerate(sides)],
    }


def _mark(case: Case, position: int, side: Side) -> dict[str, Any]:
    """How a contestant did: a dot a seed, and in words."""
    values = case.values[position]
    whole = set(values) <= {0.0, 1.0}
    details = [str(detail) for detail in case.details[position]] if case.details else []
    told = ", ".join(details if len(set(details)) > 1 else details[:1])
    return {
        "name": side.name,
        "colour": side.colour,
        "hits": [value >= 0.5 for value in values],
        "said": f"{sum(values):g} of {len(values)}" if whole else f"{100 * fmean(values):.0f} %",
        "detail": f"rank {told}" if told[:1].isdigit() else told,
    }


def _box(case: Case, sample: Mapping[str, Any]) -> str:
    """Where the thing lies that a phrase names, as CSS; empty where the sample does not say."""
    text, boxes = str(sample.get("text", "")), sample.get("boxes", ())
    places = [int(box) for start, end, box in sample.get("spans") or () if text[int(start) : int(end)] == case.text]
    if case.number >= len(places) or not 0 <= places[case.number] < len(boxes):
        return ""
    x0, y0, x1, y1 = (100 * min(max(float(edge), 0.0), 1.0) for edge in boxes[places[case.number]])
    return f"left:{x0:.1f}%;top:{y0:.1f}%;width:{x1 - x0:.1f}%;height:{y1 - y0:.1f}%"
