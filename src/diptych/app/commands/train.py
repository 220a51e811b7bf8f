"""`diptych train ID`: trains a method on a data set. The options are the fields of three dataclasses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal

from diptych import methods
from diptych.app import options
from diptych.app.contestants import preset_of
from diptych.recipe import Preset, Recipe


@dataclass(frozen=True)
class Options:
    """What is trained on, and where the run is kept."""

    data: options.Several
    """data to train on: starter, world, world:KNOB=VALUE,..., a folder or a URL of shards; given several times the
    sets are mixed, SPEC@WEIGHT sets the share of each: a number, SPEC@size or SPEC@sqrt (of the number of samples)"""
    out: Path
    """folder of the run; the same command goes on where an interrupted run stopped"""
    val: options.Several = ()
    """data to evaluate on; default: the val split of --data"""
    task: options.Several = ()
    """evaluation task, may be given several times; default: every task that method and data allow"""
    preset: str = ""
    """start from a named configuration of the method, such as `paper`; other options still override it"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    writers: tuple[str, ...] = ("tensorboard",)  # not `logs`: torchrun takes --logs for an option of its own
    """where figures go besides log.jsonl: tensorboard, wandb, trackio, none"""
    launcher: Literal["here", "ray"] = "here"
    """here: in this process, one of several if torchrun started it; ray: in processes that Ray Train starts"""
    processes: int = 0
    """processes that Ray starts; default: one for each GPU, or 2 where there are none"""
    address: str = ""
    """address of a Ray cluster (auto, ray://HOST:10001); default: Ray on this machine"""
    json: bool = False
    """print the results as JSON"""


@dataclass(frozen=True)
class _Unnamed:
    """Train a method on a data set: `diptych train ID --data SRC --out RUN`."""

    method: options.Id
    """id of the method; `diptych train ID --help` also tells its own options"""
    run: Options
    recipe: Recipe


def run(args: Sequence[str]) -> int:
    """Trains, evaluates, and says what came of it."""
    if not args or args[0].startswith("-"):
        about = f"{_Unnamed.__doc__} Methods: {', '.join(methods.IDS)}."
        options.parse(_Unnamed, [*args] or ["--help"], "train", about)
        print("diptych: name the method first: diptych train ID --data SRC --out RUN", file=sys.stderr)
        return 2
    name, args = args[0], args[1:]
    card = methods.card(name)
    preset = preset_of(name, options.value_of("preset", args))
    chosen = options.parse(options_of(name, preset), args, f"train {name}", f"Train {card.title}: {card.idea}.")
    return _train(name, chosen)


def options_of(method: str, preset: Preset, run: type[Any] = Options) -> type[Any]:
    """All options of training a method, with the values of a preset as defaults; `run` are those of the command."""
    groups: list[Any] = [
        ("run", run),
        ("method", methods.config_class(method), field(default=preset.config)),
        ("recipe", Recipe, field(default=preset.recipe)),
    ]
    return make_dataclass("Training", groups, frozen=True)


def _train(name: str, chosen: Any) -> int:
    from diptych.app import api, jobs, launch, terminal
    from diptych.results import to_json

    asked = chosen.run
    if asked.launcher == "here" and (asked.processes or asked.address):
        raise ValueError("--processes and --address are for Ray: add --launcher ray, or use torchrun.")
    job = jobs.Job(
        name,
        asked.data,
        asked.val,
        asked.task,
        chosen.method,
        chosen.recipe,
        asked.out,
        asked.device,
        asked.writers,
    )
    run = launch.by_ray(job, asked.processes, asked.address) if asked.launcher == "ray" else jobs.train(job)
    if not api.is_main():
        return 0
    if chosen.run.json:
        print(to_json(run.rows), end="")
        return 0
    terminal.results(run.rows, title=f"{name} after {chosen.recipe.samples:,} samples")
    terminal.say(f"Page:     {chosen.run.out / 'index.html'}")
    terminal.say(f"Evaluate: diptych evaluate {chosen.run.out} --data SRC")
    terminal.say(f"Use:      diptych.load({str(chosen.run.out)!r}) in Python")
    return 0
