"""The figures of a comparison as one table: for the terminal and, as Markdown, for docs."""

from __future__ import annotations

import math

from diptych.app import wording
from diptych.app.comparison import Comparison, Cost, Difference, Score

HOW_TO_READ = (
    "[ ]: 95 % interval over seeds and samples. *: p < 0.05 (permutation test, Holm's correction for the contestants)."
)


def table(comparison: Comparison, *, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: a row a share (in per cent), a column a contestant, then the differences to the first.

    A `brief` table has intervals only of the differences, and names the data set only where there are several.
    """
    labels = [one.label for one in comparison.contestants]
    columns = ["data", "task", "metric", "chance", *labels, *(f"{label} - {labels[0]}" for label in labels[1:])]
    scores = {(s.label, s.data, s.task, s.metric): s for s in comparison.scores}
    rows = []
    for data, task, metric in dict.fromkeys(key[1:] for key in scores):
        found = [scores.get((label, data, task, metric)) for label in labels]
        chance = next(score.chance for score in found if score)
        if 0 <= chance <= 1:
            differences = [comparison.difference(label, data, task, metric) for label in labels[1:]]
            scored = [_score(score, brief=brief) for score in found]
            cells = [*scored, *map(_difference, differences)]
            rows.append([data, task, wording.metric_title(metric), f"{100 * chance:.1f}", *cells])
    if brief and len({row[0] for row in rows}) == 1:
        columns, rows = columns[1:], [row[1:] for row in rows]
    return columns, rows


def markdown(comparison: Comparison, title: str, command: str) -> str:
    """A page with the table and what it cost."""
    columns, rows = table(comparison)
    machine = comparison.machine
    trained = f"{comparison.budget} on {wording.joined(comparison.data)}, {len(comparison.seeds)} seeds"
    judged, found = (f"{comparison.leaks.get(name, 0):,}" for name in ("judged", "found"))
    beside = f"{machine.get('kind', '')}, {machine.get('at_a_time', 1)} at a time"
    costs = ["contestant", "time", "samples/s", "memory", "parameters", "FLOPs", "padding"]
    return "\n".join(
        [
            f"# {title}",
            "",
            f"Each trained with {trained}; judged on {wording.joined(comparison.val)} ({judged} pictures, {found} of "
            f"which look like a trained one). Per cent. {HOW_TO_READ}",
            "",
            *_grid(columns, rows),
            "",
            *_grid(costs, [_cost(cost, comparison.costs[0]) for cost in comparison.costs]),
            "",
            f"Time and samples/s are ratios to the first. {beside}; commit {machine.get('commit', '')}.",
            "",
            "Made by",
            "",
            f"    {command}",
            "",
        ]
    )


def _grid(columns: list[str], rows: list[list[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _cost(cost: Cost, first: Cost) -> list[str]:
    return [
        cost.label,
        f"{cost.seconds / first.seconds:.2f}",
        f"{cost.samples_per_second / first.samples_per_second:.2f}",
        f"{cost.memory_gb:.2f} GB",
        wording.count(cost.parameters),
        "" if math.isnan(cost.flops) else f"{cost.flops:.2g}",
        "" if math.isnan(cost.padding) else f"{100 * cost.padding:.0f} %",
    ]


def _score(score: Score | None, *, brief: bool) -> str:
    if score is None:
        return ""
    text = f"{100 * score.value:.1f}"
    return text if brief or math.isnan(score.low) else f"{text} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def _difference(found: Difference | None) -> str:
    if found is None:
        return ""
    star = "*" if found.p_holm < 0.05 else " "
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]{star}"
