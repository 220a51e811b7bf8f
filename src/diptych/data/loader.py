"""Samples -> batches of tensors, read ahead by worker processes.

The stream of samples is endless and depends on the data set, the batch size and the seed alone: not on the number of
workers or of processes that train, and not on where a run was interrupted.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from diptych.batch import Batch, Sample
from diptych.data.dataset import Dataset
from diptych.data.decode import BrokenSample

Views = Callable[[Sample, np.random.Generator | None], Mapping[str, Any]]
_EARLY = 100  # samples that must be read before the share of broken ones may stop a run
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux
_DEAD = re.compile(r"DataLoader worker \(pid")  # how torch says that a worker is gone, other than by an exception
_DEAD_ADVICE = (
    "a data worker died, most often because memory or shared memory (/dev/shm) ran out: use fewer workers, a smaller "
    "batch, or a container with more shared memory (--shm-size)."
)


class BrokenShare(ValueError):
    """More samples are broken than allowed."""


@dataclass
class Loader:
    """Reads `fields` of the samples of `dataset`, turns each into tensors by `views`, and stacks them.

    `batch` counts the samples of a batch over all `world` processes; process `rank` gets its share of each. `views` is
    called with a sample and its own random generator (None in `once`), in a worker process if `workers` > 0.

    `quarantine` (key -> reason) lists the broken samples met so far; `wait_seconds` is the time that the caller spent
    waiting for batches, `wait_share` its share of the time since the first batch was asked for.

    Raises:
        ValueError: the batch cannot be divided among the processes, or the data set is empty.
    """

    dataset: Dataset
    views: Views
    fields: Collection[str]
    batch: int
    seed: int
    _: KW_ONLY
    shuffle: bool = True
    workers: int = 0
    rank: int = 0
    world: int = 1
    max_broken: float = 0.05
    quarantine: dict[str, str] = field(default_factory=dict, init=False)
    wait_seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.batch < 1 or self.batch % self.world or not 0 <= self.rank < self.world:
            raise ValueError(
                f"a batch of {self.batch} cannot be divided among {self.world} processes (rank {self.rank}); "
                f"use a multiple of {self.world}."
            )
        if not len(self.dataset):
            raise ValueError(f"{self.dataset.name} ({self.dataset.split}) has no samples.")
        if "label" in self.fields:
            _ = self.dataset.classes  # found once here instead of in every worker
        self._stream = _Stream(self.dataset, self.batch, self.seed, self.shuffle, self.rank, self.world)
        self._read, self._broken, self._started, self._iteration = 0, 0, 0.0, 0
        self._rows = _Rows()
        self._asked: deque[np.ndarray] = deque()  # batches that are being read, the next one first
        self._pool: DataLoader[Any] | None = None

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Full batches from position `start` of the endless stream up to `stop`, both in samples of all processes.

        Batch k holds the positions start + k * batch and following; epochs follow each other without a gap. A broken
        sample is left out of its batch (which may become empty) and shifts nothing. Asking for new batches ends
        earlier iterations.

        Raises:
            BrokenShare: more than `max_broken` of at least 100 samples are broken.
        """
        return self._go(self._stream.endless(start, stop))

    def once(self) -> Iterator[Batch]:
        """Each sample once, in order, without randomness; the last batch may be smaller.

        Raises:
            BrokenShare: more than `max_broken` of the samples are broken (of the first 100 or more, or of all).
        """
        return self._go(self._stream.once())

    @property
    def wait_share(self) -> float:
        """Share of the time since the first batch was asked for that was spent waiting, from 0 to 1."""
        return self.wait_seconds / max(time.perf_counter() - self._started, 1e-9) if self._started else 0.0

    def awaited(self) -> str:
        """Who reads what for the batch that is waited for, in words that follow "waiting for data"."""
        keys = [self.dataset.key(int(row[0])) for rows in list(self._asked)[:1] for row in rows]
        some = f"{', '.join(keys[:8])}{', ...' if len(keys) > 8 else ''}"
        pids = [str(child.pid) for child in multiprocessing.active_children()]
        who = f"data workers {', '.join(pids)}" if self.workers else "this process"
        return f", of which {who} must read the samples {some}" if keys else ""

    def close(self) -> None:
        """Ends the workers; they start again when batches are asked for."""
        self._iteration += 1
        self._pool = None

    def _go(self, jobs: Iterator[np.ndarray]) -> Iterator[Batch]:
        self._iteration += 1
        iteration = self._iteration
        self._asked.clear()
        results = self._results(_noted(jobs, self._asked))
        while True:
            begin = time.perf_counter()
            self._started = self._started or begin
            try:
                batch, broken, count = next(results)
            except StopIteration:
                break
            except RuntimeError as error:
                if not _DEAD.search(str(error)):
                    raise
                raise RuntimeError(f"{_DEAD_ADVICE} It said: {str(error).splitlines()[0]}") from error
            finally:
                self.wait_seconds += time.perf_counter() - begin
            self._asked.popleft()
            self._note(broken, count)
            yield batch
            if iteration != self._iteration:
                raise RuntimeError("this iteration was ended by a newer one of the same loader.")
        self._note({}, 0, final=True)

    def _results(self, jobs: Iterator[np.ndarray]) -> Iterator[tuple[Batch, dict[str, str], int]]:
        reader = _Reader(self.dataset, self.views, tuple(self.fields), self.seed)
        if not self.workers:
            return (reader.__getitems__(job) for job in jobs)
        self._rows.now = jobs
        if self._pool is None:
            on_main_thread = threading.current_thread() is threading.main_thread()
            self._pool = DataLoader(
                reader,  # type: ignore[arg-type]
                batch_sampler=self._rows,  # type: ignore[arg-type]
                num_workers=self.workers,
                collate_fn=_as_it_is,
                persistent_workers=True,
                worker_init_fn=_WorkerStart(os.getpid(), on_main_thread),
                multiprocessing_context="fork" if sys.platform == "linux" else None,
                generator=torch.Generator(),  # else it would draw from the run's own random numbers
            )
        return iter(self._pool)

    def _note(self, broken: Mapping[str, str], count: int, *, final: bool = False) -> None:
        self._read += count
        self._broken += len(broken)
        self.quarantine.update(broken)
        if (self._read >= _EARLY or final) and self._broken > self.max_broken * self._read:
            key, reason = next(iter(self.quarantine.items()))
            raise BrokenShare(
                f"{self._broken} of {self._read} samples of {self.dataset.name} are broken, more than the allowed "
                f"{self.max_broken:.0%} (max_broken); the first is {key}: {reason}."
            )


