"""Questions about a scene with their answers, in English: exist, count, colour, relation, compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import permutations
from random import Random
from typing import Any

from diptych.world.generate import Vocabulary
from diptych.world.language import Phrase, article
from diptych.world.scene import OPPOSITE, SHAPES, Scene

Question = tuple[str, str]
_IRREGULAR = {"fish": "fish"}
_THAN = {"small": "smaller", "large": "larger"}


def plural(noun: str) -> str:
    """The plural of a shape's name."""
    return _IRREGULAR.get(noun) or noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def questions(scene: Scene, words: Vocabulary, rng: Random) -> list[dict[str, Any]]:
    """One question of each type that the scene allows, as {question, answers, type}.

    Yes and no are equally likely where the scene allows both. An object is called by its category, with its colour if
    others share the category: nothing else is needed to single it out.
    """
    found: list[dict[str, Any]] = []
    for kind, ask in _ASK.items():
        asked = ask(scene, words, rng)
        if asked is not None:
            found.append({"question": asked[0], "answers": [asked[1]], "type": kind})
    return found


def name(scene: Scene, index: int) -> str:
    """The shortest name that only this object of the scene has: `star`, or `red star` among stars."""
    thing = scene.objects[index]
    alone = sum(other.category == thing.category for other in scene.objects) == 1
    return thing.category if alone or not thing.colour else f"{thing.colour} {thing.category}"


def _singled(scene: Scene) -> list[int]:
    """The objects that `name` singles out: all but cut-outs without a colour that occur twice."""
    names = Counter(name(scene, i) for i in range(len(scene.objects)))
    return [i for i in range(len(scene.objects)) if names[name(scene, i)] == 1]


def _exist(scene: Scene, words: Vocabulary, rng: Random) -> Question | None:
    thing = rng.choice(scene.objects)
    true = Phrase(0, thing.category, colour=thing.colour)
    changes = [
        Phrase(0, category, colour)
        for category, colour in (
            *((thing.category, colour) for colour in words.colours),
            *((category, thing.colour) for category in words.categories),
        )
    ]
    false = [phrase for phrase in changes if not any(phrase.fits(other) for other in scene.objects)]
    yes = rng.random() < 0.5 or not false
    phrase = true if yes else rng.choice(false)
    return f"Is there {article(str(phrase))} {phrase}?", "yes" if yes else "no"


def _count(scene: Scene, words: Vocabulary, rng: Random) -> Question | None:
    colours = [thing.colour for thing in scene.objects if thing.colour]
    kinds = [thing.category for thing in scene.objects if thing.category in SHAPES]
    asked = [("How many objects are there?", len(scene.objects))]
    if colours:
        colour = rng.choice([rng.choice(colours), rng.choice(words.colours)])
        asked.append((f"How many {colour} objects are there?", colours.count(colour)))
    if kinds:
        kind = rng.choice(kinds)
        asked.append((f"How many {plural(kind)} are there?", kinds.count(kind)))
    text, number = rng.choice(asked)
    return text, str(number)


def _colour(scene: Scene, words: Vocabulary, rng: Random) -> Question | None:
    kinds = Counter(thing.category for thing in scene.objects)
    things = [thing for thing in scene.objects if kinds[thing.category] == 1 and thing.colour]
    if not things:
        return None
    thing = rng.choice(things)
    return f"What colour is the {thing.category}?", thing.colour


def _relation(scene: Scene, words: Vocabulary, rng: Random) -> Question | None:
    singled = _singled(scene)
    true = [relation for relation in scene.relations if relation.subject in singled and relation.object in singled]
    if not true:
        return None
    a, predicate, b = rng.choice(true)
    yes = rng.random() < 0.5
    asked = predicate if yes else OPPOSITE[predicate]
    return f"Is the {name(scene, a)} {asked} the {name(scene, b)}?", "yes" if yes else "no"


def _compare(scene: Scene, words: Vocabulary, rng: Random) -> Question | None:
    asked: list[Question] = []
    for a, b in permutations(_singled(scene), 2):
        one, other, names = scene.objects[a], scene.objects[b], (name(scene, a), name(scene, b))
        if one.size != other.size:
            size = rng.choice(list(_THAN))
            question = f"Is the {names[0]} {_THAN[size]} than the {names[1]}?"
            asked.append((question, "yes" if size == one.size else "no"))
        if one.colour and other.colour:
            question = f"Do the {names[0]} and the {names[1]} have the same colour?"
            asked.append((question, "yes" if one.colour == other.colour else "no"))
    wanted = rng.choice(("yes", "no"))
    fitting = [question for question in asked if question[1] == wanted] or asked
    return rng.choice(fitting) if fitting else None


_ASK: dict[str, Callable[[Scene, Vocabulary, Random], Question | None]] = {
    "exist": _exist,
    "count": _count,
    "colour": _colour,
    "relation": _relation,
    "compare": _compare,
}
