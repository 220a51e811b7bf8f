"""`diptych annotate SRC --regions DETECTOR --out DST`: what a model sees or reads, as fields of new shards."""

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
    """Run a model over a data set once and write what it finds into new shards. An object detector gives regions,
    with boxes, labels and features: `diptych annotate my_shards --regions facebook/detr-resnet-50 --out with_regions`.
    A trained reference gives the probability of each word of the captions by the words before it, which prior's
    weights are made of: `diptych annotate my_shards --reference runs/reference --out with_chances`.
    """

    source: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """folders or URLs of shards, starter or world:KNOB=VALUE,...; several become one data set; none is changed"""
    out: Path
    """folder for the new shards and the report; the same command goes on where a killed one stopped"""
    regions: str = ""
    """detector of transformers: a folder, or a name on the hub"""
    reference: str = ""
    """folder of a run, or OWNER/NAME on the hub, of a method that says how likely the words of a text are"""
    settings: Regions = field(default_factory=Regions)
    workers: int | None = 0
    """workers on Ray beside each other; 0 runs the detector in this process, without Ray"""
    address: str = ""
    """address of a Ray cluster (auto, ray://HOST:10001); default: Ray on this machine"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N, for the model"""
    json: bool = False
    """print the figures as JSON"""


def run(args: Sequence[str]) -> int:
    """Writes the new shards and the report, and says what was found."""
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
    reads = "uniter" if chosen.regions else "prior --tasks pretrain"
    terminal.say(f"Train on it: diptych train {reads} --data {chosen.out} --out runs/mine")
    return 0
