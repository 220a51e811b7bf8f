"""Head to head: methods on the same data with the same order, budget and judges, over several seeds.

A comparison is a folder. `plan.json` says what is compared and how long each trains; every run lies below `runs/`,
named by what decides it, so that the same command goes on and another one never mixes with it.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from diptych import methods, results
from diptych.app import budgets, compare_page, fitting, jobs, judging, leaks, measure, runs, sources
from diptych.app.comparison import Comparison, Contestant, Cost, write
from diptych.app.contestants import Side, sides
from diptych.config import to_dict

PLAN = "plan.json"


@dataclass(frozen=True)
class Contest:
    """What is compared, and by which rules."""

    contestants: tuple[str, ...]
    """method ids, each with options of its own: `filip:keep=0.5`; differences are to the first"""
    data: tuple[str, ...]
    """what all train on, as in `api.train`"""
    val: tuple[str, ...] = ()
    """what all are judged on; the val splits of `data` where none is given; `SPEC@SPLIT` names another split"""
    tasks: tuple[str, ...] = ()
    """evaluation tasks, each done by those contestants that can; all that method and data allow where none is given"""
    settings: tuple[str, ...] = ()
    """options for all that have them: `lr=5e-4`, `image_width=96`"""
    budget: str = ""
    """`samples=200k`, `flops=1e15` or `minutes=10` for each run; the recipe's length where none is given"""
    seeds: int = 3


