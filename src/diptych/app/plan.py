"""Before a run: does it fit, how long will it take, and which switch buys what."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from diptych import methods
from diptych.app import devices, fitting, sources
from diptych.app.devices import Device
from diptych.encoders import EncoderError
from diptych.recipe import Recipe
from diptych.training import cost
from diptych.training.cost import Memory, Pace
from diptych.training.optimiser import trainable

if TYPE_CHECKING:
    from torch import nn

    from diptych.data.dataset import Dataset

_REMEMBER = 4096  # megabytes, in the switch that is tried
_MOST_WORKERS = 64
_LARGE = 50_000_000  # parameters
_MEMORY = ("config", "precision", "optimizer", "betas", "ema", "cached")  # what memory depends on, the batch apart
_ADAPTED = ("qkv|query|value|q_proj|v_proj", "mlp")  # linear layers that LoRA is tried on, the first that are there
_READING = ("image_size", "crop", "flip", "augment", "context")  # what the time of reading a sample depends on


@dataclass(frozen=True)
class Estimate:
    """What a run takes on a device; bytes, seconds, operations.

    `largest` is the largest batch that fits, with as many accumulated parts as the recipe has; 0 where not even one
    sample a part does. `reading` and `computing` are seconds a sample if the other took no time.
    """

    memory: dict[str, float]
    available: float
    largest: int
    flops_per_sample: float
    step_seconds: float
    run_seconds: float
    reading: float
    computing: float

    @property
    def bytes(self) -> float:
        """All memory."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether it is there."""
        return self.bytes <= self.available

    @property
    def limit(self) -> str:
        """What a run waits for: `reading` or `computing`."""
        return "reading" if self.reading > self.computing else "computing"


@dataclass(frozen=True)
class Switch:
    """An option that changes what a run takes."""

    option: str
    estimate: Estimate


@dataclass(frozen=True)
class Plan:
    """All that is known of a run before it is made."""

    method: str
    data: str
    samples_there: int
    device: Device
    precision: str
    recipe: Recipe
    parameters: int
    trained: int
    estimate: Estimate
    switches: tuple[Switch, ...] = ()

    def told(self) -> dict[str, Any]:
        """As JSON has it, with what can be derived."""
        plain = asdict(self)
        for one, estimate in [
            (plain, self.estimate),
            *zip(plain["switches"], (s.estimate for s in self.switches), strict=True),
        ]:
            one["estimate"] |= {"bytes": estimate.bytes, "fits": estimate.fits, "limit": estimate.limit}
        return {**plain, "flops": self.estimate.flops_per_sample * self.recipe.samples, "here": self.device.here}


def plan(
    method: str,
    data: str | Sequence[str],
    config: Any = None,
    recipe: Recipe | None = None,
    device: str = "auto",
    *,
    switches: bool = True,
    told: Callable[[str], object] = lambda what: None,
) -> Plan:
    """Says what a run will take, without making it.

    Memory is counted, for a device that is not here as a CPU counts; time is measured on a few steps where the device
    is here, and else follows from the operations and the device's data sheet.

    Args:
        method: id of the method.
        data: as in `api.train`.
        config: the method's `Config`; its defaults where none is given.
        recipe: length, batch and the like.
        device: as `devices.find` takes it.
        switches: also try the options that would change memory or time.
        told: called with what is being worked on.

    Raises:
        MissingField: the data lack a field that the method needs.
        ValueError: there is no such device.
    """
    place = devices.find(device)
    learn = sources.open_sources(data, "train")
    recipe = settled(recipe or Recipe(), place)
    asked = _Asked(method, fitting.ready(method, config or methods.config_class(method)(), learn, recipe), recipe)
    told(f"{method} as it is")
    model = asked.build("meta")
    stages = model.stages(asked.recipe)  # type: ignore[operator]
    trained = {name: value for stage in stages for name, (value, _) in trainable(model, stage).items()}
    known = asked.estimate(learn, place)
    found = []
    for option, changed in _switches(known, place) if switches else ():
        told(option)
        try:
            found.append(Switch(option, changed.estimate(learn, place, known).estimate))
        except EncoderError:  # a tower that has only one size, or no layer of that name
            continue
    return Plan(
        method=method,
        data=f"{learn.name} ({learn.split})",
        samples_there=len(learn),
        device=place,
        precision=asked.recipe.precision,
        recipe=asked.recipe,
        parameters=sum(value.numel() for value in model.parameters()),
        trained=sum(value.numel() for value in trained.values()),
        estimate=known.estimate,
        switches=tuple(found),
    )


