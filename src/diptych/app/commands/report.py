"""`diptych report RUN ...`: one page about one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from diptych.app import options


@dataclass(frozen=True)
class Options:
    """Write one self-contained HTML page about one or several runs: figures, curves, pictures, cost."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders of runs"""
    out: Path = Path("report.html")
    """file to write"""
    title: str = ""
    """heading of the page"""


def run(args: Sequence[str]) -> int:
    """Writes the page and says where it is."""
    chosen = options.parse(Options, args, "report")
    if not chosen.runs:
        raise ValueError("no run was named: diptych report RUN [RUN ...] --out PAGE.html")
    from diptych.app import report, runs, terminal

    report.write([runs.read(folder) for folder in chosen.runs], chosen.out, title=chosen.title)
    terminal.say(f"Page: {chosen.out}")
    return 0
