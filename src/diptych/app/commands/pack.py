"""`diptych pack SRC DST`: turns what people have into shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from diptych.app import options
from diptych.data.raw import Packing, Reading


@dataclass(frozen=True)
class Options:
    """Turn a folder of pictures, a table, annotation files, a Hugging Face data set or tars into shards. Every sample
    is checked; a broken one is left out and listed.
    """

    source: options.Source
    """a folder of pictures or videos, a table, annotations (COCO, Karpathy, Visual Genome, RefCOCO, VQA, GQA, ...),
    region features, a .tar, hf:NAME, or world:KNOB=VALUE,..."""
    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """folder for the shards"""
    json: bool = False
    """print the report as JSON"""
    reading: Reading = field(default_factory=Reading)
    packing: Packing = field(default_factory=Packing)


def run(args: Sequence[str]) -> int:
    """Writes the shards and says what went in and what did not."""
    chosen = options.parse(Options, args, "pack")
    from diptych.app import sources, terminal
    from diptych.data.pack import pack

    source: Any = sources.open_splits(chosen.source) if sources.is_named(chosen.source) else chosen.source
    with terminal.progress("packing") as progress:
        report = pack(source, chosen.destination, chosen.reading, chosen.packing, progress)
    if chosen.json:
        print(options.as_json(report))
        return 0
    terminal.say(str(report))
    terminal.say(f"Train on it: diptych train clip --data {chosen.destination} --out runs/mine")
    return 0
