"""Statements about two pictures, true or false, like those of NLVR2 (Suhr et al., 2019).

Samples come in groups of two with the same statement, once true and once false, so that the text alone decides nothing.
The two differ as little as they can: one object of one picture has another colour or category, or the two pictures
change sides. What one picture alone tells is little: see `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from random import Random
from typing import Any, ClassVar, NamedTuple

from diptych.batch import Sample
from diptych.views.nouns import plural
from diptych.world.fields import FIELDS, Draft
from diptych.world.generate import scene, stream
from diptych.world.language import Phrase
from diptych.world.made import Made
from diptych.world.scene import SHAPES, Scene

SIDE_FIELDS = {
    name: make
    for name, make in FIELDS.items()
    if name.startswith("region") or name in ("image", "boxes", "phrases", "masks", "attributes", "tags")
}
SIDES = ("left", "right")
_MOST = 3  # objects that are counted
_TRIES = 200


class Wanted(NamedTuple):
    """What is counted on each side: objects of this category and colour; "" is any."""

    category: str
    colour: str

    def count(self, scene: Scene) -> int:
        """How many objects of a scene are such."""
        return sum(self.fits(thing.category, thing.colour) for thing in scene.objects)

    def fits(self, category: str, colour: str) -> bool:
        """Whether an object of this category and colour is such."""
        return self.category in ("", category) and self.colour in ("", colour)

    def named(self, number: int) -> str:
        """`a red circle`, `a red object`, `two red objects`, `stars` (with a number of 0)."""
        if number == 1:
            article, text, _ = Phrase(0, self.category or "object", self.colour).english
            return f"{article} {text}"
        words = [_NUMBERS[number], self.colour, plural(self.category) if self.category else "objects"]
        return " ".join(filter(None, words))


_NUMBERS = ("", "one", "two", "three")


class Pair(NamedTuple):
    """Two scenes and a statement of one of `KINDS` that is true or false of them."""

    sides: tuple[Scene, Scene]
    text: str
    true: bool
    kind: str


class Counts(NamedTuple):
    """A statement, and how many of what is wanted each side has where it is true, and where it is false."""

    text: str
    true: tuple[int, int]
    false: tuple[int, int]


def _both(wanted: Wanted, most: int, rng: Random) -> Counts:
    number, other = _enough(wanted, most, rng)
    return Counts(_contain("both pictures", wanted, number), (number, number), _flip((number, number), other, rng))


def _one(wanted: Wanted, most: int, rng: Random) -> Counts:
    number, other = _enough(wanted, most, rng)
    true = (number, other) if rng.random() < 0.5 else (other, number)
    same = rng.choice((number, other))
    return Counts(_contain("exactly one picture", wanted, number), true, (same, same))


def _equal(wanted: Wanted, most: int, rng: Random) -> Counts:
    number = rng.randint(0, most)
    other = rng.choice([near for near in (number - 1, number + 1) if 0 <= near <= most])
    text = f"both pictures show the same number of {wanted.named(0)}"
    return Counts(text, (number, number), _flip((number, number), other, rng))


def _more(wanted: Wanted, most: int, rng: Random) -> Counts:
    low, high = sorted(rng.sample(range(most + 1), 2))
    side = rng.randrange(2)
    text = f"there are more {wanted.named(0)} in the {SIDES[side]} picture than in the {SIDES[1 - side]} one"
    true = (low, high) if side else (high, low)
    return Counts(text, true, (true[1], true[0]))


def _colour(wanted: Wanted, most: int, rng: Random) -> Counts:
    return Counts(f"the {wanted.category} has the same colour in both pictures", (1, 1), _flip((1, 1), 0, rng))


def _enough(wanted: Wanted, most: int, rng: Random) -> tuple[int, int]:
    """How many there are where a side fits, and where it does not."""
    if wanted.category:
        return 1, 0
    number = rng.randint(1, most)
    return number, rng.choice([near for near in (number - 1, number + 1) if near <= most] if number > 1 else [0])


def _contain(who: str, wanted: Wanted, number: int) -> str:
    verb = "contain" if who.endswith("s") else "contains"
    return f"{who} {verb} {'exactly ' if number > 1 else ''}{wanted.named(number)}"


def _flip(counts: tuple[int, int], other: int, rng: Random) -> tuple[int, int]:
    """The counts with another one on one side."""
    return (other, counts[1]) if rng.random() < 0.5 else (counts[0], other)


KINDS: Mapping[str, Callable[[Wanted, int, Random], Counts]] = {
    "both": _both,
    "one": _one,
    "equal": _equal,
    "more": _more,
    "colour": _colour,
}
"""How statements of each kind are made. What one side alone tells at best, where 1/2 is chance: nearly nothing of
`one`, `colour` and `equal` (0.51 to 0.55), 3/4 of `both` (a side that lacks it is enough to say no), 0.83 of `more` (a
side with three of them has more than most others); 0.64 of all."""


class _PairDraft:
    def __init__(self, world: Pairs, index: int) -> None:
        self.world, self.index, self.pair = world, index, world.item(index)


class _Side(Sample):
    """One of the two pictures; its fields are made when they are first asked for."""

    def __init__(self, key: str, draft: Draft) -> None:
        super().__init__(key, dict.fromkeys(SIDE_FIELDS))
        self._draft = draft

    def __contains__(self, name: object) -> bool:
        return name in self._values  # without making it

    def __getitem__(self, name: str) -> Any:
        if self._values.get(name, 0) is None:
            self._values[name] = SIDE_FIELDS[name](self._draft)
        return super().__getitem__(name)


def _sides(draft: _PairDraft) -> list[Sample]:
    key = draft.world.key(draft.index)
    return [
        _Side(f"{key}-{name}", Draft(draft.world, draft.index, side, name))
        for name, side in zip(SIDES, draft.pair.sides, strict=True)
    ]


def _scene(draft: _PairDraft) -> dict[str, Any]:
    """Both scenes and the kind of the statement, as JSON holds them."""
    world = draft.world
    about = {"seed": world.seed, "split": world.split, "index": draft.index, "kind": draft.pair.kind}
    return about | {"sides": [side.to_dict() for side in draft.pair.sides]}


_FIELDS: Mapping[str, Callable[[_PairDraft], Any]] = {
    "sides": _sides,
    "text": lambda draft: draft.pair.text,
    "category": lambda draft: str(draft.pair.true),
    "label": lambda draft: int(draft.pair.true),
    "group": lambda draft: draft.world.key(draft.world.base(draft.index)),
    "scene": _scene,
}


class Pairs(Made[Pair]):
    """A data set of statements about two pictures: `sides`, `text`, `category` "True" or "False", `group`.

    Each of the two `sides` is a sample of its own whose fields (image, boxes, regions, ...) are made when they are
    asked for, so that who reads regions alone draws nothing. Arguments and errors are those of `Made`.
    """

    fields: ClassVar = _FIELDS

    @property
    def group_size(self) -> int:
        """Two: the same statement, once true and once false."""
        return 2

    @property
    def classes(self) -> tuple[str, ...]:
        """False and true."""
        return "False", "True"

    def members(self, base: int) -> list[Pair]:
        """The true and the false use of one statement, in any order."""
        rng = stream("pair", self.seed, self.split, base)
        sides = [scene(self.seed, base + i, self.knobs, self.split, self.words) for i in range(2)]
        for _ in range(_TRIES):
            found = self._stated(sides, rng)
            if found:
                rng.shuffle(found)
                return found
        raise ValueError("no statement about two such pictures could be made: raise objects, shapes or colours.")

    def _stated(self, sides: list[Scene], rng: Random) -> list[Pair]:
        """A statement that is true of a change of these sides and false of another, or nothing where that failed."""
        kind = rng.choice(list(KINDS))
        possible = list(self._wanted(kind))
        if not possible:
            return []
        wanted = rng.choice(possible)(rng)
        counts = KINDS[kind](wanted, min(_MOST, self.knobs.objects[0]), rng)
        true, false = [], []
        for side, *numbers in zip(sides, counts.true, counts.false if kind != "more" else counts.true, strict=True):
            most = self._with(side, wanted, max(numbers), kind, rng)
            least = most and self._with(most, wanted, min(numbers), kind, rng)
            true.append(most if numbers[0] > numbers[1] else least)
            false.append(most if numbers[1] > numbers[0] else least)
        false = true[::-1] if kind == "more" else false
        pairs = [(first, second) for first, second in (true, false) if first and second]
        if len(pairs) < 2:
            return []
        return [Pair(pair, counts.text, answer, kind) for pair, answer in zip(pairs, (True, False), strict=True)]

    def _wanted(self, kind: str) -> Iterator[Callable[[Random], Wanted]]:
        """The ways to choose what is counted by a statement of this kind."""
        words, new = self.words, self.split == "composition"
        pairs = sorted(words.held_out) if new else [pair for own in words.known.values() for pair in own]
        if kind in ("both", "one", "colour") and (words.colours or kind != "colour"):
            yield lambda rng: Wanted(*rng.choice(pairs))
        if kind != "colour" and not new and words.colours:
            yield lambda rng: Wanted("", rng.choice(words.colours))
        if kind in ("equal", "more") and not new and self.knobs.repeats and set(words.categories) <= set(SHAPES):
            yield lambda rng: Wanted(rng.choice(words.categories), "")

    def _with(self, made: Scene, wanted: Wanted, number: int, kind: str, rng: Random) -> Scene | None:
        """The scene with just so many objects of what is wanted, other objects changed as little as that takes.

        For `colour` what goes keeps its category, of which there is one object only.
        """
        while (there := wanted.count(made)) != number:
            changes = []
            for i, thing in enumerate(made.objects):
                fits = wanted.fits(thing.category, thing.colour)
                if not fits and there < number:
                    changes.append((i, (wanted.category or thing.category, wanted.colour or thing.colour)))
                if fits and there > number:
                    other = [(thing.category, colour) for colour in self.words.colours]
                    other += [(category, thing.colour) for category in self.words.categories if kind != "colour"]
                    changes += [(i, pair) for pair in other if not wanted.fits(*pair)]
            rng.shuffle(changes)
            fresh = next(filter(None, (self._put(made, i, pair, wanted) for i, pair in changes)), None)
            if fresh is None:
                return None
            made = fresh
        twins = sum(thing.category == wanted.category for thing in made.objects)
        return made if kind != "colour" or twins == 1 else None

    def _put(self, made: Scene, index: int, pair: tuple[str, str], wanted: Wanted) -> Scene | None:
        """The scene with an object of another category and colour; None where the rules of the world forbid it."""
        others = [thing for i, thing in enumerate(made.objects) if i != index]
        twice = any(pair == (other.category, other.colour) for other in others)
        alike = not self.knobs.repeats and any(pair[0] == other.category for other in others)
        if twice or alike or (pair in self.words.held_out and pair != wanted):
            return None
        fresh = replace(made.objects[index], category=pair[0], colour=pair[1])
        return replace(made, objects=(*made.objects[:index], fresh, *made.objects[index + 1 :]))

    def draft(self, index: int) -> _PairDraft:
        """What the fields of a sample are computed from."""
        return _PairDraft(self, index)
