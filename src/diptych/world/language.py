"""What can be said of a scene, and whether it is true.

A caption is first a `Plan`: which objects it names, with which words, in which relations. From the plan come the
English text with the characters of every word that it grounds, translations, a check against any scene, and captions
that are almost right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from diptych.world.generate import Vocabulary
from diptych.world.knobs import Style
from diptych.world.scene import OPPOSITE, Object, Relation, Scene, holds

ATTRIBUTES = ("category", "colour", "texture", "size")
_PREPOSITION = {"left of": "to the left of", "right of": "to the right of"}
_EARLY = ("plain", "shiny")  # textures that stand before the colour: a shiny red ring, a red striped ring
_AN = ("a", "e", "i", "o", "u", "hour", "heir", "honest")
_NOT_AN = ("uni", "use", "eu", "uk", "ufo", "one", "once")  # a unicorn: written with a vowel, not spoken with one


@dataclass(frozen=True)
class Phrase:
    """What is said of the object with index `box`; "" is not said."""

    box: int
    category: str
    colour: str = ""
    texture: str = ""
    size: str = ""
    place: str = ""

    def fits(self, thing: Object) -> bool:
        """Whether every word holds for the object."""
        said = ((self.colour, thing.colour), (self.texture, thing.texture), (self.size, thing.size))
        return (
            self.category == thing.category
            and all(word in ("", real) for word, real in said)
            and self.place in ("", thing.place)
        )

    @property
    def words(self) -> tuple[tuple[str, str], ...]:
        """(attribute, word) in the order of English."""
        texture = ("texture", self.texture)
        early = self.texture in _EARLY
        words = (
            ("size", self.size),
            texture if early else ("texture", ""),
            ("colour", self.colour),
            ("texture", "") if early else texture,
            ("category", self.category),
        )
        return tuple((name, word) for name, word in words if word)

    def __str__(self) -> str:
        return " ".join(word for _, word in self.words)


@dataclass(frozen=True)
class Plan:
    """What a caption says: `links` relate two phrases by their indices in `phrases`."""

    style: Style
    phrases: tuple[Phrase, ...]
    links: tuple[Relation, ...] = ()


class Mention(NamedTuple):
    """Characters [start, end) of a caption that name the object `box`; `role` is phrase or one of `ATTRIBUTES`."""

    start: int
    end: int
    box: int
    role: str


@dataclass(frozen=True)
class Caption:
    """An English caption, where it names what, and the plan behind it."""

    text: str
    mentions: tuple[Mention, ...]
    plan: Plan

    @property
    def spans(self) -> list[tuple[int, int, int]]:
        """(start, end, box index) of every phrase that names an object, without its article."""
        return [(start, end, box) for start, end, box, role in self.mentions if role == "phrase"]


def plan(scene: Scene, style: Style, say: Sequence[str], rng: Random) -> Plan:
    """Decides what a caption says: see `Knobs.caption` and `Knobs.say`. Objects come in any order."""
    everything = ("colour", "texture", "size", "place")
    chosen = list(range(len(scene.objects)) if style == "long" else scene.focus)
    rng.shuffle(chosen)
    attributes = {"short": ("colour",), "long": everything}.get(style, tuple(say))
    phrases = tuple(
        Phrase(i, scene.objects[i].category, **{name: getattr(scene.objects[i], name) for name in attributes})
        for i in chosen
    )
    return Plan(style, phrases, tuple(_links(scene, chosen, rng)) if style == "relations" else ())


def _links(scene: Scene, chosen: Sequence[int], rng: Random) -> Iterator[Relation]:
    """A relation for every second phrase and the next one, where one holds."""
    for i in range(0, len(chosen) - 1, 2):
        a, b = scene.objects[chosen[i]], scene.objects[chosen[i + 1]]
        true = [predicate for predicate in OPPOSITE if holds(predicate, a, b)]
        if true:
            yield Relation(i, rng.choice(true), i + 1)


def true(plan: Plan, scene: Scene) -> bool:
    """Whether the scene has different objects for all phrases, in all the relations."""
    return _assign(plan, scene, [])


def _assign(plan: Plan, scene: Scene, taken: list[int]) -> bool:
    if len(taken) == len(plan.phrases):
        return all(holds(p, scene.objects[taken[a]], scene.objects[taken[b]]) for a, p, b in plan.links)
    phrase = plan.phrases[len(taken)]
    return any(
        _assign(plan, scene, [*taken, i])
        for i, thing in enumerate(scene.objects)
        if i not in taken and phrase.fits(thing)
    )


def article(noun: str) -> str:
    """`a` or `an`, by the sound of the next word."""
    return "an" if noun.lower().startswith(_AN) and not noun.lower().startswith(_NOT_AN) else "a"


class _Writer:
    """Text that grows, and what its characters name."""

    def __init__(self) -> None:
        self.text = ""
        self.mentions: list[Mention] = []

    def add(self, text: str) -> None:
        self.text += text

    def phrase(self, phrase: Phrase) -> None:
        self.add(article(str(phrase)) + " ")
        first = len(self.text)
        self.mentions.append(Mention(first, first + len(str(phrase)), phrase.box, "phrase"))
        for i, (name, word) in enumerate(phrase.words):
            self.add(" " if i else "")
            self.mentions.append(Mention(len(self.text), len(self.text) + len(word), phrase.box, name))
            self.add(word)


def write(plan: Plan) -> Caption:
    """The English caption of a plan."""
    out = _Writer()
    if plan.style == "long":
        for i, phrase in enumerate(plan.phrases):
            out.add(" There is " if i else "There is ")
            out.phrase(phrase)
            out.add(f" {phrase.place}.")
        return Caption(out.text, tuple(out.mentions), plan)
    links = {link.object: link for link in plan.links}
    last = len(plan.phrases) - 1
    for i, phrase in enumerate(plan.phrases):
        if i in links:
            predicate = links[i].predicate
            out.add(f" {_PREPOSITION.get(predicate, predicate)} ")
        elif i:
            out.add(" and " if i == last and not links else ", and " if links else ", ")
        out.phrase(phrase)
    return Caption(out.text, tuple(out.mentions), plan)


def split(plan: Plan) -> list[Plan]:
    """A plan for each thing that is said: one for each phrase that no link needs, and one for each link."""
    linked = {i for link in plan.links for i in (link.subject, link.object)}
    pairs = [
        replace(plan, phrases=(plan.phrases[a], plan.phrases[b]), links=(Relation(0, predicate, 1),))
        for a, predicate, b in plan.links
    ]
    return pairs + [replace(plan, phrases=(p,), links=()) for i, p in enumerate(plan.phrases) if i not in linked]


class Foil(NamedTuple):
    """A caption that is almost right, and what is wrong with it."""

    text: str
    kind: str


def foils(plan: Plan, scene: Scene, words: Vocabulary, rng: Random) -> list[Foil]:
    """Captions that differ from a true one in one thing and are false of the scene, at most one of each kind.

    Kinds: `swap colour` (two phrases exchange their colours), `swap texture`, `swap size`, `swap category`, `colour`
    (one phrase gets another colour), `texture`, `size`, `category`, and `relation` (turned into its opposite).
    """
    found = []
    for kind in [*(f"swap {name}" for name in ATTRIBUTES), *ATTRIBUTES, "relation"]:
        candidates = list(_candidates(plan, kind, words))
        rng.shuffle(candidates)
        wrong = next((candidate for candidate in candidates if not true(candidate, scene)), None)
        if wrong is not None:
            found.append(Foil(write(wrong).text, kind))
    return found


def _candidates(plan: Plan, kind: str, words: Vocabulary) -> Iterator[Plan]:
    """All plans that differ from this one by a change of this kind."""
    if kind == "relation":
        for i, (a, predicate, b) in enumerate(plan.links):
            links = (*plan.links[:i], Relation(a, OPPOSITE[predicate], b), *plan.links[i + 1 :])
            yield replace(plan, links=links)
        return
    name = kind.removeprefix("swap ")
    said = [(i, getattr(phrase, name)) for i, phrase in enumerate(plan.phrases) if getattr(phrase, name)]
    if kind == name:
        for i, old in said:
            yield from (_reworded(plan, name, {i: word}) for word in words.of(name) if word != old)
        return
    for k, (i, a) in enumerate(said):
        yield from (_reworded(plan, name, {i: b, j: a}) for j, b in said[k + 1 :] if a != b)


def _reworded(plan: Plan, name: str, words: dict[int, str]) -> Plan:
    changed = tuple(
        replace(phrase, **{name: words[i]}) if i in words else phrase  # type: ignore[arg-type]
        for i, phrase in enumerate(plan.phrases)
    )
    return replace(plan, phrases=changed)
