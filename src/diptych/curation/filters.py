"""Filters by the captions themselves (language, length, pattern) and by the size and shape of the picture.

Captions are filtered one by one; a sample goes when none is left. Patterns are matched by RE2 (inside pyarrow), whose
time grows with the length of the text and no faster, whatever the pattern.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.curation import languages
from diptych.curation.captions import with_captions
from diptych.curation.verdicts import NO_FIELDS, Example, Findings, Group, Histogram, LostCaption, Verdicts
from diptych.data.decode import image_header
from diptych.data.fields import decode_sample, field_of, fields_of

if TYPE_CHECKING:
    from diptych.curation.blocks import Part
    from diptych.curation.measure import Facts

_WORD = re.compile(r"[^\W_]+")
_RANGE = re.compile(r"(\d+(?:\.\d+)?)?:(\d+(?:\.\d+)?)?")
_SHOWN = 8  # examples of a reason


@dataclass(frozen=True)
class Filter:
    """Which captions and pictures stay. Ranges are LOW:HIGH, either of which may be left out."""

    languages: str = ""
    """languages of captions that stay, by their ISO 639-1 codes with commas between: en,de"""
    sure: float = 0.1
    """how likely a caption must be in one of them, 0 to 1: short captions are rarely sure"""
    words: str = ""
    """words of a caption, 3:60 (a text without spaces, as in Chinese, is one word: use --characters)"""
    characters: str = ""
    """characters of a caption, 10:300"""
    texts_match: str = ""
    """pattern (RE2) that must be found in a caption"""
    texts_not: str = ""
    """pattern (RE2) that must not be found in a caption, such as (?i)stock photo"""
    size: str = ""
    """pixels of a picture: 64:2048 asks for a shorter side of at least 64 and a longer one of at most 2048"""
    aspect: str = ""
    """longer side of a picture through its shorter one, :3"""

    def __post_init__(self) -> None:
        for name in ("words", "characters", "size", "aspect"):
            limits(getattr(self, name), name)

    @property
    def codes(self) -> list[str]:
        """The languages as a list."""
        return [code.strip().lower() for code in self.languages.split(",") if code.strip()]


@dataclass(frozen=True)
class Seen:
    """The captions of a sample, the size of its picture, and how likely each caption is in one of some languages."""

    codes: tuple[str, ...] = ()
    fields = ("image", "texts")

    def __post_init__(self) -> None:
        if self.codes:
            languages.version()
            languages.check(self.codes)

    @property
    def identity(self) -> str:
        """The languages, and what tells them."""
        return f"captions 1 {self.codes} {languages.version() if self.codes else ''}"

    @property
    def columns(self) -> dict[str, str]:
        """Column -> type."""
        own = {"texts": "list<string>", "shorter": "int64", "longer": "int64"}
        return own | ({"sure": "list<float>"} if self.codes else {})

    def see(self, key: str, members: Mapping[str, bytes]) -> dict[str, Any]:
        """Of the picture only the header is read; a sample without one has sides of 0."""
        there = fields_of(members)
        texts = list(decode_sample(key, members, ("texts",)).texts) if "texts" in there else []
        picture = next((data for name, data in members.items() if field_of(name) == "image"), None)
        sides = sorted(image_header(picture)[1:]) if picture is not None else [0, 0]
        row = {"texts": texts, "shorter": sides[0], "longer": sides[1]}
        return row | (
            {"sure": [sum(languages.probabilities(text, self.codes)) for text in texts]} if self.codes else {}
        )

    def tell(self, seen: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The columns, which are all there already."""
        return seen


