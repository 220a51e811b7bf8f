"""`diptych compare A B C`: methods head to head."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diptych.app import options

if TYPE_CHECKING:
    from diptych.app.compare import Entry
    from diptych.app.comparison import Comparison


@dataclass(frozen=True)
class Options:
    """Train methods with the same data, order, budget and judges over several seeds; say which is better and how sure
    that is: `diptych compare clip filip filip:keep=0.5 --data my_shards --budget samples=200k --out OUT`.
    """

    contestants: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ID[:OPTION=VALUE,...]")]
    """methods, each with options of its own where wanted; differences are to the first"""
    data: options.Several
    """data to train on, as in `diptych train`"""
    out: Path
    """folder of the comparison; the same command goes on where an interrupted one stopped"""
    val: options.Several = ()
    """data to judge on, SPEC or SPEC@SPLIT; default: the val split of --data"""
    task: options.Several = ()
    """evaluation task, may be given several times; default: every task that methods and data allow"""
    set: options.Several = ()
    """OPTION=VALUE for every contestant that has the option, such as lr=5e-4 or image-width=96"""
    budget: str = ""
    """of each run: samples=200k, flops=1e15 or minutes=10; default: the length in the recipe"""
    seeds: int = 3
    """runs of each contestant, with different initial weights and order of the data"""
    at_a_time: int = 0
    """trainings beside each other; 0: one a GPU, or one for every four cores"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    dry_run: bool = False
    """only say what it will cost"""
    allow_leaks: bool = False
    """go on where judged pictures are also among the trained ones"""
    runs: Path | None = None
    """where the runs lie; comparisons that name the same folder share equal runs; default: OUT/runs"""
    markdown: Path | None = None
    """also write the table as a Markdown page"""
    json: bool = False
    """print the comparison as JSON"""


def run(args: Sequence[str]) -> int:
    """Compares, writes the page, and prints the table."""
    chosen = options.parse(Options, args, "compare")
    from diptych.app import compare_table, terminal, wording
    from diptych.app.compare import Contest, How, compare, plan
    from diptych.app.comparison import FILE

    contest = Contest(chosen.contestants, chosen.data, chosen.val, chosen.task, chosen.set, chosen.budget, chosen.seeds)
    how = How(chosen.device, chosen.at_a_time, chosen.allow_leaks, chosen.runs)
    if chosen.dry_run:
        _say_cost(plan(contest, chosen.out, how, time_it=True), contest.seeds, how)
        return 0
    comparison = compare(contest, chosen.out, how)
    if chosen.markdown:
        title = f"{wording.joined([one.title for one in comparison.contestants])} compared"
        command = shlex.join(["diptych", "compare", *args])
        chosen.markdown.write_text(compare_table.markdown(comparison, title, command), encoding="utf-8")
    if chosen.json:
        print((chosen.out / FILE).read_text(encoding="utf-8"), end="")
        return 0
    show(comparison)
    terminal.say(f"Page: {chosen.out / 'index.html'}")
    return 0


def _say_cost(entries: Sequence[Entry], seeds: int, how: object) -> None:
    from diptych.app import jobs, terminal, wording

    at_a_time = how.at_a_time or jobs.parallel(how.device)  # type: ignore[attr-defined]
    rows, total = [], 0.0
    for entry in entries:
        recipe = entry.side.recipe
        seconds = recipe.samples / (entry.expected or math.nan)
        total += seconds * seeds
        figures = (f"{recipe.samples:,}", f"{entry.steps:,}", f"{entry.flops * recipe.samples:.2g}")
        rows.append((entry.side.label, *figures, f"{entry.expected or math.nan:.3g}", wording.duration(seconds)))
    columns = ("contestant", "samples", "steps", "FLOPs", "samples/s", "a run takes")
    terminal.table(columns, rows, right=columns[1:], title="What it will cost, from a few steps on this device")
    beside = f", {at_a_time} at a time (which share the machine)" if at_a_time > 1 else ""
    terminal.say(
        f"{seeds * len(entries)} runs{beside}: about {wording.duration(total / at_a_time)} of training, "
        "and the evaluations. Nothing was trained."
    )


def show(comparison: Comparison) -> None:
    """The shares of all tasks, a column a contestant, and what differs."""
    from diptych.app import compare_table, terminal, wording

    columns, rows = compare_table.table(comparison, brief=True)
    title = f"Per cent, means of {len(comparison.seeds)} seeds, {wording.joined(comparison.val)}"
    terminal.table(columns, rows, right=columns[columns.index("chance") :], title=title)
    terminal.say(compare_table.HOW_TO_READ)
