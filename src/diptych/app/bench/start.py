"""How soon commands answer: `diptych --help` and `diptych methods`, against Python that imports torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from diptych.app.bench.measure import Aim, Case, Form, Step

SECONDS = 0.5
PEERS: Mapping[str, tuple[str, ...]] = {
    "python": ("-c", "pass"),
    "import torch": ("-c", "import torch"),
}
COMMANDS = (
    "--help",
    "methods",
    "status",
    "train --help",
    "pack --help",
    "plan --help",
    "evaluate --help",
    "bench --help",
)


@dataclass(frozen=True)
class Options:
    """How often."""

    repeats: int = 5
    """turns"""


def cases(options: Options) -> list[Case]:
    """Each command that computes nothing, in a process of its own."""
    ours = {f"diptych {command}": ("-m", "diptych", *command.split()) for command in COMMANDS}
    return [
        Case(
            title="Start",
            forms={name: Form(partial(make, args), memory=False) for name, args in {**ours, **PEERS}.items()},
            aims=tuple(
                aim
                for name in ours
                for aim in (Aim("time", name, at_most=SECONDS), Aim("time", name, "import torch", at_most=0.25))
            ),
            unit="starts",
            repeats=options.repeats,
        )
    ]


def make(args: tuple[str, ...]) -> Step:
    """A step that runs Python with these arguments and waits for its end."""
    return partial(subprocess.run, [sys.executable, *args], capture_output=True, check=True)
