"""How long a run trains: so many samples, so many floating-point operations, or so many minutes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from diptych.app.contestants import Side
from diptych.config import nearest

if TYPE_CHECKING:
    from diptych.data.dataset import Dataset

KINDS = ("samples", "flops", "minutes")
_AMOUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?(?:e\d+)?)(?P<unit>[kmgtp]?)", re.IGNORECASE)
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}


def amount(text: str) -> float:
    """`200k` -> 200,000; `1.5M`, `3e15` and `2T` likewise.

    Raises:
        ValueError: it is no positive number.
    """
    found = _AMOUNT.fullmatch(text.strip())
    value = float(found["number"]) * _UNITS[found["unit"].lower()] if found else 0.0
    if value <= 0:
        raise ValueError(f"{text!r} is not an amount: write a number, as in 200k, 1.5M or 3e15.")
    return value


def parsed(budget: str) -> tuple[str, float]:
    """`samples=200k` -> ("samples", 200,000).

    Raises:
        ValueError: the kind or the amount cannot be read.
    """
    kind, _, text = budget.partition("=")
    if kind not in KINDS:
        raise ValueError(f"{nearest(kind, KINDS, 'budget called')} Write samples=200k, flops=1e15 or minutes=10.")
    return kind, amount(text)


def measured(side: Side, data: Dataset, budget: str, device: str, *, time_it: bool = False) -> dict[str, Any]:
    """How long a contestant trains with a budget: `samples` (whole batches), and its `flops` a sample.

    `expected` is its speed in samples a second, measured on a few steps where the budget or the caller asks for time.
    """
    import torch

    from diptych import methods
    from diptych.training.cost import flops_per_sample, samples_per_second

    kind, size = parsed(budget) if budget else ("samples", float(side.recipe.samples))
    torch.manual_seed(side.recipe.seed)
    method = methods.build(side.method, side.config)
    flops = flops_per_sample(method, data, side.recipe)
    timed = time_it or kind == "minutes"
    expected = samples_per_second(method, data, side.recipe, device) if timed else None
    samples = {"samples": size, "flops": size / flops, "minutes": 60 * size * (expected or 0.0)}[kind]
    steps = max(1, round(samples / side.recipe.batch))
    return {"samples": steps * side.recipe.batch, "flops": flops, "expected": expected}
