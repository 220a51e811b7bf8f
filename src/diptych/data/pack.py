"""What people have -> shards: recognised by `readers`, checked by `check`, written by `shards`.

A pack is whole or not there: it is written into a hidden folder beside its destination and moved into place at the end
(one that was killed leaves that folder, `.NAME.packing-PID`, which may be deleted).
The same source gives the same bytes. Nothing broken goes in, and nothing is left out without being listed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.data.check import Checked, Checks, check
from diptych.data.decode import BrokenSample
from diptych.data.files import open_files
from diptych.data.freeze import frozen, listed
from diptych.data.index import store
from diptych.data.raw import Item, Notice, Packing, RawSample, Reading, Source, SourceError, list_words, split_order
from diptych.data.readers import recognise
from diptych.data.shards import ShardWriter, read_index, sidecar, split_of, write_dataset_json

if TYPE_CHECKING:
    from diptych.data.dataset import Dataset

Progress = Callable[[int, int | None], None]
"""Called with the number of samples done and the number of all, if that is known."""

_EARLY = 1000  # samples after which a pack stops if too many are broken, rather than at the end
_SEEN = ("image", "images", "video", "points")
"""fields that dataset.json names where some samples have them and others do not"""
_COMMON = 0.95  # a data set has a field if at least this share of its samples has it


@dataclass
class PackReport:
    """What was written, and what was not."""

    folder: Path
    about: str
    """one sentence: what the source was taken for"""
    splits: dict[str, int] = field(default_factory=dict)
    """samples written, by split"""
    shards: dict[str, int] = field(default_factory=dict)
    """shards written, by split"""
    has: tuple[str, ...] = ()
    """fields that (nearly) all samples have"""
    some: tuple[str, ...] = ()
    """media that only some samples have"""
    classes: tuple[str, ...] = ()
    broken: dict[str, str] = field(default_factory=dict)
    """key (or place in the source) -> reason, of what was not written"""
    notes: dict[str, int] = field(default_factory=dict)
    """what was changed or left out, and how often"""

    @property
    def written(self) -> int:
        """Samples written, over all splits."""
        return sum(self.splits.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{count:,} {split}" for split, count in self.splits.items())
        lines = [
            f"{self.folder}: {self.written:,} samples ({parts}) from {self.about}",
            f"fields: {list_words(self.has, 30)}",
        ]
        lines += [f"classes: {len(self.classes):,} ({list_words(self.classes)})"] if self.classes else []
        lines += [f"note: {text} ({count:,} times)" for text, count in sorted(self.notes.items())]
        if self.broken:
            lines.append(f"broken: {len(self.broken):,}, listed in {self.folder}/broken.json")
            lines += [f"  {key}: {reason}" for key, reason in list(self.broken.items())[:10]]
        return "\n".join(lines)


def pack(
    src: str | Path | Dataset | Sequence[Dataset],
    dst: str | Path,
    reading: Reading | None = None,
    packing: Packing | None = None,
    progress: Progress | None = None,
) -> PackReport:
    """Writes `src` as shards into the folder `dst`.

    `src` is anything that `recognise` understands, or a data set or several (one a split), which are written down as
    they are. A WebDataset packed onto itself (`dst` is `src`) is left as it is and gets the missing indexes.

    Raises:
        SourceError: the source cannot be read, `dst` is not empty, or too many samples are broken; nothing is written.
    """
    reading, packing = reading or Reading(), packing or Packing()
    source = recognise(src, reading) if isinstance(src, str | Path) else frozen(listed(src))
    if isinstance(src, str | Path) and source.kind == "webdataset" and _same(src, dst):
        return _index_in_place(Path(dst).expanduser(), source.about)
    dst = Path(dst).expanduser()
    _refuse_used(dst)
    report = PackReport(dst, source.about)
    with _staging(dst) as folder:
        _write(source, folder, reading, packing, (report, progress))
        origin = Path(src).name if isinstance(src, str | Path) else source.about
        write_dataset_json(folder, _description(report, packing, origin))
        if report.broken:
            text = json.dumps(report.broken, ensure_ascii=False, indent=1)
            (folder / "broken.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    return report


def _same(src: str | Path, dst: str | Path) -> bool:
    return "://" not in str(src) and Path(src).expanduser().resolve() == Path(dst).expanduser().resolve()


def _refuse_used(dst: Path) -> None:
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise SourceError(f"{dst} is not empty; give a new folder, or delete it first.")


@contextlib.contextmanager
def _staging(dst: Path) -> Iterator[Path]:
    """A hidden folder beside `dst` that takes its place if all goes well, and vanishes if not."""
    folder = dst.parent / f".{dst.name}.packing-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        if dst.exists():
            dst.rmdir()
        folder.rename(dst)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


# ------------------------------------------------------------------------------------------------------- writing


@dataclass
class _Tally:
    """What is counted while a pack is written."""

    keys: set[str] = field(default_factory=set)
    fields: Counter[str] = field(default_factory=Counter)
    categories: set[str] = field(default_factory=set)
    notes: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)
    """key -> how often another one had to be found for it"""
    seen: int = 0


class Writers(contextlib.ExitStack):
    """A writer for each split, opened when its first sample comes; all are closed together."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        super().__init__()
        self.folder, self.shard_bytes = folder, shard_bytes
        self.by_split: dict[str, ShardWriter] = {}

    def of(self, split: str) -> ShardWriter:
        """The writer of a split."""
        if split not in self.by_split:
            writer = ShardWriter(self.folder, split, max_bytes=self.shard_bytes)
            self.by_split[split] = self.enter_context(writer)
        return self.by_split[split]


