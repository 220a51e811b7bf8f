"""The knobs that set how hard the world is, and their reading from text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from diptych.config import nearest
from diptych.text import one_line
from diptych.world.scene import BACKGROUNDS, COLOURS, SIZES, TEXTURES

Style = Literal["partial", "short", "long", "relations", "varied"]
STYLES: tuple[Style, ...] = get_args(Style)
SAYABLE = ("colour", "texture", "size")
QUESTIONS = ("exist", "count", "colour", "relation", "compare", "order", "direction")
"""types of questions that are asked unless others are named"""
TYPES = (*QUESTIONS, "cell", "place", "presence", "company", "speed")
MOTIONS = ("move", "bounce", "enter", "appear")
"""what may happen in a clip unless something else is named"""
BRIEF = ("flash", "hop", "dash")
_OF_PICTURES, _OF_CLIPS = ("relation", "cell", "place", "presence", "company"), ("order", "direction", "speed")


@dataclass(frozen=True)
class Knobs:
    """How the scenes of a world differ and what their captions say.

    The defaults are meant for small models: most of a picture is a distractor, and a tiny CLIP is far from perfect.

    Raises:
        ValueError: a value that no scene could have.
    """

    objects: tuple[int, int] = (5, 6)
    """fewest and most objects of a scene"""
    repeats: bool = False
    """every category occurs about twice in a scene, so that the category alone does not say which object is meant"""
    shapes: int = 20
    """how many categories there are: the first of `SHAPES` (the last are hard to tell apart) or of the cut-outs"""
    colours: int = 10
    """how many of `COLOURS` there are"""
    textures: int = len(TEXTURES)
    """how many of `TEXTURES` there are"""
    sizes: int = 2
    """2: objects are small or large; 1: all are alike, and no size is ever said"""
    grid: int = 0
    """0: objects stand anywhere; k: each stands in a cell of its own on a grid of k x k"""
    occlusion: float = 0.3
    """how deep two objects may overlap, as a share of the smaller one's diameter; 0: all are wholly visible"""
    tilt: float = 12.0
    """objects are turned by up to so many degrees to either side"""
    tint: bool = False
    """cut-outs are dyed in the object's colour; otherwise they keep their own, and no colour is said"""
    backgrounds: int = len(BACKGROUNDS)
    """how many of `BACKGROUNDS` there are; 1: always plain"""
    clutter: int = 8
    """at most so many small coloured scraps, which nobody names, lie behind the objects"""
    noise: float = 0.03
    """standard deviation of the noise on every pixel, as a share of the whole range"""
    palette: float = 0.0
    """all hues are turned by so many degrees, while the words for colours stay: 120 shows red as green"""
    caption: Style = "partial"
    """which caption is `text`: `partial` and `relations` name the objects in focus with what `say` lists, `short` with
    their colours alone, `long` says everything about every object, a sentence each, `varied` is as `partial` within
    one of many phrasings of about twenty more words"""
    named: float = 2.0
    """how many objects are in focus, the ones that captions name; below 1 a share of them, 0: all"""
    say: tuple[str, ...] = ("colour", "texture")
    """the attributes that a caption states beside the category: of colour, texture and size"""
    composition: float = 0.2
    """about this share of the (category, colour) pairs is held out: never in other splits, always in `composition`"""
    hard: int = 1
    """scenes of `train` come in groups of this size that differ in one attribute of one named object; 1: no groups"""
    gallery: int = 16
    """the size of such groups in the split `gallery`"""
    questions: tuple[str, ...] = QUESTIONS
    """the types of questions: of exist, count, colour, compare; of pictures also relation, cell (of three rows and
    columns), place, presence, company (of what often goes with something that is there, without it); of clips also
    order, direction, speed"""
    each: int = 2
    """at most so many questions of each type about a scene"""
    choices: int = 0
    """so many choices has a question that is not answered by yes or no; 0: none are given"""
    company: float = 0.0
    """how often an object's companion, the other of the first two categories, of the next two, ..., is there too"""
    region_noise: float = 0.35
    """standard deviation of the noise on the features of regions, which are ones and zeros; 0: exact, boxes too"""
    region_extra: int = 0
    """at most so many regions of a scene are false detections, in which there is nothing"""
    pixels: int = 64
    """side of the square pictures"""
    pairs: bool = False
    """samples are statements about two pictures, true or false (`Pairs`)"""
    video: bool = False
    """samples are clips in which things happen (`Clips`)"""
    frames: int = 8
    """the number of frames of a clip, at least four for each event"""
    events: int = 2
    """how many things happen in a clip, one after the other, each to another object"""
    motions: tuple[str, ...] = MOTIONS
    """what may happen in a clip: of move, bounce (there and back), enter (or leave), appear (or disappear); and what
    lasts two or three frames: flash, hop (there and back) and dash"""
    points: bool = False
    """samples are solid things or rooms of them, as point clouds and as pictures (`Solids`)"""
    cloud: int = 1024
    """the number of points of a cloud"""
    missing: float = 0.0
    """so large a share of a cloud is lost, all on one side, as if something stood before it"""
    spread: float = 0.0
    """standard deviation of the noise on the coordinates of a cloud, of which the farthest is 1"""
    text: bool = False
    """samples are texts about scenes, which are never drawn (`Texts`)"""
    train: int = 20_000
    """number of scenes of the split `train`"""
    evaluation: int = 1_000
    """number of scenes of every other split"""

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low} and {high}, not {value}.")
        low, high = self.objects
        if not 1 <= low <= high <= 1000:
            raise ValueError(f"objects must be a number or a range such as 3-5, not {low}-{high}.")
        if self.grid and self.grid**2 < high:
            raise ValueError(f"grid={self.grid} has {self.grid**2} cells for {high} objects: make it larger.")
        unknown = [word for word in self.say if word not in SAYABLE]
        if unknown:
            raise ValueError(f"say: {nearest(unknown[0], SAYABLE, 'attribute')}")
        unknown = [kind for kind in self.questions if kind not in TYPES]
        if unknown:
            raise ValueError(f"questions: {nearest(unknown[0], TYPES, 'type')}")
        if self.caption not in STYLES:
            raise ValueError(f"caption: {nearest(self.caption, STYLES, 'style')}")
        if self.questions and not self.asked:
            other = ", ".join(_OF_CLIPS if not self.video else _OF_PICTURES)
            raise ValueError(f"questions: {other} are asked of {'pictures' if self.video else 'clips (video=true)'}.")
        if self.choices == 1:
            raise ValueError("choices: there are two or more; 0 asks without any.")
        if self.company and self.repeats:
            raise ValueError("company: no companions are drawn where categories repeat; leave out one of the two.")
        self._check_motion()

    def _check_motion(self) -> None:
        motions = (*MOTIONS, *BRIEF)
        unknown = [motion for motion in self.motions if motion not in motions]
        if unknown or not self.motions:
            raise ValueError(f"motions: {nearest(unknown[0] if unknown else 'none', motions, 'motion')}")
        if self.video + self.pairs + self.text + self.points > 1:
            raise ValueError("a world has clips, pairs, clouds or texts: say one of video, pairs, points and text.")
        if self.video and self.events > self.objects[0]:
            raise ValueError(f"{self.events} events need as many objects: raise objects or lower events.")
        if self.video and self.frames < 4 * self.events:
            raise ValueError(f"{self.events} events need at least {4 * self.events} frames, not {self.frames}.")

    @property
    def asked(self) -> tuple[str, ...]:
        """The types of questions that are asked: those of `questions` that pictures, or clips, allow."""
        other = _OF_PICTURES if self.video else _OF_CLIPS
        return tuple(kind for kind in self.questions if kind not in other)

    def focus(self, count: int) -> int:
        """How many of `count` objects are in focus."""
        if self.named == 0:
            return count
        return min(count, math.ceil(self.named * count) if self.named < 1 else int(self.named))


