"""Referring expressions: what to say for one object of a scene to be meant, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from random import Random

from diptych.world.language import Phrase
from diptych.world.questions import singled
from diptych.world.scene import OPPOSITE, Scene, holds

_ATTRIBUTES = ("colour", "texture", "size")


def expressions(scene: Scene, rng: Random) -> list[tuple[str, int]]:
    """(text, object) for each object that can be singled out.

    The category alone where no other object has it. Where others do: the category with the fewest attributes that
    single it out, and besides, where they do so as well, the category with a relation to another object and with a
    place. Of several that say as little one is drawn.
    """
    found = []
    for i in range(len(scene.objects)):
        for texts in (_by_attributes(scene, i), _by_relation(scene, i), _by_place(scene, i)):
            fitting = list(texts)
            if fitting:
                found.append((f"the {rng.choice(fitting)}", i))
    return found


def _rivals(scene: Scene, index: int) -> list[int]:
    """The other objects of the same category."""
    category = scene.objects[index].category
    return [i for i, other in enumerate(scene.objects) if i != index and other.category == category]


def _by_attributes(scene: Scene, index: int) -> list[str]:
    """The category with as few attributes as single the object out; all choices of so many that do."""
    thing = scene.objects[index]
    words = {name: getattr(thing, name) for name in _ATTRIBUTES if getattr(thing, name)}
    rivals = [scene.objects[i] for i in _rivals(scene, index)]
    for count in range(len(words) + 1):
        said = [Phrase(index, thing.category, **{n: words[n] for n in names}) for names in combinations(words, count)]
        fitting = [str(phrase) for phrase in said if not any(phrase.fits(other) for other in rivals)]
        if fitting:
            return fitting
    return []


def _by_relation(scene: Scene, index: int) -> Iterator[str]:
    """`star left of the house`, where every other star is clearly on the other side of the house."""
    rivals, names = _rivals(scene, index), singled(scene)
    for i, predicate, j in scene.relations if rivals else ():
        others = [scene.objects[k] for k in rivals if k != j]
        if i == index and j in names and all(holds(OPPOSITE[predicate], other, scene.objects[j]) for other in others):
            yield f"{scene.objects[i].category} {predicate} the {names[j]}"


def _by_place(scene: Scene, index: int) -> Iterator[str]:
    thing, rivals = scene.objects[index], _rivals(scene, index)
    if rivals and all(scene.objects[i].place != thing.place for i in rivals):
        yield f"{thing.category} {thing.place}"
