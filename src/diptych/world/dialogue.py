"""Dialogues about a scene: what is asked for first, then about one thing by the word for it and by "it"."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from diptych.views.instructions import BANK
from diptych.world.generate import Vocabulary
from diptych.world.language import Plan, article, write
from diptych.world.questions import singled
from diptych.world.scene import Scene

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def dialogue(scene: Scene, words: Vocabulary, everything: Plan, rng: Random) -> list[dict[str, str]]:
    """Four to six questions and answers about a scene, as {role, text}; one in two begins with a full description.

    Args:
        scene: what it is about.
        words: the words of its world.
        everything: what a full description says.
        rng: of the choice of what is asked.
    """
    said: list[tuple[str, str]] = []
    if rng.random() < 0.5:
        said.append((rng.choice(BANK["detail"]), write(everything).text))
    else:
        number = len(scene.objects)
        said.append(("How many things are in the picture?", f"There {_are(number)}."))
    said += _absent(scene, words, rng)
    names = singled(scene)
    for index in rng.sample(sorted(names), min(len(names), 1 + (rng.random() < 0.5))):
        said += _about(scene, index, names[index], rng)
    return [
        {"role": role, "text": text} for turn in said for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def _are(number: int) -> str:
    word = _NUMBERS[number] if number < len(_NUMBERS) else str(number)
    return f"{'is' if number == 1 else 'are'} {word}"


def _absent(scene: Scene, words: Vocabulary, rng: Random) -> Iterator[tuple[str, str]]:
    there = {thing.category for thing in scene.objects}
    absent = [category for category in words.categories if category not in there]
    if absent:
        category = rng.choice(absent)
        yield f"Is there {article(category)} {category}?", "No, there is none."


def _about(scene: Scene, index: int, name: str, rng: Random) -> Iterator[tuple[str, str]]:
    """Whether it is there, then up to two of its colour, size and place; who does not know the first is lost."""
    thing = scene.objects[index]
    yield f"Is there {article(name)} {name}?", f"Yes, there is {article(name)} {name}."
    more = [("Where is it?", f"It is {thing.place}.")]
    if thing.colour and thing.colour not in name.split():
        more.append(("What colour is it?", f"It is {thing.colour}."))
    if thing.size:
        more.append(("Is it small or large?", f"It is {thing.size}."))
    if thing.texture:
        more.append(("What does its surface look like?", f"It is {thing.texture}."))
    yield from rng.sample(more, min(2, len(more)))
