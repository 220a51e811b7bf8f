"""`diptych export RUN --to FORMAT`: a run as a model of another library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diptych.app import options


@dataclass(frozen=True)
class Options:
    """Write a trained dual encoder or language model that sees for another library, which gives the same outputs."""

    run: options.RunOrModel
    """folder of a run, or a model on the hub (OWNER/NAME)"""
    to: Literal["transformers", "open_clip"]
    """the library that shall load it"""
    out: Path | None = None
    """folder to write; default: RUN/export-FORMAT"""
    checkpoint: str = "last"
    """which weights: last, or best (by the evaluations during training)"""


def run(args: Sequence[str]) -> int:
    """Writes the exported model and says how to load it."""
    chosen = options.parse(Options, args, "export")
    from diptych.app import api, runs, terminal
    from diptych.app.export import export

    folder = Path(chosen.run)
    home = folder if folder.is_dir() else Path(folder.name)
    out = chosen.out or runs.inside(home, home / f"export-{chosen.to}")
    terminal.say(f"Written: {export(api.load(chosen.run, chosen.checkpoint), chosen.to, out)}")
    terminal.say(f"How to load it: {out / 'README.md'}")
    return 0
