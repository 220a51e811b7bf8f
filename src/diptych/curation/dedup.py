"""Duplicates: pictures that are equal, look alike or, by the features of a model, show the same thing.

Of two duplicates the better one stays: first what is not to be dropped (`--against`, other splits), then what is judged
by rather than trained on (any split but `train`), then the larger picture, the longer captions, the smaller key.
Samples are taken in this order, and one goes if it duplicates one that stays. So no two that stay are duplicates, and
for each that goes there is one that stays and is like it directly, not over a chain of others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from diptych.curation.embed import Embedder
from diptych.curation.verdicts import NO_FIELDS, NOBODY, Example, Findings, Group, Histogram, Verdicts
from diptych.data.decode import BrokenSample
from diptych.data.duplicates import DISTANCE, alike_pairs, count_bits, fingerprint, first_copies
from diptych.data.fields import decode_sample

if TYPE_CHECKING:
    from diptych.curation.blocks import Part
    from diptych.curation.measure import Facts

COPY, ALIKE, SAME = "exact copy", "looks like another", "shows the same as another"
_NEARLY = 0.03  # of cosine below the threshold: pairs that are shown as just not duplicates
_SHOWN = 12


@dataclass(frozen=True)
class Dedup:
    """What counts as a duplicate."""

    by: Literal["perceptual", "embedding", "both"] = "perceptual"
    """perceptual: pictures that look alike, by hash and thumbnail; embedding: pictures whose features by --run have a
    cosine above --threshold; both: either"""
    distance: int = DISTANCE
    """bits of 64 in which perceptual hashes of duplicates may differ, 0 to 4"""
    threshold: float = 0.95
    """cosine from which features of two pictures are duplicates"""
    leaks_only: bool = False
    """drop only duplicates of samples in other splits or in --against"""


class Pairs(NamedTuple):
    """M pairs of rows that are duplicates, by what, and how far."""

    rows: np.ndarray
    """(M, 2) int64"""
    kind: np.ndarray
    """(M,) of `ALIKE` or `SAME`"""
    figure: np.ndarray
    """(M,) bits that differ, or cosine"""


@dataclass(frozen=True)
class Prints:
    """Fingerprints, size, and length of the captions of a sample; with a model also the features of the picture."""

    embedder: Embedder | None = None
    fields = ("image", "texts")

    @property
    def identity(self) -> str:
        """The model, where there is one."""
        return f"prints 1 {self.embedder.identity if self.embedder else ''}"

    @property
    def columns(self) -> dict[str, str]:
        """Column -> type."""
        own = {"exact": "uint64", "perceptual": "uint64", "thumbnail": "binary", "pixels": "int64", "letters": "int64"}
        return own | ({"feature": "binary"} if self.embedder else {})

    def see(self, key: str, members: Mapping[str, bytes]) -> tuple[dict[str, Any], Any]:
        """The fingerprints of a sample, and the view that the model wants of it."""
        image = decode_sample(key, members, ("image",)).image
        try:
            letters = sum(map(len, decode_sample(key, members, ("texts",)).texts))
        except BrokenSample:  # pictures without captions may be compared as well
            letters = 0
        exact, perceptual, thumbnail = fingerprint(image)
        row = {"exact": exact, "perceptual": perceptual, "thumbnail": thumbnail.tobytes()}
        row |= {"pixels": image.width * image.height, "letters": letters}
        return row, self.embedder.view(key, image) if self.embedder else None

    def tell(self, seen: Sequence[tuple[dict[str, Any], Any]]) -> list[dict[str, Any]]:
        """The columns of some samples."""
        rows = [row for row, _ in seen]
        if not self.embedder or not rows:
            return rows
        pooled = self.embedder.images([view for _, view in seen]).pooled.cpu().numpy()
        return [row | {"feature": np.float32(vector).tobytes()} for row, vector in zip(rows, pooled, strict=True)]


@dataclass(frozen=True)
class DedupTask:
    """Drops duplicates."""

    dedup: Dedup
    look: Prints
    name = "dedup"
    adds = NO_FIELDS
    drops = True

    @property
    def settings(self) -> dict[str, Any]:
        """As they were given."""
        return asdict(self.dedup)

    def decide(self, facts: Facts, parts: Sequence[Part], verdicts: Verdicts, work: Path) -> Findings:
        """Drops all but the best of what is alike."""
        order = ranked(facts, parts)
        representative = np.arange(len(facts))
        representative[order] = order[first_copies(facts.column("exact")[order])]
        pairs = self._pairs(facts, np.unique(representative[order]), work)
        chosen = pairs.rows[(pairs.kind == ALIKE) | (pairs.figure >= self.dedup.threshold)]
        sides = np.array([part.split if part.written else "" for part in parts], dtype=object)[facts.part]

        def allowed(stays: int, goes: int) -> bool:
            return bool(verdicts.judged[goes]) and (not self.dedup.leaks_only or sides[stays] != sides[goes])

        why = {(a, b): place for place, (a, b) in enumerate(map(tuple, np.sort(pairs.rows, axis=1).tolist()))}
        for goes, (stays, like) in fates(order, representative, chosen, allowed).items():
            place = why.get((min(stays, like), max(stays, like)))
            kind, figure = (COPY, 0.0) if place is None else (str(pairs.kind[place]), float(pairs.figure[place]))
            beyond = "" if sides[stays] == sides[goes] else f", which is in {sides[stays] or 'the set compared with'}"
            verdicts.drop(goes, kind + beyond, figure, stays)
        return self._findings(pairs, verdicts)

    def edit(self, facts: Facts, row: int, members: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Nothing changes."""
        return members

    def _pairs(self, facts: Facts, chosen: np.ndarray, work: Path) -> Pairs:
        """Pairs among the rows `chosen`; by features also those a little below the threshold."""
        found = []
        if self.dedup.by != "embedding":
            whole = np.flatnonzero(facts.whole)
            thumbnails = facts.matrix("thumbnail", whole, (16, 16, 3), "uint8", work / "thumbnails.npy")
            hashes = facts.column("perceptual")
            near = alike_pairs(np.searchsorted(whole, chosen), hashes[whole], thumbnails, self.dedup.distance)
            rows = whole[near]
            bits = count_bits(hashes[rows[:, 0]] ^ hashes[rows[:, 1]])
            found.append(Pairs(rows, np.full(len(rows), ALIKE, dtype=object), bits.astype(float)))
        if self.dedup.by != "perceptual":
            width = len(facts.table["feature"].drop_null()[0].as_py()) // 4 if len(chosen) else 1
            features = facts.matrix("feature", chosen, (width,), "float32", work / "features.npy")
            near, cosine = near_by_features(features, self.dedup.threshold - _NEARLY)
            found.append(Pairs(chosen[near], np.full(len(near), SAME, dtype=object), cosine))
        return Pairs(*(np.concatenate(column) for column in zip(*found, strict=True)))

    def _findings(self, pairs: Pairs, verdicts: Verdicts) -> Findings:
        found = Findings()
        alike, same = pairs.kind == ALIKE, pairs.kind == SAME
        if alike.any():
            found.histograms.append(
                Histogram.of("bits of 64 that differ, of pairs that look alike", pairs.figure[alike])
            )
        if same.any():
            about = "only pairs a little below the threshold and above are shown"
            cosine = pairs.figure[same]
            found.histograms.append(
                Histogram.of("cosine of features, of pairs", cosine, high=self.dedup.threshold, about=about)
            )
        gone = np.flatnonzero(~verdicts.stays & (verdicts.partner != NOBODY))
        kinds = np.array([str(reason).split(",")[0] for reason in verdicts.reason[gone]], dtype=object)
        for kind, title, about, said, sign in _KINDS:
            rows = gone[kinds == kind] if len(gone) else gone
            rows = rows[np.argsort(sign * verdicts.figure[rows], kind="stable")][:_SHOWN]
            shown = [
                Example(int(row), said.format(verdicts.figure[row]), int(verdicts.partner[row]))
                for row in rows.tolist()
            ]
            found.groups += [Group(title, about, tuple(shown))] if shown else []
        below = np.flatnonzero(same & (pairs.figure < self.dedup.threshold) & verdicts.stays[pairs.rows].all(axis=1))
        below = below[np.argsort(-pairs.figure[below], kind="stable")][:_SHOWN]
        if len(below):
            shown = [
                Example(int(b), f"cosine {pairs.figure[place]:.3f}", int(a))
                for place, (a, b) in zip(below, pairs.rows[below].tolist(), strict=True)
            ]
            found.groups.append(Group("Just not duplicates", "The closest pairs of which both stay.", tuple(shown)))
        return found


