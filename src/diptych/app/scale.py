"""How a method scales: the same training with several budgets and seeds, and the laws that its figures follow.

A study is a folder: its runs lie below `runs/`, named by what decides them, so that the same command goes on and
another one never mixes with it. scale.json, results.json and .parquet (all runs) and index.html say what came of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from diptych import methods, results
from diptych.app import api, fitting, jobs, runs, scale_page, sources
from diptych.app.comparison import plain
from diptych.app.contestants import Side, side
from diptych.app.laws import LOSS, Law, laws, rows, short
from diptych.config import nearest, to_dict
from diptych.evaluation.tasks import TASKS

FILE = "scale.json"
Over = Literal["samples", "compute", "pictures"]
_UNITS = {"samples": "samples", "compute": "FLOPs", "pictures": "pictures"}


@dataclass(frozen=True)
class Study:
    """What is trained, with which budgets, and what is fitted."""

    method: str
    """a method with its options, as in a comparison: `filip` or `filip:keep=0.5`"""
    data: tuple[str, ...]
    """what it trains on, as in `api.train`"""
    budgets: tuple[float, ...]
    """what runs are given, in the unit of `over`"""
    over: Over = "samples"
    """`samples` seen; `compute`: floating-point operations; `pictures` to learn from, with the samples seen fixed"""
    seeds: int = 3
    val: tuple[str, ...] = ()
    """what it is judged on; the val splits of `data` where none is given"""
    tasks: tuple[str, ...] = ()
    """evaluation tasks; all that method and data allow where none is given"""
    metrics: tuple[str, ...] = ()
    """`task/metric`, see `laws.laws`"""
    settings: tuple[str, ...] = ()
    """options of the method and its recipe: `lr=5e-4`"""

    @property
    def unit(self) -> str:
        """What the budgets count."""
        return _UNITS[self.over]


@dataclass(frozen=True)
class Budget:
    """What the runs of a budget were given, and what they took."""

    x: float
    """in the unit of the study, as whole batches give it"""
    samples: int
    """samples seen"""
    seconds: float
    """of training, mean over the seeds"""
    runs: tuple[str, ...]
    """folders of the runs, one a seed, relative to the study's folder"""


@dataclass(frozen=True)
class Scaling:
    """What a study found."""

    study: Study
    title: str
    config: Mapping[str, Any]
    recipe: Mapping[str, Any]
    budgets: tuple[Budget, ...]
    laws: tuple[Law, ...]
    machine: Mapping[str, Any]
    """{"device", "versions", "commit", "started"}"""


def scale(study: Study, out: str | Path, *, device: str = "auto", at_a_time: int = 0) -> Scaling:
    """Trains a method with every budget and seed, and fits how its figures scale.

    The same call goes on where an interrupted one stopped.

    Args:
        study: what is trained and fitted.
        out: folder of the study.
        device: auto, cpu, cuda or cuda:N.
        at_a_time: trainings beside each other; 0: one a GPU, or one for every four cores.

    Raises:
        ValueError: an option, a budget or a metric cannot be used.
        MissingField: the data lack a field that the method needs.
        JobFailed, KeyboardInterrupt: everything done so far is kept.
    """
    out = Path(out)
    chosen = side(study.method, ("evaluations=0", *study.settings))  # what is measured on the way is not looked at
    planned = _plan(study, chosen, out, device)
    todo = [job for some in planned.values() for job in some]
    api.say(
        f"{len(todo)} runs of {chosen.label}: {len(planned)} budgets, {study.seeds} seeds, "
        f"{sum(job.recipe.samples for job in todo):,} samples in all."
    )
    finished = jobs.run_all(todo, at_a_time or jobs.parallel(device))
    by_budget = {x: finished[i * study.seeds : (i + 1) * study.seeds] for i, x in enumerate(planned)}
    scaling = Scaling(
        study=study,
        title=methods.card(chosen.method).title + (f" ({own})" if (own := chosen.label.partition(":")[2]) else ""),
        config=to_dict(chosen.config),
        recipe=to_dict(chosen.recipe),
        budgets=tuple(_budget(x, some, out) for x, some in by_budget.items()),
        laws=tuple(laws([(x, run) for x, some in by_budget.items() for run in some], study.metrics)),
        machine={
            "device": finished[0].finished["device"],
            "versions": finished[0].info.get("versions", {}),
            "commit": runs.commit(),
            "started": min(str(run.info["started"]) for run in finished),
        },
    )
    results.write([row for run in finished for row in rows(run)], out)
    (out / FILE).write_text(json.dumps(plain(asdict(scaling)), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    scale_page.write(scaling, out)
    return scaling


def _plan(study: Study, chosen: Side, out: Path, device: str) -> dict[float, list[jobs.Job]]:
    """What every run is given, from small to large, and its trainings, one a seed."""
    asked = sorted(set(study.budgets))
    if len(asked) < 2 or study.seeds < 1:
        raise ValueError("a scaling curve takes at least two budgets and a seed: --budgets 20k,40k,80k --seeds 3")
    for name in study.metrics:
        if (task := name.partition("/")[0]) not in {*TASKS, LOSS[0]}:  # better now than after the training
            raise ValueError(nearest(task, [*TASKS, LOSS[0]], "task"))
    learn = sources.open_sources(study.data, "train")
    chosen = replace(chosen, config=fitting.ready(chosen.method, chosen.config, learn, chosen.recipe))
    if study.over == "pictures":
        return {x: [_job(study, chosen, seed, out, device, int(x)) for seed in range(study.seeds)] for x in asked}
    flops = _flops(chosen, learn) if study.over == "compute" else 1.0
    planned = {}
    for given in asked:
        steps = round(given / flops / chosen.recipe.batch)
        if steps < 1 or steps * chosen.recipe.batch * flops in planned:
            less = "less than one batch" if steps < 1 else "the same number of batches as the one before"
            raise ValueError(f"a budget of {short(given)} {study.unit} is {less}: choose a larger one.")
        samples = steps * chosen.recipe.batch
        longer = replace(chosen, recipe=replace(chosen.recipe, samples=samples))
        planned[samples * flops] = [_job(study, longer, seed, out, device) for seed in range(study.seeds)]
    return planned


def _flops(chosen: Side, learn: Any) -> float:
    """Floating-point operations of training on one sample."""
    import torch

    from diptych.training import cost

    torch.manual_seed(0)
    return float(cost.flops_per_sample(methods.build(chosen.method, chosen.config), learn, chosen.recipe))


def _job(study: Study, chosen: Side, seed: int, out: Path, device: str, pictures: int = 0) -> jobs.Job:
    data, recipe = study.data, replace(chosen.recipe, seed=seed)
    if pictures:
        if len(data) > 1:
            raise ValueError("--over pictures takes part of one data set: name only one with --data.")
        data = (f"{sources.weighted(data[0])[0]}#{pictures}.{seed}",)  # every seed draws pictures of its own
    budget = f"{pictures}-pictures" if pictures else f"{recipe.samples}-samples"
    val = study.val or study.data
    job = jobs.Job(chosen.method, data, val, study.tasks, chosen.config, recipe, device=device)
    return jobs.placed(job, out / "runs", f"{chosen.label}-{budget}")


def _budget(x: float, done: Sequence[runs.Run], out: Path) -> Budget:
    return Budget(
        x=x,
        samples=done[0].finished["steps"] * done[0].info["recipe"]["batch"],
        seconds=mean(run.finished["seconds"] for run in done),
        runs=tuple(os.path.relpath(run.folder, out.resolve()) for run in done),
    )
