"""The same as the command line, in Python: `diptych.train`, `diptych.evaluate`, `diptych.load`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diptych import methods, results, training
from diptych.app import fitting, measure, model_card, report, runs, sources
from diptych.app.measure import Asked, Judged
from diptych.config import from_dict
from diptych.models.pretrained import FILES, read_description
from diptych.recipe import Recipe
from diptych.results import Row
from diptych.text import visible
from diptych.training import watchdog
from diptych.training.distributed import Place
from diptych.training.optimiser import trainable
from diptych.training.precision import choose_device
from diptych.training.watchdog import Watchdog

if TYPE_CHECKING:
    from torch import nn

    from diptych.data.dataset import Dataset

Data = str | Sequence[str]


@dataclass(frozen=True)
class Where:
    """Where a run computes and what it tells while it runs."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    logs: tuple[str, ...] = ("tensorboard",)
    """loggers besides log.jsonl"""
    on_the_way: int = 1000
    """samples of an evaluation during training; the one at the end takes all"""


@dataclass(frozen=True)
class Measuring:
    """How an evaluation is made."""

    limit: int | None = None
    """only about so many samples, spread over the data"""
    batch: int = 64
    """samples at once"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    rerank: int | None = None
    """candidates of each query that pair_retrieval fuses with it; 0: all, None: all up to 250,000 pairs, 128 beyond"""


def train(
    method: str,
    data: Data,
    out: str | Path,
    *,
    config: Any = None,
    recipe: Recipe | None = None,
    val: Data = (),
    tasks: Sequence[str] = (),
    where: Where | None = None,
) -> runs.Run:
    """Trains a method and evaluates it; the same call goes on where an interrupted one stopped.

    Args:
        method: id of the method, such as `filip`.
        data: one or several sources: `starter`, `world:objects=4`, a folder or a URL, each with `@weight`
            (a number, `size`, or `sqrt` of that).
        out: folder of the run.
        config: the method's `Config`; its defaults where none is given.
        recipe: length, batch, learning rate and the like.
        val: sources to evaluate on, each on its own; the val splits of `data` where none is given.
        tasks: evaluation tasks; all that method and data allow where none is given.
        where: device and loggers.

    Returns:
        The run with its figures, as it lies in `out`.

    Raises:
        MissingField: the data lack a field that the method needs.
        CannotEvaluate: a task that is named can run on none of the sets.
        AnotherRun: `out` holds another run.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the run is saved.
    """
    where, recipe, out = where or Where(), recipe or Recipe(), Path(out)
    config = config if config is not None else methods.config_class(method)()
    specs = _specs(data)
    learn = sources.open_sources(specs, "train")
    config = fitting.ready(method, config, learn, recipe)
    sets = measure.sets(_specs(val) or specs, recipe, learn)
    info = runs.describe(method, config, recipe, {"data": specs, "val": _specs(val)}, tuple(tasks))
    if is_main():
        info = runs.claim(out, info)
    if runs.is_finished(out):
        say(f"{out} is finished already; its results are as they were.")
        return runs.read(out)
    torch.manual_seed(recipe.seed)
    model = methods.build(method, config)
    for task in tasks:  # said now, and not after the training
        measure.allowed(model, sets, (task,))
    judge = measure.judge(sets, Asked(out.name, recipe.seed, tuple(tasks)), where.on_the_way, out)
    done = training.train(model, learn, out, recipe, evaluate=judge, device=where.device, logs=where.logs)
    if not done.complete:
        raise KeyboardInterrupt(f"saved at step {done.steps}; the same command goes on from there")
    if is_main():
        with Watchdog(recipe.patience, out) as dog:
            dog.begin(Place(choose_device(where.device)))
            watchdog.now("evaluating")
            _conclude(out, info, model, done, sets)
    return runs.read(out)


def evaluate(
    run: str | Path,
    data: Data | None = None,
    tasks: Sequence[str] = (),
    *,
    split: str = "val",
    out: str | Path | None = None,
    checkpoint: str = "last",
    how: Measuring | None = None,
) -> list[Row]:
    """Measures a trained method on a data set.

    Args:
        run: folder of a run, of a saved method, or OWNER/NAME on the hub.
        data: one or several sources, each judged on its own; what the run was trained on where none is given.
        tasks: evaluation tasks; all that method and data allow where none is given.
        split: split of the data.
        out: folder for results, per-sample results and pictures; `RUN/evaluations/DATA-SPLIT` where none is given.
        checkpoint: `last`, or `best` by the evaluations during training.
        how: limit, batch, device.

    Returns:
        The figures, each with interval, number of samples and chance.
    """
    how, folder = how or Measuring(), Path(run)
    trained = runs.read(folder).info if (folder / runs.RUN).is_file() else None
    if data is None and trained is None:
        raise ValueError(f"{run} does not say what it was trained on: name the data to measure on with --data.")
    specs = _specs(data) if data else trained["data"]["val"] or trained["data"]["data"]  # type: ignore[index]
    if not data and trained and trained["recipe"].get("stream"):
        specs = [sources.JOIN.join(specs)]  # the tasks of a stream are judged as one
    far = [spec for spec in specs if "://" in spec and not data]
    if far:
        raise ValueError(f"{run} names {far[0]}; addresses out of files are not opened unasked: name it with --data.")
    sets = measure.judged(specs, split)
    model = load(run, checkpoint)
    seed = trained["recipe"]["seed"] if trained else 0
    asked = Asked(folder.name, seed, tuple(tasks), how.limit, how.batch, str(choose_device(how.device)), how.rerank)
    if out is None and trained is None:
        return measure.measure(model, sets, asked)
    folders = [Path(out)] if out and len(sets) == 1 else [measure.folder_of(Path(out or folder), s.data) for s in sets]
    if out is None:
        folders = [runs.inside(folder, place) for place in folders]
    rows = measure.measure(model, sets, asked, folders)
    measure.keep(rows, sets, folders)
    say(f"Pictures and per-sample results: {', '.join(map(str, folders))}")
    return rows


def load(run: str | Path, checkpoint: str = "last") -> nn.Module:
    """A trained method, in eval mode on the CPU.

    Args:
        run: folder of a run or of a saved method, or OWNER/NAME on the hub.
        checkpoint: of a run: `last`, or `best` by the evaluations during training.

    Raises:
        FileNotFoundError: there is no such run or checkpoint; the sentence says what there is.
    """
    folder = Path(run)
    if (folder / runs.RUN).is_file():
        saved = sorted(path.name for path in (folder / "checkpoints").glob("*") if (path / "config.json").is_file())
        if checkpoint not in saved:
            there = f"it has {', '.join(saved)}" if saved else "it has none yet"
            raise FileNotFoundError(f"{folder} has no checkpoint {checkpoint!r}; {there}.")
        folder = folder / "checkpoints" / checkpoint
    elif folder.is_dir():
        read_description(folder)
    elif str(run).count("/") != 1 or str(run).startswith((".", "/", "~")) or folder.parent.is_dir():
        runs.read(folder)  # says that it is none, and which runs are beside it
    else:
        folder = _from_hub(str(run))
    return methods.method_class(read_description(folder)["method"]).from_pretrained(folder)  # type: ignore[attr-defined,no-any-return]


def _conclude(out: Path, info: dict[str, Any], model: Any, done: training.Finished, sets: list[Judged]) -> None:
    """The evaluation on all samples, and what is written for people."""
    (out / "quarantine.json").write_text(json.dumps(done.quarantine, indent=1, ensure_ascii=False), encoding="utf-8")
    device = str(next(model.parameters()).device)
    asked = Asked(out.name, info["recipe"]["seed"], tuple(info["tasks"]), device=device)
    sets = [replace(one, history=measure.looks(model, one, out)) for one in sets]
    folders = [out, *(measure.folder_of(out, one.data) for one in sets[1:])]  # the first lies in the run itself
    rows = measure.measure(model, sets, asked, folders)
    measure.keep(rows, sets, folders)
    results.write(rows, out)
    info["finished"] = {
        "steps": done.steps,
        "seconds": round(done.seconds, 2),
        "paused": {what: round(seconds, 3) for what, seconds in done.paused.items()},
        "skipped": done.skipped,
        "samples_per_second": round(done.steps * info["recipe"]["batch"] / max(done.seconds, 1e-9), 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": _trained(model, from_dict(Recipe, info["recipe"])),
        "device": _device_name(device),
        "train": [measure.told(part) for part in _parts(info["data"]["data"])],
        "val": [one.told for one in sets],
    }
    run = replace(runs.read(out), info=info)
    model_card.write(run)
    report.write([run], out / "index.html")
    runs.write(out, info)  # last: a run that is killed before is finished by the same command


def _trained(model: Any, recipe: Recipe) -> int:
    """How many parameters trained in some stage of the run."""
    parts = [trainable(model, stage) for stage in model.stages(recipe)]
    return sum(value.numel() for value, _ in {name: v for part in parts for name, v in part.items()}.values())


def _parts(specs: Sequence[str]) -> list[Dataset]:
    return [sources.open_source(sources.weighted(spec)[0], "train") for spec in specs]


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _specs(data: Data) -> list[str]:
    return [data] if isinstance(data, str) else list(data)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=list(FILES)))


def is_main() -> bool:
    """Whether this process writes and prints: one does of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """A line for whoever watches, on stderr: stdout belongs to results."""
    if is_main():
        print(visible(text), file=sys.stderr)