@dataclass(frozen=True)
class How:
    """How a comparison computes; none of it changes what is compared."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    at_a_time: int = 0
    """trainings that run beside each other; 0: one a GPU, or one for every four cores. On a CPU each then has fewer
    threads, which changes the last digits of sums"""
    allow_leaks: bool = False
    """go on where judged pictures are also among the trained ones"""
    runs: Path | None = None
    """where the runs lie; comparisons that share it share equal runs. Default: OUT/runs"""


@dataclass(frozen=True)
class Entry:
    """A contestant, ready to run: its options and how long it trains."""

    side: Side
    flops: float
    """floating-point operations for a sample"""
    expected: float | None
    """samples a second on this device, measured on a few steps; None where nobody asked"""

    @property
    def steps(self) -> int:
        """Optimiser steps of a run."""
        return self.side.recipe.samples // self.side.recipe.batch


def compare(contest: Contest, out: str | Path, how: How | None = None) -> Comparison:
    """Trains every contestant with every seed, judges all alike, and writes what came of it into `out`.

    The same call goes on where an interrupted one stopped. `out` gets comparison.json, results.json and .parquet (the
    rows of all runs) and index.html.

    Raises:
        ValueError: a contestant, option or budget cannot be read, or fewer than two contestants.
        MissingField: the data lack a field that one of the methods needs.
        Leaking: judged pictures are also trained on, and nobody allowed it.
        CannotEvaluate: a contestant can do none of the named tasks.
        JobFailed, KeyboardInterrupt: everything done so far is kept.
    """
    out, how = Path(out), how or How()
    start = time.perf_counter()
    entries = plan(contest, out, how)
    found = _leaks(contest, out)
    if found["found"] and not how.allow_leaks:
        raise leaks.Leaking(leaks.refusal(found))
    at_a_time = how.at_a_time or jobs.parallel(how.device)
    tasks = {entry.side.label: _tasks(contest, entry) for entry in entries}
    table = {
        (entry.side.label, seed): _job(replace(contest, tasks=tasks[entry.side.label]), entry, seed, out, how)
        for seed in range(contest.seeds)
        for entry in entries
    }
    finished = dict(zip(table, jobs.run_all(list(table.values()), at_a_time), strict=True))
    by_label = {entry.side.label: [finished[entry.side.label, s] for s in range(contest.seeds)] for entry in entries}
    judged = [one.data for one in measure.judged(contest.val or contest.data, "val")]
    scores, differences = judging.judge(by_label, judged)
    comparison = Comparison(
        contestants=tuple(_contestant(entry, by_label[entry.side.label], out) for entry in entries),
        seeds=tuple(range(contest.seeds)),
        data=contest.data,
        val=contest.val or contest.data,
        budget=contest.budget or f"samples={entries[0].side.recipe.samples}",
        scores=tuple(scores),
        differences=tuple(differences),
        costs=tuple(_cost(entry, by_label[entry.side.label]) for entry in entries),
        leaks=found,
        machine=_machine(finished, at_a_time, start),
    )
    write(comparison, out)
    results.write([row for run in finished.values() for row in run.rows], out)
    compare_page.write(comparison, out)
    return comparison


def plan(contest: Contest, out: Path, how: How, *, time_it: bool = False) -> list[Entry]:
    """The contestants with their lengths, from `plan.json` where the same comparison was begun before.

    Raises:
        ValueError: see `compare`; also where `out` holds another comparison.
    """
    read = sides(contest.contestants, contest.settings)
    if len(read) < 2:
        raise ValueError("a comparison takes at least two contestants: diptych compare clip filip --data SRC --out OUT")
    if contest.seeds < 1:
        raise ValueError(f"seeds is {contest.seeds}: at least one is needed, three make an interval worth having.")
    if any(side.recipe.stream for side in read) and max(len(contest.data), len(contest.val)) > 1:
        raise ValueError("a stream is compared on its tasks as one data set: join them as in --data 'A + B'.")
    learn = sources.open_sources(contest.data, "train")
    read = [replace(side, config=fitting.ready(side.method, side.config, learn, side.recipe)) for side in read]
    known = {label: told for label, told in _known(out / PLAN, contest).items() if told["expected"] or not time_it}
    entries = []
    for side in read:
        told = known.get(side.label) or budgets.measured(side, learn, contest.budget, how.device, time_it=time_it)
        entries.append(
            Entry(replace(side, recipe=replace(side.recipe, samples=told["samples"])), told["flops"], told["expected"])
        )
    if not time_it:
        lengths = {
            e.side.label: {"samples": e.side.recipe.samples, "flops": e.flops, "expected": e.expected} for e in entries
        }
        _write_plan(out / PLAN, contest, lengths)
    return entries


def _known(path: Path, contest: Contest) -> dict[str, dict[str, Any]]:
    """The lengths that were settled when the comparison was begun."""
    if not path.is_file():
        return {}
    told = json.loads(path.read_text(encoding="utf-8"))
    here = json.loads(json.dumps(asdict(contest)))
    differing = [name for name, value in here.items() if told["contest"].get(name) != value and name != "seeds"]
    same_rules = not set(differing) - {"contestants"}
    if not same_rules:
        name = next(name for name in differing if name != "contestants")
        raise ValueError(
            f"{path.parent} holds another comparison ({name} was {told['contest'].get(name)!r}): choose another --out."
        )
    return dict(told["lengths"])


def _write_plan(path: Path, contest: Contest, lengths: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"contest": asdict(contest), "lengths": lengths}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _leaks(contest: Contest, out: Path) -> dict[str, Any]:
    """What `leaks.search` found, which is done once a comparison."""
    path = out / "leaks.json"
    if path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    found = leaks.search(contest.data, contest.val)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found


def _tasks(contest: Contest, entry: Entry) -> tuple[str, ...]:
    """Those of the named tasks that a contestant can do; the others stay empty in its column."""
    if not contest.tasks:
        return ()
    model = methods.build(entry.side.method, entry.side.config)
    learn = sources.open_sources(contest.data, "train")
    return measure.allowed(model, measure.sets(contest.val or contest.data, entry.side.recipe, learn), contest.tasks)


def _job(contest: Contest, entry: Entry, seed: int, out: Path, how: How) -> jobs.Job:
    side, recipe = entry.side, replace(entry.side.recipe, seed=seed)
    job = jobs.Job(side.method, contest.data, contest.val, contest.tasks, side.config, recipe, device=how.device)
    return jobs.placed(job, how.runs or out / "runs", side.label)


def _contestant(entry: Entry, done: Sequence[runs.Run], out: Path) -> Contestant:
    side = entry.side
    folders = tuple(os.path.relpath(run.folder, out.resolve()) for run in done)
    title = methods.card(side.method).title
    _, colon, own = side.label.partition(":")
    return Contestant(
        side.label,
        side.method,
        f"{title} ({own})" if colon else title,
        to_dict(side.config),
        to_dict(side.recipe),
        folders,
    )


def _cost(entry: Entry, done: Sequence[runs.Run]) -> Cost:
    """From the logs of the runs: medians of times, since whoever ran first may have filled a memory for the others."""

    def mean(values: Sequence[float | None]) -> float:
        there = [value for value in values if value is not None]
        return sum(there) / len(there) if there else float("nan")

    lines = [line for run in done for line in run.log if "loss" in line]
    finished = [run.finished for run in done]
    samples = entry.side.recipe.samples
    return Cost(
        label=entry.side.label,
        samples=samples,
        seconds=median(one["seconds"] for one in finished),
        samples_per_second=median(one["samples_per_second"] for one in finished),
        memory_gb=mean([max((line["memory_gb"] for line in run.log if "loss" in line), default=None) for run in done]),
        parameters=finished[0]["parameters"],
        trained_parameters=finished[0]["trained_parameters"],
        flops=entry.flops * samples,
        padding=mean([line["padding"] for line in lines]),
        wait=mean([line["wait"] for line in lines]),
    )


def _machine(finished: dict[Any, runs.Run], at_a_time: int, start: float) -> dict[str, Any]:
    first = next(iter(finished.values()))
    return {
        "kind": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": first.finished["device"],
        "threads": torch.get_num_threads(),
        "at_a_time": at_a_time,
        "versions": first.info.get("versions", {}),
        "commit": ", ".join(sorted({str(run.info.get("commit", "not recorded")) for run in finished.values()})),
        "started": min(str(run.info["started"]) for run in finished.values()),
        "wall_seconds": round(time.perf_counter() - start, 1),
    }
