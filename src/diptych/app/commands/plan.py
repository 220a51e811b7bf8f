"""`diptych plan ID`: what a run will take, before it is made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diptych import methods
from diptych.app import options
from diptych.app.commands import train
from diptych.app.wording import size
from diptych.recipe import Recipe

if TYPE_CHECKING:
    from diptych.app.plan import Estimate, Plan


@dataclass(frozen=True)
class Options:
    """What would be trained on, and where."""

    data: options.Several
    """data to train on, as in `diptych train`"""
    preset: str = ""
    """start from a named configuration of the method, such as `paper`; other options still override it"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N, where time is measured; or one that is not here, such as cuda:h100 or cuda:rtx4090"""
    quick: bool = False
    """leave out the table of switches"""
    json: bool = False
    """print the plan as JSON"""


@dataclass(frozen=True)
class _Unnamed:
    """Say what a run will take, before it is made: `diptych plan ID --data SRC --device cuda:h100`."""

    method: options.Id
    """id of the method; `diptych plan ID --help` also tells its own options"""
    run: Options
    recipe: Recipe


def run(args: Sequence[str]) -> int:
    """Prints memory, time and what each switch would change."""
    if not args or args[0].startswith("-"):
        about = f"{_Unnamed.__doc__} Methods: {', '.join(methods.IDS)}."
        options.parse(_Unnamed, [*args] or ["--help"], "plan", about)
        print("diptych: name the method first: diptych plan ID --data SRC", file=sys.stderr)
        return 2
    name, args = args[0], args[1:]
    about = f"What training {methods.card(name).title} will take: memory, time, and which option changes them."
    preset = train.preset_of(name, options.value_of("preset", args))
    chosen = options.parse(train.options_of(name, preset, Options), args, f"plan {name}", about)
    return _plan(name, chosen)


def _plan(name: str, chosen: Any) -> int:
    import json

    from rich.console import Console

    from diptych.app import plan

    with Console(stderr=True).status("") as status:
        made = plan.plan(
            name,
            chosen.run.data,
            chosen.method,
            chosen.recipe,
            chosen.run.device,
            switches=not chosen.run.quick,
            told=lambda what: status.update(f"counting and timing {what}"),
        )
    if chosen.run.json:
        print(json.dumps(made.told(), indent=1))
    else:
        show(made)
    return 0


def show(made: Plan) -> None:
    """Prints a plan."""
    from diptych.app import terminal, wording

    now, recipe = made.estimate, made.recipe
    terminal.say(f"{made.method} on {made.data}, {made.samples_there:,} samples: {made.device.title}, {made.precision}")
    terminal.say(f"\nParameters:     {wording.count(made.parameters)}, of which {wording.count(made.trained)} train")
    rows = [(part, size(value)) for part, value in now.memory.items()]
    terminal.table(("memory", ""), [*rows, ("all", size(now.bytes))], right=("",))
    fits = "fits" if now.fits else "does not fit"
    terminal.say(f"A batch of {recipe.batch:,}{_parts(recipe)} {fits}: {size(now.bytes)} of {size(now.available)}.")
    terminal.say(f"Largest batch:  {_largest(now)}")
    operations = now.flops_per_sample
    terminal.say(
        f"Operations:     {_scaled(operations)}FLOP a sample, {_scaled(operations * recipe.samples)}FLOP in all"
    )
    terminal.say(f"Time:           {_time(made)}")
    terminal.say(f"Limited by:     {_limit(now, recipe)}")
    if made.switches:
        lines = [("as it is", now), *((switch.option, switch.estimate) for switch in made.switches)]
        terminal.say("\nWhich switch buys what:")
        columns = ("switch", "memory", "largest batch", "computing a sample", "time", "against now")
        terminal.table(columns, [_row(option, one, now) for option, one in lines], right=columns[1:])
    for note in _notes(made):
        terminal.say(note)


def _scaled(number: float) -> str:
    for unit, name in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if number >= unit:
            return f"{number / unit:,.1f} {name}"
    return f"{number / 1e6:,.1f} M"


def _parts(recipe: Recipe) -> str:
    return f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""


def _largest(estimate: Estimate) -> str:
    if not estimate.largest:
        return "not even one sample fits"
    return f"{estimate.largest:,} ({2 ** (estimate.largest.bit_length() - 1):,} as a power of two)"


def _time(made: Plan) -> str:
    from diptych.app import wording

    now, recipe = made.estimate, made.recipe
    steps = recipe.samples // recipe.batch
    known = "measured" if made.device.here else "assumed"
    return f"{now.step_seconds:.3g} s a step, {wording.duration(now.run_seconds)} for {steps:,} steps ({known})"


def _limit(now: Estimate, recipe: Recipe) -> str:
    processes = f"{recipe.workers} processes" if recipe.workers > 1 else "one process"
    return (
        f"{now.limit}; a sample takes {1e3 * now.computing:.3g} ms to compute and {1e3 * now.reading:.3g} ms to read "
        f"with {processes}"
    )


def _row(option: str, one: Estimate, now: Estimate) -> tuple[str, ...]:
    from diptych.app import wording

    fits = "" if one.fits else " (does not fit)"
    computing, ratio = f"{1e3 * one.computing:.3g} ms", f"{one.run_seconds / now.run_seconds:.2f}"
    return option, size(one.bytes) + fits, f"{one.largest:,}", computing, wording.duration(one.run_seconds), ratio


def _notes(made: Plan) -> list[str]:
    from diptych.app.devices import SHARE

    notes = [
        f"Planned with {made.device.usable:.0%} of the memory that is free, as gaps between allocations take the rest. "
        "Evaluations on the way and at the end come on top of the time."
    ]
    if not made.device.here:
        notes.append(
            f"{made.device.title} is not here: time is operations at {SHARE:.0%} of the peak rate of its data sheet "
            "(small towers reach less), reading is timed on this machine, and memory is counted as a CPU with the same "
            "number format takes it."
        )
    return notes
