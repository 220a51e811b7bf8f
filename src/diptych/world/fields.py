"""What can be read of a scene: a function for each field, and the parts that several fields share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.world.dialogue import dialogue
from diptych.world.draw import Drawing, Outline, draw, outline
from diptych.world.expressions import expressions
from diptych.world.generate import stream
from diptych.world.knobs import STYLES, Style
from diptych.world.language import Caption, Plan, foils, plan, split, write
from diptych.world.questions import possible_answers, questions, with_choices
from diptych.world.regions import Regions, detect
from diptych.world.scene import Scene
from diptych.world.translations import translations

if TYPE_CHECKING:
    from diptych.world.made import Made


class Draft:
    """One picture in the making: every part is computed once, when it is first asked for.

    `name` tells the pictures of one sample apart.
    """

    def __init__(self, world: Made[Any], index: int, scene: Scene, name: str = "") -> None:
        self.world, self.index, self.scene, self.name = world, index, scene, name
        self.words, self.knobs = world.words, world.knobs

    @cached_property
    def drawing(self) -> Drawing:
        """The picture."""
        return draw(self.scene, self.knobs.pixels, self.world.sprites, self.knobs.palette)

    @cached_property
    def outline(self) -> Outline:
        """What is where, by the drawing if there is one already, else without."""
        if "drawing" in vars(self):
            return self.drawing
        return outline(self.scene, self.knobs.pixels, self.world.sprites)

    @cached_property
    def regions(self) -> Regions:
        """What a detector finds."""
        knobs, rng = self.knobs, np.random.default_rng(self.rng("regions").getrandbits(64))
        return detect(self.scene.objects, self.outline.boxes, self.words, knobs.region_noise, knobs.region_extra, rng)

    def plan(self, style: Style) -> Plan:
        """What a caption says; a group shares the randomness, so that its captions differ in what was changed alone."""
        speech = stream("speech", self.world.seed, self.world.split, self.world.base(self.index))
        return plan(self.scene, style, self.knobs.say, speech)

    @cached_property
    def caption(self) -> Caption:
        """The caption in the style of the knobs."""
        return write(self.plan(self.knobs.caption))

    def rng(self, what: str) -> Random:
        """A source of randomness for one purpose."""
        return stream(what + self.name, self.world.seed, self.world.split, self.index)

    @cached_property
    def foils(self) -> list[tuple[str, str]]:
        """Captions that are almost right, with what is wrong with them."""
        return [(foil.text, foil.kind) for foil in foils(self.caption.plan, self.scene, self.words, self.rng("foils"))]


def _image(draft: Draft) -> Image.Image:
    return Image.fromarray(draft.drawing.image)


def _texts(draft: Draft) -> list[str]:
    """A caption in each style, the knobs' own first; in `varied` only where the knobs say so."""
    others = [write(draft.plan(style)).text for style in STYLES if style not in (draft.knobs.caption, "varied")]
    return list(dict.fromkeys([draft.caption.text, *others]))


def _sentences(draft: Draft) -> list[str]:
    return [write(sentence).text for sentence in split(draft.plan("long"))]


def _tags(draft: Draft) -> list[str]:
    return list(dict.fromkeys(thing.category for thing in draft.scene.objects))


def _labels(draft: Draft) -> NDArray[np.float32]:
    present = set(_tags(draft))
    return np.array([name in present for name in draft.words.categories], np.float32)


def _phrases(draft: Draft) -> list[str]:
    everything = plan(draft.scene, "long", (), Random(0))
    return [str(phrase) for phrase in sorted(everything.phrases, key=lambda phrase: phrase.box)]


def _translations(draft: Draft) -> dict[str, str]:
    names = {name: sprite.names for name, sprite in draft.world.sprites.items()}
    return translations(draft.caption.plan, names)


def _questions(draft: Draft) -> list[dict[str, Any]]:
    knobs, rng = draft.knobs, draft.rng("questions")
    asked = questions(draft.scene, draft.words, knobs.asked, knobs.each, rng)
    return with_choices(asked, possible_answers(knobs, draft.words), knobs.choices, rng)


def _scene(draft: Draft) -> dict[str, Any]:
    """The scene, which caption says what of it, and which group it belongs to, as JSON holds them."""
    found = draft.scene.to_dict() | {
        "seed": draft.world.seed,
        "split": draft.world.split,
        "index": draft.index,
        "style": draft.knobs.caption,
        "mentions": [list(mention) for mention in draft.caption.mentions],
        "negatives": [kind for _, kind in draft.foils],
    }
    if draft.world.group_size > 1:
        found["group"] = draft.index // draft.world.group_size
    return found


def _region_field(name: str) -> Callable[[Draft], Any]:
    return lambda draft: getattr(draft.regions, name)


FIELDS: Mapping[str, Callable[[Draft], Any]] = {
    "image": _image,
    "text": lambda draft: draft.caption.text,
    "texts": _texts,
    "sentences": _sentences,
    "translations": _translations,
    "tags": _tags,
    "category": lambda draft: draft.scene.objects[0].category,
    "label": lambda draft: draft.words.categories.index(draft.scene.objects[0].category),
    "labels": _labels,
    "boxes": lambda draft: draft.outline.boxes,
    "phrases": _phrases,
    "spans": lambda draft: draft.caption.spans,
    "masks": lambda draft: draft.outline.masks,
    "attributes": lambda draft: [thing.attributes for thing in draft.scene.objects],
    "relations": lambda draft: [tuple(relation) for relation in draft.scene.relations],
    "questions": _questions,
    "conversation": lambda draft: dialogue(draft.scene, draft.words, draft.plan("long"), draft.rng("dialogue")),
    "expressions": lambda draft: expressions(draft.scene, draft.rng("expressions")),
    "negatives": lambda draft: [text for text, _ in draft.foils],
    "scene": _scene,
    **{name: _region_field(name) for name in Regions._fields},
}
