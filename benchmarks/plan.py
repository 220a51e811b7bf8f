"""What `diptych plan` says before a run, against what the run then takes.

    python benchmarks/plan.py                    on the CPU: writes results/plan.json and docs/plan.md (six minutes)
    python benchmarks/plan.py --device cuda      the same on a GPU
    python benchmarks/plan.py --table            only writes the page again

Each figure comes from a fresh process. `tensors` is the memory that tensors and libraries take at the peak: on a CPU
the growth of the resident size while the system's allocator gives memory back at once, on CUDA what torch's allocator
gave out. `process` is what is really held, with the gaps that allocators keep. Time is that of the last two thirds of a
run.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch

from diptych import methods, training
from diptych.app import plan, sources
from diptych.app.devices import Device, find
from diptych.app.wording import size
from diptych.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "results" / "plan.json", ROOT / "docs" / "plan.md"
SAMPLES = 1024  # of a run, at least STEPS of them
STEPS = 12
T = TypeVar("T")
NAMED = {
    "image": "packaged:efficientnet_lite0",
    "image_size": 128,
    "text": "packaged:minilm",
    "embed": 256,
    "freeze": (r"^image\.", r"^text\."),
}


@dataclass(frozen=True)
class Setting:
    """One run: a method with options, and the options of its recipe."""

    method: str
    about: str = ""
    batch: int = 64
    accumulate: int = 1
    options: dict[str, object] = field(default_factory=dict)

    @property
    def config(self) -> object:
        """The method's options."""
        return methods.config_class(self.method)(**self.options)

    @property
    def recipe(self) -> Recipe:
        """Long enough for a few steps, with neither evaluations nor checkpoints."""
        samples = max(SAMPLES, STEPS * self.batch)
        return Recipe(samples=samples, batch=self.batch, accumulate=self.accumulate, evaluations=0, checkpoints=0)

    def model(self) -> torch.nn.Module:
        """The method with fresh weights."""
        return methods.build(self.method, self.config)


SETTINGS = (
    Setting("clip", batch=32),
    Setting("clip", batch=128),
    Setting("siglip", batch=64),
    Setting("filip", batch=32),
    Setting("filip", batch=128),
    Setting("clip", "towers twice as wide", options={"image_width": 256, "text_width": 256}),
    Setting("clip", "pictures of 128 px", batch=32, options={"image_size": 128, "patch": 16, "image_layers": 6}),
    Setting("clip", "loss in tiles", batch=128, options={"tile": 16}),
    Setting("clip", "four accumulated parts", batch=128, accumulate=4),
    Setting("clip", "named encoders, frozen", options=NAMED),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--table", action="store_true", help="only write the page from the results")
    parser.add_argument("--tensors", action="store_true", help="only print the memory of tensors")
    arguments = parser.parse_args()
    if arguments.tensors:
        print(json.dumps([alone(tensors, setting, arguments.device) for setting in SETTINGS]))
        return
    if not arguments.table:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(compared(arguments.device), indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULTS.read_text())))
    print(PAGE.read_text())


