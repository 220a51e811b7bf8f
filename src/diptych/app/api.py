"""The same as the command line, in Python: `diptych.train`, `diptych.evaluate`, `diptych.load`."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diptych import methods, results, training
from diptych.app import model_card, report, runs, sources, wording
from diptych.batch import require
from diptych.evaluation import tasks as evaluation
from diptych.models.pretrained import FILES, read_description
from diptych.recipe import Recipe
from diptych.results import Row
from diptych.training.precision import choose_device

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
    """only the first so many samples"""
    batch: int = 64
    """samples at once"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""


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
        data: one or several sources: `starter`, `world:objects=4`, a folder or a URL, each with `@weight`.
        out: folder of the run.
        config: the method's `Config`; its defaults where none is given.
        recipe: length, batch, learning rate and the like.
        val: sources to evaluate on; the val split of `data` where none is given.
        tasks: evaluation tasks; all that method and data allow where none is given.
        where: device and loggers.

    Returns:
        The run with its figures, as it lies in `out`.

    Raises:
        MissingField: the data lack a field that the method needs.
        AnotherRun: `out` holds another run.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the run is saved.
    """
    where, recipe, out = where or Where(), recipe or Recipe(), Path(out)
    config = config if config is not None else methods.config_class(method)()
    specs, judged = _specs(data), _specs(val) or _specs(data)
    learn, held_out = sources.open_sources(specs, "train"), sources.open_sources(judged, "val")
    require(learn.has, methods.card(method).needs, who=method, source=f"{learn.name} ({learn.split})")
    main = int(os.environ.get("RANK", "0")) == 0  # of the processes that torchrun started, one writes
    info = runs.describe(method, config, recipe, {"data": specs, "val": _specs(val)}, tuple(tasks))
    if main:
        info = runs.claim(out, info)
        if runs.is_finished(out):
            say(f"{out} is finished already; its results are as they were.")
            return runs.read(out)
    torch.manual_seed(recipe.seed)
    model = methods.build(method, config)
    judge = _judge(held_out, info, out.name, where.on_the_way)
    done = training.train(model, learn, out, recipe, evaluate=judge, device=where.device, logs=where.logs)
    if not done.complete:
        raise KeyboardInterrupt(f"saved at step {done.steps}; the same command goes on from there")
    if main:
        _conclude(out, info, model, done, held_out, learn)
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
        data: one or several sources; what the run was trained on where none is given.
        tasks: evaluation tasks; all that method and data allow where none is given.
        split: split of the data.
        out: folder for results, per-sample results and pictures; `RUN/evaluations/DATA-SPLIT` where none is given.
        checkpoint: `last`, or `best` by the evaluations during training.
        how: limit, batch, device.

    Returns:
        The figures, each with interval, number of samples and chance.
    """
    how, folder = how or Measuring(), Path(run)
    is_run = (folder / runs.RUN).is_file()
    if data is None and not is_run:
        raise ValueError(f"{run} does not say what it was trained on: name the data to measure on with --data.")
    trained: dict[str, Any] = runs.read(folder).info if is_run else {"recipe": {"seed": 0}}
    specs = _specs(data) if data else trained["data"]["val"] or trained["data"]["data"]
    dataset = sources.open_sources(specs, split)
    model = load(run, checkpoint)
    if out is None and is_run:
        out = folder / "evaluations" / f"{_file_name(dataset.name)}-{split}"
    rows = evaluation.evaluate(
        model,
        dataset,
        tasks,
        run=folder.name,
        seed=trained["recipe"]["seed"],
        out=Path(out) if out else None,
        limit=how.limit,
        device=str(choose_device(how.device)),
        batch=how.batch,
        train_data=_train_split(specs, split),
    )
    if out:
        results.write(rows, Path(out))
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
    elif str(run).count("/") != 1 or str(run).startswith((".", "/", "~")):
        runs.read(folder)  # says that it is none, and which runs are beside it
    else:
        folder = _from_hub(str(run))
    return methods.method_class(read_description(folder)["method"]).from_pretrained(folder)  # type: ignore[attr-defined,no-any-return]


def _judge(held_out: Dataset, info: dict[str, Any], name: str, limit: int) -> training.Judge:
    """Evaluates on the way, on some samples; the best checkpoint has the largest mean of the shares."""
    quick = tuple(info["tasks"]) or (("retrieval",) if {"image", "texts"} <= set(held_out.has) else ())

    def judge(model: nn.Module) -> list[Row]:
        device = str(next(model.parameters()).device)
        seed = info["recipe"]["seed"]
        return evaluation.evaluate(model, held_out, quick, run=name, seed=seed, limit=limit, device=device)

    return training.Judge(judge, best=mean_share)


def mean_share(rows: Sequence[Row]) -> float:
    """The mean of the figures that are shares (they have a chance level and lie in [0, 1]): larger is better."""
    shares = [row.value for row in rows if wording.is_share(row)]
    return sum(shares) / len(shares) if shares else -math.inf


def _conclude(out: Path, info: dict[str, Any], model: Any, done: Any, held_out: Dataset, learn: Dataset) -> None:
    """The evaluation on all samples, and what is written for people."""
    (out / "quarantine.json").write_text(json.dumps(done.quarantine, indent=1, ensure_ascii=False), encoding="utf-8")
    device = str(next(model.parameters()).device)
    rows = evaluation.evaluate(
        model,
        held_out,
        tuple(info["tasks"]),
        run=out.name,
        seed=info["recipe"]["seed"],
        out=out,
        device=device,
        train_data=learn,
    )
    results.write(rows, out)
    info["finished"] = {
        "steps": done.steps,
        "seconds": round(done.seconds, 2),
        "samples_per_second": round(done.steps * info["recipe"]["batch"] / max(done.seconds, 1e-9), 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "device": _device_name(device),
        "train": _told(learn),
        "val": _told(held_out),
    }
    runs.write(out, info)
    run = runs.read(out)
    model_card.write(run)
    report.write([run], out / "index.html")


def _train_split(specs: Sequence[str], split: str) -> Dataset | None:
    """What a probe learns from: the train split of the same data, where there is one."""
    if split == "train":
        return None
    try:
        return sources.open_sources(specs, "train")
    except FileNotFoundError:  # the data has no such split; probes are then left out, and the log says so
        return None


def _told(data: Dataset) -> dict[str, Any]:
    licence = getattr(data, "info", {}).get("licence", "")
    return {"name": data.name, "split": data.split, "samples": len(data), "licence": licence}


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _specs(data: Data) -> list[str]:
    return [data] if isinstance(data, str) else list(data)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "data"


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=list(FILES)))


def say(text: str) -> None:
    """A line for whoever watches, on stderr: stdout belongs to results."""
    print(text, file=sys.stderr)
