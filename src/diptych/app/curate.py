"""Curation from names: opens shards by name, loads the model, starts the workers, and writes the page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from diptych.app import curate_page, sources, terminal
from diptych.curation import run
from diptych.curation.blocks import parts_of
from diptych.curation.dedup import Dedup, DedupTask, Prints
from diptych.curation.filters import Filter, FilterTask, Seen
from diptych.curation.measure import Spread, here
from diptych.curation.score import Score, Scores, ScoreTask
from diptych.curation.verdicts import Task

if TYPE_CHECKING:
    from diptych.app.commands.curate import Common
    from diptych.curation.embed import Embedder


def curate(settings: Dedup | Score | Filter, common: Common, against: Sequence[str] = ()) -> run.Outcome:
    """Curates as the command line says; the settings' class says what is done.

    Raises:
        ValueError: the options do not fit together, or a source cannot be curated; the sentence says why.
        FileNotFoundError: there is no such run or data.
    """
    paths = [sources.place(spec) for spec in common.source]
    others = [sources.with_split(spec, "") for spec in against]
    parts = parts_of(paths, [(sources.place(spec), split) for spec, split in others], common.split)
    return run.curate(
        task_of(settings, common.run, common.device),
        parts,
        common.out.expanduser(),
        spread=spread(common.workers, common.device if common.run else "cpu", common.address),
        dry_run=common.dry_run,
        bar=terminal.progress,
        page=partial(curate_page.write, command=curate_page.command(settings, common, against)),
    )


def task_of(settings: Dedup | Score | Filter, model: str = "", device: str = "auto") -> Task:
    """The task that some settings ask for; a model is loaded where they need one."""
    if isinstance(settings, Filter):
        return FilterTask(settings, Seen(tuple(settings.codes)))
    if isinstance(settings, Score):
        return ScoreTask(settings, Scores(_embedder(model, device, "diptych curate score", texts=True)))
    if settings.by == "perceptual":
        return DedupTask(settings, Prints())
    return DedupTask(settings, Prints(_embedder(model, device, f"--by {settings.by}", texts=False)))


def _embedder(model: str, device: str, who: str, *, texts: bool) -> Embedder:
    from diptych.app import api
    from diptych.curation.embed import Embedder
    from diptych.training.precision import choose_device

    if not model:
        raise ValueError(f"{who} needs a trained model: give a run's folder or OWNER/NAME with --run.")
    return Embedder(api.load(model), str(choose_device(device)), texts=texts)


def spread(workers: int | None, device: str, address: str) -> Spread:
    """Who measures: this process (0), so many workers on Ray, or one a GPU or else a core (None)."""
    if workers == 0:
        return here
    from diptych.curation.on_ray import on_ray

    gpus = _gpus(device)
    return on_ray(workers or gpus or os.cpu_count() or 1, address=address, gpus=float(bool(gpus)))


def _gpus(device: str) -> int:
    """How many GPUs the workers may use beside each other."""
    import torch

    return 0 if device == "cpu" else torch.cuda.device_count()
