"""From shards to better shards: measure every sample, decide, write what stays, tell what went.

All work is done in a hidden folder beside the destination, `.NAME.curation`: what was measured, a file a block, and
then the new shards, which are moved into place when they are whole. A command that was killed goes on from there; after
a dry run it is kept, so that other thresholds are tried in seconds.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.curation.blocks import Part, blocks_of
from diptych.curation.measure import Facts, Progress, Spread, Store, here, measured
from diptych.curation.verdicts import BROKEN, Findings, Task, Verdicts
from diptych.curation.write import DROPPED, SCORES, describe, write_dropped, write_scores, write_shards

SUMMARY, PAGE = "curation.json", "report.html"
_REPORT = {SUMMARY, PAGE, DROPPED, SCORES}


@dataclass(frozen=True)
class Outcome:
    """All that came of it: what was found out, what goes, what was written."""

    task: Task
    parts: Sequence[Part]
    facts: Facts
    verdicts: Verdicts
    findings: Findings
    written: dict[str, tuple[int, int]]
    """split -> (samples, shards); empty where only the report was made"""

    @property
    def before(self) -> dict[str, int]:
        """Samples read, by split."""
        return self._by_split(np.ones(len(self.facts), dtype=bool))

    @property
    def after(self) -> dict[str, int]:
        """Samples that stay, by split."""
        return self._by_split(self.verdicts.stays)

    @property
    def reasons(self) -> dict[str, int]:
        """Why samples go -> how many, the most frequent first."""
        own = np.array([part.written for part in self.parts])[self.facts.part]
        return dict(Counter(self.verdicts.reason[own & ~self.verdicts.stays].tolist()).most_common())

    def summary(self) -> dict[str, Any]:
        """The figures, as JSON has them."""
        return {
            "task": self.task.name,
            "settings": dict(self.task.settings),
            "sources": list(dict.fromkeys(part.path for part in self.parts if part.written)),
            "against": list(dict.fromkeys(part.path for part in self.parts if not part.written)),
            "read": self.before,
            "kept": self.after,
            "dropped": self.reasons,
            "captions_dropped": len(self.verdicts.captions),
            "written": {split: {"samples": n, "shards": shards} for split, (n, shards) in self.written.items()},
            "histograms": [asdict(one) for one in self.findings.histograms],
            "told": self.findings.told,
        }

    def _by_split(self, chosen: np.ndarray) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for number, part in enumerate(self.parts):
            if part.written:
                counts[part.split] += int((chosen & (self.facts.part == number)).sum())
        return dict(counts)


Bar = Callable[[str], AbstractContextManager[Progress]]
"""What is being done -> a bar that is called with the number done and the number of all."""


@contextmanager
def silent(what: str) -> Iterator[Progress]:
    """A bar that shows nothing."""
    yield lambda done, total: None


def curate(
    task: Task,
    parts: Sequence[Part],
    out: Path,
    *,
    spread: Spread = here,
    dry_run: bool = False,
    bar: Bar = silent,
    page: Callable[[Outcome, Path], None] | None = None,
    block: int = 0,
) -> Outcome:
    """Measures, decides and writes.

    Args:
        task: what is done.
        parts: the splits that it is done to, and those that are compared with.
        out: the new folder: shards, index and dataset.json, and the report.
        spread: who measures the blocks.
        dry_run: write the report alone.
        bar: shows how far it is.
        page: writes the page of the report to a path.
        block: samples after which what was measured is kept; the usual number if 0.

    Raises:
        ValueError: there are no samples, or `out` holds something else.
    """
    _refuse_used(out)
    blocks = blocks_of(parts, block)
    if not any(part.written and block.part == number for number, part in enumerate(parts) for block in blocks):
        raise ValueError(f"{', '.join(dict.fromkeys(part.path for part in parts))} has no samples to curate.")
    work = out.parent / f".{out.name}.curation"
    with bar("measuring") as show:
        facts = measured(task.look, blocks, Store(work), spread, show)
    verdicts = Verdicts(np.array([part.judged for part in parts])[facts.part])
    for row in np.flatnonzero(~facts.whole).tolist():
        verdicts.drop(row, BROKEN, detail=facts.table["broken"][row].as_py())
    findings = task.decide(facts, parts, verdicts, work)
    folder = work / "new"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written: dict[str, tuple[int, int]] = {}
    if not dry_run and task.drops:
        with bar("writing") as show:
            written = write_shards(facts, parts, verdicts, task, folder, show)
    outcome = Outcome(task, parts, facts, verdicts, findings, written)
    _report(outcome, folder, out.name, page)
    _replace(out, folder)
    if written:
        shutil.rmtree(work, ignore_errors=True)
    return outcome


def _report(outcome: Outcome, folder: Path, name: str, page: Callable[[Outcome, Path], None] | None) -> None:
    facts, parts, verdicts = outcome.facts, outcome.parts, outcome.verdicts
    if outcome.written:
        done = {"task": outcome.task.name, "settings": dict(outcome.task.settings), "dropped": outcome.reasons}
        describe(parts, outcome.written, folder, name, done, outcome.task.adds)
    write_dropped(facts, parts, verdicts, folder / DROPPED)
    if "score" in facts.table.column_names:
        write_scores(facts, parts, verdicts, folder / SCORES)
    text = json.dumps(outcome.summary(), ensure_ascii=False, indent=1)
    (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")
    if page:
        page(outcome, folder / PAGE)


def _refuse_used(out: Path) -> None:
    """A folder may be new, empty, or hold the report of a dry run, which is replaced."""
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= _REPORT):
        raise ValueError(f"{out} is not empty; give a new folder, or delete it first.")


def _replace(out: Path, folder: Path) -> None:
    for path in out.iterdir() if out.exists() else ():
        path.unlink()
    if out.exists():
        out.rmdir()
    folder.rename(out)