def compared(device: str) -> dict[str, object]:
    """Plans and measurements of all settings."""
    # glibc reads this when a process starts: blocks of more than 64 kB are then given back as soon as they are free
    strict = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--tensors", "--device", device]
    output = subprocess.run(command, env=strict, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = []
    for setting, size_of_tensors in zip(SETTINGS, json.loads(output), strict=True):
        seconds, process = alone(measured, setting, device)
        row = {name: getattr(setting, name) for name in ("method", "about", "batch", "accumulate", "options")}
        row["planned"] = alone(planned, setting, device)
        row["measured"] = {"seconds": seconds, "tensors": size_of_tensors, "process": process}
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    machine = {"device": alone(title, SETTINGS[0], device), "torch": torch.__version__}
    return {"machine": machine, "commit": commit(), "rows": rows}


def alone(function: Callable[[Setting, str], T], setting: Setting, device: str) -> T:
    """What a function returns in a process of its own. A fork is quick, and safe while the parent computes nothing."""
    kind = "spawn" if device.startswith("cuda") else "fork"
    with multiprocessing.get_context(kind).Pool(1) as pool:
        return pool.apply(within, (function, setting, device))


def within(function: Callable[[Setting, str], T], setting: Setting, device: str) -> T:
    """Calls it where loader workers may be started, which pools forbid their own."""
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    return function(setting, device)


def title(setting: Setting, device: str) -> str:
    return find(device).title


def planned(setting: Setting, device: str) -> dict[str, float]:
    """What `diptych plan` says: bytes above the weights (on CUDA with them), and seconds a step."""
    made = plan.plan(setting.method, "starter", setting.config, setting.recipe, device, switches=False).estimate
    above = made.bytes if device.startswith("cuda") else made.bytes - made.memory["weights"]
    return {"bytes": above, "seconds": made.step_seconds}


def measured(setting: Setting, device: str) -> tuple[float, int]:
    """Seconds a step, and the bytes that the process holds at the peak."""
    seconds, process = growth(setting, setting.recipe, device)
    return seconds, torch.cuda.max_memory_reserved() if device.startswith("cuda") else process


def tensors(setting: Setting, device: str) -> int:
    """Bytes that tensors take at the peak."""
    _, process = growth(setting, replace(setting.recipe, samples=2 * setting.batch), device)
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else process


def growth(setting: Setting, recipe: Recipe, device: str) -> tuple[float, int]:
    """Seconds a step of a run, and by how much the peak of the resident size lies above its beginning."""
    data, place = sources.open_sources("starter", "train"), find(device)
    train(setting.model(), data, replace(recipe, samples=2, batch=2, accumulate=1), place)  # loads what is loaded once
    model = setting.model()
    gc.collect()
    before = resident("VmRSS")
    seconds = train(model, data, recipe, place)  # the trainer forgets earlier peaks when it begins
    return seconds, resident("VmHWM") - before


def train(model: torch.nn.Module, data: object, recipe: Recipe, device: Device) -> float:
    """Seconds a step, the first third of the steps left out: they wait for workers to start."""
    with tempfile.TemporaryDirectory() as folder:
        training.train(model, data, Path(folder), recipe, device=device.place, logs=())  # type: ignore[arg-type]
        log = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    middle, last = log[len(log) // 3], log[-1]
    return (last["seconds"] - middle["seconds"]) / max(1, last["step"] - middle["step"])


def resident(name: str) -> int:
    """A size of this process in bytes, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def page(result: dict) -> str:
    """The page: what is planned against what was measured, and how large the errors are."""
    above = " above the weights" if result["machine"]["device"].startswith("CPU") else ""
    lines = [
        "# How right a plan is",
        "",
        "`diptych plan ID --data SRC` says before a run whether it fits, how long it will take, and which option",
        "changes that. Memory is counted on small batches and extrapolated, time is measured on a few steps. Here is",
        "what it said about runs on the starter set, and what they took: +10 % is a tenth too much.",
        "",
        f"Measured on: {result['machine']['device']}, torch {result['machine']['torch']}. Memory is the peak{above}:",
        "that of the tensors, which is what is planned, and that of the whole process, with the gaps that allocators",
        "keep, for which a plan leaves a share of the memory free.",
        "",
        "| method | setting | batch | planned | tensors | error | process | error | step planned | measured | error |",
        "|" + " --- |" * 2 + " ---: |" * 9,
    ]
    errors: dict[str, list[float]] = {"tensors": [], "process": [], "seconds": []}
    for row in result["rows"]:
        said, was = row["planned"], row["measured"]
        error = {name: said["seconds" if name == "seconds" else "bytes"] / was[name] - 1 for name in errors}
        for name, value in error.items():
            errors[name].append(value)
        cells = [row["method"], row["about"] or "defaults", str(row["batch"]), size(said["bytes"])]
        cells += [cell for name in ("tensors", "process") for cell in (size(was[name]), f"{error[name]:+.0%}")]
        cells += [f"{said['seconds']:.3f} s", f"{was['seconds']:.3f} s", f"{error['seconds']:+.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    titles = {"tensors": "Memory of tensors", "process": "Memory of the process", "seconds": "Time"}
    lines += [
        "",
        *(summary(titles[name], values) for name, values in errors.items()),
        "",
        f"Made by `python benchmarks/plan.py` from `results/plan.json` (commit {result['commit']}).",
    ]
    return "\n".join(lines) + "\n"


def summary(what: str, errors: list[float]) -> str:
    sizes = [abs(error) for error in errors]
    return f"- {what}: median error {statistics.median(sizes):.0%}, largest {max(errors, key=abs):+.0%}."


def commit() -> str:
    """The commit that the figures were made with; a trailing + says that files had changed since."""
    run = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return run.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
