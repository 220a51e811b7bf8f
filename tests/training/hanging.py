"""What `test_watchdog.py` runs: a toy that hangs, or dies, in a way of its own.

hanging.py FOLDER PATIENCE HOW [WORKERS]; with several processes it is the second that hangs.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import torch._dynamo  # noqa: F401  what an optimiser imports, for seconds on a busy machine, does not count here
from toy import Toy, ToyData, norm, recipe

from diptych.training import checkpoint, train, watchdog

HOW = sys.argv[3]
HERE = os.environ.get("RANK") in (None, "1")


def for_ever() -> None:
    while True:
        time.sleep(0.1)


class Hanging(Toy):
    def loss(self, batch, step):
        if step.index == 2 and HERE:
            if HOW == "step":
                for_ever()
            if HOW == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if HOW == "failed":
                raise ValueError("this is the message of process 1.")
            if HOW == "locked":  # no other thread of Python runs meanwhile
                ctypes.PyDLL(None).sleep(60)
        return super().loss(batch, step)


class Stuck(ToyData):
    def read(self, index, fields):
        if HOW == "reading" and self.key(index) == "toy-7":
            for_ever()
        return super().read(index, fields)


def evaluate(method):
    if HOW == "evaluating":
        for_ever()
    if HOW == "slow":  # longer than the patience, and moving all the time
        for _ in range(30):
            time.sleep(0.2)
            watchdog.now()
    return norm(method)


if __name__ == "__main__":
    if HOW == "saving":
        checkpoint.write = lambda *_: for_ever()
    settings = recipe(
        patience=float(sys.argv[2]),
        workers=int(sys.argv[4]) if len(sys.argv) > 4 else 0,
        evaluations=1 if HOW in ("evaluating", "slow") else 0,
    )
    train(Hanging(), Stuck(), Path(sys.argv[1]), settings, evaluate=evaluate, logs=(), device="cpu")
    print("finished")
