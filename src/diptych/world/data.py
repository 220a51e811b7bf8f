"""The world as a data set: scenes made when they are read, the same ones every time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.batch import Sample, require
from diptych.config import nearest
from diptych.world.draw import Drawing, Outline, Sprite, draw, outline
from diptych.world.expressions import expressions
from diptych.world.generate import Vocabulary, changed, scene, stream, vocabulary
from diptych.world.knobs import READERS, SAYABLE, STYLES, Knobs, Style, parse_options, whole
from diptych.world.language import Caption, Plan, foils, plan, split, true, write
from diptych.world.questions import answers_of, questions
from diptych.world.regions import Regions, detect
from diptych.world.scene import Scene
from diptych.world.translations import translations

SPLITS = ("train", "val", "test", "composition", "gallery")


class World:
    """A data set without files: sample `index` of a split is drawn and described when it is read.

    Splits share no scene. `composition` names held-out (category, colour) pairs only; `gallery` comes in consecutive
    groups of `knobs.gallery` scenes that differ from the first in one attribute of one named object, so that a caption
    is true of its own scene alone (`sample.scene["group"]` numbers the groups). With `knobs.hard`, `train` does so too.

    Args:
        split: one of `SPLITS`.
        size: number of scenes; by default `knobs.train` or `knobs.evaluation`. Whole groups only.
        seed: another seed is another world with the same rules.
        knobs: how hard it is.
        sprites: cut-outs to show in place of drawn shapes.

    Raises:
        ValueError: there is no such split, or the knobs allow no such scenes.
    """

    def __init__(
        self,
        split: str = "train",
        size: int | None = None,
        seed: int = 0,
        knobs: Knobs = Knobs(),  # noqa: B008 (frozen)
        sprites: Sequence[Sprite] = (),
    ) -> None:
        if split not in SPLITS:
            raise ValueError(nearest(split, SPLITS, "split of the world called"))
        self.name = "world"
        self.split, self.seed, self.knobs = split, seed, knobs
        self.words = vocabulary(knobs, [sprite.name for sprite in sprites])
        if split == "composition" and not self.words.held_out:
            raise ValueError(
                "the split composition needs held-out pairs: set composition above 0, with at least two categories "
                "and two colours (cut-outs have colours only with tint=true)."
            )
        self.sprites = {sprite.name: sprite for sprite in sprites}
        self.classes = self.words.categories
        self.group_size = {"train": knobs.hard, "gallery": knobs.gallery}.get(split, 1)
        wanted = size if size is not None else knobs.train if split == "train" else knobs.evaluation
        self._size = wanted - wanted % self.group_size
        self._last_group: tuple[int, list[Scene]] = (-1, [])
        self.has = frozenset(_FIELDS) - (frozenset() if knobs.objects == (1, 1) else {"category", "label"})
        if self._size < 1:
            raise ValueError(f"a world of {wanted} scenes has no whole group of {self.group_size}: ask for more.")
        self.scene(0)  # knobs that allow no scene, or too few different ones, are found out here

    def __len__(self) -> int:
        return self._size

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer that its questions may have."""
        return answers_of(self.knobs, tuple(self.sprites))

    def key(self, index: int) -> str:
        """The name of a sample, unique over seeds and splits."""
        return f"{self.name}-{self.seed}-{self.split}-{index:06d}"

    def scene(self, index: int) -> Scene:
        """The scene behind a sample.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= index < self._size:
            raise IndexError(f"the split {self.split} of this world has {self._size} scenes: there is no {index}.")
        base = index - index % self.group_size
        if self.group_size == 1:
            return scene(self.seed, base, self.knobs, self.split, self.words)
        if self._last_group[0] != base:
            self._last_group = base, self._members(base)
        return self._last_group[1][index - base]

    def _members(self, base: int) -> list[Scene]:
        """A group of scenes: the base and changed ones, such that the plan of each is false of every other."""
        first = scene(self.seed, base, self.knobs, self.split, self.words)
        found, plans = [first], [self.plan(first, base, self.knobs.caption)]
        said = {"short": ("colour",), "long": SAYABLE}.get(self.knobs.caption, self.knobs.say)
        changes = [
            (index, name, word) for index in first.focus for name in ("category", *said) for word in self.words.of(name)
        ]
        stream("group", self.seed, self.split, base).shuffle(changes)
        for index, name, word in changes:
            fresh = self._change(first, index, name, word)
            if len(found) < self.group_size and fresh is not None:
                own = self.plan(fresh, base, self.knobs.caption)
                if not any(true(own, other) for other in found) and not any(true(other, fresh) for other in plans):
                    found.append(fresh)
                    plans.append(own)
        if len(found) < self.group_size:
            raise ValueError(
                f"a scene has only {len(found)} different variants for a group of {self.group_size}: lower gallery or "
                "hard, or raise shapes, colours, textures or named."
            )
        return found

    def _change(self, base: Scene, index: int, name: str, word: str) -> Scene | None:
        """A changed scene that keeps the rules of the world: known pairs only, and none of them twice."""
        thing = base.objects[index]
        if not getattr(thing, name) or getattr(thing, name) == word:
            return None
        if name == "category" and not self.knobs.repeats and any(word == other.category for other in base.objects):
            return None
        fresh = changed(base, index, name, word, self.knobs)
        if fresh is None:
            return None
        pair = fresh.objects[index].category, fresh.objects[index].colour
        taken = [(other.category, other.colour) for i, other in enumerate(base.objects) if i != index]
        return None if pair in self.words.held_out or pair in taken else fresh

    def plan(self, scene: Scene, index: int, style: Style) -> Plan:
        """What a caption in this style says of the scene of a sample.

        A group shares the randomness of its captions, so that they differ in what was changed alone.
        """
        base = index - index % self.group_size
        return plan(scene, style, self.knobs.say, stream("speech", self.seed, self.split, base))

    def read(self, index: int, fields: Collection[str]) -> Sample:
        """The fields asked for of one sample, and nothing else is computed.

        Raises:
            MissingField: a field that this world does not have.
            IndexError: there is no such sample.
        """
        require(self.has, fields, who="the reader", source=f"the split {self.split} of the world")
        draft = _Draft(self, index)
        return Sample(self.key(index), {name: _FIELDS[name](draft) for name in fields})

    def order(self, epoch: int, seed: int, shuffle: bool) -> NDArray[np.int64]:
        """The indices of one epoch, int64; groups are shuffled as wholes, so that they meet in a batch."""
        starts = np.arange(0, self._size, self.group_size, dtype=np.int64)
        if shuffle:
            np.random.default_rng([seed, epoch]).shuffle(starts)
        return (starts[:, None] + np.arange(self.group_size)).ravel()


class _Draft:
    """One sample in the making: every part is computed once, when it is first asked for."""

    def __init__(self, world: World, index: int) -> None:
        self.world, self.index = world, int(index)  # numpy integers are not JSON
        self.scene = world.scene(index)

    @property
    def words(self) -> Vocabulary:
        return self.world.words

    @cached_property
    def drawing(self) -> Drawing:
        return draw(self.scene, self.world.knobs.pixels, self.world.sprites)

    @cached_property
    def outline(self) -> Outline:
        """What is where, by the drawing if there is one already, else without."""
        if "drawing" in vars(self):
            return self.drawing
        return outline(self.scene, self.world.knobs.pixels, self.world.sprites)

    @cached_property
    def regions(self) -> Regions:
        knobs, rng = self.world.knobs, np.random.default_rng(self.rng("regions").getrandbits(64))
        return detect(self.scene.objects, self.outline.boxes, self.words, knobs.region_noise, knobs.region_extra, rng)

    def plan(self, style: Style) -> Plan:
        return self.world.plan(self.scene, self.index, style)

    @cached_property
    def caption(self) -> Caption:
        return write(self.plan(self.world.knobs.caption))

    def rng(self, what: str) -> Random:
        return stream(what, self.world.seed, self.world.split, self.index)

    @cached_property
    def foils(self) -> list[tuple[str, str]]:
        return [(foil.text, foil.kind) for foil in foils(self.caption.plan, self.scene, self.words, self.rng("foils"))]


def _image(draft: _Draft) -> Image.Image:
    return Image.fromarray(draft.drawing.image)


def _texts(draft: _Draft) -> list[str]:
    """A caption in each style, the knobs' own first."""
    others = [write(draft.plan(style)).text for style in STYLES if style != draft.world.knobs.caption]
    return list(dict.fromkeys([draft.caption.text, *others]))