def collate(samples: Sequence[Mapping[str, Any]], keys: Sequence[str] = ()) -> Batch:
    """Stacks what `views` made of each sample: B dicts -> one batch.

    Tensors and arrays of one shape are stacked; where shapes differ they are padded at the end with zeros (False) to
    the largest. Numbers become a (B,) tensor: int64, float32 or bool. Anything else becomes a list.

    Raises:
        ValueError: the samples do not have the same names, or tensors differ in their number of dimensions or type.
    """
    if not samples:
        return Batch({}, keys)
    names = list(samples[0])
    for sample in samples:
        if set(sample) != set(names):
            raise ValueError(f"views gave {sorted(names)} for one sample and {sorted(sample)} for another.")
    return Batch({name: _column(name, [sample[name] for sample in samples]) for name in names}, keys)


def _column(name: str, values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor | np.ndarray):
        return _stack(name, [torch.as_tensor(value) for value in values])
    if all(isinstance(value, bool | np.bool_) for value in values):
        return torch.tensor(values, dtype=torch.bool)
    if all(isinstance(value, int | np.integer) for value in values):
        return torch.tensor(values, dtype=torch.int64)
    if all(isinstance(value, int | float | np.number) for value in values):
        return torch.tensor(values, dtype=torch.float32)
    return values


