"""What is in a picture, before any pixel: objects, their relations, a background.

Places are shares of the picture's side, x to the right and y downwards; a scene has no size in pixels. z is the
distance from the viewer, 0 nearest and 1 farthest. Renderers (`draw`) and texts (`language`, `questions`,
`translations`) read a scene and never change it; a renderer for another modality adds what it needs to `Object` as a
field with a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

SHAPES = (
    "circle", "square", "triangle", "star", "heart", "cross", "ring", "crescent", "diamond", "arrow",
    "boat", "drop", "flower", "cloud", "hourglass", "lightning bolt", "house", "fish", "tree", "mushroom", "hexagon",
)  # fmt: skip
COLOURS = (
    "red", "green", "blue", "yellow", "black", "white", "orange", "purple", "pink", "brown", "turquoise", "grey",
)  # fmt: skip
TEXTURES = ("plain", "striped", "dotted", "checked", "shiny")
SIZES = ("small", "large")
BACKGROUNDS = ("plain", "gradient", "waves", "tiles", "hills")
TONES = ("cream", "mint", "sky", "lavender", "rose", "sand")
PLACES = (
    "at the top left", "at the top", "at the top right",
    "on the left", "in the middle", "on the right",
    "at the bottom left", "at the bottom", "at the bottom right",
)  # fmt: skip
OPPOSITE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "in front of": "behind",
    "behind": "in front of",
}
PREDICATES = tuple(OPPOSITE)
DIRECTIONS = ("left", "right", "up", "down")

CLEAR = 0.08
"""the least offset, in sides of the picture, at which one object is called left of or above another"""


@dataclass(frozen=True)
class Object:
    """One thing in a scene.

    `category` is a name of `SHAPES` or of a cut-out. `colour`, `texture` and `size` are the words that hold for it, ""
    where it has none. (x, y) is its centre, `radius` the half of the square that holds it, both in sides of the
    picture; `angle` is in radians, clockwise.
    """

    category: str
    colour: str = ""
    texture: str = ""
    size: str = ""
    x: float = 0.5
    y: float = 0.5
    z: float = 0.5
    radius: float = 0.15
    angle: float = 0.0

    @property
    def place(self) -> str:
        """Which of the nine parts of the picture holds the centre, or is nearest to it."""
        column, row = (min(2, max(0, int(3 * value))) for value in (self.x, self.y))
        return PLACES[3 * row + column]

    @property
    def attributes(self) -> dict[str, str]:
        """The words that hold for it, by name; attributes that it does not have are left out."""
        words = {"category": self.category, "colour": self.colour, "texture": self.texture, "size": self.size}
        return {name: word for name, word in words.items() if word}


@dataclass(frozen=True)
class Background:
    """What lies behind the objects: a pattern in one pale tone, `clutter` unnamed scraps, `noise` on every pixel."""

    kind: str = "plain"
    tone: str = "cream"
    clutter: int = 0
    noise: float = 0.0
    seed: int = 0


class Relation(NamedTuple):
    """`subject` and `object` are indices into the objects of the scene; `predicate` is one of `PREDICATES`."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class Scene:
    """Objects before a background. `focus` holds the indices of the objects that a partial caption names."""

    objects: tuple[Object, ...]
    background: Background = Background()
    focus: tuple[int, ...] = ()

    @property
    def relations(self) -> tuple[Relation, ...]:
        """Every relation that clearly holds between two objects."""
        things = list(enumerate(self.objects))
        return tuple(
            Relation(i, predicate, j)
            for i, a in things
            for j, b in things
            if i != j
            for predicate in PREDICATES
            if holds(predicate, a, b)
        )

    def to_dict(self) -> dict[str, Any]:
        """The scene as JSON holds it; `from_dict` is the inverse."""
        return {
            "objects": [asdict(thing) for thing in self.objects],
            "background": asdict(self.background),
            "focus": list(self.focus),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scene:
        """The scene that `to_dict` described; other keys are ignored."""
        objects = tuple(Object(**thing) for thing in values["objects"])
        return cls(objects, Background(**values["background"]), tuple(values["focus"]))


def holds(predicate: str, a: Object, b: Object) -> bool:
    """Whether `a` clearly stands in the relation to `b`.

    Sideways relations ask for an offset of at least `CLEAR` that is no smaller than the offset in the other direction,
    so that of two objects one is called left of or above the other, not both. In front of and behind ask that one
    visibly covers the other: without an overlap a flat picture does not show depth.
    """
    if predicate in ("right of", "below", "behind"):
        return holds(OPPOSITE[predicate], b, a)
    right, down = b.x - a.x, b.y - a.y
    if predicate == "left of":
        return right >= CLEAR and right >= abs(down)
    if predicate == "above":
        return down >= CLEAR and down > abs(right)
    if predicate == "in front of":
        return a.z < b.z and overlap(a, b) >= 0.2
    raise ValueError(f"there is no relation {predicate!r}; there are: {', '.join(PREDICATES)}.")


def overlap(a: Object, b: Object) -> float:
    """How deep two objects reach into each other, as a share of the smaller one's diameter; negative is a gap."""
    distance = ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5
    return (a.radius + b.radius - distance) / (2 * min(a.radius, b.radius))
