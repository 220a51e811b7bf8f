"""A procedural world: scenes with exact ground truth, made from a seed, as pictures and as words.

`World` is a data set; `Knobs` set how hard it is; `open_world("objects=4,named=2")` makes one from text.
"""

from __future__ import annotations

from diptych.world.clips import Clips, Frames
from diptych.world.data import World
from diptych.world.draw import Drawing, Outline, Sprite, draw, outline
from diptych.world.generate import scene, vocabulary
from diptych.world.knobs import Knobs, parse_knobs
from diptych.world.made import SPLITS
from diptych.world.opening import open_world
from diptych.world.pairs import Pairs
from diptych.world.questions import answers_of
from diptych.world.rooms import Solids
from diptych.world.scene import Background, Object, Relation, Scene
from diptych.world.texts import Texts

__all__ = [
    "SPLITS",
    "Background",
    "Clips",
    "Drawing",
    "Frames",
    "Knobs",
    "Object",
    "Outline",
    "Pairs",
    "Relation",
    "Scene",
    "Solids",
    "Sprite",
    "Texts",
    "World",
    "answers_of",
    "draw",
    "open_world",
    "outline",
    "parse_knobs",
    "scene",
    "vocabulary",
]
