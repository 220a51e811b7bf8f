"""What a data set holds, looked at sample by sample: fields, sizes, captions, broken samples, duplicates, leaks.

Works on shards, on any `Dataset`, and on sources that are not packed yet, which are read as `pack` would read them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.batch import FIELDS, missing
from diptych.data.check import Checked, Checks
from diptych.data.decode import BrokenSample
from diptych.data.duplicates import Duplicates, Fingerprint, find_duplicates, fingerprint, repeated_captions
from diptych.data.freeze import listed
from diptych.data.pack import Packing, checked
from diptych.data.raw import Notice, Reading, Source, split_order
from diptych.data.readers import recognise
from diptych.data.shards import split_of
from diptych.data.sheet import Shown, contact_sheet, draw_sheet, pictures_in, shown_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from diptych.card import Card
    from diptych.data.dataset import Dataset

__all__ = ["Inspection", "Spread", "contact_sheet", "inspect"]

_NEARLY_ALL = 0.95  # share of the samples that must have a field for the data set to have it
_COMMON = 20  # most frequent captions that are listed
_OVERSIZED = re.compile(r"the limits? |more than [\d,]+ pixels")
_WORD = re.compile(r"[^\W_]+", re.UNICODE)


@dataclass(frozen=True)
class Spread:
    """Least, middle and greatest of some counts, with the 5 % and 95 % points."""

    count: int = 0
    least: float = 0.0
    low: float = 0.0
    middle: float = 0.0
    high: float = 0.0
    greatest: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of `values`; all zero where there are none."""
        if not values:
            return cls()
        return cls(len(values), *(float(x) for x in np.quantile(values, (0, 0.05, 0.5, 0.95, 1))))


@dataclass
class Inspection:
    """Everything that was found. `print(rich)` shows it as tables, `to_json` gives the figures."""

    name: str
    about: str
    """what the source is"""
    splits: dict[str, int] = field(default_factory=dict)
    """whole samples, by split"""
    coverage: dict[str, int] = field(default_factory=dict)
    """field -> whole samples that have it"""
    width: Spread = field(default_factory=Spread)
    height: Spread = field(default_factory=Spread)
    words: Spread = field(default_factory=Spread)
    """words of a caption"""
    letters: Spread = field(default_factory=Spread)
    """characters of a caption"""
    captions: int = 0
    """captions of all samples"""
    distinct: int = 0
    """different captions"""
    vocabulary: int = 0
    """different words, letter case aside"""
    scripts: dict[str, float] = field(default_factory=dict)
    """share of the letters in each script (latin, cyrillic, cjk, ...)"""
    classes: dict[str, int] = field(default_factory=dict)
    """class -> whole samples"""
    broken: dict[str, str] = field(default_factory=dict)
    """key (or place in the source) -> reason; these samples are counted nowhere else"""
    notes: dict[str, int] = field(default_factory=dict)
    """what was changed or left out, and how often"""
    pictures: Duplicates = field(default_factory=Duplicates)
    """pictures that occur more than once, and those in two splits"""
    texts: Duplicates = field(default_factory=Duplicates)
    """first captions that several samples share"""
    common: dict[str, int] = field(default_factory=dict)
    """the most frequent of these captions -> samples"""
    can_run: list[str] = field(default_factory=list)
    """methods whose fields are all there"""
    lacks: dict[str, list[str]] = field(default_factory=dict)
    """method -> fields that it needs and nearly all samples would have to have"""
    shown: list[Shown] = field(default_factory=list)
    """samples for the contact sheet"""

    @property
    def samples(self) -> int:
        """Whole samples over all splits."""
        return sum(self.splits.values())

    @property
    def has(self) -> tuple[str, ...]:
        """Fields that nearly all samples have."""
        return tuple(name for name, count in self.coverage.items() if count >= _NEARLY_ALL * max(1, self.samples))

    @property
    def oversized(self) -> dict[str, str]:
        """Those of the broken samples that are over a limit of bytes, pixels, frames or seconds."""
        return {key: reason for key, reason in self.broken.items() if _OVERSIZED.search(reason)}

    def contact_sheet(self, columns: int = 6) -> Image:
        """Sample pictures with their captions on one page."""
        return draw_sheet(self.shown, f"{self.name}: {len(self.shown)} of {self.samples:,} samples", columns)

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values, without the pictures."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "shown"}
        values |= {"samples": self.samples, "has": list(self.has), "oversized": list(self.oversized)}
        return {name: _plain(value) for name, value in values.items()}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n"

    def __rich__(self) -> Any:
        """Tables for a terminal."""
        from diptych.data.inspect_tables import tables

        return tables(self)