def _write(
    source: Source, folder: Path, reading: Reading, packing: Packing, out: tuple[PackReport, Progress | None]
) -> None:
    report, progress = out
    tally, broken_again = _Tally(), Counter[str]()
    checks = Checks(source.classes, packing.caption, packing.max_side, packing.quality, reading.limits)
    with Writers(folder, packing.shard_bytes) as writers:
        for item in checked(source.samples(), checks):
            if isinstance(item, Checked):
                _add(item, writers.of(packing.split or item.raw.split or split_of(item.raw.key)), tally)
            elif isinstance(item, BrokenSample):
                tally.seen += 1
                report.broken[free(item.key, report.broken, broken_again)] = item.reason
                _refuse_share(report, tally, packing, final=False)
            else:
                tally.notes[item.text] += item.count
            if progress:
                progress(tally.seen, source.total)
        _refuse_share(report, tally, packing, final=True)
    order = sorted(writers.by_split, key=split_order)
    report.splits = {split: writers.by_split[split].samples for split in order}
    report.shards = {split: writers.by_split[split].shards for split in order}
    report.has = tuple(sorted(name for name, count in tally.fields.items() if count >= _COMMON * report.written))
    report.some = tuple(name for name in _SEEN if tally.fields[name] and name not in report.has)
    report.classes = source.classes or tuple(sorted(tally.categories))
    report.notes = dict(tally.notes)


def _add(item: Checked, writer: ShardWriter, tally: _Tally) -> None:
    key = free(item.raw.key, tally.keys, tally.again)
    if key != item.raw.key:
        tally.notes["a sample got another key, since its own was taken"] += 1
    writer.add(key, item.members)
    tally.seen += 1
    tally.keys.add(key)
    tally.fields.update(item.values.keys())
    tally.categories |= {item.category} - {""}
    tally.notes.update(item.notes)


def free(key: str, taken: set[str] | dict[str, str], again: Counter[str]) -> str:
    """`key`, or `key-2`, `key-3`, ... if it is taken; `again` counts them, so that none is tried twice."""
    name = key
    while name in taken:
        again[key] += 1
        name = f"{key}-{again[key] + 1}"
    return name


def _refuse_share(report: PackReport, tally: _Tally, packing: Packing, *, final: bool) -> None:
    if not final and tally.seen < _EARLY:
        return
    share = len(report.broken) / max(tally.seen, 1)
    if share <= packing.max_broken and tally.seen > len(report.broken):
        return
    examples = "; ".join(f"{key}: {reason}" for key, reason in list(report.broken.items())[:5])
    if tally.seen == len(report.broken):
        raise SourceError(
            f"Nothing of {tally.seen:,} samples can be packed ({report.about}): {examples or 'it is empty'}."
        )
    raise SourceError(
        f"{len(report.broken):,} of {tally.seen:,} samples are broken ({share:.0%}, more than "
        f"{packing.max_broken:.0%}), so nothing was written: {examples}. Correct them, or allow more with "
        f"--max-broken {min(1.0, share + 0.01):.2f}."
    )


def checked(items: Iterable[Item], checks: Checks, workers: int = 0) -> Iterator[Checked | BrokenSample | Notice]:
    """Checks samples in several threads (PIL decodes outside the interpreter's lock) and yields all in order."""
    workers = workers or min(8, os.cpu_count() or 1)
    waiting: deque[Future[Checked | BrokenSample] | BrokenSample | Notice] = deque()

    def done(entry: Future[Checked | BrokenSample] | BrokenSample | Notice) -> Checked | BrokenSample | Notice:
        return entry.result() if isinstance(entry, Future) else entry

    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(check, item, checks) if isinstance(item, RawSample) else item)
            if len(waiting) > 4 * workers:
                yield done(waiting.popleft())
        while waiting:
            yield done(waiting.popleft())


def _description(report: PackReport, packing: Packing, origin: str) -> dict[str, Any]:
    return {
        "name": packing.name or report.folder.name,
        "licence": packing.licence,
        "source": f"{origin}: {report.about}" if origin != report.about else origin,
        "classes": list(report.classes),
        "has": list(report.has),
        **({"some": list(report.some)} if report.some else {}),
        "splits": {split: {"samples": n, "shards": report.shards[split]} for split, n in report.splits.items()},
        "broken": len(report.broken),
        "notes": report.notes,
    }


def _index_in_place(folder: Path, about: str) -> PackReport:
    """Writes the index beside every tar of a folder that has none."""
    report = PackReport(folder, about)
    if not folder.is_dir():
        raise SourceError(f"{folder} is a single shard; give the folder that holds it to write its index.")
    for place in sorted({tar.parent for tar in [*folder.glob("*.tar"), *folder.glob("*/*.tar")]}):
        files = open_files(place)
        for tar in [name for name in files.names() if name.endswith(".tar")]:
            index = read_index(files, tar)
            beside = place / sidecar(tar)
            part = beside.with_name(f".{beside.name}.part")
            part.write_bytes(store(index, files.size(tar)))
            part.replace(beside)
            report.splits[tar] = len(index)
            report.shards[tar] = 1
            for skipped in index.skipped.values():
                report.notes |= {f"{tar}: left out, because {reason}": n for reason, n in skipped.counts.items()}
    return report
