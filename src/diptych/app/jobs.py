"""Several trainings, one after the other or some at a time, each of which goes on where it was interrupted.

More than one at a time run in worker processes. A worker reads jobs, a JSON line each, and answers each with a line;
when its input ends while it trains (the parent was interrupted or has died) it saves and stops.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diptych.app import api, runs, terminal
from diptych.config import from_dict, to_dict
from diptych.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """One training with its evaluation: the arguments of `api.train`."""

    method: str
    data: tuple[str, ...]
    val: tuple[str, ...]
    tasks: tuple[str, ...]
    config: Any
    recipe: Recipe
    out: Path = Path()
    device: str = "auto"
    logs: tuple[str, ...] = ("tensorboard",)


def placed(job: Job, store: Path, label: str) -> Job:
    """The job with a folder below `store` that is named by the label, a digest of all that decides it, and the seed."""
    identity = [job.method, to_dict(job.config), to_dict(job.recipe), job.data, job.val, job.tasks]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]
    name = re.sub(r"[^\w.=-]+", "_", label).strip("_.")[:60]
    return replace(job, out=store / f"{name}-{digest}-seed{job.recipe.seed}")


class JobFailed(RuntimeError):
    """A training ended with an error; the sentence says which one and where its messages are."""


def run_all(jobs: Sequence[Job], at_a_time: int = 1) -> list[runs.Run]:
    """Trains what is not finished yet.

    Args:
        jobs: what to train; `out` must differ.
        at_a_time: how many at once, each with its share of the cores, or with a GPU of its own where there are some.

    Returns:
        The finished runs, in the order of the jobs.

    Raises:
        JobFailed: one of those that ran beside each other failed; the others were ended and saved.
        KeyboardInterrupt: Ctrl-C or SIGTERM; everything is saved.
    """
    left = [job for job in jobs if not runs.is_finished(job.out)]
    if at_a_time <= 1 or len(left) <= 1:
        for number, job in enumerate(left, start=1):
            api.say(f"{number} of {len(left)}: {job.out.name}")
            train(job)
    else:
        _run_beside(left, min(at_a_time, len(left)))
    return [runs.read(job.out) for job in jobs]


def train(job: Job) -> runs.Run:
    """Does one job in this process."""
    return api.train(
        job.method,
        job.data,
        job.out,
        config=job.config,
        recipe=job.recipe,
        val=job.val,
        tasks=job.tasks,
        where=api.Where(device=job.device, logs=job.logs),
    )


def parallel(device: str) -> int:
    """How many trainings at once suit this machine: one a GPU, or one for every four cores."""
    import torch

    if device in ("auto", "cuda") and torch.cuda.is_available():
        return torch.cuda.device_count()
    return max(1, (os.cpu_count() or 1) // 4)


# ------------------------------------------------------------------------------------------------------- the parent


def _run_beside(jobs: Sequence[Job], workers: int) -> None:
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    failures: list[str] = []
    with ExitStack() as stack:
        started = [stack.enter_context(_worker(number, workers)) for number in range(workers)]
        threads = [threading.Thread(target=_feed, args=(one, waiting, failures)) for one in started]
        stack.enter_context(_interruptible())
        for thread in threads:
            thread.start()
        with terminal.progress(f"{len(jobs)} trainings, {workers} at a time") as show:
            while any(thread.is_alive() for thread in threads) and not failures:
                time.sleep(0.2)
                show(sum(_seen(job.out) for job in jobs), sum(job.recipe.samples for job in jobs))
    if failures:
        raise JobFailed(failures[0])


@contextmanager
def _worker(number: int, workers: int) -> Iterator[subprocess.Popen[str]]:
    """A worker process; when the block is left its input ends, and it saves what it does."""
    command = [sys.executable, "-m", "diptych.app.jobs"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, env=_environment(number, workers), start_new_session=True
    )
    assert process.stdin
    try:
        yield process
    finally:
        if not process.stdin.closed:
            process.stdin.close()
        process.wait()


def _environment(number: int, workers: int) -> dict[str, str]:
    """Its share of the cores, and one of the GPUs."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    import torch

    if torch.cuda.is_available():
        gpus = gpus or [str(index) for index in range(torch.cuda.device_count())]
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    return environment


def _feed(worker: subprocess.Popen[str], waiting: queue.SimpleQueue[Job], failures: list[str]) -> None:
    """Hands a worker one job after the other until there are none, or one has failed."""
    assert worker.stdin
    assert worker.stdout
    while not failures:
        try:
            job = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            worker.stdin.write(json.dumps(as_json(job)) + "\n")
            worker.stdin.flush()
        except (ValueError, OSError):  # closed: we are interrupted
            return
        answer = worker.stdout.readline()
        error = json.loads(answer)["error"] if answer else "its process has died"
        if not error:
            api.say(f"{job.out.name} is done")
        else:
            failures.append(f"{job.out.name}: {error} Its messages are in {_console(job)}.")


def _seen(out: Path) -> int:
    """Samples that a run has seen, by its log."""
    path = out / "log.jsonl"
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").splitlines()
    for line in reversed(lines):
        try:
            return int(json.loads(line)["samples"])
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    return 0


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the parent as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt("everything is saved; the same command goes on from there")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------------------- the worker


def as_json(job: Job) -> dict[str, Any]:
    """A job as plain values that can be sent to another process."""
    plain = {**vars(job), "config": to_dict(job.config), "recipe": asdict(job.recipe), "out": str(job.out)}
    return dict(json.loads(json.dumps(plain)))


def from_json(told: dict[str, Any]) -> Job:
    """The inverse of `as_json`."""
    from diptych import methods

    lists = {name: tuple(told[name]) for name in ("data", "val", "tasks", "logs")}
    config: Any = from_dict(methods.config_class(told["method"]), told["config"])
    recipe = from_dict(Recipe, told["recipe"])
    return Job(**{**told, **lists, "config": config, "recipe": recipe, "out": Path(told["out"])})


def _console(job: Job) -> Path:
    """The file that gets what a job prints when others run beside it."""
    return job.out.parent / f"{job.out.name}.txt"


def _work() -> None:
    """Reads jobs from stdin, does them, and answers on what was stdout; messages go into a file a job."""
    # descriptors of their own: a forked loader closes stdin, and would wait for ever for the lock of who reads from it
    asked, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    incoming: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    busy = threading.Event()

    def listen() -> None:
        for line in asked:
            incoming.put(line)
        incoming.put(None)
        if busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)  # the trainer saves and stops

    threading.Thread(target=listen, daemon=True).start()
    while (line := incoming.get()) is not None:
        busy.set()
        error = _done(from_json(json.loads(line)))
        busy.clear()
        print(json.dumps({"error": error}), file=answers, flush=True)


def _done(job: Job) -> str:
    """Does a job; the error in a sentence, empty where it went well."""
    import traceback

    job.out.parent.mkdir(parents=True, exist_ok=True)
    with _console(job).open("a") as console:
        for stream in (1, 2):
            os.dup2(console.fileno(), stream)
        try:
            train(job)
        except KeyboardInterrupt:
            return "it was interrupted and is saved."
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    _work()