def inspect(
    data: str | Path | Dataset | Sequence[Dataset],
    cards: Sequence[Card] = (),
    reading: Reading | None = None,
    *,
    limit: int = 0,
    pictures: int = 24,
    progress: Callable[[int, int | None], None] | None = None,
) -> Inspection:
    """Looks at every sample once, decoding all of its fields.

    With a `limit` it looks at so many only: evenly over data sets, or at the first of a source that cannot be counted.

    `data` is what `pack` takes: a path, or one or several data sets. `cards` are the methods that might run on it,
    `pictures` the number of samples kept for the contact sheet, drawn at random.

    Raises:
        SourceError: the source is not understood; the message says what would be.
    """
    reading = reading or Reading()
    if isinstance(data, str | Path):
        source = recognise(data, reading)
        name, items, total = Path(data).name or str(data), _from_source(source, reading), source.total
        found = Inspection(name, source.about)
    else:
        datasets = listed(data)
        total = sum(len(dataset) for dataset in datasets)
        names = ", ".join(dict.fromkeys(dataset.name for dataset in datasets))
        items = _from_datasets(datasets, min(1.0, limit / max(1, total)) if limit else 1.0)
        found = Inspection(names, f"{total:,} samples")
    tally = _Tally(pictures)
    for number, item in enumerate(islice(items, limit) if limit else items, start=1):
        _count(item, found, tally)
        if progress:
            progress(number, min(total, limit) if total and limit else total)
    _conclude(found, tally)
    for card in cards:
        lacking = missing(found.has, card.needs)
        if lacking:
            found.lacks[card.id] = lacking
        else:
            found.can_run.append(card.id)
    return found


# ------------------------------------------------------------------------------------------------------- looking


@dataclass(frozen=True)
class _Seen:
    """One whole sample."""

    key: str
    split: str
    values: Mapping[str, Any]
    notes: tuple[str, ...] = ()


_Item = _Seen | BrokenSample | Notice


def _from_source(source: Source, reading: Reading) -> Iterator[_Item]:
    caption = Packing().caption if source.kind != "webdataset" else ""  # shards are read as they are
    for item in checked(source.samples(), Checks(source.classes, caption, limits=reading.limits)):
        if isinstance(item, Checked):
            split = item.raw.split or split_of(item.raw.key)
            yield _Seen(item.raw.key, split, item.values, item.notes)
        else:
            yield item


def _from_datasets(datasets: Sequence[Dataset], share: float) -> Iterator[_Item]:
    for dataset in datasets:
        names = [name for name in FIELDS if name in dataset.has]
        skipped: Mapping[str, Any] = getattr(dataset, "skipped", {})
        for tar, left_out in skipped.items():
            for reason, count in left_out.counts.items():
                yield Notice(f"members of {tar} left out, because {reason}", count)
        for index in np.linspace(0, len(dataset) - 1, round(share * len(dataset))).astype(int).tolist():
            try:
                yield _Seen(dataset.key(index), dataset.split, dataset.read(index, names))
            except BrokenSample as broken:
                yield BrokenSample(dataset.key(index), broken.reason)


