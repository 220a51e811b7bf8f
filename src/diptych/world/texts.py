"""The world as a corpus of texts: what is said of scenes that nobody draws, in the words of pictures' captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import ClassVar

from diptych.world.data import World
from diptych.world.fields import FIELDS, Draft
from diptych.world.generate import scene
from diptych.world.knobs import STYLES
from diptych.world.language import write
from diptych.world.scene import Scene


def _caption(draft: Draft, rng: Random) -> str:
    """In any style."""
    return write(draft.plan(rng.choice(STYLES))).text


def _asked(draft: Draft, rng: Random) -> str:
    """Questions, each with its answer: `Is there a red star? yes`."""
    asked = FIELDS["questions"](draft)
    return " ".join(f"{one['question']} {one['answers'][0]}" for one in rng.sample(asked, min(3, len(asked))))


def _dialogue(draft: Draft, rng: Random) -> str:
    return " ".join(turn["text"] for turn in FIELDS["conversation"](draft))


def _text(draft: Draft) -> str:
    """One to four things said of one scene, so that what stands in front says something of what follows.

    Each is a caption in half of the cases, else questions with answers, or a dialogue.
    """
    rng = draft.rng("text")
    writers: list[Callable[[Draft, Random], str]] = [_caption, _caption, _asked, _dialogue]
    said = [rng.choice(writers)(draft, rng) or _caption(draft, rng) for _ in range(rng.randint(1, 4))]
    return " ".join(said)


class Texts(World):
    """A data set of `text` alone, for language models to learn a world's words from.

    Captions in all styles, questions with their answers, dialogues, several about one scene, about scenes that no
    picture of the same seed shows. Arguments and errors are those of `Made`.
    """

    fields: ClassVar[Mapping[str, Callable[[Draft], str]]] = {"text": _text}

    @property
    def group_size(self) -> int:
        """One: each text stands alone."""
        return 1

    @property
    def has(self) -> frozenset[str]:
        """`text`, and nothing else."""
        return frozenset(self.fields)

    def members(self, base: int) -> list[Scene]:
        """A scene that no picture shows."""
        return [scene(-1 - self.seed, base, self.knobs, self.split, self.words)]