@dataclass(frozen=True)
class _Asked:
    method: str
    config: Any
    recipe: Recipe

    def build(self, place: str) -> nn.Module:
        """Without the weights of named encoders: cost does not depend on them."""
        with torch.device(place):
            return methods.build(self.method, self.config, weights=False)

    def has(self, name: str) -> bool:
        """Whether the method has an option of this name."""
        return hasattr(self.config, name)

    def estimate(self, data: Dataset, device: Device, known: _Known | None = None) -> _Known:
        """Memory and time, without what is `known` and does not change.

        For a device that is not here a large method gets no numbers, unless it looks at them.
        """
        model = self.build("meta")
        if device.here or sum(value.numel() for value in model.parameters()) < _LARGE:
            return self._estimate(self.build("cpu"), data, device, known)
        try:
            return self._estimate(model, data, device, known)
        except NotImplementedError:
            return self._estimate(self.build("cpu"), data, device, known)

    def _estimate(self, model: nn.Module, data: Dataset, device: Device, known: _Known | None) -> _Known:
        recipe = self.recipe
        memory = known.memory if known and self.same(known.asked, *_MEMORY) else self.memory(model, data, device)
        read = known.read if known and self.same(known.asked, *_READING) else cost.reading(model, data)
        if known and self.same(known.asked, "config", "cached"):
            flops = known.estimate.flops_per_sample
        else:
            flops = cost.flops_per_sample(model, data, recipe)
        parts = _parts(self, memory, len(data))
        most = memory.largest(device.memory - parts.get("remembered features", 0.0))
        if device.here:
            fitting = max(1, min(recipe.batch, most * _losses(recipe)))
            pace = cost.timed(model, data, replace(recipe, batch=fitting), device.place, read=read)
        else:
            compute = flops / device.rates[recipe.precision]  # type: ignore[index]
            pace = Pace(compute, compute, read, cores=max(1, recipe.workers))
        seconds = pace.run(recipe.samples, len(data), recipe.workers)
        estimate = Estimate(
            memory=parts,
            available=device.memory,
            largest=most * _losses(recipe),
            flops_per_sample=flops,
            step_seconds=seconds / recipe.samples * recipe.batch,
            run_seconds=seconds,
            reading=read / max(1, recipe.workers),
            computing=replace(pace, read=0.0).run(recipe.samples, len(data), recipe.workers) / recipe.samples,
        )
        return _Known(self, estimate, memory, read)

    def memory(self, model: nn.Module, data: Dataset, device: Device) -> Memory:
        """Counted on batches that fill the tiles of the loss, where it has some."""
        tile = getattr(self.config, "tile", 0)
        sizes = (tile, 2 * tile, 4 * tile) if tile > cost.SIZES[0] else cost.SIZES
        return cost.memory(model, data, self.recipe, device.place, sizes)

    def same(self, other: _Asked, *names: str) -> bool:
        """Whether these fields, of the recipe or of the configuration, are equal; `config` are all of the latter."""
        mine, theirs = (one.fields for one in (self, other))
        return all(mine.get(name) == theirs.get(name) for name in names)

    @property
    def fields(self) -> dict[str, Any]:
        """By name; `cached` are the parts of a batch under one loss."""
        cached = self.recipe.accumulate if self.recipe.grad_cache else 1
        return {**vars(self.recipe), **vars(self.config), "config": self.config, "cached": cached}


@dataclass(frozen=True)
class _Known:
    asked: _Asked
    estimate: Estimate
    memory: Memory
    read: float


def settled(recipe: Recipe, device: Device) -> Recipe:
    """The recipe with the number format that `auto` means on the device.

    Raises:
        ValueError: bf16 is asked for, and the device has no such arithmetic.
    """
    if recipe.precision == "bf16" and not device.bf16 and not device.here:
        raise ValueError(f"{device.title} has no bf16 arithmetic: use --precision fp32.")
    if recipe.precision != "auto":
        return recipe
    return replace(recipe, precision="bf16" if device.bf16 else "fp32")


