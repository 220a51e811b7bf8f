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
from diptych.text import one_line

RUN = "run.json"
_PLOTTED = ("step", "samples", "seconds", "loss")
_IDENTITY = ("method", "config", "recipe", "data")
_PACKAGES = ("diptych", "torch", "numpy", "pillow", "simplejpeg", "timm", "transformers", "open_clip_torch", "peft")


_NUMBER = (int, float)
_DATA = [{"name": str, "split": str, "samples": int, "licence": str}]
_FORM = {
    "method": str,
    "config": dict,
    "recipe": {"batch": int, "seed": int},
    "data": {"data": [str], "val": [str]},
    "changed?": dict,
    "versions?": dict,
    "finished?": {
        "steps": int,
        "seconds": _NUMBER,
        "samples_per_second": _NUMBER,
        "parameters": int,
        "trained_parameters": int,
        "device": str,
        "train": _DATA,
        "val": _DATA,
    },
}


class DamagedRun(ValueError):
    """The folder of a run holds what diptych did not write there."""


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
    folder = folder.resolve()
    try:
        rows = results.from_json(figures.read_text(encoding="utf-8")) if figures.is_file() else []
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedRun(f"{figures} holds no rows of results ({one_line(str(error))}).") from None
    return Run(
        folder=folder,
        info=_object(folder / RUN, _FORM),
        rows=rows,
        log=_lines(folder / "log.jsonl"),
        quarantine=_object(folder / "quarantine.json", {}),
        pictures=tuple(path for path in sorted((folder / "pictures").rglob("*.png")) if _is_own(path, folder)),
    )


def inside(folder: Path, path: Path) -> Path:
    """`path`, a place for new files below the folder of a run, which may come from a stranger.

    Raises:
        DamagedRun: there is a link, through which files elsewhere would be overwritten.
    """
    above = [path, *path.parents]
    for place in [*above[: above.index(folder)], *path.rglob("*")]:
        if place.is_symlink():
            raise DamagedRun(f"{place} is a link, and what is written must stay in {folder}: delete it, or name --out.")
    return path


def _is_own(path: Path, folder: Path) -> bool:
    """Whether it is a plain file that lies in the folder, not one that a link leads to."""
    return path.is_file() and path.resolve().is_relative_to(folder)


def _object(path: Path, form: Any) -> dict[str, Any]:
    """A JSON object of the given form; empty where there is no such file and none is needed.

    Raises:
        DamagedRun: it is not valid JSON, or has another form.
    """
    if not path.is_file() and not form:
        return {}
    try:
        told = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedRun(f"{path} is not valid JSON ({error}).") from None
    wrong = _misfit(told, form)
    if wrong is not None:
        raise DamagedRun(f"{path} is not as diptych writes it: look at {wrong or 'all of it'}.")
    return dict(told)


def _misfit(value: Any, form: Any, name: str = "") -> str | None:
    """Where a value has not the form that is asked for: a type, a dictionary of forms, or a list of one form.

    A `?` behind a name says that it may be missing or empty.
    """
    if isinstance(form, list):
        inner = enumerate(value) if isinstance(value, list) else None
        found = [name] if inner is None else [_misfit(item, form[0], f"{name}[{at}]") for at, item in inner]
    elif isinstance(form, dict):
        if not isinstance(value, dict):
            return name
        asked = {key.removesuffix("?"): part for key, part in form.items() if key[-1] != "?" or value.get(key[:-1])}
        found = [_misfit(value.get(key), part, f"{name}.{key}".lstrip(".")) for key, part in asked.items()]
    else:
        found = [] if isinstance(value, form) and not isinstance(value, bool) else [name]
    return next((where for where in found if where is not None), None)


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
    return {name: value for name, value in ours.items() if value != usual.get(name)}


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
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict) or not all(isinstance(record.get(name, 0), _NUMBER) for name in _PLOTTED):
            break
        records.append(record)
    return records


def is_finished(folder: Path) -> bool:
    """Whether there is a run that was trained to its end and evaluated."""
    return (folder / RUN).is_file() and bool(read(folder).finished)
