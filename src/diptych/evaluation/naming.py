"""Which name does the model hold the likeliest, among all that occur: classification by a model that writes.

LiMBeR (Merullo et al., 2022) is judged so at a small scale: the noun of a caption against all other nouns in its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import numpy as np

from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate
from diptych.evaluation.generation import Ask, how, likeliest, own_prompt, spread
from diptych.evaluation.masked_words import blanks
from diptych.evaluation.measures import Measure, Result
from diptych.text import readable
from diptych.views.nouns import article

VERSION = "names/1"
"""of how candidates are drawn and written"""
NOUN = "category"
CANDIDATES = 64  # names that are compared: the right one, and others that are drawn
MOST = 1000  # names that are asked for, evenly spread over the data


class Place(NamedTuple):
    """A name in a text about the sample of a row, and what stands before and after it."""

    row: int
    before: str
    name: str
    after: str

    def with_name(self, name: str) -> str:
        """The text with another name, after its own article."""
        words = self.before.split(" ")
        if len(words) > 1 and words[-1] == "" and words[-2].lower() in ("a", "an"):
            right = article(name)
            words[-2] = right.capitalize() if words[-2][0] == "A" else right
        return " ".join(words) + name + self.after


def naming(bench: Bench) -> Result:
    """accuracy: the share of names that are likelier than all other names in their place, the text around given.

    The first noun that names an object in each caption (by spans and attributes) is compared with the nouns of all
    other captions; samples without such captions are compared by their class, in the text `a NAME`. accuracy_blind is
    the same with nothing seen. The likelihood is that of the whole text, so that what follows a name counts too.
    Chance is the most frequent name.

    Raises:
        CannotEvaluate: there are no two different names.
    """
    places = spread(bench, list(_places(bench)), MOST)
    counts = Counter(place.name for place in places)
    if len(counts) < 2:
        raise CannotEvaluate(
            "naming needs at least two different names: of objects, by the spans of captions, or of classes; "
            f"{bench.data.name} has {len(counts)}."
        )
    prompt, known = own_prompt(bench.method.prompts, "caption"), sorted(counts)
    candidates = [_candidates(place, at, known) for at, place in enumerate(places)]
    hits, said = {}, {}
    for metric, blind in (("accuracy", False), ("accuracy_blind", True)):
        asks = [
            [Ask(() if blind else (place.row,), prompt, place.with_name(name)) for name in names]
            for place, names in zip(places, candidates, strict=True)
        ]
        said[metric] = [names[best] for names, best in zip(candidates, likeliest(bench, asks), strict=True)]
        hits[metric] = np.array([best == place.name for best, place in zip(said[metric], places, strict=True)], float)
    rows, chance = [place.row for place in places], max(counts.values()) / len(places)
    measures = [Measure(metric, statistics.mean(values, clusters=rows), chance) for metric, values in hits.items()]
    table = {
        "key": [bench.samples[row].key for row in rows],
        "question": [f"{place.before}… {place.after}".strip() for place in places],
        "answer": said["accuracy"],
        "blind": said["accuracy_blind"],
        "truth": [place.name for place in places],
    }
    return Result(measures, {**table, **hits}, f"{how(caption=prompt)} with {VERSION}")


def _places(bench: Bench) -> Iterator[Place]:
    """The first noun of each caption that has one; the class of the others."""
    found: dict[int, Place] = {}
    for blank in blanks(bench):
        if blank.name == NOUN:
            place = Place(blank.row, blank.text[: blank.start], blank.word, blank.text[blank.end :])
            found.setdefault(blank.row, place)
    for row, label in enumerate(bench.labels):
        if row not in found and label >= 0:
            name = readable(bench.classes[label])
            found[row] = Place(row, f"{article(name)} ", name, "")
    yield from (found[row] for row in sorted(found))


def _candidates(place: Place, at: int, known: Sequence[str]) -> list[str]:
    """The names that one is compared with, in the order of `known`, itself among them."""
    if len(known) <= CANDIDATES:
        return list(known)
    others = [name for name in known if name != place.name]
    return sorted([place.name, *Random(f"names/{at}").sample(others, CANDIDATES - 1)])