def _losses(recipe: Recipe) -> int:
    """Into how many a step divides its batch, each with a loss of its own."""
    return 1 if recipe.grad_cache else recipe.accumulate


def _parts(asked: _Asked, memory: Memory, samples: int) -> dict[str, float]:
    at_once = cost.samples_at_once(asked.recipe)
    peak = memory.peak(at_once)
    kept = memory.kept * samples
    if asked.has("remember"):  # of each tower at most so many megabytes
        kept = min(kept, 2 * asked.config.remember * 2**20)
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        f"optimiser ({asked.recipe.optimizer})": memory.optimiser,
        "averaged copy": memory.average,
        "activations": peak.fixed + peak.sample * at_once,
        "logits": peak.pair * at_once**2,
        "remembered features": kept,
    }
    always = ("weights", "gradients", "activations", "logits")
    return {name: size for name, size in parts.items() if size or name in always}


def _switches(known: _Known, device: Device) -> Iterator[tuple[str, _Asked]]:
    """The options that would change what a run takes, of those that method, recipe and device have."""
    asked, recipe = known.asked, known.asked.recipe
    most = max(1, known.memory.largest(device.memory))  # at once
    batch = min(recipe.batch // 2, 2 ** (most.bit_length() - 1) * _losses(recipe))
    parts = recipe.accumulate * max(2, 2 ** math.ceil(math.log2(cost.samples_at_once(recipe) / most)))
    if batch >= recipe.accumulate:
        yield f"--batch {batch}", replace(asked, recipe=replace(recipe, batch=batch))
    if recipe.batch >= parts:
        yield f"--accumulate {parts}", replace(asked, recipe=replace(recipe, accumulate=parts))
    if recipe.precision == "fp32" and device.bf16:
        yield "--precision bf16", replace(asked, recipe=replace(recipe, precision="bf16"))
    if recipe.ema:
        yield "--ema 0", replace(asked, recipe=replace(recipe, ema=0.0))
    wanted = _workers(known.estimate, recipe, device)
    if wanted > recipe.workers:
        yield f"--workers {wanted}", replace(asked, recipe=replace(recipe, workers=wanted))
    for option, changes in _of_config(asked):
        yield option, replace(asked, config=replace(asked.config, **changes))


def _workers(now: Estimate, recipe: Recipe, device: Device) -> int:
    """The processes that read as fast as the device computes; here no more than there are cores."""
    most = cost.cores() if device.here else _MOST_WORKERS
    return min(most, math.ceil(now.reading * max(1, recipe.workers) / now.computing))


def _of_config(asked: _Asked) -> Iterator[tuple[str, dict[str, Any]]]:
    config, at_once = asked.config, cost.samples_at_once(asked.recipe)
    if asked.has("tile") and not config.tile and at_once >= 64:
        tile = min(256, at_once // 4)
        yield f"--tile {tile}", {"tile": tile}
    if asked.has("image_size"):
        yield f"--image-size {config.image_size // 2}", {"image_size": config.image_size // 2}
    named = [side for side in ("image", "text") if ":" in str(getattr(config, side, ""))]
    patterns = tuple(rf"^{side}\." for side in named)
    if asked.has("freeze") and named and not set(patterns) <= set(config.freeze):
        listed = " ".join(f"'{pattern}'" for pattern in patterns)
        yield f"--freeze {listed}", {"freeze": (*config.freeze, *patterns)}
    if asked.has("lora") and named and not (config.lora or config.freeze) and importlib.util.find_spec("peft"):
        linear = [name for name, layer in asked.build("meta").named_modules() if isinstance(layer, torch.nn.Linear)]
        for pattern in [one for one in _ADAPTED if any(re.search(one, name) for name in linear)][:1]:
            yield f"--lora '{pattern}'", {"lora": (pattern,)}
    if asked.has("remember") and not config.remember and any(re.match(r"\^?(image|text)", p) for p in config.freeze):
        yield f"--remember {_REMEMBER} --crop 1 1", {"remember": _REMEMBER, "crop": (1.0, 1.0), "augment": "none"}
