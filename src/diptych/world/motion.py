"""What happens in a clip: objects of a scene move, one after the other.

Opposite sides of the picture are joined for what moves: it starts anywhere, and what goes out on the left comes in on
the right. So the place of an object in a single frame tells nothing about where it goes. Everything that happens is as
likely as its reverse (`Clip.backwards`), so that the frames without their order tell nothing about directions or about
what comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from diptych.world.generate import Vocabulary, scene, stream
from diptych.world.knobs import BRIEF, Knobs
from diptych.world.scene import DIRECTIONS, Object, Scene, overlap

REVERSE = {
    "move": "move",
    "bounce": "bounce",
    "enter": "leave",
    "leave": "enter",
    "appear": "disappear",
    "disappear": "appear",
    "flash": "flash",
    "hop": "hop",
    "dash": "dash",
}
KINDS = {
    "move": ("move",),
    "bounce": ("bounce",),
    "enter": ("enter", "leave"),
    "appear": ("appear", "disappear"),
    **{motion: (motion,) for motion in BRIEF},
}
"""a word of the knob `motions` -> what it lets happen"""
TURNED = {"left": "right", "right": "left", "up": "down", "down": "up", "": ""}
_PAUSE = 0.08  # before and after each event, as a share of its time
_BRIEF = 2.5  # frames that a brief event lasts
_AWAY = -1.0  # a place where nothing is seen
STILL = ("appear", "disappear", "flash")
"""what happens to an object that does not move"""
BACK = ("bounce", "hop")
"""what goes there and back"""


@dataclass(frozen=True)
class Event:
    """Something that happens to `object` from `start` to `end`, shares of the clip.

    `direction` is where it moves: one of `DIRECTIONS`, or "" for what appears, disappears or flashes. What bounces or
    hops goes there and back.
    """

    object: int
    kind: str
    direction: str
    start: float
    end: float

    @property
    def backwards(self) -> Event:
        """What happens where the clip runs backwards."""
        direction = self.direction if self.kind in BACK else TURNED[self.direction]
        return Event(self.object, REVERSE[self.kind], direction, 1 - self.end, 1 - self.start)


@dataclass(frozen=True)
class Clip:
    """A scene for each frame, with the same objects in the same order, and the events in order of time."""

    scenes: tuple[Scene, ...]
    events: tuple[Event, ...]

    @property
    def backwards(self) -> Clip:
        """The clip whose frames run the other way."""
        return Clip(self.scenes[::-1], tuple(event.backwards for event in reversed(self.events)))

    @property
    def middle(self) -> Scene:
        """The scene of the frame in the middle."""
        return self.scenes[len(self.scenes) // 2]

    def passed(self, event: Event) -> list[tuple[str, int]]:
        """(in front of or behind, object) for what the event's object passes: it covers it only on the way."""
        found = []
        for other in range(len(self.middle.objects)) if event.kind == "move" else ():
            if other in {moved.object for moved in self.events}:
                continue
            depths = [overlap(made.objects[event.object], made.objects[other]) for made in self.scenes]
            if max(depths) >= 0.3 and max(depths[0], depths[-1]) < 0:
                nearer = self.middle.objects[event.object].z < self.middle.objects[other].z
                found.append(("in front of" if nearer else "behind", other))
        return found


def clip(seed: int, index: int, knobs: Knobs, split: str, words: Vocabulary) -> Clip:
    """Clip number `index` of a split, which depends on nothing but the arguments. What is in focus is what moves."""
    still = scene(seed, index, knobs, split, words)
    rng = stream("clip", seed, split, index)
    rest = [i for i in range(len(still.objects)) if i not in still.focus]
    movers = [*rng.sample(still.focus, len(still.focus)), *rng.sample(rest, len(rest))][: knobs.events]
    rng.shuffle(movers)
    events, paths = [], []
    for number, mover in enumerate(movers):
        kind = rng.choice(KINDS[rng.choice(knobs.motions)])
        direction = "" if kind in STILL else rng.choice(DIRECTIONS)
        start, end = ((number + share) / len(movers) for share in (_PAUSE, 1 - _PAUSE))
        if kind in BRIEF:
            length = min(end - start, _BRIEF / (knobs.frames - 1))
            start += rng.random() * (end - start - length)
            end = start + length
        events.append(Event(mover, kind, direction, start, end))
        paths.append(_path(still.objects[mover], kind, direction, rng))
    scenes = []
    for frame in range(knobs.frames):
        objects = list(still.objects)
        for event, path in zip(events, paths, strict=True):
            progress = (frame / (knobs.frames - 1) - event.start) / (event.end - event.start)
            objects[event.object] = path(min(1.0, max(0.0, progress)))
        scenes.append(replace(still, objects=tuple(objects)))
    return Clip(tuple(scenes), tuple(events))


def _path(thing: Object, kind: str, direction: str, rng: Random) -> Callable[[float], Object]:
    """Where the object is at each share of an event."""
    if not direction:
        seen: dict[str, Callable[[float], bool]] = {
            "appear": lambda share: share >= 0.5,
            "disappear": lambda share: share < 0.5,
            "flash": lambda share: 0 < share < 1,
        }
        return lambda share: thing if seen[kind](share) else replace(thing, x=_AWAY, y=_AWAY)
    axis = "x" if direction in ("left", "right") else "y"
    sign = 1 if direction in ("right", "down") else -1
    rest = getattr(thing, axis)
    edge = 1.03 * thing.radius + 0.03  # so far outside nothing of it is seen
    if kind in KINDS["enter"]:
        outside = -edge if (sign > 0) == (kind == "enter") else 1 + edge
        first, last = (outside, rest) if kind == "enter" else (rest, outside)
        return lambda share: _at(thing, axis, first + (last - first) * share)
    around, middle, way = 1 + 2 * edge, rng.random(), rng.uniform(0.35, 0.5)
    shape = (lambda share: 1 - abs(2 * share - 1)) if kind in BACK else (lambda share: share - 0.5)
    return lambda share: _at(thing, axis, (around * middle + sign * way * shape(share)) % around - edge)


def _at(thing: Object, axis: str, place: float) -> Object:
    return replace(thing, x=place) if axis == "x" else replace(thing, y=place)
