"""`diptych scale ID`: how a method's figures grow with what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diptych.app import options

if TYPE_CHECKING:
    from diptych.app.scale import Scaling


@dataclass(frozen=True)
class Options:
    """Train a method with several budgets and seeds, fit the laws that its figures follow, and say what more would
    give: `diptych scale filip --data my_shards --budgets 20k,40k,80k --out OUT`.
    """

    method: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID[:OPTION=VALUE,...]")]
    """method, with options of its own where wanted"""
    data: options.Several
    """data to train on, as in `diptych train`"""
    budgets: str
    """what runs are given, with commas between: 20k,40k,80k (k, M, G, T and P are understood). From five budgets on the
    error that no budget removes is fitted as well"""
    out: Path
    """folder of the study; the same command goes on where an interrupted one stopped"""
    over: Literal["samples", "compute", "pictures"] = "samples"
    """what budgets count: samples seen, compute in floating-point operations, or pictures to learn from, which are
    drawn from the data (the samples seen are then those of the recipe, --set samples=100k)"""
    seeds: int = 3
    """runs of each budget, with different initial weights and order of the data"""
    val: options.Several = ()
    """data to judge on, SPEC or SPEC@SPLIT; default: the val split of --data"""
    task: options.Several = ()
    """evaluation task, may be given several times; default: every task that method and data allow"""
    metric: options.Several = ()
    """TASK/METRIC to fit, may be given several times; default: the shares that say most, and training/loss"""
    set: options.Several = ()
    """OPTION=VALUE of the method or its recipe, such as lr=5e-4 or image-width=96"""
    at_a_time: int = 0
    """trainings beside each other; 0: one a GPU, or one for every four cores"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    json: bool = False
    """print what was found as JSON"""


def run(args: Sequence[str]) -> int:
    """Trains, fits, writes the page, and says what was found."""
    chosen = options.parse(Options, args, "scale")
    from diptych.app import terminal
    from diptych.app.budgets import amount
    from diptych.app.scale import FILE, Study, scale

    study = Study(
        method=chosen.method,
        data=chosen.data,
        budgets=tuple(amount(text) for text in chosen.budgets.split(",")),
        over=chosen.over,
        seeds=chosen.seeds,
        val=chosen.val,
        tasks=chosen.task,
        metrics=chosen.metric,
        settings=chosen.set,
    )
    scaling = scale(study, chosen.out, device=chosen.device, at_a_time=chosen.at_a_time)
    if chosen.json:
        print((chosen.out / FILE).read_text(encoding="utf-8"), end="")
        return 0
    show(scaling)
    terminal.say(f"Page: {chosen.out / 'index.html'}")
    return 0


def show(scaling: Scaling) -> None:
    """A table with a row a budget, and a sentence a law."""
    from diptych.app import terminal
    from diptych.app.scale_page import table

    columns, lines = table(scaling)
    title = f"{scaling.title}, means of {scaling.study.seeds} {'seed' if scaling.study.seeds == 1 else 'seeds'}"
    terminal.table(columns, lines, right=columns, title=title)
    for law in scaling.laws:
        terminal.say(" ".join([law.sentence(scaling.study.unit), *law.notes]))
    terminal.say("[ ] 95 % interval; predictions are for one run, beyond what was measured.")
