"""Kills a run with SIGKILL, again and again, and compares what came of it with an unbroken run, bit for bit.

    python tests/training/killed.py                     # 30 kills of every case, with 0 and 2 loader workers
    python tests/training/killed.py --case clip --kills 8 --seed 1

A moment is drawn from a seeded generator: some time after the start, or some time into the n-th step, copy, write or
evaluation of that life. The processes come from a server that has torch imported already.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from test_resume import equal, evaluate
from toy import Config, Toy, mixture, recipe

from diptych.batch import Terms
from diptych.training import checkpoint, loop, snapshot, train

sys.path.append(str(Path(__file__).parent.parent / "app"))
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["diptych.app.commands.train", "diptych.app.api", "diptych.methods.contrastive.clip", "torch._dynamo"]
)
WHERE = ("step", "copy", "write", "evaluation")
"""where a run can be: in a step, while it stands still for a save, while a thread writes, in an evaluation"""
AIMS = ("any", *WHERE)
EVERY = 2  # steps from one checkpoint to the next
PACE = 10  # steps a life: more than any life can do, so that the run does not end before its last kill


@dataclass
class Watch:
    """What a life is doing, in memory that outlives it: `now` is 1 where it is, `begun` counts, `seconds` are spent."""

    now: Any = field(default_factory=lambda: SERVER.RawArray("i", len(WHERE)))
    begun: Any = field(default_factory=lambda: SERVER.RawArray("i", len(WHERE)))
    seconds: Any = field(default_factory=lambda: SERVER.RawArray("d", len(WHERE)))
    first: Any = field(default_factory=lambda: SERVER.RawValue("d", 0.0))  # when the first step began

    @contextmanager
    def inside(self, where: str) -> Iterator[None]:
        index, start = WHERE.index(where), time.monotonic()
        self.first.value = self.first.value or start
        self.begun[index] += 1
        self.now[index] = 1
        yield
        self.now[index] = 0
        self.seconds[index] += time.monotonic() - start

    def wrapped(self, where: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def within(*arguments: Any) -> Any:
            with self.inside(where):
                return function(*arguments)

        return within

    def usual(self, where: str) -> float:
        """Seconds of one."""
        index = WHERE.index(where)
        return self.seconds[index] / self.begun[index]

    @property
    def place(self) -> str:
        """Where it is, in words."""
        active = [name for name, now in zip(WHERE, self.now, strict=True) if now]
        return " + ".join(active) or ("between" if any(self.begun) else "start")


# -- what is trained ---------------------------------------------------------------------------------------------------


class Unstable(Toy):
    """A toy whose loss now and then is infinite."""

    def loss(self, batch, step) -> Terms:
        terms = super().loss(batch, step)
        return Terms(watch=terms.watch, **{k: v * math.inf if step.index % 17 == 5 else v for k, v in terms.items()})


def toy(out: Path, steps: int, workers: int) -> None:
    """Average, momentum teacher, queue, three stages, a mixture with a broken sample, accumulation, skipped steps."""
    config = Config(width=64, teacher=True, stages=("head", "few", "slow"))
    often = {"checkpoints": steps // EVERY, "evaluations": steps // 8, "workers": workers}
    settings = recipe(samples=4 * steps, ema=0.9, accumulate=2, **often)

    def judge(method):
        time.sleep(0.01)  # as it takes in earnest, so that it can be hit
        return evaluate(method)

    train(Unstable(config), mixture(), out, settings, evaluate=judge, logs=())


def clip(out: Path, steps: int, workers: int) -> None:
    """The command line, with CLIP on small pictures."""
    from app_helpers import FLAGS

    from diptych.app.main import main

    run = ["clip", "--data", str(out.parent.parent / "colours"), "--out", str(out), "--task", "retrieval", *FLAGS]
    how = ["--samples", str(8 * steps), "--batch", "8", "--workers", str(workers), "--ema", "0.9", "--writers", "none"]
    often = ["--checkpoints", str(steps // EVERY), "--evaluations", str(steps // 8)]
    assert main(["train", *run, *how, *often]) == 0


CASES = {"toy": toy, "clip": clip}


def live(case: str, out: Path, steps: int, workers: int, watch: Watch) -> None:
    """Trains until the end, or until this process is killed; tells `watch` what it does, and notes what it sees."""
    out.parent.mkdir(exist_ok=True)
    said = os.open(out.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    seen = os.open(out.with_suffix(".seen"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    step = watch.wrapped("step", loop._step)

    def noted(run, span, loss, batch):
        os.write(seen, (json.dumps([run.step, batch.sample_keys]) + "\n").encode())
        return step(run, span, loss, batch)

    loop._step = noted
    loop._evaluate = watch.wrapped("evaluation", loop._evaluate)
    snapshot.take = watch.wrapped("copy", snapshot.take)
    checkpoint.write = watch.wrapped("write", checkpoint.write)
    CASES[case](out, steps, workers)


# -- killing and comparing ---------------------------------------------------------------------------------------------


def prove(case: str, folder: Path, kills: int, workers: int, seed: int = 0) -> Counter[str]:
    """Kills a run so often, and compares; returns how often it was killed where.

    Raises:
        AssertionError: something differs, a life ended by itself, or a loader's worker outlived it.
    """
    from app_helpers import write_shards

    write_shards(folder / "colours")
    warm = SERVER.Process(target=int)  # the server has imported all when this one has run
    warm.start()
    warm.join()
    steps, unbroken, broken = PACE * kills, folder / "unbroken" / "run", folder / "broken" / "run"
    usual, began = Watch(), time.monotonic()
    process = SERVER.Process(target=live, args=(case, unbroken, steps, workers, usual))
    process.start()
    process.join()
    assert process.exitcode == 0, unbroken.with_suffix(".said").read_text()
    rng, start = np.random.default_rng(seed), usual.first.value - began
    landed: Counter[str] = Counter()
    for life in range(kills):
        if life % len(AIMS) == 0:
            aims = rng.permutation(AIMS)
        watch = Watch()
        process = SERVER.Process(target=live, args=(case, broken, steps, workers, watch))
        process.start()
        wait(rng, aims[life % len(AIMS)], process, watch, usual, start)
        children = children_of(process.pid)
        assert process.exitcode is None, f"it ended by itself: {broken.with_suffix('.said').read_text()}"
        process.kill()
        process.join()
        landed[watch.place] += 1
        assert gone(children), "a loader's worker outlived the run"
    process = SERVER.Process(target=live, args=(case, broken, steps, workers, Watch()))
    process.start()
    process.join()
    assert process.exitcode == 0, broken.with_suffix(".said").read_text()
    equal(unbroken, broken)
    for name in ("nonfinite.jsonl", "results.json", "quarantine.json"):
        files = [out / name for out in (unbroken, broken)]
        assert files[0].exists() == files[1].exists()
        assert not files[0].exists() or files[0].read_bytes() == files[1].read_bytes()
    same_order(unbroken, broken, steps)
    return landed


def wait(rng: np.random.Generator, where: str, process: Any, watch: Watch, usual: Watch, start: float) -> None:
    """Returns at a random moment of a life, of the given kind."""
    count, share = int(rng.integers(1, 4)) if where in ("copy", "write") else 1, rng.uniform()
    if where == "any":
        time.sleep(share * (start + 3 * usual.usual("step")))
        return
    while process.is_alive() and watch.begun[WHERE.index(where)] < count:
        time.sleep(0.0002)
    time.sleep(share * usual.usual(where))


def same_order(unbroken: Path, broken: Path, steps: int) -> None:
    """Whether every step, done once or several times, saw the samples that it sees in the unbroken run."""
    first, second = (
        [json.loads(line) for line in out.with_suffix(".seen").read_text().splitlines()] for out in (unbroken, broken)
    )
    order = dict(first)  # type: ignore[arg-type]
    assert len(order) == len(first) == steps
    assert {step for step, _ in second} == set(order)
    assert all(order[step] == keys for step, keys in second)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        fields = _stat(stat)
        if fields and int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    """Whether these processes end within some seconds."""
    end = time.monotonic() + seconds
    while alive := [pid for pid in pids if _stat(Path(f"/proc/{pid}/stat"))[:1] not in ([], ["Z"], ["X"])]:
        if time.monotonic() > end:
            return False
        pids = alive
        time.sleep(0.01)
    return True


def _stat(path: Path) -> list[str]:
    """State, parent and so on of a process; nothing where it is gone."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--workers", type=int, action="append")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    for case in chosen.case or CASES:
        for workers in chosen.workers or (0, 2):
            with tempfile.TemporaryDirectory() as folder:
                start = time.monotonic()
                landed = prove(case, Path(folder), chosen.kills, workers, chosen.seed)
            places = ", ".join(f"{count} {place}" for place, count in landed.most_common())
            print(f"{case}, {workers} workers: equal after {chosen.kills} kills ({places}); ", end="")
            print(f"{time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