def _stack(name: str, tensors: list[torch.Tensor]) -> torch.Tensor:
    if len({(tensor.dtype, tensor.ndim) for tensor in tensors}) > 1:
        kinds = sorted({f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors})
        raise ValueError(f"views gave tensors for {name!r} that cannot be stacked: {'; '.join(kinds[:3])}.")
    if len({tensor.shape for tensor in tensors}) == 1:
        return torch.stack(tensors)
    largest = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    padded = tensors[0].new_zeros((len(tensors), *largest))
    for row, tensor in zip(padded, tensors, strict=True):
        row[tuple(slice(size) for size in tensor.shape)] = tensor
    return padded


@dataclass(frozen=True)
class _Reader:
    """What a worker does: rows of (index, epoch, place within the epoch) -> (batch, broken samples, number of rows)."""

    dataset: Dataset
    views: Views
    fields: tuple[str, ...]
    seed: int

    def __getitems__(self, rows: np.ndarray) -> tuple[Batch, dict[str, str], int]:
        broken: dict[str, str] = {}
        keys, samples = [], []
        for index, epoch, place in rows.tolist():
            # by place and not by index: a mixture may show one sample several times in an epoch
            rng = np.random.default_rng([self.seed, epoch, place]) if epoch >= 0 else None
            try:
                sample = self.dataset.read(index, self.fields)
                samples.append(self.views(sample, rng))
                keys.append(sample.key)
            except BrokenSample as error:
                broken[error.key or self.dataset.key(index)] = error.reason
        return collate(samples, keys), broken, len(rows)


@dataclass
class _Stream:
    """Which samples make up which batch, as rows of (index, epoch, place within the epoch); epoch -1: no randomness."""

    dataset: Dataset
    batch: int
    seed: int
    shuffle: bool
    rank: int
    world: int
    orders: dict[int, np.ndarray] = field(default_factory=dict)

    def endless(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        """The rows of this process in each full batch between two positions."""
        share = self.batch // self.world
        while stop is None or start + self.batch <= stop:
            positions = np.arange(start + self.rank * share, start + (self.rank + 1) * share)
            epochs, places = np.divmod(positions, len(self.dataset))
            runs = [self.order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
            yield np.stack([np.concatenate(runs), epochs, places], axis=1)
            start += self.batch

    def once(self) -> Iterator[np.ndarray]:
        """The rows of this process when every sample is read once, in order."""
        for start in range(0, len(self.dataset), self.batch):
            indices = np.arange(start, min(start + self.batch, len(self.dataset)))
            own = np.array_split(indices, self.world)[self.rank]
            if len(own):
                yield np.stack([own, np.full_like(own, -1), own], axis=1)

    def order(self, epoch: int) -> np.ndarray:
        """The order of an epoch; the last two are kept."""
        if epoch not in self.orders:
            order = self.dataset.order(epoch, self.seed, self.shuffle)
            if len(order) != len(self.dataset):
                raise ValueError(f"{self.dataset.name} orders {len(order)} samples and has {len(self.dataset)}.")
            self.orders = {number: kept for number, kept in self.orders.items() if number == epoch - 1}
            self.orders[epoch] = order
        return self.orders[epoch]


class _Rows:
    """The rows of the current iteration: kept by the main process, fed to the workers, which outlive iterations."""

    now: Iterator[np.ndarray] = iter(())

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.now


def _linger(number: int, frame: Any) -> None:
    """Schedulers send SIGTERM to all processes at once: the main one needs its batches for a last step and a save."""
    if hasattr(signal, "alarm"):
        signal.alarm(60)  # whose default action ends the process


@dataclass(frozen=True)
class _WorkerStart:
    """First thing in a worker: it leaves signals to the main process, dies with it, and copies none of its memory."""

    parent: int
    on_main_thread: bool

    def __call__(self, number: int) -> None:
        gc.freeze()  # the collector would touch, and so copy, every page shared with the main process
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _linger)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        if sys.platform == "linux" and self.on_main_thread:  # the signal comes when the forking thread ends
            import ctypes

            ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
            if os.getppid() != self.parent:
                os._exit(1)


def _noted(jobs: Iterator[np.ndarray], asked: deque[np.ndarray]) -> Iterator[np.ndarray]:
    """The same jobs, each noted when a worker takes it; no method, as it would keep the loader alive."""
    for job in jobs:
        asked.append(job)
        yield job


def _as_it_is(result: Any) -> Any:
    return result
