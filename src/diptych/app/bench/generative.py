"""A small LLaVA: our training step against that of transformers' Trainer, and captions against its `generate`.

Both are one model, with equal weights (PLLaVA of one frame, whose class transformers has, by `diptych export`), and see
the same tensors: `theirs` raises where its loss on our weights is not ours. Ours is a turn of our trainer's own loop,
theirs one of `Trainer.train`, held between two steps; both clip gradients and have AdamW, and none logs or saves. Ours
normalises pictures, theirs gets them normalised. Captions begin with pictures, end in text, and have all as many words.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from diptych import methods
from diptych.app.bench import packing
from diptych.app.bench.measure import Aim, Case, Form, Step as Timed
from diptych.app.bench.step import Ready, views
from diptych.batch import Batch, Features, Step
from diptych.encoders.from_hf import quiet
from diptych.methods.generative.prior import learned_labels
from diptych.models.generation import there
from diptych.recipe import Recipe
from diptych.training import loop
from diptych.training.distributed import Place
from diptych.training.state import Run

_STEPS = 1_000_000  # more than anybody measures


@dataclass(frozen=True)
class Options:
    """Sizes."""

    batch: int = 16
    """pictures in a batch"""
    words: int = 32
    """words of the middle caption in training; each caption that is written"""
    width: int = 256
    """of the language model"""
    layers: int = 6
    """of the language model"""
    device: str = "cpu"
    """cpu or cuda"""
    repeats: int = 5
    """turns"""


def cases(options: Options) -> list[Case]:
    """Training and writing."""
    size = f"batch {options.batch}"
    return [
        Case(
            title=f"LLaVA step, {size}",
            forms={"diptych": Form(partial(ours, options)), "Trainer": Form(partial(theirs, options))},
            aims=(Aim("time", "diptych", "Trainer", 1.0), Aim("memory", "diptych", "Trainer", 1.0)),
            unit="pictures",
            units=options.batch,
            repeats=options.repeats,
            apart=True,
        ),
        Case(
            title=f"Captions of {options.words} words, {size}",
            forms={"diptych": Form(partial(written, options)), "generate": Form(partial(generated, options))},
            aims=(Aim("speed", "diptych", "generate", at_least=1.0), Aim("memory", "diptych", "generate", 1.0)),
            unit="captions",
            units=options.batch,
            repeats=options.repeats,
            apart=True,
        ),
    ]


def built(options: Options) -> Any:
    """The method, with the same weights every time."""
    torch.manual_seed(0)
    sizes = {"image_size": 32, "image_layers": 3, "width": options.width, "layers": options.layers, "context": 256}
    same = {"frames": 1, "way": "grid", "image_layer": 2, "tasks": ("pretrain",)}  # states behind the third of three
    return methods.build("pllava", {**sizes, **same}).to(options.device)


def batch_of(options: Options) -> Batch:
    """Pictures, each with words behind it, of lengths as those of captions."""
    return packing.made(packing.Options(options.batch, options.words, spread=0.3, longest=2 * options.words))


def model_of(method: Any) -> Any:
    """The same model in transformers, with weights of its own."""
    from diptych.app.export_llava import llava

    with tempfile.TemporaryDirectory() as folder, quiet():
        made = llava(method)
        made.model.save_pretrained(folder)
        return type(made.model).from_pretrained(folder).to(next(method.parameters()).device)


def inputs_of(method: Any, model: Any, batch: Batch) -> dict[str, Tensor]:
    """A batch as the model of transformers takes it."""
    return {
        "input_ids": batch.ids.masked_fill(batch.visual, model.config.image_token_id),
        "pixel_values": method.encoder.inner.pixels(batch.image),
        "attention_mask": there(batch.length, batch.ids.shape[1]).long(),
    }


# -- training ----------------------------------------------------------------------------------------------------------


def ours(options: Options) -> Timed:
    """One turn of our trainer's loop, on a batch that is ready."""
    method = built(options)
    method.views = views
    recipe = Recipe(samples=options.batch * _STEPS, batch=options.batch, lr=5e-5, precision="fp32", workers=0)
    run = Run(method, recipe, Place(torch.device(options.device)), Path(tempfile.gettempdir()))
    updates = loop.steps(run, Ready(batch_of(options)))
    return lambda: next(updates)


class Rows(Dataset[dict[str, Tensor]]):
    """The rows of a batch again and again."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch, self.size = batch, len(next(iter(batch.values())))

    def __len__(self) -> int:
        return _STEPS * self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[index % self.size] for name, value in self.batch.items()}


def theirs(options: Options) -> Timed:
    """A step of transformers' Trainer, whose loop runs in a thread that waits behind each.

    Raises:
        ArithmeticError: its loss on these weights is not ours, so that there would be nothing to compare.
    """
    from transformers import Trainer, TrainerCallback, TrainingArguments

    method, batch = built(options), batch_of(options).to(options.device)
    model = model_of(method)
    rows = {**inputs_of(method, model, batch), "labels": learned_labels(batch)}
    with torch.no_grad():
        mine, other = float(method.eval().loss(batch, Step()).total), float(model(**rows).loss)
    if not math.isclose(mine, other, rel_tol=1e-4):
        raise ArithmeticError(f"on equal weights our loss is {mine:.6f} and LLaVA's {other:.6f}: both must be one.")
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    class Held(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.wait()

        def wait(self) -> None:
            done.release()
            go.acquire()

    told = TrainingArguments(
        tempfile.gettempdir(),
        per_device_train_batch_size=options.batch,
        max_steps=_STEPS,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=options.device == "cpu",
    )
    data = Rows({name: value.cpu() for name, value in rows.items()})
    trainer = Trainer(model, told, train_dataset=data, callbacks=[Held()])
    threading.Thread(target=trainer.train, daemon=True).start()
    done.acquire()

    def step() -> None:
        go.release()
        done.acquire()

    return step


# -- writing -----------------------------------------------------------------------------------------------------------


def written(options: Options) -> Timed:
    """From pictures to texts, by `respond`."""
    method = built(options).eval()
    image = batch_of(options).image.to(options.device)

    @torch.no_grad()
    def step() -> Sequence[str]:
        seen: Features = method.encode_image(Batch({"image": image}))
        return method.respond(seen, [""] * options.batch, options.words, min_new_tokens=options.words)  # type: ignore[no-any-return]

    return step


def generated(options: Options) -> Timed:
    """From pictures to texts, by `generate` of LlavaForConditionalGeneration."""
    method = built(options)
    model = model_of(method).eval()
    read = method.read([], [method.connector.tokens], open=True)
    rows = {name: torch.stack([torch.as_tensor(read[name])] * options.batch) for name in ("ids", "visual", "length")}
    batch = Batch({"image": batch_of(options).image, **rows}).to(options.device)
    inputs = inputs_of(method, model, batch)
    tokenizer, length = method.language.tokenizer, batch.ids.shape[1]
    words = {"max_new_tokens": options.words, "min_new_tokens": options.words, "do_sample": False}

    @torch.no_grad()
    def step() -> Sequence[str]:
        return [tokenizer.text(row) for row in model.generate(**inputs, **words)[:, length:].tolist()]

    return step
