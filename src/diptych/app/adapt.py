"""Adapting a dual encoder to classes by a few pictures of each, and the protocols by which papers judge that.

Every adaptation is a run of its own below OUT/runs, so that the same call goes on where an interrupted one stopped.
What an adaptation has learned from is kept as JSON in the form of CoOp's split files (`OUT/learned-16-seed0.json`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from diptych import methods
from diptych.app import jobs, judging, measure, sources
from diptych.app.comparison import Score, plain
from diptych.config import from_dict, to_dict
from diptych.data.dataset import Dataset
from diptych.encoders import text_encoder
from diptych.models.dual_encoder import DualEncoderConfig
from diptych.models.pretrained import read_description
from diptych.models.start import start_from
from diptych.recipe import Recipe
from diptych.training.precision import choose_device

RESULTS, HAND, MEAN = "adaptation.json", "hand-written prompt", "mean of the others"
_TOWERS = {
    *("image", "image_size", "image_width", "image_layers", "image_heads", "patch", "pool", "embed"),
    *("text", "text_width", "text_layers", "text_heads", "context", "min_tau", "lora", "lora_rank"),
}
_USUAL_SIZE, _USUAL_CONTEXT = 224, 77


@dataclass(frozen=True)
class Protocol:
    """How an adaptation is judged: what it learns from, which task says what came of it, and the metrics shown."""

    part: str
    task: str
    metrics: tuple[str, ...]
    others: bool = False
    """it is also judged on other data sets"""
    known: bool = False
    """whose classes it has all learned"""


PROTOCOLS = {
    "few_shot": Protocol("", "zero_shot", ("top1",)),
    "base2new": Protocol("#base", "base_to_new", ("base", "new", "harmonic_mean")),
    "cross": Protocol("", "zero_shot", ("top1",), others=True),
    "shift": Protocol("", "zero_shot", ("top1",), others=True, known=True),
}
"""The protocols of Zhou et al. (2022): few-shot learning, from base to new classes, from one data set to others, and to
pictures of the same classes that look different."""


@dataclass(frozen=True)
class Study:
    """What is adapted, to what, and how it is judged."""

    method: str
    config: Any
    recipe: Recipe
    data: str
    protocol: str = "few_shot"
    val: tuple[str, ...] = ()
    """the other data sets of `cross` and `shift`"""
    shots: tuple[int, ...] = (16,)
    seeds: int = 3
    template: str = ""
    """the prompt written by hand; none: that of the data set"""


def config_of(place: str, config: Any) -> Any:
    """A method's options with the towers of a run or of a saved dual encoder, or of a name such as `hf:PATH`.

    Raises:
        FileNotFoundError: the folder holds neither.
        EncoderError: there are no towers of that name.
    """
    folder = Path(place)
    if folder.is_dir():
        last = folder / "checkpoints" / "last"
        told = read_description(last if last.is_dir() else folder)["config"]
        found = {name: value for name, value in told.items() if name in _TOWERS} | {"start": place}
    else:
        with torch.device("meta"):
            text = text_encoder(place, context=_USUAL_CONTEXT, pretrained=False)
        width = text.width if text.projection is None else len(text.projection)
        found = {"image": place, "text": place, "image_size": _USUAL_SIZE, "context": text.context, "embed": width}
    return from_dict(type(config), to_dict(config) | found)


def adapt(study: Study, out: Path, *, device: str = "auto", at_a_time: int = 0) -> list[Score]:
    """Adapts with every number of shots and seed, and judges each, and the prompt written by hand beside them.

    Returns:
        The figures of the protocol, each with an interval over seeds and samples; written to OUT/adaptation.json.

    Raises:
        ValueError: the protocol needs other data sets, or has no use for them, or they have other classes.
    """
    protocol = PROTOCOLS[study.protocol]
    specs = (study.data, *study.val)
    sets = measure.judged(specs, "val")
    _check(study, protocol, [one.data for one in sets])
    table = {
        (shots, seed): _job(study, protocol, (shots, seed), out, device)
        for shots in study.shots
        for seed in range(study.seeds)
    }
    by_hand = _by_hand(study, sets, out, device)
    done = dict(zip(table, jobs.run_all(list(table.values()), at_a_time or jobs.parallel(device)), strict=True))
    by_label = {
        f"{study.method}, {shots} {'shot' if shots == 1 else 'shots'}": [done[shots, s] for s in range(study.seeds)]
        for shots in study.shots
    }
    learned, _ = judging.judge(by_label, [one.data for one in sets])
    scores = [score for score in (*by_hand, *learned) if score.metric in protocol.metrics]
    if len(study.val) > 1:
        scores += _means(scores, [one.data for one in sets[1:]])
    told = {"study": {**asdict(study), "config": to_dict(study.config)}, "scores": [asdict(score) for score in scores]}
    (out / RESULTS).write_text(json.dumps(plain(told), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return scores


def _check(study: Study, protocol: Protocol, judged: Sequence[Dataset]) -> None:
    if protocol.others != bool(study.val):
        needs = "needs other data sets: name them with --val" if protocol.others else "has no use for --val"
        raise ValueError(f"the protocol {study.protocol} {needs}.")
    if study.seeds < 1 or not study.shots:
        raise ValueError("an adaptation needs at least one seed and one number of shots.")
    source, *others = judged
    for other in others if protocol.known else ():
        if strange := sorted(set(other.classes) - set(source.classes)):
            raise ValueError(
                f"{other.name} has the class {strange[0]!r}, which {source.name} has not: for new classes the protocol "
                "is cross."
            )


def _job(study: Study, protocol: Protocol, which: tuple[int, int], out: Path, device: str) -> jobs.Job:
    """One adaptation; what it learns from is written down."""
    shots, seed = which
    spec = f"{study.data}{protocol.part}#{shots}each.{seed}"
    few = sources.open_source(spec, "train")
    recipe = replace(study.recipe, seed=seed)
    if recipe.epochs:
        recipe = replace(recipe, samples=recipe.epochs * max(len(few), recipe.batch // recipe.epochs + 1))
    rows = [(few.key(index), int(few.read(index, ("label",)).label)) for index in range(len(few))]
    out.mkdir(parents=True, exist_ok=True)
    split = {"train": [[key, label, few.classes[label]] for key, label in rows]}
    (out / f"learned-{shots}-seed{seed}.json").write_text(json.dumps(split, ensure_ascii=False), encoding="utf-8")
    job = jobs.Job(
        study.method, (spec,), (study.data, *study.val), (protocol.task,), study.config, recipe, device=device
    )
    return jobs.placed(job, out / "runs", f"{study.method}-{shots}")


def _by_hand(study: Study, sets: Sequence[measure.Judged], out: Path, device: str) -> list[Score]:
    """The figures of the same dual encoder as it is, with a prompt written by hand."""
    shared = {field.name: getattr(study.config, field.name) for field in fields(DualEncoderConfig)}
    model: Any = methods.build("clip", to_dict(methods.config_class("clip")(**{**shared, "freeze": ()})))
    if study.config.start:
        start_from(model, study.config.start)
    if study.template:
        model.prompts = (study.template,)
    task = PROTOCOLS[study.protocol].task
    asked = measure.Asked(HAND, tasks=(task,), device=str(choose_device(device)))
    folders = [measure.folder_of(out / "by_hand", one.data) for one in sets]
    return [
        Score(HAND, row.data, row.task, row.metric, row.value, row.low, row.high, row.n, row.chance, (row.value,))
        for row in measure.measure(model, sets, asked, folders)
    ]


def _means(scores: Sequence[Score], others: Sequence[Dataset]) -> list[Score]:
    """Of each label the plain mean over the other data sets, which has no interval."""
    names = {f"{data.name}/{data.split}" for data in others}
    found = []
    for label in dict.fromkeys(score.label for score in scores):
        own = [score for score in scores if score.label == label and score.data in names]
        by_seed = tuple(fmean(values) for values in zip(*(score.by_seed for score in own), strict=True))
        value = fmean(score.value for score in own)
        found.append(Score(label, MEAN, own[0].task, own[0].metric, value, by_seed=by_seed))
    return found
