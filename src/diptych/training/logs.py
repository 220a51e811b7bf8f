"""What a run says while it runs: a progress bar or plain lines, `log.jsonl`, and the writers of `writers.py`.

A line of `log.jsonl` is either an interval of training,
    {step, samples, stage, loss, terms: {name: value}, watch: {name: value}, lr, grad_norm, samples_per_second, wait,
     padding, memory_gb, skipped, seconds, paused: {what: seconds}}
with `wait` the share of time that training waited for data and `padding` the share of masked-out positions in the
batch's `*_mask` fields (means over the interval, as loss and terms), or an evaluation, {step, samples, rows: [...]}.
Since the start of the run there were so many `skipped` steps, `seconds` of training, and seconds in which it was
`paused` for "saving" and "evaluating". An interval in which every step was skipped is told with the next.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from diptych import results
from diptych.batch import Batch
from diptych.results import Row
from diptych.training import watchdog
from diptych.training.optimiser import trainable
from diptych.training.state import Run
from diptych.training.writers import Writer, open_writer

_PLAIN_SECONDS = 15.0  # between two lines where there is no terminal


@dataclass
class Update:
    """What a step did: terms of the loss (means over the batch), what to watch, the norm of the gradient.

    Of a step that was skipped these say nothing.
    """

    stage: str = ""
    terms: dict[str, Tensor] = field(default_factory=dict)
    watch: dict[str, Any] = field(default_factory=dict)
    grad_norm: Tensor = field(default_factory=lambda: torch.zeros(()))
    lr: float = 0.0
    wait: float = 0.0  # seconds for the data
    padding: float | None = None
    skipped: bool = False


class Meter:
    """Sums over an interval; numbers stay on the device until they are asked for."""

    def __init__(self) -> None:
        self.last = Update()
        self.reset()

    def reset(self) -> None:
        """Begins an interval."""
        self.start = time.perf_counter()
        self.steps = 0
        self.wait = 0.0
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, int] = {}  # two stages need not have the same terms

    def add(self, update: Update) -> None:
        """Counts a step in; of a skipped one only its time."""
        self.steps += 1
        self.wait += update.wait
        if update.skipped:
            return
        values: dict[str, Any] = {f"terms/{name}": value for name, value in update.terms.items()}
        for name, value in (("grad_norm", update.grad_norm), ("padding", update.padding)):
            values |= {name: value} if value is not None else {}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.last = update

    @property
    def sums_so_far(self) -> dict[str, dict[str, float]]:
        """What the interval has summed up, as JSON: a resumed run goes on with it through `go_on`."""
        return {"sums": {name: float(value) for name, value in self.sums.items()}, "counts": dict(self.counts)}

    def go_on(self, so_far: Mapping[str, Mapping[str, Any]]) -> None:
        """The inverse of `sums_so_far`."""
        self.sums, self.counts = dict(so_far["sums"]), dict(so_far["counts"])

    def record(self, batch: int) -> dict[str, Any]:
        """The means of the interval, which then ends."""
        seconds = max(time.perf_counter() - self.start, 1e-9)
        means = {name: float(value) / self.counts[name] for name, value in self.sums.items()}
        terms = {name.removeprefix("terms/"): value for name, value in means.items() if name.startswith("terms/")}
        record = {
            "loss": sum(terms.values()),
            "terms": terms,
            "watch": {name: float(value) for name, value in self.last.watch.items()},
            "lr": self.last.lr,
            "grad_norm": means.get("grad_norm"),
            "samples_per_second": self.steps * batch / seconds,
            "wait": self.wait / seconds,
            "padding": means.get("padding"),
        }
        self.reset()
        return record


class Log:
    """The log of a run; on all processes but the main one it is silent."""

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        self._run, self._meter, self._path = run, Meter(), run.out / "log.jsonl"
        self._every = max(1, min(50, run.steps // 100))  # at least a hundred points a run, if it has as many steps
        self._console = Console(stderr=True)
        self._writers: list[Writer] = []
        self._bar: Progress | None = None
        self._spoken = time.perf_counter()
        if len(run.intervals) == run.place.world:
            self._meter.go_on(run.intervals[run.place.rank])
        forget_peak(run.place.device)
        if run.place.main:
            forget_after(self._path, run.step)
            self._writers = [open_writer(name, run.out, run.identity(), run.step) for name in dict.fromkeys(names)]

    def __enter__(self) -> Log:
        if self._run.place.main and self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[line]}"),
            )
            self._bar = Progress(*columns, console=self._console)
            self._bar.start()
            self._bar.add_task(self._run.span.name, total=self._run.steps, completed=self._run.step, line="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        for writer in self._writers:
            writer.close()

    def say(self, text: str) -> None:
        """One line to whoever watches."""
        if self._run.place.main:
            (self._bar.console if self._bar else self._console).print(
                text, highlight=False, markup=False, soft_wrap=True
            )

    def begin(self) -> None:
        """Says what is about to be trained, where, and from which step on."""
        run = self._run
        if run.step == run.steps:
            self.say(f"{run.method.card.id}: all {run.steps} steps are done, nothing is left to train")
            return
        trained = sum(value.numel() for value, _ in trainable(run.method, run.span.stage).values())
        whole = sum(value.numel() for value in run.method.parameters())
        start = f", going on after step {run.step}" if run.step else ""
        self.say(
            f"{run.method.card.id}: {trained:,} of {whole:,} parameters on {run.place.device} in "
            f"{run.precision}, {run.steps} steps of {run.recipe.batch} samples{start}"
        )

    def step(self, update: Update) -> None:
        """After a step of the run."""
        self._meter.add(update)
        run = self._run
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=run.step, description=run.span.name)
        if (run.step % self._every and run.step != run.steps) or not self._meter.sums:
            return
        record = self._meter.record(run.recipe.batch) | {
            "memory_gb": memory_gb(run.place.device),
            "skipped": run.skipped,
            "seconds": run.seconds,
            "paused": dict(run.paused),
        }
        record = merged(run.place.collect(record))
        self._append({"step": run.step, "samples": run.samples, "stage": update.stage, **record})
        self._write("train", {name: value for name, value in record.items() if name != "seconds"})
        self._show(record)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Shows that the run does something else than train; counts the time, which is none of training."""
        start = time.perf_counter()
        watchdog.now(what)
        if self._bar:
            self._bar.update(self._bar.task_ids[0], description=what)
        yield
        watchdog.now("between two steps")
        if self._bar:
            self._bar.update(self._bar.task_ids[0], description=self._run.span.name)
        seconds = time.perf_counter() - start
        self._meter.start += seconds
        self._run.paused[what] = self._run.paused.get(what, 0.0) + seconds

    @property
    def interval(self) -> dict[str, dict[str, float]]:
        """What was summed up since the last line, for a checkpoint."""
        return self._meter.sums_so_far

    def evaluation(self, rows: Sequence[Row]) -> None:
        """After an evaluation."""
        run = self._run
        self._append({"step": run.step, "samples": run.samples, "rows": json.loads(results.to_json(rows))})
        self._write("evaluation", {f"{row.data}/{row.task}/{row.metric}": row.value for row in rows})
        for row in rows[:3]:
            self.say(
                f"step {run.step}: {row.data} {row.task} {row.metric} {row.value:.4g} [{row.low:.4g}, {row.high:.4g}]"
            )

    def _append(self, record: Mapping[str, Any]) -> None:
        if self._run.place.main:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _write(self, part: str, values: Mapping[str, Any]) -> None:
        flat = dict(_flat(part, values))
        for writer in self._writers:
            writer.write(self._run.step, flat)

    def _show(self, record: Mapping[str, Any]) -> None:
        line = line_of(record, left=(self._run.steps - self._run.step) * self._run.recipe.batch)
        if self._bar:
            self._bar.update(self._bar.task_ids[0], line=line)
        elif time.perf_counter() - self._spoken > _PLAIN_SECONDS:
            self._spoken = time.perf_counter()
            self.say(f"{self._run.span.name} {self._run.step}/{self._run.steps}  {line}")