_LIMITS: dict[str, tuple[float, float]] = {
    "shapes": (1, 100_000),
    "colours": (1, len(COLOURS)),
    "textures": (1, len(TEXTURES)),
    "sizes": (1, len(SIZES)),
    "grid": (0, 1000),
    "occlusion": (0, 0.6),
    "tilt": (0, 180),
    "backgrounds": (1, len(BACKGROUNDS)),
    "clutter": (0, 10_000),
    "noise": (0, 1),
    "palette": (-180, 180),
    "named": (0, 1000),
    "composition": (0, 0.5),
    "hard": (1, 10_000),
    "gallery": (2, 10_000),
    "each": (1, 1000),
    "choices": (0, 26),
    "company": (0, 1),
    "region_noise": (0, 2),
    "region_extra": (0, 100),
    "pixels": (8, 4096),
    "cloud": (1, 1_000_000),
    "missing": (0, 0.9),
    "spread": (0, 1),
    "frames": (2, 1000),
    "events": (1, 100),
    "train": (1, 10**9),
    "evaluation": (1, 10**9),
}


def parse_knobs(text: str) -> Knobs:
    """Knobs from text such as `objects=3-5,named=2,say=colour+size`; what is not named keeps its default.

    Raises:
        ValueError: an unknown name (the nearest knob is named), or a value that does not fit.
    """
    return Knobs(**parse_options(text, READERS))


def parse_options(text: str, readers: dict[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The values of `name=value,name=value`, each read by the reader of its name."""
    values = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in readers:
            raise ValueError(nearest(name, readers, "knob of the world called"))
        if not equals or not value:
            raise ValueError(f"{name} needs a value: write {name}=VALUE.")
        if name in values:
            raise ValueError(f"{name} is given twice.")
        try:
            values[name] = readers[name](value)
        except ValueError as error:
            raise ValueError(f"{name}={one_line(value, 60)} is not understood: {error}") from None
    return values


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError("say true or false.")
    return text.lower() in ("true", "1", "yes")


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return whole(low), whole(high or low)


def _words(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(text.split("+"))


def whole(text: str) -> int:
    """A whole number, or a ValueError that says so."""
    if not text.isdecimal() or len(text) > 15:
        raise ValueError("it must be a whole number.")
    return int(text)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("it must be a number.") from None


_BY_TYPE: dict[type, Callable[[str], Any]] = {bool: _bool, int: whole, float: _float, str: str}
READERS: dict[str, Callable[[str], Any]] = {
    "objects": _range,
    "say": _words,
    "questions": _words,
    "motions": _words,
    **{field.name: _BY_TYPE[type(field.default)] for field in fields(Knobs) if type(field.default) in _BY_TYPE},
}
