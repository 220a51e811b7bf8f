"""The world as a data set of clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.world import telling
from diptych.world.draw import Painter, outline
from diptych.world.fields import FIELDS, Draft
from diptych.world.made import Made
from diptych.world.motion import Clip, clip
from diptych.world.questions import OPTIONS, answers_of, draw_questions, possible_answers, with_choices
from diptych.world.scene import Scene

RATE = 4.0
"""frames in a second"""


class Frames(Sequence[Image.Image]):
    """The frames of a clip as PIL images, drawn when they are first asked for; a slice is again such a sequence."""

    fps = RATE

    def __init__(self, scenes: Sequence[Scene], painter: Painter) -> None:
        self._scenes, self._painter = scenes, painter
        self._drawn: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self._scenes)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> Frames: ...
    def __getitem__(self, index: int | slice) -> Image.Image | Frames:
        if isinstance(index, slice):
            return Frames(self._scenes[index], self._painter)
        if index not in self._drawn:
            self._drawn[index] = Image.fromarray(self._painter.draw(self._scenes[index]).image)
        return self._drawn[index]


class _ClipDraft(Draft):
    """A clip in the making; as a picture it is the frame in the middle."""

    def __init__(self, world: Clips, index: int) -> None:
        self.clip = world.item(index)
        super().__init__(world, index, self.clip.middle)

    @cached_property
    def frames(self) -> Frames:
        return Frames(self.clip.scenes, Painter(self.knobs.pixels, self.world.sprites, self.knobs.palette))

    @cached_property
    def names(self) -> dict[int, str]:
        return telling.named(self.clip, self.knobs.caption, self.knobs.say)

    @cached_property
    def told(self) -> telling.Told:
        return telling.tell(self.clip.events, self.names)

    @cached_property
    def false(self) -> list[telling.Foil]:
        return telling.foils(self.clip, self.names)


def _texts(draft: _ClipDraft) -> list[str]:
    """The caption, and the same with the last event first."""
    return list(dict.fromkeys([draft.told.text, telling.retell(draft.clip.events, draft.names)]))


def _does(draft: _ClipDraft) -> list[str]:
    return [telling.verb(event) for event in draft.clip.events]


def _labels(draft: _ClipDraft) -> NDArray[np.float32]:
    happens = set(_does(draft))
    return np.array([name in happens for name in draft.world.classes], np.float32)


def _questions(draft: _ClipDraft) -> list[dict[str, Any]]:
    """About what happens, and those about pictures that hold in all frames; up to `each` of every type."""
    rng, found = draft.rng("questions"), []
    for kind in draft.knobs.asked:
        options = (
            telling.OPTIONS[kind](draft.clip)
            if kind in telling.OPTIONS
            else OPTIONS[kind](draft.scene, draft.words, rng)
        )
        for question, answer in draw_questions(options, draft.knobs.each, rng):
            found.append({"question": question, "answers": [answer], "type": kind})
    return with_choices(found, possible_answers(draft.knobs, draft.words), draft.knobs.choices, rng)


def _moments(draft: _ClipDraft) -> list[tuple[float, float, str]]:
    seconds = (len(draft.clip.scenes) - 1) / RATE
    return [
        (round(event.start * seconds, 3), round(event.end * seconds, 3), f"the {draft.names[event.object]} {does}")
        for event, does in zip(draft.clip.events, _does(draft), strict=True)
    ]


def _tracks(draft: _ClipDraft) -> NDArray[np.float32]:
    """The boxes in every frame, (F, R, 4)."""
    pixels, sprites = draft.knobs.pixels, draft.world.sprites
    return np.stack([outline(made, pixels, sprites).boxes for made in draft.clip.scenes])


def _scene(draft: _ClipDraft) -> dict[str, Any]:
    """The scene of the frame in the middle and what happens, as JSON holds them."""
    world = draft.world
    about = {"seed": world.seed, "split": world.split, "index": draft.index, "style": draft.knobs.caption}
    events = [vars(event) for event in draft.clip.events]
    found = draft.scene.to_dict() | about | {"events": events, "negatives": [foil.kind for foil in draft.false]}
    return found | ({"group": draft.index // world.group_size} if world.group_size > 1 else {})


_STILL = ("image", "boxes", "masks", "phrases", "attributes", "tags")
_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    **{name: FIELDS[name] for name in _STILL},
    "video": lambda draft: draft.frames,
    "text": lambda draft: draft.told.text,
    "texts": _texts,
    "sentences": lambda draft: telling.sentences(draft.clip, draft.names),
    "spans": lambda draft: draft.told.spans,
    "negatives": lambda draft: [foil.text for foil in draft.false],
    "questions": _questions,
    "category": lambda draft: _does(draft)[0],
    "label": lambda draft: draft.world.classes.index(_does(draft)[0]),
    "labels": _labels,
    "moments": _moments,
    "tracks": _tracks,
    "scene": _scene,
}


class Clips(Made[Clip]):
    """A data set of clips in which things happen one after the other: `video`, `text`, `negatives`, `questions`, ...

    `image`, `boxes` and `masks` are those of the frame in the middle, `tracks` the boxes in every frame. In the split
    `gallery`, and with `knobs.hard` in `train`, each clip is followed by itself backwards: same frames, another order.
    Arguments and errors are those of `Made`.
    """

    fields: ClassVar = _FIELDS

    @property
    def group_size(self) -> int:
        """How many consecutive samples belong together: two where a clip is followed by itself backwards."""
        return 2 if self.split == "gallery" or (self.split == "train" and self.knobs.hard > 1) else 1

    @property
    def classes(self) -> tuple[str, ...]:
        """What may happen: `moves left`, `appears`, ..."""
        return telling.verbs(self.knobs.motions)

    @property
    def has(self) -> frozenset[str]:
        """The fields that every sample has; a class, where a single thing happens."""
        return frozenset(_FIELDS) - (frozenset() if self.knobs.events == 1 else {"category", "label"})

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer that its questions may have."""
        return answers_of(self.knobs, tuple(self.sprites))

    def members(self, base: int) -> list[Clip]:
        """A clip, and in a group the same one backwards."""
        made = clip(self.seed, base, self.knobs, self.split, self.words)
        return [made, made.backwards][: self.group_size]

    def draft(self, index: int) -> _ClipDraft:
        """What the fields of a sample are computed from."""
        return _ClipDraft(self, index)
