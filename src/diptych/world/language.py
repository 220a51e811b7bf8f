"""What can be said of a scene, and whether it is true.

A caption is first a `Plan`: which objects it names, with which words, in which relations. From the plan come the
English text with the characters of every word that it grounds, translations, a check against any scene, and captions
that are almost right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import NamedTuple

from diptych.views.nouns import article
from diptych.world.generate import Vocabulary
from diptych.world.knobs import Style
from diptych.world.scene import OPPOSITE, Object, Relation, Scene, holds

ATTRIBUTES = ("category", "colour", "texture", "size")
_PREPOSITION = {"left of": "to the left of", "right of": "to the right of"}
OPENERS = (
    "in this picture one can clearly see ",
    "whoever made this drawing has put into it ",
    "if you look at it for a while you will find ",
    "the first thing that most people notice here is ",
    "what we have before us today is nothing but ",
    "somebody took the time to show us ",
    "on the whole there is not much here but ",
    "let me tell you what is there : it is ",
)
JOINTS = (
    " , and not very far away from that there is also ",
    " , while in another part of it we come upon ",
    " together with something else , which is ",
    " , and as if that were not enough , ",
    " next to which , or nearly so , stands ",
    " . apart from that it has room for ",
)
ENDINGS = (
    " , and that is all there is to say about it .",
    " , as anybody can see at the first glance .",
    " , and the rest of it is hardly worth a word .",
    " , and we may leave it at that for now .",
    " , with some other things that nobody has named .",
    " . what else it holds is for you to find out .",
)
FORMS = len(OPENERS) * len(JOINTS) * len(ENDINGS)
_EARLY = ("plain", "shiny")  # textures that stand before the colour: a shiny red ring, a red striped ring


class Phrase(NamedTuple):
    """What is said of the object with index `box`; "" is not said."""

    box: int
    category: str
    colour: str = ""
    texture: str = ""
    size: str = ""
    place: str = ""

    def fits(self, thing: Object) -> bool:
        """Whether every word holds for the object."""
        return (
            self.category == thing.category
            and self.colour in ("", thing.colour)
            and self.texture in ("", thing.texture)
            and self.size in ("", thing.size)
            and self.place in ("", thing.place)
        )

    @property
    def english(self) -> English:
        """What it says in English."""
        return _english(self.category, self.colour, self.texture, self.size)

    def __str__(self) -> str:
        return self.english.text


class English(NamedTuple):
    """A noun phrase: its article, `text` without it, and the (attribute, word) pairs that make up the text."""

    article: str
    text: str
    words: tuple[tuple[str, str], ...]


@lru_cache(maxsize=4096)  # a world has a few thousand, which its captions say over and over
def _english(category: str, colour: str, texture: str, size: str) -> English:
    early, late = (texture, "") if texture in _EARLY else ("", texture)
    order = (("size", size), ("texture", early), ("colour", colour), ("texture", late), ("category", category))
    words = tuple((name, word) for name, word in order if word)
    text = " ".join(word for _, word in words)
    return English(article(text), text, words)


@dataclass(frozen=True)
class Plan:
    """What a caption says: `links` relate two phrases by their indices in `phrases`."""

    style: Style
    phrases: tuple[Phrase, ...]
    links: tuple[Relation, ...] = ()
    form: int = 0
    """in the style `varied`, which of `FORMS` phrasings"""


class Mention(NamedTuple):
    """Characters [start, end) of a caption that name the object `box`; `role` is phrase or one of `ATTRIBUTES`."""

    start: int
    end: int
    box: int
    role: str


@dataclass(frozen=True)
class Caption:
    """An English caption, the plan behind it, and the characters at which its phrases start, without their articles."""

    text: str
    plan: Plan
    starts: tuple[int, ...]

    @property
    def mentions(self) -> list[Mention]:
        """Where it names what: every phrase, each followed by its words."""
        found = []
        for start, phrase in zip(self.starts, self.plan.phrases, strict=True):
            found.append(Mention(start, start + len(str(phrase)), phrase.box, "phrase"))
            for name, word in phrase.english.words:
                found.append(Mention(start, start + len(word), phrase.box, name))
                start += len(word) + 1
        return found

    @property
    def spans(self) -> list[tuple[int, int, int]]:
        """(start, end, box index) of every phrase that names an object, without its article."""
        return [(start, end, box) for start, end, box, role in self.mentions if role == "phrase"]


def plan(scene: Scene, style: Style, say: Sequence[str], rng: Random) -> Plan:
    """Decides what a caption says: see `Knobs.caption` and `Knobs.say`. Objects come in any order."""
    chosen = list(range(len(scene.objects)) if style == "long" else scene.focus)
    rng.shuffle(chosen)
    attributes = spoken(style, say)
    things = [(i, scene.objects[i]) for i in chosen]
    phrases = [Phrase(i, thing.category, **{name: getattr(thing, name) for name in attributes}) for i, thing in things]
    links = tuple(_links(scene, chosen, rng)) if style == "relations" else ()
    return Plan(style, tuple(phrases), links, rng.randrange(FORMS) if style == "varied" else 0)


def spoken(style: Style, say: Sequence[str]) -> Sequence[str]:
    """The attributes beside the category that captions in a style state."""
    return {"short": ("colour",), "long": ("colour", "texture", "size", "place")}.get(style, tuple(say))


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


def write(plan: Plan) -> Caption:
    """The English caption of a plan."""
    predicates = {link.object: link.predicate for link in plan.links}
    text, starts = "", []
    for i, phrase in enumerate(plan.phrases):
        article, words, _ = phrase.english
        text += f"{_joint(plan, i, predicates)}{article} "
        starts.append(len(text))
        text += f"{words} {phrase.place}." if plan.style == "long" else words
    text += _form(plan)[2] if plan.style == "varied" else ""
    return Caption(text, plan, tuple(starts))


def _joint(plan: Plan, i: int, predicates: Mapping[int, str]) -> str:
    """What stands between phrase i and the one before it, or before the first."""
    if plan.style == "long":
        return " There is " if i else "There is "
    if plan.style == "varied":
        return _form(plan)[i > 0]
    if i in predicates:
        return f" {_PREPOSITION.get(predicates[i], predicates[i])} "
    if not i:
        return ""
    return ", and " if predicates else " and " if i == len(plan.phrases) - 1 else ", "


def _form(plan: Plan) -> tuple[str, str, str]:
    """What opens a varied caption, what stands between two phrases, and how it ends."""
    rest, opener = divmod(plan.form, len(OPENERS))
    ending, joint = divmod(rest, len(JOINTS))
    return OPENERS[opener], JOINTS[joint], ENDINGS[ending]


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
        phrase._replace(**{name: words[i]}) if i in words else phrase  # type: ignore[arg-type]
        for i, phrase in enumerate(plan.phrases)
    )
    return replace(plan, phrases=changed)
