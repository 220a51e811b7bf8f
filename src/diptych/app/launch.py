"""One training on several processes that Ray Train starts: on this machine, or on a cluster.

Each process does what it would under torchrun. Ray brings the processes together and ends them, and nothing else: data,
checkpoints and figures go through the run's folder, and what the processes print, an error and the wish to stop go
through a hidden folder beside it, so that all machines must see both by the same path.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych import cluster
from diptych.app import api, jobs, runs
from diptych.app.main import sentence
from diptych.training import interrupt
from diptych.training.distributed import LONG

_SAID, _STOP, _ERROR = "said.txt", "stop", "error-{}.txt"  # files of the hidden folder


def by_ray(job: jobs.Job, processes: int = 0, address: str = "") -> runs.Run:
    """Trains and evaluates as `api.train` does, on several processes.

    Args:
        job: the training.
        processes: how many; 0: one for each GPU, or 2 where there are none.
        address: of a cluster that runs already, such as `auto` or `ray://HOST:10001`; empty starts Ray on this machine.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: Ray has too few cores or GPUs.
        OSError: Ray did not start.
        ChildProcessError: a process failed; the sentence is that of its error.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the run is saved.
    """
    cluster.demand("train in this process with --launcher here")
    if "RANK" in os.environ:
        raise ValueError("torchrun and --launcher ray both start processes: use one of them.")
    folder = job.out.absolute().parent / f".{job.out.name}.ray"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _SAID).touch()
    api.say("starting Ray, which may take a minute")
    try:
        with cluster.connected(max(processes, os.cpu_count() or 1, 2), address):
            _run(job, folder, processes, alone=not address)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not runs.is_finished(job.out):
        raise KeyboardInterrupt("the run is saved; the same command goes on from there")
    return runs.read(job.out)


def _run(job: jobs.Job, folder: Path, processes: int, *, alone: bool) -> None:
    """Starts the processes, shows what they say, and hands on the wish to stop, until they have ended."""
    fit = _trainer(job, folder, processes, alone=alone).fit
    errors: list[Exception] = []

    def work() -> None:
        try:
            fit()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)  # in the main one Ray would take the signals for itself
    with (folder / _SAID).open(encoding="utf-8", errors="replace") as said, interrupt.Interrupt(api.say) as wish:
        thread.start()
        while thread.is_alive():
            thread.join(0.2)
            print(said.read(), end="", file=sys.stderr, flush=True)
            if wish.requested:
                (folder / _STOP).touch()
        print(said.read(), end="", file=sys.stderr, flush=True)
    if errors:
        raise ChildProcessError(_why(folder, errors[0])) from errors[0]


def _trainer(job: jobs.Job, folder: Path, processes: int, *, alone: bool) -> Any:
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    there = {name: int(count) for name, count in ray.cluster_resources().items() if name in ("CPU", "GPU")}
    cores, gpus = there.get("CPU", 0), there.get("GPU", 0) if job.device != "cpu" else 0
    count = processes or gpus or 2
    if count > (gpus or cores):
        have = f"{gpus} GPUs" if gpus else f"{cores} cores"
        raise ValueError(f"{count} processes are too many for Ray, which has {have}: use fewer --processes.")
    return TorchTrainer(
        _work,
        train_loop_config={
            "job": jobs.as_json(replace(job, out=job.out.absolute())),
            "folder": str(folder),
            "here": os.getcwd(),
        },
        # Ray lets torch use as many threads as it gives cores; how those of a cluster lie on its machines is not known
        scaling_config=ScalingConfig(
            num_workers=count, use_gpu=gpus > 0, resources_per_worker={"CPU": max(1, cores // count) if alone else 1}
        ),
        torch_config=TorchConfig("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout_s=int(LONG.total_seconds())),
        run_config=RunConfig(name="ray", storage_path=str(folder)),
    )


def _why(folder: Path, error: Exception) -> str:
    """The sentence of the process that failed first; Ray's own words where a process died without a sentence."""
    found = sorted(folder.glob(_ERROR.format("*")), key=lambda path: path.stat().st_mtime_ns)
    if found:
        return found[0].read_text(encoding="utf-8")
    last = str(error).strip().rpartition("\n")[2]
    return f"a process of the run died ({last}); the same command goes on from the last checkpoint."


# ------------------------------------------------------------------------------------------------------- a process


def _work(told: dict[str, Any]) -> None:
    """What each process does, in a thread that Ray starts."""
    folder = Path(told["folder"])
    with suppress(OSError):  # another machine need not have it, if all paths are absolute
        os.chdir(told["here"])
    with (folder / _SAID).open("ab") as said:
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # it would show an error of which we make a sentence
    threading.Thread(target=_listen, args=(folder / _STOP,), daemon=True).start()
    try:
        jobs.train(jobs.from_json(told["job"]))
    except KeyboardInterrupt:  # saved
        return
    except Exception as error:
        if os.environ.get("DIPTYCH_DEBUG") == "1":
            traceback.print_exc()
        (folder / _ERROR.format(os.environ["RANK"])).write_text(sentence(error), encoding="utf-8")
        raise RuntimeError(sentence(error)) from None  # some exceptions cannot be sent to another process


def _listen(stop: Path) -> None:
    while not stop.exists():
        time.sleep(0.2)
    interrupt.asked.set()
