"""A training step of CLIP, ViT-B/32: our trainer's against that of open_clip's training script, from equal weights.

Ours is `clip --preset paper`, one turn of the trainer's own loop: normalising of pictures, loss, backward pass,
clipping of the gradient, AdamW. Theirs is the step of `open_clip_train.train` with its defaults (AdamW as its `main`
makes it, no clipping, pictures that its loader has normalised), without its logging. Each runs in a process of its own,
as ours keeps freed memory for the whole process (`training.memory`) and theirs does not.

At our defaults texts are as long as the longest of the batch, which changes no feature; open_clip always computes 77
tokens. Both are in the precision that the device computes natively, `--precision amp_bf16` or `fp32` of open_clip: its
default is fp16 with scaled losses, which CPUs emulate.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from diptych import methods
from diptych.app import sources
from diptych.app.bench.measure import Aim, Case, Form, Limit, Step, matrix_rate
from diptych.batch import FIELDS, Batch, Sample, Step as At
from diptych.data.loader import Loader
from diptych.training import cost, loop, precision
from diptych.training.distributed import Place
from diptych.training.precision import Precision
from diptych.training.state import Run

_CONTEXT = 77  # tokens of every text in open_clip
_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Options:
    """What is trained, and where."""

    batch: int = 32
    """pairs in the batch"""
    data: str = "starter"
    """where pictures and captions come from, as in `diptych train`"""
    compile: bool = False
    """run both through torch.compile"""
    device: str = "cpu"
    """cpu or cuda"""
    repeats: int = 5
    """turns"""


def cases(options: Options) -> list[Case]:
    """Equal work, and our defaults."""
    native = precision.choose("auto", torch.device(options.device))
    return [
        _case(options, f"CLIP step, fp32, all texts {_CONTEXT} tokens", "fp32", _CONTEXT, 1.05),
        _case(options, f"CLIP step, our defaults: {native}, texts as long as they are", native, 0, 1.6),
    ]


def _case(options: Options, title: str, chosen: Precision, length: int, aim: float) -> Case:
    def seconds() -> float:
        return operations(options, length) / matrix_rate(device=options.device, dtype=_DTYPES[chosen])

    return Case(
        title=f"{title}, batch {options.batch}",
        forms={
            "diptych": Form(partial(ours, options, chosen, length), memory=False),
            "open_clip": Form(partial(theirs, options, chosen), memory=False),
        },
        aims=(Aim("speed", "diptych", "open_clip", at_least=aim),),
        unit="pairs",
        units=options.batch,
        repeats=options.repeats,
        limit=Limit("the matrix products of our step", seconds),
        apart=True,
    )


# -- ours --------------------------------------------------------------------------------------------------------------


def ours(options: Options, chosen: Precision, length: int) -> Step:
    """One turn of our trainer's loop, on a batch that is ready; texts are padded to `length` where they are shorter."""
    method: Any = built()
    data = Ready(real_batch(method, options, length))
    method.views = views
    recipe = replace(
        methods.presets("clip")["paper"].recipe,
        batch=options.batch,
        samples=options.batch * 1_000_000,
        precision=chosen,
        compile=options.compile,
        workers=0,
    )
    run = Run(method, recipe, Place(torch.device(options.device)), Path(tempfile.gettempdir()))
    method.to(options.device)
    updates = loop.steps(run, data)
    return lambda: next(updates)


def built() -> nn.Module:
    """The method, with the same initial weights every time."""
    torch.manual_seed(0)
    return methods.build("clip", methods.presets("clip")["paper"].config)


def real_batch(method: Any, options: Options, length: int = 0) -> Batch:
    """Pictures and captions of the data set as the method sees them in training."""
    data = sources.open_source(options.data, "train")
    batch = next(Loader(data, method.views, method.card.needs, options.batch, seed=0).batches())
    room = max(0, length - batch.text.shape[1])
    return Batch({**batch, "text": F.pad(batch.text, (0, room)), "text_mask": F.pad(batch.text_mask, (0, room))})


def views(sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
    """What is ready stays as it is."""
    return dict(sample)


class Ready:
    """The rows of a batch as a data set, so that a step of the trainer reads without decoding.

    Whatever fields they came from, it has them.
    """

    name, split, classes, has = "ready", "train", (), frozenset(FIELDS)

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return self.batch.size

    def key(self, index: int) -> str:
        """The number of the row."""
        return str(index)

    def read(self, index: int, fields: Collection[str]) -> Sample:
        """The tensors of a row, whatever the fields."""
        return Sample(self.key(index), {name: value[index] for name, value in self.batch.items()})

    def order(self, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
        """As they are."""
        return np.arange(len(self), dtype=np.int64)


@cache
def operations(options: Options, length: int) -> float:
    """Floating-point operations of our step."""
    method: Any = built()
    batch = real_batch(method, options, length)
    return cost.flops(method, batch) * batch.size


# -- open_clip ---------------------------------------------------------------------------------------------------------


def theirs(options: Options, chosen: Precision) -> Step:
    """A step as open_clip's training script makes it, from our weights.

    Raises:
        ArithmeticError: its loss on these weights is not ours, so that there would be nothing to compare.
    """
    import open_clip

    device = torch.device(options.device)
    method: Any = built()
    batch = real_batch(method, options, _CONTEXT)
    model: Any = open_clip.create_model("ViT-B-32", output_dict=True)
    _take_weights(model, method)
    criterion = open_clip.ClipLoss()
    pictures, texts = method.image.pixels(batch.image), batch.text
    with torch.no_grad():
        mine = float(method.loss(batch, At()).total)
        other = float(criterion(**model(pictures, texts)))
    if not math.isclose(mine, other, rel_tol=1e-4):
        raise ArithmeticError(f"on equal weights our loss is {mine:.6f} and open_clip's {other:.6f}: both must be one.")
    del method
    model, pictures, texts = model.to(device).train(), pictures.to(device), texts.to(device)
    optimiser = _adamw(model)
    forward = torch.compile(model) if options.compile else model

    def step() -> None:
        optimiser.zero_grad()
        with precision.autocast(device, chosen):
            loss = criterion(**forward(pictures, texts))
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))

    return step


def _take_weights(model: nn.Module, method: Any) -> None:
    from diptych.app.export_open_clip import open_clip_files

    model.load_state_dict(open_clip_files(method, Path()).tensors)


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    """As open_clip's `main` makes it for a ViT without options: no `fused`, no `foreach`."""
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, value in model.named_parameters():
        groups[value.ndim >= 2 and not any(word in name for word in ("bn", "ln", "bias", "logit_scale"))].append(value)
    parts = [{"params": groups[False], "weight_decay": 0.0}, {"params": groups[True], "weight_decay": 0.2}]
    return torch.optim.AdamW(parts, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)
