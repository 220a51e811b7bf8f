"""The one training loop. It knows data, steps and files; what is learned it leaves to the method."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diptych.batch import Batch, Step, alternatives, require
from diptych.data.dataset import Dataset, some_of
from diptych.data.loader import Loader
from diptych.data.mixture import Mixture
from diptych.recipe import Recipe, Stage
from diptych.results import Row
from diptych.training import (
    checkpoint,
    distributed,
    grad_cache,
    guards,
    memory,
    optimiser,
    precision,
    snapshot,
    streams,
    watchdog,
)
from diptych.training.distributed import Place
from diptych.training.interrupt import Interrupt
from diptych.training.logs import Log, Update, padding
from diptych.training.saving import Saver
from diptych.training.schedule import Span, due, rate
from diptych.training.state import AfterStep, BeforeStage, Run, seed_everything
from diptych.training.watchdog import Watchdog

Evaluate = Callable[[nn.Module], list[Row]]
Learned = Callable[[nn.Module, int], list[Row]]


@dataclass(frozen=True)
class Judge:
    """An evaluation, and the figure (larger is better) by which the best checkpoint is chosen.

    `learned` is called at the end of each task of a stream, with the method and the number of the task from 0.
    """

    evaluate: Evaluate
    best: Callable[[list[Row]], float] = lambda rows: rows[0].value
    learned: Learned | None = None


@dataclass(frozen=True)
class Finished:
    """What a run came to.

    `rows` are those of its last evaluation, `seconds` were spent on steps (without evaluations and saving, over all
    parts of a run that was interrupted), `quarantine` names broken samples with the reason. `complete` is False where a
    signal ended the run early. `skipped` steps had a loss or gradient that was not finite. `paused` are the seconds in
    which training stood still, for "saving" and for "evaluating".
    """

    rows: list[Row]
    steps: int
    seconds: float
    quarantine: dict[str, str] = field(default_factory=dict)
    complete: bool = True
    skipped: int = 0
    paused: dict[str, float] = field(default_factory=dict)


def train(
    method: nn.Module,
    data: Dataset,
    out: Path,
    recipe: Recipe,
    *,
    evaluate: Evaluate | Judge | None = None,
    device: str = "auto",
    logs: Sequence[str] = ("tensorboard",),
    resume: Literal["auto", "never", "must"] = "auto",
) -> Finished:
    """Trains a method, and goes on where an interrupted run of the same settings stopped.

    Afterwards the method holds the weights of its last checkpoint: the averaged ones where the recipe asks for an
    average.

    Args:
        method: an `nn.Module` that is a `card.Method`; `BeforeStage` and `AfterStep` are called where it has them.
        data: what it learns from.
        out: folder of the run; gets `log.jsonl`, `checkpoints/last` and, with `evaluate`, `checkpoints/best`.
        recipe: everything else. `recipe.seed` seeds order, augmentation and dropout; initial weights are the caller's.
        evaluate: called with the method in eval mode; a `Judge` also says what is best (else: the first row's value).
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        logs: names from `training.writers`.
        resume: `auto` goes on if there is a checkpoint, `must` fails if there is none, `never` deletes it.

    Raises:
        MissingField: the data lack a field that the method needs.
        DifferentRun: the checkpoint in `out` is of other settings. DamagedCheckpoint, SaveFailed: files.
        NonFinite: too many steps in a row had a loss or gradient that is not finite; `nonfinite.jsonl` has the keys.
        OutOfMemory: the sentence says which options help.
    """
    with Watchdog(recipe.patience, Path(out)) as dog:
        place = distributed.join(device)
        dog.begin(place)
        run = _begin(method, data, Path(out), recipe, place)
        _resume(run, resume)
        judge = Judge(evaluate) if evaluate and not isinstance(evaluate, Judge) else evaluate
        with guards.explained(run), Log(run, logs) as log, Saver() as saver, Interrupt(log.say) as interrupt:
            _loop(run, data, judge, log, saver, interrupt)
        run.close()
    complete = run.step == run.steps
    return Finished(run.rows, run.step, run.seconds, run.quarantine, complete, run.skipped, run.paused)


def _loop(run: Run, data: Dataset, judge: Judge | None, log: Log, saver: Saver, interrupt: Interrupt) -> None:
    """Steps, evaluations and checkpoints, until the run ends or a signal ends it."""
    recipe, stop = run.recipe, run.step == run.steps
    log.begin()
    with closing(steps(run, data)) as updates:
        while not stop:
            log.step(next(updates))
            saver.check()
            best = judge and due(run.step, run.steps, recipe.evaluations) and _evaluate(run, judge, log)
            if judge and judge.learned and run.learned is not None:
                _judged(run, log, partial(_looked_back, judge.learned, run.learned))
            stop = run.place.any(interrupt.requested) or run.step == run.steps
            last = stop or due(run.step, run.steps, recipe.checkpoints)
            _save(run, saver, log, [run.best_so_far] * bool(best) + [run.last] * last)
    with log.busy("saving"):
        saver.wait()
    if run.step < run.steps:
        log.say(f"stopped at step {run.step} of {run.steps}: the same command again goes on from {run.last}")


def steps(run: Run, data: Dataset) -> Generator[Update, None, None]:
    """Trains the run to its end, stage after stage; yields after every optimiser step."""
    memory.keep_freed()
    for span in run.spans:
        if run.step >= span.end:
            continue
        loss, loader = run.enter(span), _loader(run, span, data)
        run.trained.train()
        if run.step == span.start and isinstance(run.trained, BeforeStage):
            seed_everything(run.recipe.seed, run.step, run.place.rank)
            with torch.no_grad():
                run.trained.before_stage(_told(run, span))
        batches = loader.batches(span.position(run.step, run.recipe.batch), span.position(span.end, run.recipe.batch))
        try:
            while run.step < span.end:
                start = time.perf_counter()
                watchdog.now("waiting for data", loader.awaited)
                batch = next(batches)
                watchdog.now(f"in step {run.step + 1}")
                waited = time.perf_counter() - start
                update = _step(run, span, loss, batch)
                update.wait, run.step = waited, run.step + 1
                run.seconds += time.perf_counter() - start
                run.quarantine.update(loader.quarantine)
                yield update
        finally:
            loader.close()
            del loss  # its hooks on the gradients go with it, before the next stage


def _step(run: Run, span: Span, loss: nn.Module, batch: Batch) -> Update:
    """One optimiser step, on a batch of this process."""
    recipe, place = run.recipe, run.place
    seed_everything(recipe.seed, run.step, place.rank)
    step = _told(run, span)
    lr = recipe.lr * rate(recipe, run.step - span.start, span.end - span.start)
    update = Update(span.name, lr=lr, padding=padding(batch))
    optimiser.set_rate(run.optimiser, lr)
    _backward(run, loss, place.equal_share(batch), step, update)
    norm = nn.utils.clip_grad_norm_(optimiser.parameters(run.optimiser), recipe.clip or math.inf)
    update.grad_norm = distributed.whole(norm)
    update.skipped = guards.leaves_out(run, batch, {**update.terms, "gradient": update.grad_norm})
    if not update.skipped:
        _move(run, step)
    run.optimiser.zero_grad()
    return update


def _told(run: Run, span: Span) -> Step:
    """What a method is told of the next step."""
    embed, stage = grad_cache.embedding(run.recipe), span.stage
    return Step(run.place.gather, stage.name, run.step, span.progress(run.step), embed, stage.task or 0)


def _move(run: Run, step: Step) -> None:
    """Moves the weights along the gradient, and all that follows them."""
    run.optimiser.step()
    if isinstance(run.trained, AfterStep):
        with torch.no_grad():
            run.trained.after_step(step)
    if run.average:
        run.average.update()


def _backward(run: Run, loss: nn.Module, batch: Batch, step: Step, update: Update) -> None:
    """The gradient of the mean loss, in as many parts as the recipe says; terms are added up in `update`."""
    parts = [batch] if run.recipe.grad_cache else distributed.split(batch, run.recipe.accumulate)
    for index, part in enumerate(parts):
        share = part.size / batch.size
        with distributed.part_of_batch(loss, last=index + 1 == len(parts)):
            with precision.autocast(run.place.device, run.precision):
                total, terms = loss(part.to(run.place.device), step)
            grad_cache.check(step.embed, run.method.card.id)
            (total * share).backward()
        for name, value in terms.items():
            update.terms[name] = update.terms.get(name, 0.0) + value.detach() * share
        update.watch = {name: _detached(value) for name, value in terms.watch.items()}


def _begin(method: Any, data: Dataset, out: Path, recipe: Recipe, place: Place) -> Run:
    if recipe.batch % place.world:
        raise ValueError(f"batch={recipe.batch} cannot be shared out equally among {place.world} processes.")
    out.mkdir(parents=True, exist_ok=True)
    stages = streams.stages(method.stages(recipe), recipe, data)
    for stage in stages:
        fields_of(method, stage, data_of(stage, data))
    identity = {"name": data.name, "split": data.split, "samples": len(data)}
    # what is shared out is a copy; the method then needs no room on the device
    method.to("cpu" if recipe.parallel == "fsdp" and place.world > 1 else place.device)
    place.agree_on(method.state_dict().values())
    return Run(method, recipe, place, out, stages, identity)


def _resume(run: Run, resume: Literal["auto", "never", "must"]) -> None:
    if run.place.main:
        if resume == "never":
            shutil.rmtree(run.last.parent, ignore_errors=True)
        checkpoint.find(run.last)
    run.place.barrier()
    found = checkpoint.find(run.last)
    if found:
        run.restore(*checkpoint.read(found))
    elif resume == "must":
        raise FileNotFoundError(f"there is no checkpoint to go on from in {run.last.parent}.")
    guards.forget(run)


def _loader(run: Run, span: Span, data: Dataset) -> Loader:
    recipe, place = run.recipe, run.place
    task = span.stage.task
    data = data_of(span.stage, data) if task is None else streams.seen_in(task, data, recipe)
    return Loader(
        data,
        run.method.views,
        fields_of(run.method, span.stage, data),
        recipe.batch,
        recipe.seed,
        workers=recipe.workers,
        rank=place.rank,
        world=place.world,
        max_broken=recipe.max_broken,
    )


def data_of(stage: Stage, data: Dataset) -> Dataset:
    """What a stage trains on: the data set, or the part of a mixture that the stage names.

    Raises:
        ValueError: the stage names a part, and the data set is no mixture.
    """
    if stage.data is None:
        return data
    if not isinstance(data, Mixture):
        raise ValueError(
            f"stage {stage.name!r} trains on the part {stage.data!r} of a mixture, and {data.name} is none."
        )
    return data.part(stage.data)


def fields_of(method: Any, stage: Stage, data: Dataset) -> tuple[str, ...]:
    """The fields that a stage of a method reads of each sample; alternatives where any part of a mixture has them.

    Raises:
        MissingField: the data, or a part of them, lack one that it needs.
    """
    needs = method.card.needs if stage.needs is None else stage.needs
    who = method.card.id if stage.needs is None else f"{method.card.id} in stage {stage.name!r}"
    parts = data.parts if isinstance(data, Mixture) else [data]
    for part in parts:
        require(part.has, needs, who=who, source=f"{part.name} ({part.split})")
    some = frozenset().union(*map(some_of, parts))
    wanted = [
        (name, some if "|" in need else data.has) for need in (*needs, *stage.uses) for name in alternatives(need)
    ]
    return tuple(dict.fromkeys(name for name, there in wanted if name in there))


def _evaluate(run: Run, judge: Judge, log: Log) -> bool:
    """Evaluates the weights; whether they are the best so far."""
    best = False
    rows = _judged(run, log, judge.evaluate)
    if run.place.main:
        run.rows = rows
        score = judge.best(run.rows) if run.rows else -math.inf
        best = score > run.best
        if best:
            run.best, run.best_step = score, run.step
    return run.place.any(best)


def _looked_back(learned: Learned, task: int, method: nn.Module) -> list[Row]:
    return learned(method, task)


def _judged(run: Run, log: Log, evaluate: Evaluate) -> list[Row]:
    """The rows of an evaluation of the averaged weights, where there are such; in the main process, none in others."""
    rows: list[Row] = []
    with log.busy("evaluating"), run.shown() as method:
        if run.place.main:
            seed_everything(run.recipe.seed, run.step)
            rows = evaluate(method.eval())
            method.train()
    if run.place.main:
        log.evaluation(rows)
    return rows


def _save(run: Run, saver: Saver, log: Log, folders: Sequence[Path]) -> None:
    """Begins to save the run into these folders, if any; the main process writes."""
    if not folders:
        return
    for broken in run.place.collect(run.quarantine):
        run.quarantine.update(broken)
    run.intervals = run.place.collect(log.interval)
    with log.busy("saving"):
        if run.place.main:
            saver.save(run, folders)
        else:
            snapshot.take_part(run)


def _detached(value: object) -> object:
    return value.detach() if isinstance(value, Tensor) else value
