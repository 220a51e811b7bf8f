"""`diptych curate dedup|score|filter SRC --out DST`: better shards out of shards, and a report of what went and why."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from diptych.app import options
from diptych.config import nearest
from diptych.curation.dedup import Dedup
from diptych.curation.filters import Filter
from diptych.curation.score import Score

if TYPE_CHECKING:
    from diptych.curation.run import Outcome


@dataclass(frozen=True)
class Common:
    """What every kind of curation is told."""

    source: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """folders or URLs of shards (or starter); several become one data set. They are never changed"""
    out: Path
    """folder for the new shards and the report; the same command goes on where a killed one stopped"""
    split: options.Several = ()
    """split of which samples may be dropped, may be given several times; default: all"""
    dry_run: bool = False
    """write the report, and no shards"""
    run: str = ""
    """trained run, or a model on the hub (OWNER/NAME), whose features and scores count"""
    workers: int | None = None
    """workers on Ray beside each other; default: one a core, or one a GPU; 0 measures in this process, without Ray"""
    address: str = ""
    """address of a Ray cluster (auto, ray://HOST:10001); default: Ray on this machine"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N, for the model"""
    json: bool = False
    """print the figures as JSON"""


@dataclass(frozen=True)
class Against:
    """What samples are compared with beside each other."""

    against: options.Several = ()
    """shards (SPEC or SPEC@SPLIT) of which no duplicate may stay, such as a test set"""


@dataclass(frozen=True)
class Options:
    """Make shards better: `dedup` drops duplicates and leaks, `score` scores each pair of picture and caption by a
    model and keeps the best, `filter` goes by language, length and size. What stays is copied byte for byte into a new
    folder: `diptych curate dedup my_shards --out clean`.
    """

    kind: Annotated[Literal["dedup", "score", "filter"], tyro.conf.Positional, tyro.conf.arg(metavar="KIND")]
    """dedup, score or filter"""
    common: Common
    against: Against = field(default_factory=Against)
    dedup: Dedup = field(default_factory=Dedup)
    score: Score = field(default_factory=Score)
    filter: Filter = field(default_factory=Filter)


_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "dedup": ("Drop pictures that are equal, look alike or show the same, and leaks between splits.", (Against, Dedup)),
    "score": ("Score each pair of picture and caption by a model, and keep the best.", (Score,)),
    "filter": ("Drop captions and samples by language, length, pattern, size and shape.", (Filter,)),
}


def run(args: Sequence[str]) -> int:
    """Writes the new shards and the report, and says what went."""
    if not args or args[0] in ("-h", "--help"):
        options.parse(Options, [*args] or ["--help"], "curate")
    if args[0] not in _KINDS:
        print(f"diptych: {nearest(args[0], _KINDS, 'kind of curation')}", file=sys.stderr)
        return 2
    about, own = _KINDS[args[0]]
    fields: list[Any] = [("common", Common), *((cls.__name__.lower(), cls, field(default_factory=cls)) for cls in own)]
    chosen: Any = options.parse(make_dataclass("Chosen", fields), args[1:], f"curate {args[0]}", about)
    from diptych.app import curate, terminal

    against = chosen.against.against if args[0] == "dedup" else ()
    outcome = curate.curate(getattr(chosen, args[0]), chosen.common, against)
    if chosen.common.json:
        import json

        print(json.dumps(outcome.summary(), ensure_ascii=False, indent=1))
    else:
        _show(outcome)
        terminal.say(f"Report: {chosen.common.out / 'report.html'}")
        _advise(outcome, chosen.common)
    return 0


def _show(outcome: Outcome) -> None:
    from diptych.app import terminal

    read, kept = sum(outcome.before.values()), sum(outcome.after.values())
    lines = [[reason, f"{count:,}", f"{count / read:.1%}"] for reason, count in outcome.reasons.items()]
    lines = [["read", f"{read:,}", ""], *lines, ["kept", f"{kept:,}", f"{kept / read:.1%}"]]
    terminal.table(["samples", "number", "share"], lines, right=("number", "share"))
    for sentence in outcome.findings.told:
        terminal.say(sentence)


def _advise(outcome: Outcome, common: Common) -> None:
    from diptych.app import terminal

    if outcome.written:
        terminal.say(f"Train on it: diptych train clip --data {common.out} --out runs/mine")
    elif not any(outcome.after.values()):
        terminal.say("Nothing is left, so that no shards were written; the report says what went and why.")
    else:
        why = "a dry run" if outcome.task.drops else "nothing was to be dropped"
        terminal.say(f"No shards were written ({why}); what was measured is kept for the next call with this --out.")
