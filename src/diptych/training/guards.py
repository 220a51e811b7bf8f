"""What goes wrong on the way: figures that are not finite, memory that runs out, a disk that is full."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from itertools import chain

import torch
from torch import Tensor

from diptych.batch import Batch
from diptych.training.checkpoint import SaveFailed
from diptych.training.logs import forget_after, memory_gb
from diptych.training.state import Run

_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|alloc_failed", re.I
)
_ASKED = re.compile(r"tried to allocate ([\d.]+ ?\w+)", re.I)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NonFinite(ArithmeticError):
    """Too many steps in a row had a loss or gradient that is not finite; `keys` are those of the last batch."""

    def __init__(self, sentence: str, keys: list[str]) -> None:
        super().__init__(sentence)
        self.keys = keys


class OutOfMemory(MemoryError):
    """There is not enough memory for the run; the message is one sentence with the options that help."""


# -- figures that are not finite ---------------------------------------------------------------------------------------


def leaves_out(run: Run, batch: Batch, figures: Mapping[str, Tensor]) -> bool:
    """Whether this step is left out, in all processes, because a figure is not finite in one of them.

    Such steps are counted in the run, and the keys of their batches are appended to `nonfinite.jsonl`.

    Raises:
        NonFinite: there were more than `recipe.max_nonfinite` in a row, or a buffer of the method was spoilt.
    """
    finite = bool(torch.isfinite(torch.stack([value.to(torch.float32) for value in figures.values()])).all())
    if not run.place.any(not finite):
        run.skipped_in_a_row = 0
        return False
    run.skipped += 1
    run.skipped_in_a_row += 1
    mine = ", ".join(f"{name} {float(value)}" for name, value in figures.items())
    nans = [name for name, value in run.trained.named_buffers() if bool(value.isnan().any())]
    said, *found = zip(*run.place.collect([mine, list(batch.sample_keys), nans]), strict=True)  # of all processes
    words, (keys, spoilt) = "; ".join(dict.fromkeys(said)), (list(chain.from_iterable(lists)) for lists in found)
    if run.place.main:
        with run.nonfinite.open("a", encoding="utf-8") as file:
            record = {"step": run.step, "figures": words, "keys": keys}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    if spoilt or run.skipped_in_a_row > run.recipe.max_nonfinite:
        why = f"and with it the buffer {spoilt[0]}" if spoilt else f"after {run.skipped_in_a_row} such in a row"
        raise NonFinite(
            f"the loss or its gradient is not finite at step {run.step} ({words}), {why}: the keys of the batches are "
            f"in {run.nonfinite}; a lower lr, more warmup or precision='fp32' may help.",
            keys,
        )
    return True


def forget(run: Run) -> None:
    """Drops the keys of steps that were lost and are now done again."""
    if run.place.main:
        forget_after(run.nonfinite, run.step - 1)


# -- memory and disk ---------------------------------------------------------------------------------------------------


@contextmanager
def explained(run: Run) -> Iterator[None]:
    """Turns errors of a machine that is too small into one sentence with what to do.

    Raises:
        OutOfMemory: of the device or of this process. SaveFailed: the disk is full.
    """
    try:
        yield
    except SaveFailed:
        raise
    except (MemoryError, RuntimeError, OSError) as error:
        number = getattr(error, "errno", None)
        if isinstance(error, MemoryError) or number == errno.ENOMEM or _NO_MEMORY.search(str(error)):
            raise OutOfMemory(_advice(run, error)) from error
        if number in _NO_ROOM:
            raise SaveFailed(
                f"there is no room for the files of the run in {run.out} ({error}): make room on the disk, then run "
                f"the same command again to go on from the last checkpoint."
            ) from error
        raise


def _advice(run: Run, error: BaseException) -> str:
    asked = _ASKED.search(str(error))
    wanted = f" for {asked[1]} more" if asked else ""
    device, largest = run.place.device, memory_gb(run.place.device)
    whole = f" of {torch.cuda.mem_get_info(device)[1] / 1e9:.3g}" if device.type == "cuda" else ""
    return (
        f"out of memory on {device} at step {run.step}{wanted} ({largest:.3g}{whole} GB were in use at most): what "
        f"helps is {', '.join(_helps(run))}; `diptych plan {run.method.card.id}` says what fits."
    )


def _helps(run: Run) -> list[str]:
    """Options that lower memory, with the values that they have now: those that recipe and method know."""
    recipe, config = run.recipe, run.method.config
    options = asdict(config) if is_dataclass(config) and not isinstance(config, type) else {}
    found = []
    if recipe.batch > run.place.world:
        found.append(f"a smaller --batch (now {recipe.batch})")
        cached = "" if recipe.grad_cache else ", with --grad-cache where the loss is to be that of the whole batch"
        found.append(f"a larger --accumulate (now {recipe.accumulate}{cached})")
    if "tile" in options:
        found.append(f"a smaller --tile (now {options['tile']})" if options["tile"] else "--tile 64 (now 0, the whole)")
    if run.precision == "fp32":
        found.append("--precision bf16 (now fp32)")
    if recipe.ema:
        found.append(f"--ema 0 (now {recipe.ema:g})")
    if recipe.optimizer != "sgd":
        found.append(f"--optimizer sgd (now {recipe.optimizer})")
    return found