@dataclass
class _Tally:
    """What is gathered over all samples before conclusions are drawn."""

    room: int
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    splits: Counter[str] = field(default_factory=Counter)
    coverage: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    prints: list[tuple[str, str, Fingerprint]] = field(default_factory=list)
    first: list[tuple[str, str, str]] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    letters: list[int] = field(default_factory=list)
    distinct: set[str] = field(default_factory=set)
    vocabulary: set[str] = field(default_factory=set)
    scripts: Counter[str] = field(default_factory=Counter)
    shown: list[Shown] = field(default_factory=list)


def _count(item: _Item, found: Inspection, tally: _Tally) -> None:
    if isinstance(item, Notice):
        tally.notes[item.text] += item.count
        return
    if isinstance(item, BrokenSample):
        found.broken[item.key if item.key not in found.broken else f"{item.key} ({len(found.broken)})"] = item.reason
        return
    tally.splits[item.split] += 1
    tally.coverage.update(item.values.keys())
    tally.notes.update(item.notes)
    text, category = item.values.get("text"), item.values.get("category")
    if category is not None:
        tally.classes[category] += 1
    pictures = pictures_in(item.values)
    for number, picture in enumerate(pictures):
        tally.sizes.append(picture.size)
        key = f"{item.key}, side {number}" if len(pictures) > 1 else item.key
        tally.prints.append((key, item.split, fingerprint(picture)))
    if text:
        tally.first.append((item.key, item.split, text))
    for caption in item.values.get("texts") or ([text] if text else []):
        _count_text(caption, tally)
    _keep(item, tally)


def _count_text(text: str, tally: _Tally) -> None:
    words = _WORD.findall(text)
    tally.words.append(len(words))
    tally.letters.append(len(text))
    tally.distinct.add(text)
    tally.vocabulary.update(word.casefold() for word in words)
    tally.scripts.update(_script(letter) for letter in text if letter.isalpha())


def _script(letter: str) -> str:
    """The script of a letter by its name in Unicode: latin, cyrillic, arabic, cjk, hiragana, ..."""
    if letter < "\u0250":
        return "latin"
    return unicodedata.name(letter, "unknown").split(" ", 1)[0].lower()


def _keep(item: _Seen, tally: _Tally) -> None:
    """Reservoir sampling: every whole sample is on the sheet with the same probability."""
    seen = sum(tally.splits.values())
    place = len(tally.shown) if len(tally.shown) < tally.room else int(tally.rng.integers(seen))
    if place >= tally.room:
        return
    tally.shown[place : place + 1] = [shown_of(item.key, item.split, item.values)]


def _conclude(found: Inspection, tally: _Tally) -> None:
    found.splits = {split: tally.splits[split] for split in sorted(tally.splits, key=split_order)}
    found.coverage = {name: tally.coverage[name] for name in FIELDS if tally.coverage[name]}
    found.width = Spread.of([width for width, _ in tally.sizes])
    found.height = Spread.of([height for _, height in tally.sizes])
    found.words, found.letters = Spread.of(tally.words), Spread.of(tally.letters)
    found.captions, found.distinct, found.vocabulary = len(tally.words), len(tally.distinct), len(tally.vocabulary)
    letters = max(1, sum(tally.scripts.values()))
    found.scripts = {name: count / letters for name, count in tally.scripts.most_common()}
    found.classes = dict(sorted(tally.classes.items(), key=lambda entry: (-entry[1], entry[0])))
    found.notes = dict(tally.notes)
    found.shown = tally.shown
    found.pictures = find_duplicates(*_columns(tally.prints))
    found.texts = repeated_captions(*_columns(tally.first))
    found.common = {text: n for text, n in Counter(text for _, _, text in tally.first).most_common(_COMMON) if n > 1}


def _columns(rows: Sequence[tuple[str, str, Any]]) -> tuple[list[str], list[str], list[Any]]:
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, str):  # a key of a broken source may hold what is no Unicode
        return value.encode("utf-8", "backslashreplace").decode()
    return value
