"""Annotation from names: opens the data and the model, and writes shards that have what it saw or read."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.app import curate_page, sources, terminal
from diptych.app.curate import spread
from diptych.curation import run
from diptych.curation.blocks import parts_of

if TYPE_CHECKING:
    from diptych.app.commands.annotate import Options
    from diptych.curation.detect import Detector
    from diptych.curation.regions import Regions
    from diptych.curation.verdicts import Task

_BLOCK = 32  # pictures after which progress is shown, and kept
_MODELS = ("regions", "reference")


def annotate(options: Options) -> run.Outcome:
    """Annotates as the command line says.

    Raises:
        ValueError: the model is of another kind, or the options do not fit together; the sentence says why.
        FileNotFoundError: there is no such data, or no such run.
    """
    out = options.out.expanduser()
    task = task_of(options)
    drawn = {spec: _drawn(spec, out) for spec in options.source}
    outcome = run.curate(
        task,
        parts_of([str(folder or sources.place(spec)) for spec, folder in drawn.items()]),
        out,
        spread=spread(options.workers, options.device, options.address),
        bar=terminal.progress,
        page=partial(curate_page.write, command=_command(options)),
        block=_BLOCK,
    )
    for folder in drawn.values():
        if folder:
            shutil.rmtree(folder)
    return outcome


def task_of(options: Options) -> Task:
    """What is written down: what a detector sees, or how likely a method holds the words of captions.

    Raises:
        ValueError: not exactly one of them is asked for.
    """
    if bool(options.regions) == bool(options.reference):
        raise ValueError("diptych annotate needs one model: --regions DETECTOR or --reference RUN.")
    if options.regions:
        from diptych.curation.regions import RegionTask, Seen

        return RegionTask(Seen(detector_of(options.regions, options.settings, options.device)))
    from diptych.app import api
    from diptych.curation.chances import ChanceTask, Read, Reader
    from diptych.training.precision import choose_device

    device = str(choose_device(options.device))
    return ChanceTask(Read(Reader(api.load(options.reference), options.reference, device)))


def detector_of(name: str, settings: Regions, device: str = "auto") -> Detector:
    """An object detector of transformers, by the name of a folder or on the hub.

    Raises:
        ValueError: there is no such model, it is no detector, or not all of it is there.
        ModuleNotFoundError: transformers, or torchvision, which prepares its pictures, is not installed.
    """
    from diptych.curation.detect import Detector
    from diptych.encoders.from_hf import quiet
    from diptych.training.precision import choose_device

    try:
        import torchvision  # noqa: F401
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection
    except ImportError as error:
        raise ModuleNotFoundError(
            f"detectors need a library that is not here ({error}): pip install 'diptych[hf,timm]'."
        ) from None
    place = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        kind = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"There is no detector that transformers knows at {name!r}: {error}") from None
    if type(kind) not in AutoModelForObjectDetection._model_mapping:
        raise ValueError(
            f"{name!r} is a {kind.model_type}, which is no object detector: give one, such as facebook/detr-resnet-50."
        )
    try:
        with quiet():
            processor = AutoImageProcessor.from_pretrained(place, trust_remote_code=False)
            model, report = AutoModelForObjectDetection.from_pretrained(
                place, trust_remote_code=False, output_loading_info=True
            )
    except (OSError, ValueError) as error:
        raise ValueError(f"the detector {name!r} is not whole: {error}") from None
    if report["missing_keys"]:
        lacking = sorted(report["missing_keys"])
        raise ValueError(f"{name!r} lacks {len(lacking)} of its weights, such as {lacking[0]}: get the whole model.")
    return Detector(model.float(), processor, name, settings, str(choose_device(device)))


def _drawn(spec: str, out: Path) -> Path | None:
    """Shards of a world, which is drawn once: beside the destination, until that is whole."""
    if not sources.is_named(spec) or spec == sources.STARTER:
        return None
    from diptych.data.pack import pack

    folder = out.parent / f".{out.name}.{hashlib.sha256(spec.encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        with terminal.progress("drawing") as show:
            pack(sources.open_splits(spec), folder, progress=show)
    return folder


def _command(options: Options) -> str:
    """The command line that does the same again."""
    model = next(name for name in _MODELS if getattr(options, name))
    parts = [f"diptych annotate {shlex.join(options.source)} --{model} {shlex.quote(getattr(options, model))}"]
    told: list[Any] = [options.settings, options]
    for part in told:
        for one in dataclasses.fields(part):
            value = getattr(part, one.name)
            if one.name not in ("source", *_MODELS, "out", "settings", "json") and value != one.default:
                parts += curate_page.option(one.name, value)
    return " ".join([*parts, f"--out {shlex.quote(curate_page.pages.relative(options.out))}"])
