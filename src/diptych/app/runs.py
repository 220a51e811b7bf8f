"""The folder of a run: who it is, how it went, what it measured. Written by `api`, read by reports."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from diptych import __version__, results
from diptych.config import to_dict
from diptych.results import Row

RUN = "run.json"
_IDENTITY = ("method", "config", "recipe", "data")
_PACKAGES = ("diptych", "torch", "numpy", "pillow", "simplejpeg", "timm", "transformers", "open_clip_torch", "peft")


class AnotherRun(ValueError):
    """The folder holds another run, which is never overwritten."""


@dataclass(frozen=True)
class Run:
    """A run as it lies on disk."""

    folder: Path
    info: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    quarantine: dict[str, str] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name, by which results call the run."""
        return self.folder.name

    @property
    def method(self) -> str:
        """The method's id."""
        return str(self.info["method"])

    @property
    def finished(self) -> dict[str, Any]:
        """Steps, seconds, speed and size; empty while the run goes on."""
        return dict(self.info.get("finished") or {})


def read(folder: str | Path) -> Run:
    """Reads what a run's folder has so far.

    Raises:
        FileNotFoundError: it is not the folder of a run; the sentence lists the runs beside it.
    """
    folder = Path(folder)
    if not (folder / RUN).is_file():
        beside = sorted(path.parent.name for path in folder.parent.glob(f"*/{RUN}")) if folder.parent.is_dir() else []
        there = " Runs beside it: " + ", ".join(beside) + "." if beside else ""
        raise FileNotFoundError(f"{folder} is not the folder of a run (it has no {RUN}).{there}")
    figures = folder / "results.json"
    broken = folder / "quarantine.json"
    return Run(
        folder=folder.resolve(),
        info=json.loads((folder / RUN).read_text(encoding="utf-8")),
        rows=results.from_json(figures.read_text(encoding="utf-8")) if figures.is_file() else [],
        log=_lines(folder / "log.jsonl"),
        quarantine=json.loads(broken.read_text(encoding="utf-8")) if broken.is_file() else {},
        pictures=tuple(sorted((folder / "pictures").rglob("*.png"))),
    )


def claim(folder: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    """Takes `folder` for the run that `info` describes: a new one, or the same one, which then goes on.

    Returns:
        What is written in `run.json`: `info`, or that of the run that goes on.

    Raises:
        AnotherRun: the folder holds a run of other settings, or other files.
    """
    path = folder / RUN
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        differing = differences(there, json.loads(json.dumps(info)))
        if differing:
            raise AnotherRun(
                f"{folder} holds another run ({'; '.join(differing)}): choose another --out, or delete the folder."
            )
        return dict(there)
    begun = {f"{RUN}.partial"}  # all that there is of a run that was killed in its first moment
    if folder.is_dir() and {found.name for found in folder.iterdir()} - begun:
        raise AnotherRun(f"{folder} is not empty and holds no run: choose another --out.")
    write(folder, info)
    return dict(info)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What makes two runs different ones, a phrase each: `lr is 0.001 there and 0.0005 here`."""
    from diptych.training.state import FREE  # imports torch

    found = []
    for part in _IDENTITY:
        old, new = there.get(part), here.get(part)
        if not isinstance(old, dict) or not isinstance(new, dict):
            old, new = {part: old}, {part: new}
        free = FREE if part == "recipe" else ()
        keys = [key for key in dict.fromkeys([*old, *new]) if key not in free and old.get(key) != new.get(key)]
        found += [f"{key} is {old.get(key)} there and {new.get(key)} here" for key in keys]
    return found


def write(folder: Path, info: Mapping[str, Any]) -> None:
    """Writes `run.json` so that a crash leaves the old one or the new one, never half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(info, indent=1, ensure_ascii=False) + "\n"
    partial = folder / f"{RUN}.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / RUN)


def describe(method: str, config: Any, recipe: Any, data: Mapping[str, Any], tasks: tuple[str, ...]) -> dict[str, Any]:
    """The content of a new `run.json`."""
    return {
        "method": method,
        "config": to_dict(config),
        "recipe": to_dict(recipe),
        "changed": _changed(config) | _changed(recipe),
        "data": dict(data),
        "tasks": list(tasks),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "commit": commit(),
    }


def _changed(options: Any) -> dict[str, Any]:
    """The fields that differ from the defaults of their dataclass."""
    ours, usual = to_dict(options), to_dict(type(options)())
    return {name: value for name, value in ours.items() if value != usual[name]}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # an extra that is not installed
            continue
    return found


def commit() -> str:
    """The commit of the checkout that this library runs from (a trailing +: files had changed), or its version."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=here, capture_output=True, text=True, timeout=10
        )
    except OSError:  # no git
        return f"diptych {__version__}"
    return run.stdout.strip() or f"diptych {__version__}"


def _lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; a last line that a crash cut off is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def is_finished(folder: Path) -> bool:
    """Whether there is a run that was trained to its end and evaluated."""
    return (folder / RUN).is_file() and bool(read(folder).finished)
