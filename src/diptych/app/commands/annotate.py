"""`diptych annotate SRC --regions DETECTOR --out DST`: what an object detector sees, as fields of new shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from diptych.app import options
from diptych.curation.regions import Regions


@dataclass(frozen=True)
class Options:
    """Run an object detector over the pictures of a data set and write what it sees as regions, boxes, labels and
    features, into new shards: `diptych annotate my_shards --regions facebook/detr-resnet-50 --out with_regions`.
    """

    source: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """folders or URLs of shards, starter or world:KNOB=VALUE,...; several become one data set; none is changed"""
    regions: str
    """detector of transformers: a folder, or a name on the hub"""
    out: Path
    """folder for the new shards and the report; the same command goes on where a killed one stopped"""
    settings: Regions = field(default_factory=Regions)
    workers: int | None = 0
    """workers on Ray beside each other; 0 runs the detector in this process, without Ray"""
    address: str = ""
    """address of a Ray cluster (auto, ray://HOST:10001); default: Ray on this machine"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N, for the detector"""
    json: bool = False
    """print the figures as JSON"""


def run(args: Sequence[str]) -> int:
    """Writes the new shards and the report, and says what was seen."""
    chosen = options.parse(Options, args, "annotate")
    from diptych.app import annotate, terminal

    outcome = annotate.annotate(chosen)
    if chosen.json:
        import json

        print(json.dumps(outcome.summary(), ensure_ascii=False, indent=1))
        return 0
    for sentence in outcome.findings.told:
        terminal.say(sentence)
    for reason, count in outcome.reasons.items():
        terminal.say(f"{count:,} samples went: {reason}")
    terminal.say(f"Report: {chosen.out / 'report.html'}")
    terminal.say(f"Train on it: diptych train uniter --data {chosen.out} --out runs/mine")
    return 0