def merged(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The records of all processes as one: means of what each measured on its own rows, the largest memory."""
    first = dict(records[0])
    means = {name: mean([record[name] for record in records]) for name in ("loss", "wait")}
    terms = {name: mean([record["terms"][name] for record in records]) for name in first["terms"]}
    pads = [record["padding"] for record in records if record["padding"] is not None]
    largest = max(record["memory_gb"] for record in records)
    return first | means | {"terms": terms, "padding": mean(pads) if pads else None, "memory_gb": largest}


def line_of(record: Mapping[str, Any], left: int) -> str:
    """A record in words: loss and its terms, samples a second, share of waiting, memory, time for `left` samples."""
    terms = record["terms"]
    loss = f"loss {record['loss']:.4g}"
    if len(terms) > 1:
        loss += " (" + ", ".join(f"{name} {value:.4g}" for name, value in terms.items()) + ")"
    rest = left / record["samples_per_second"]
    skipped = f"  {record['skipped']} skipped" if record["skipped"] else ""
    return (
        f"{loss}  {record['samples_per_second']:.4g}/s  waits {record['wait']:.0%}  "
        f"{record['memory_gb']:.2g} GB{skipped}  {clock(rest)} left"
    )


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def padding(batch: Batch) -> float | None:
    """The share of False in the batch's `*_mask` fields; None where there are none."""
    masks = [value for name, value in batch.items() if name.endswith("_mask") and isinstance(value, Tensor)]
    positions = sum(mask.numel() for mask in masks)
    return 1 - sum(int(mask.sum()) for mask in masks) / positions if positions else None


def forget_peak(device: torch.device) -> None:
    """Lets `memory_gb` count from now on, where the system can (CUDA, Linux): several runs may share a process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # not Linux, or not permitted
        Path("/proc/self/clear_refs").write_text("5")


def memory_gb(device: torch.device) -> float:
    """The largest memory so far: of the CUDA device, or of this process (not of its loader's workers)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    with suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024 / 1e9
    if os.name == "nt":  # the resource module is for Unix
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def forget_after(path: Path, step: int) -> None:
    """Drops lines after `step`: they are of a part of the run that was lost and is now done again."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{name}/{key}", item)
    elif value is not None:
        yield name, float(value)
