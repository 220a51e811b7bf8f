"""The self-contained HTML page of a curation: how many went and why, how values lie, and pictures of what went.

Like the page of a run it loads nothing from anywhere and runs no script; everything that comes from data is escaped.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych import __version__
from diptych.app import pages
from diptych.app.histogram import histogram
from diptych.curation.blocks import opened
from diptych.curation.verdicts import NOBODY, Example
from diptych.curation.write import DROPPED, SCORES, where
from diptych.data.decode import BrokenSample

if TYPE_CHECKING:
    from diptych.app.commands.curate import Common
    from diptych.curation.run import Outcome

_WIDTH, _QUALITY = 200, 76  # of a picture
_BROKEN = 100  # broken samples that are listed
_DONE = {
    "regions": "with regions",
    "chances": "with chances of words",
    "dedup": "without duplicates",
    "score": "scored",
    "filter": "filtered",
}


def write(outcome: Outcome, path: Path, *, command: str) -> None:
    """Writes the page."""
    path.write_text(page(outcome, command), encoding="utf-8")


def page(outcome: Outcome, command: str) -> str:
    """The page as text."""
    read, kept = sum(outcome.before.values()), sum(outcome.after.values())
    names = list(dict.fromkeys(opened(part.path, part.split).name for part in outcome.parts if part.written))
    return pages.render(
        "curate.html.j2",
        title=f"{', '.join(names)}, {_DONE[outcome.task.name]}",
        lede=_lede(outcome),
        cards=[
            {"name": "kept", "value": f"{kept:,}", "about": f"{kept / read:.1%} of {read:,} samples", "colour": 0},
            {"name": "dropped", "value": f"{read - kept:,}", "about": f"{(read - kept) / read:.1%}", "colour": 1},
        ],
        funnel=_funnel(outcome),
        splits=[
            (split, f"{count:,}", f"{outcome.after[split]:,}", f"{outcome.after[split] / max(1, count):.1%}")
            for split, count in outcome.before.items()
        ],
        told=outcome.findings.told,
        charts=[
            {"title": one.title, "about": one.about, "svg": pages.safe(_chart(one))}
            for one in outcome.findings.histograms
        ],
        groups=[
            {"title": group.title, "about": group.about, "cases": [_case(outcome, one) for one in group.examples]}
            for group in outcome.findings.groups
        ],
        broken=_broken(outcome),
        files=DROPPED + (f" and {SCORES}" if "score" in outcome.facts.table.column_names else ""),
        command=command,
        settings=[(name, str(value)) for name, value in outcome.task.settings.items()],
        footer=f"diptych {__version__}",
    )


def command(settings: Any, common: Common, against: Sequence[str]) -> str:
    """The command line that does the same again."""
    parts = [f"diptych curate {type(settings).__name__.lower()} {shlex.join(common.source)}"]
    parts += [f"--against {shlex.quote(spec)}" for spec in against]
    for options in (settings, common):
        for one in dataclasses.fields(options):
            value, usual = getattr(options, one.name), one.default
            if one.name not in ("source", "out", "json") and value != usual:
                parts += option(one.name, value)
    return " ".join([*parts, f"--out {shlex.quote(pages.relative(common.out))}"])


def option(name: str, value: Any) -> list[str]:
    """An option with its value, as it is typed."""
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return [flag]
    return [f"{flag} {shlex.quote(str(one))}" for one in (value if isinstance(value, tuple) else [value])]


def _lede(outcome: Outcome) -> str:
    read = " and ".join(f"{count:,} of {split}" for split, count in outcome.before.items())
    if outcome.written:
        shards = sum(shards for _, shards in outcome.written.values())
        done = f"What stays was copied into {shards:,} new shard{'s' if shards != 1 else ''}."
    else:
        done = "No shards were written; this page says what would go."
    return f"{read} were read. {done} The originals are as they were."


def _funnel(outcome: Outcome) -> list[dict[str, Any]]:
    """From all samples to those that stay, a line a reason, with what is left after it."""
    left = sum(outcome.before.values())
    read = max(1, left)
    lines = [{"name": "read", "count": f"{left:,}", "share": "", "left": 100.0, "gone": 0.0}]
    for reason, count in outcome.reasons.items():
        left -= count
        share = {"left": 100 * left / read, "gone": 100 * count / read}
        lines.append({"name": reason, "count": f"−{count:,}", "share": f"{count / read:.1%}", **share})
    return [*lines, {"name": "kept", "count": f"{left:,}", "share": f"{left / read:.1%}", "left": 100 * left / read}]


def _chart(one: Any) -> str:
    return histogram(one.edges, one.counts, label=one.title, low=one.low, high=one.high)


def _case(outcome: Outcome, example: Example) -> dict[str, Any]:
    """A sample that is shown, beside the one that it duplicates."""
    goes = not outcome.verdicts.stays[example.row]
    shown = [_shown(outcome, example.row, example.captions)]
    if example.partner != NOBODY:
        shown.append(_shown(outcome, example.partner, ()))
    return {"said": example.said, "goes": goes, "samples": shown}


def _shown(outcome: Outcome, row: int, captions: Sequence[str]) -> dict[str, Any]:
    """Key, picture, size and captions of a sample."""
    at = where(outcome.facts, outcome.parts, row)
    data, number = opened(at["source"], at["split"]), int(outcome.facts.number[row])
    shown: dict[str, Any] = {"key": at["key"], "split": at["split"], "texts": list(captions), "size": ""}
    with suppress(BrokenSample):  # a set of texts alone
        picture = data.read(number, ("image",)).image
        shown |= {"picture": pages.inlined(picture, _WIDTH, _QUALITY), "size": f"{picture.width} x {picture.height}"}
    with suppress(BrokenSample):
        shown["texts"] = list(captions) or data.read(number, ("texts",)).texts
    return shown


def _broken(outcome: Outcome) -> list[tuple[str, str]]:
    listed = sorted(outcome.verdicts.detail.items())[:_BROKEN]
    return [(where(outcome.facts, outcome.parts, row)["key"], reason) for row, reason in listed]