@dataclass(frozen=True)
class FilterTask:
    """Drops captions and samples."""

    filter: Filter
    look: Seen
    name = "filter"
    adds = NO_FIELDS
    drops = True

    @property
    def settings(self) -> dict[str, Any]:
        """As they were given."""
        return asdict(self.filter)

    def decide(self, facts: Facts, parts: Sequence[Part], verdicts: Verdicts, work: Path) -> Findings:
        """Drops pictures by size and shape, then captions one by one, then samples without captions."""
        shorter, longer = (facts.column(name).astype(float) for name in ("shorter", "longer"))
        aspect = np.divide(longer, shorter, out=np.full(len(facts), np.nan), where=shorter > 0)
        self._drop_pictures(shorter, longer, aspect, verdicts)
        lengths: list[np.ndarray] = []
        start = 0
        for chunk in facts.table.to_batches():
            texts = [several or [] for several in chunk["texts"].to_pylist()]
            chances = [several or [] for several in chunk["sure"].to_pylist()] if self.look.codes else None
            for row, (several, faults) in enumerate(zip(texts, self._faults(texts, chances), strict=True), start):
                self._drop_captions(row, several, faults, verdicts)
            lengths.append(
                np.array([(words_in(text), len(text)) for several in texts for text in several]).reshape(-1, 2)
            )
            start += len(texts)
        words, characters = np.concatenate(lengths).astype(float).T
        found = [
            ("words of a caption", words, self.filter.words),
            ("characters of a caption", characters, self.filter.characters),
        ]
        if self.look.codes:
            sure = facts.table["sure"].combine_chunks().flatten().to_numpy()
            found.append((f"how likely a caption is in {', '.join(self.look.codes)}", sure, f"{self.filter.sure}:"))
        sides = facts.whole & (shorter > 0)
        low, high = limits(self.filter.size, "size")
        found += [("shorter side of a picture, pixels", shorter[sides], _range(low, None))]
        found += [("longer side of a picture, pixels", longer[sides], _range(None, high))] if high else []
        found += [("longer side through shorter side", aspect[sides], self.filter.aspect)]
        drawn = [
            Histogram.of(title, values, low=limits(asked, title)[0], high=limits(asked, title)[1])
            for title, values, asked in found
            if len(values)
        ]
        return Findings(drawn, list(_groups(verdicts)), _told(verdicts))

    def edit(self, facts: Facts, row: int, members: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Takes the captions out that went."""
        texts = facts.table["texts"][row].as_py()
        chances = [facts.table["sure"][row].as_py()] if self.look.codes else None
        kept = [text for text, fault in zip(texts, self._faults([texts], chances)[0], strict=True) if not fault]
        return members if len(kept) in (0, len(texts)) else with_captions(members, kept)

    def _drop_pictures(self, shorter: np.ndarray, longer: np.ndarray, aspect: np.ndarray, verdicts: Verdicts) -> None:
        smallest, largest = limits(self.filter.size, "size")
        least, most = limits(self.filter.aspect, "aspect")
        asked = bool(self.filter.size or self.filter.aspect)
        for reason, values, wrong in (
            ("no picture", shorter, (shorter == 0) & asked),
            ("picture too small", shorter, shorter < (smallest or 0)),
            ("picture too large", longer, longer > (largest or np.inf)),
            ("picture too long and narrow", aspect, aspect > (most or np.inf)),
            ("picture too square", aspect, aspect < (least or 0)),
        ):
            for row in np.flatnonzero(wrong).tolist():
                verdicts.drop(row, reason, float(values[row]))

    def _drop_captions(
        self, row: int, texts: Sequence[str], faults: Sequence[tuple[str, float] | None], verdicts: Verdicts
    ) -> None:
        if not verdicts.judged[row] or verdicts.reason[row]:
            return
        wrong = [(text, *fault) for text, fault in zip(texts, faults, strict=True) if fault]
        if texts and len(wrong) == len(texts):
            verdicts.drop(row, f"no caption left: {wrong[0][1]}", wrong[0][2])
        elif not texts and self.by_caption:
            verdicts.drop(row, "no caption")
        verdicts.captions += [LostCaption(row, *one) for one in wrong]

    @property
    def by_caption(self) -> bool:
        """Whether captions are filtered at all."""
        asked = self.filter
        return bool(self.look.codes or asked.words or asked.characters or asked.texts_match or asked.texts_not)

    def _faults(
        self, texts: Sequence[Sequence[str]], chances: Sequence[Sequence[float]] | None
    ) -> list[list[tuple[str, float] | None]]:
        """What is wrong with each caption of each sample, and by which figure; None where nothing is."""
        flat = [text for several in texts for text in several]
        sure = [chance for several in chances for chance in several] if chances is not None else [1.0] * len(flat)
        match = found_in(flat, self.filter.texts_match) if self.filter.texts_match else [True] * len(flat)
        clash = found_in(flat, self.filter.texts_not) if self.filter.texts_not else [False] * len(flat)
        told = iter([self._fault(*one) for one in zip(flat, sure, match, clash, strict=True)])
        return [[next(told) for _ in several] for several in texts]

    def _fault(self, text: str, sure: float, match: bool, clash: bool) -> tuple[str, float] | None:
        if sure < self.filter.sure:
            return "another language", sure
        for name, value in (("words", words_in(text)), ("characters", len(text))):
            low, high = limits(getattr(self.filter, name), name)
            if value < (low or 0) or value > (high or np.inf):
                return f"too {'few' if value < (low or 0) else 'many'} {name}", float(value)
        if not match or clash:
            return "a pattern that must not be there" if clash else "without the pattern", np.nan
        return None


def _groups(verdicts: Verdicts) -> Iterator[Group]:
    """Some of what went, by reason; and of the captions that were taken out of samples that stay."""
    for reason in verdicts.reasons:
        rows = np.flatnonzero(verdicts.reason == reason)
        rows = rows[np.linspace(0, len(rows) - 1, min(_SHOWN, len(rows))).astype(int)]
        shown = tuple(
            Example(int(row), "" if np.isnan(verdicts.figure[row]) else f"{verdicts.figure[row]:.3g}") for row in rows
        )
        yield Group(reason[0].upper() + reason[1:], "Some of these samples, over all shards.", shown)
    partly = [lost for lost in verdicts.captions if verdicts.stays[lost.row]]
    chosen = [partly[place] for place in np.linspace(0, len(partly) - 1, min(_SHOWN, len(partly))).astype(int)]
    if chosen:
        shown = tuple(Example(lost.row, f"{lost.reason}", captions=(lost.text,)) for lost in chosen)
        yield Group("Captions taken out", "Their samples stay, with their other captions.", shown)


def _told(verdicts: Verdicts) -> list[str]:
    partly = Counter(lost.reason for lost in verdicts.captions if verdicts.stays[lost.row])
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in partly.most_common())
    return [f"Of samples that stay, {partly.total():,} captions were taken out: {reasons}."] if partly else []


def words_in(text: str) -> int:
    """Runs of letters and digits."""
    return len(_WORD.findall(text))


def found_in(texts: Sequence[str], pattern: str) -> list[bool]:
    """Whether an RE2 pattern is found in each text.

    Raises:
        ValueError: it is no pattern that RE2 understands.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        found: list[bool] = pc.match_substring_regex(pa.array(texts, pa.string()), pattern).to_pylist()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{pattern!r} is not a pattern that RE2 understands ({error}).") from None
    return found


def limits(text: str, name: str) -> tuple[float | None, float | None]:
    """`3:60` -> (3.0, 60.0), `3:` -> (3.0, None), nothing -> (None, None).

    Raises:
        ValueError: it is no range.
    """
    if not text:
        return None, None
    found = _RANGE.fullmatch(text.strip())
    if not found or text.strip() == ":":
        raise ValueError(f"--{name} {text} is not a range LOW:HIGH, such as 3:60, 3: or :60.")
    low, high = (float(end) if end else None for end in found.groups())
    if low is not None and high is not None and low > high:
        raise ValueError(f"--{name} {text} leaves nothing: its first number is the larger one.")
    return low, high


def _range(low: float | None, high: float | None) -> str:
    return f"{'' if low is None else low}:{'' if high is None else high}" if (low, high) != (None, None) else ""