def _sentences(draft: _Draft) -> list[str]:
    return [write(sentence).text for sentence in split(draft.plan("long"))]


def _tags(draft: _Draft) -> list[str]:
    return list(dict.fromkeys(thing.category for thing in draft.scene.objects))


def _labels(draft: _Draft) -> NDArray[np.float32]:
    present = set(_tags(draft))
    return np.array([name in present for name in draft.words.categories], np.float32)


def _phrases(draft: _Draft) -> list[str]:
    everything = plan(draft.scene, "long", (), Random(0))
    return [str(phrase) for phrase in sorted(everything.phrases, key=lambda phrase: phrase.box)]


def _translations(draft: _Draft) -> dict[str, str]:
    names = {name: sprite.names for name, sprite in draft.world.sprites.items()}
    return translations(draft.caption.plan, names)


def _scene(draft: _Draft) -> dict[str, Any]:
    """The scene, which caption says what of it, and which group it belongs to, as JSON holds them."""
    found = draft.scene.to_dict() | {
        "seed": draft.world.seed,
        "split": draft.world.split,
        "index": draft.index,
        "style": draft.world.knobs.caption,
        "mentions": [list(mention) for mention in draft.caption.mentions],
        "negatives": [kind for _, kind in draft.foils],
    }
    if draft.world.group_size > 1:
        found["group"] = draft.index // draft.world.group_size
    return found


def _region_field(name: str) -> Callable[[_Draft], Any]:
    return lambda draft: getattr(draft.regions, name)


_FIELDS: dict[str, Callable[[_Draft], Any]] = {
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
    "questions": lambda draft: questions(
        draft.scene, draft.words, draft.world.knobs.questions, draft.world.knobs.each, draft.rng("questions")
    ),
    "expressions": lambda draft: expressions(draft.scene, draft.rng("expressions")),
    "negatives": lambda draft: [text for text, _ in draft.foils],
    "scene": _scene,
    **{name: _region_field(name) for name in Regions._fields},
}


def open_world(options: str = "", split: str = "train", sprites: Sequence[Sprite] = ()) -> World:
    """A world from text such as `objects=4,named=2,seed=1`: knobs, and `seed`.

    Raises:
        ValueError: an unknown name (the nearest one is named), or a value that does not fit.
    """
    values = parse_options(options, {"seed": whole, **READERS})
    return World(split, seed=values.pop("seed", 0), knobs=Knobs(**values), sprites=sprites)