_KINDS = (
    (
        ALIKE,
        "Look alike",
        "The most different of those that were taken for duplicates.",
        "{:.0f} of 64 bits differ",
        -1,
    ),
    (SAME, "Show the same", "The most different of those that were taken for duplicates.", "cosine {:.3f}", 1),
    (COPY, "Exact copies", "Equal pixel by pixel.", "equal", 1),
)


def ranked(facts: Facts, parts: Sequence[Part]) -> np.ndarray:
    """The rows of whole samples, the one to keep first: see the module's docstring."""
    import pyarrow.compute as pc

    by_key = np.empty(len(facts), dtype=np.int64)
    by_key[np.asarray(pc.sort_indices(facts.table["key"]))] = np.arange(len(facts))
    judged = np.array([part.judged for part in parts])[facts.part]
    train = np.array([part.split == "train" for part in parts])[facts.part]
    order = np.lexsort((by_key, -facts.column("letters"), -facts.column("pixels"), train, judged))
    return order[facts.whole[order]]


def fates(order: np.ndarray, representative: np.ndarray, pairs: np.ndarray, allowed: Any) -> dict[int, tuple[int, int]]:
    """Which rows go: row -> (row that stays, row by which the two are alike: itself, or what it is a copy of).

    Args:
        order: rows, the one to keep first.
        representative: (N,) for each row the first in `order` that is its exact copy, or itself.
        pairs: (M, 2) of representatives that are alike.
        allowed: (stays, goes) -> whether the second may go because of the first.
    """
    place = {row: rank for rank, row in enumerate(order.tolist())}
    better = defaultdict(list)
    for a, b in pairs.tolist():
        first, second = sorted((a, b), key=place.__getitem__)
        better[second].append(first)
    gone: dict[int, tuple[int, int]] = {}
    for row in order.tolist():
        first = int(representative[row])
        if first != row and first not in gone and allowed(first, row):
            gone[row] = first, row
        elif first != row and first in gone and allowed(gone[first][0], row):
            gone[row] = gone[first]
        else:
            alike = [one for one in sorted(better[row], key=place.__getitem__) if one not in gone and allowed(one, row)]
            gone |= {row: (alike[0], row)} if alike else {}
    return gone


def near_by_features(features: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of rows of (N, D) whose cosine is at least `threshold`: (M, 2) int64, i < j, sorted; and (M,)."""
    import torch

    from diptych.neighbours import pairs_above

    found = [(np.zeros((0, 2), dtype=np.int64), np.zeros(0)), *pairs_above(torch.from_numpy(features), None, threshold)]
    pairs, cosines = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], cosines[order]
