"""The picture of a scene at any size, with the box and the mask of what is visible of each object.

Shapes are painted from far to near through their distance functions, which gives smooth edges; cut-outs are resized
copies of pictures with transparency. The cost of a 64-pixel scene is a fraction of a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.world.scene import COLOURS, Background, Object, Scene
from diptych.world.shapes import lookup

Array = NDArray[Any]

RGB: dict[str, tuple[int, int, int]] = {
    "red": (222, 36, 40),
    "green": (40, 158, 62),
    "blue": (32, 84, 214),
    "yellow": (255, 214, 30),
    "black": (38, 38, 42),
    "white": (252, 252, 252),
    "orange": (248, 130, 16),
    "purple": (134, 48, 182),
    "pink": (255, 134, 190),
    "brown": (126, 76, 36),
    "turquoise": (34, 190, 186),
    "grey": (136, 140, 146),
}
TONE_RGB: dict[str, tuple[int, int, int]] = {
    "cream": (247, 240, 222),
    "mint": (220, 240, 226),
    "sky": (218, 233, 246),
    "lavender": (232, 226, 244),
    "rose": (247, 228, 230),
    "sand": (238, 228, 208),
}


WHITE = np.full((3, 1, 1), 255, np.float32)


@dataclass(frozen=True, eq=False)
class Sprite:
    """A cut-out: a named picture with transparency, uint8 (h, w, 4).

    `names` holds the name in other languages; a translation of a caption that lacks one is left out.
    """

    name: str
    pixels: NDArray[np.uint8] = field(repr=False)
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 4:
            raise ValueError(
                f"the cut-out {self.name!r} must be a uint8 array (h, w, 4), not {self.pixels.dtype} "
                f"{self.pixels.shape}."
            )


@dataclass(frozen=True)
class Outline:
    """What is where in a picture: owner int16 (H, W), the object that a pixel shows.

    `owner` is -1 where a pixel shows the background; `count` is R, the number of objects.
    """

    owner: NDArray[np.int16]
    count: int

    @cached_property
    def masks(self) -> Array:
        """The visible pixels of each object, bool (R, H, W), in the order of the scene."""
        return self.owner == np.arange(self.count, dtype=np.int16)[:, None, None]

    @cached_property
    def boxes(self) -> Array:
        """What is visible of each object, x0, y0, x1, y1 in [0, 1], float32 (R, 4); zeros where nothing is."""
        masks: Array = self.masks
        sides = []
        for axis in (1, 2):  # x from the columns, y from the rows
            line = np.asarray(masks.any(axis=axis))
            sides.append((line.argmax(1) / line.shape[1], 1 - line[:, ::-1].argmax(1) / line.shape[1]))
        (x0, x1), (y0, y1) = sides
        return (np.stack([x0, y0, x1, y1], axis=1) * np.asarray(masks.any(axis=(1, 2)))[:, None]).astype(np.float32)


@dataclass(frozen=True)
class Drawing(Outline):
    """A picture, uint8 (H, W, 3), and what is where in it."""

    image: NDArray[np.uint8]


def outline(scene: Scene, size: int, sprites: Mapping[str, Sprite] | None = None) -> Outline:
    """What `draw` would show where, without its colours where these need not be known: several times faster."""
    if sprites:
        return draw(scene, size, sprites)
    owner = np.full((size, size), -1, np.int16)
    for index in _far_to_near(scene):
        thing = scene.objects[index]
        window, u, v = _window(thing, size)
        owner[window][0.5 - _distance(thing, u, v, thing.radius * size) >= 0.5] = index
    return Outline(owner, len(scene.objects))


def draw(scene: Scene, size: int, sprites: Mapping[str, Sprite] | None = None, palette: float = 0.0) -> Drawing:
    """Renders a scene as a square picture of `size` pixels.

    Args:
        scene: what to draw.
        size: side of the picture in pixels.
        sprites: cut-outs by name; a category that is not among them is drawn as the shape of that name.
        palette: degrees by which all hues are turned.

    Raises:
        ValueError: a category is neither a cut-out nor a shape.
    """
    return Painter(size, sprites, palette).draw(scene)


class Painter:
    """Draws scenes that share much, such as the frames of a clip: what stays is computed once.

    Args:
        size: side of the pictures in pixels.
        sprites: cut-outs by name.
        palette: degrees by which all hues are turned.
    """

    def __init__(self, size: int, sprites: Mapping[str, Sprite] | None = None, palette: float = 0.0) -> None:
        self.size, self.sprites = size, sprites or {}
        self._turned = turned_hues(palette) if palette else None
        self._grounds: dict[Background, Array] = {}
        self._things: dict[Object, tuple[tuple[slice, slice], Array, Array]] = {}

    def draw(self, scene: Scene) -> Drawing:
        """What the function `draw` returns."""
        size = self.size
        if scene.background not in self._grounds:
            self._grounds[scene.background] = _background(scene.background, size)
        canvas = self._grounds[scene.background].copy()
        owner = np.full((size, size), -1, np.int16)
        for index in _far_to_near(scene):
            thing = scene.objects[index]
            if thing not in self._things:
                self._things[thing] = self._painted(thing)
            window, alpha, colour = self._things[thing]
            patch = canvas[:, *window]
            patch += alpha * (colour - patch)
            owner[window][alpha >= 0.5] = index
        if self._turned is not None:
            canvas = np.tensordot(self._turned, canvas, 1)
        np.clip(canvas, 0.0, 255.0, out=canvas)
        image = np.stack([*np.rint(canvas, out=canvas).astype(np.uint8)], axis=-1)
        return Drawing(owner, len(scene.objects), image)

    def _painted(self, thing: Object) -> tuple[tuple[slice, slice], Array, Array]:
        """Where an object is seen, its opacity (h, w) there, and its colour (3, h, w)."""
        window, u, v = _window(thing, self.size)
        scale = thing.radius * self.size
        sprite = self.sprites.get(thing.category)
        if min(u.shape) < 2:  # only the margin of the window lies in the picture
            return window, np.zeros_like(u), np.zeros_like(u, shape=(3, *u.shape))
        return window, *(_cutout(thing, sprite, u, v, scale) if sprite else _shape(thing, u, v, scale))


def turned_hues(degrees: float) -> Array:
    """The (3, 3) rotation of red, green and blue around the grey axis: 120 degrees make green of red."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)) / math.sqrt(3)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return (cos * np.eye(3) + (1 - cos) / 3 + sin * across).astype(np.float32)


def _far_to_near(scene: Scene) -> list[int]:
    return sorted(range(len(scene.objects)), key=lambda i: -scene.objects[i].z)


def _window(thing: Object, size: int) -> tuple[tuple[slice, slice], Array, Array]:
    """The part of the picture that may show the object, and the object's own coordinates of its pixels.

    In these the object has radius 1 and stands upright.
    """
    reach = thing.radius * size * 1.03 + 1
    x, y = thing.x * size - 0.5, thing.y * size - 0.5  # pixel centres lie at whole numbers
    left, top = (min(size, max(0, int(middle - reach))) for middle in (x, y))
    right = min(size, max(left, int(x + reach) + 2))  # of what lies outside of the picture nothing is seen
    bottom = min(size, max(top, int(y + reach) + 2))
    scale = 1 / (thing.radius * size)
    across = (np.arange(left, right, dtype=np.float32) - x) * scale
    down = ((np.arange(top, bottom, dtype=np.float32) - y) * scale)[:, None]
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    return (slice(top, bottom), slice(left, right)), across * cos + down * sin, down * cos - across * sin


def _shape(thing: Object, u: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Opacity (h, w) and colour (3, h, w) of a drawn shape; `scale` is its radius in pixels."""
    distance = _distance(thing, u, v, scale)
    hue, texture = thing.colour or "grey", thing.texture or "plain"
    base, second = _tones(hue)
    colour = base
    if texture == "shiny":
        colour, second = base * (1 - 0.5 * _unit(0.75 * (u + v))), WHITE
    if texture != "plain":
        colour = colour + TEXTURE[texture](u, v, scale) * (second - colour)
    border = _unit(distance + (0.4 + max(0.7, 0.07 * scale)))
    return _unit(0.5 - distance), colour + border * (0.5 * base - colour)


def _distance(thing: Object, u: Array, v: Array, scale: float) -> Array:
    """How far each pixel lies outside of a drawn shape, in pixels."""
    try:
        return lookup(thing.category, u, v) * scale
    except KeyError:
        raise ValueError(f"{thing.category!r} is neither a shape nor one of the cut-outs.") from None


def _unit(x: Array) -> Array:
    return np.minimum(np.maximum(x, 0), 1)


@cache
def _tones(colour: str) -> tuple[Array, Array]:
    """The colour and the other tone of its patterns, (3, 1, 1).

    That is pale, or dark for pale colours and for grey, which with pale stripes would pass for white.
    """
    base = np.array(RGB[colour], np.float32)[:, None, None]
    return base, base * 0.45 if colour in ("yellow", "white", "grey") else base * 0.1 + 0.9 * 255


def _striped(u: Array, v: Array, scale: float) -> Array:
    period = 0.62
    return _unit(0.5 + scale * period / 5 * np.sin((u + v) * np.float32(np.pi * 2 / period / np.sqrt(2))))


def _dotted(u: Array, v: Array, scale: float) -> Array:
    period = np.float32(0.52)
    row = np.rint(v / period)
    shifted = u / period + 0.5 * (row % 2)
    return _unit(0.5 + scale * (0.165 - period * np.hypot(shifted - np.rint(shifted), v / period - row)))


def _checked(u: Array, v: Array, scale: float) -> Array:
    cell = 0.45
    wave = np.sin(u * np.float32(np.pi / cell)) * np.sin(v * np.float32(np.pi / cell))
    return _unit(0.5 + scale * cell / 2.5 * wave)


def _shiny(u: Array, v: Array, scale: float) -> Array:
    return 0.95 * np.exp(-((u + 0.3) ** 2 + (v + 0.3) ** 2) / 0.1)


TEXTURE: dict[str, Callable[[Array, Array, float], Array]] = {
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "shiny": _shiny,
}
"""how far each pixel goes from the colour to the other tone: object coordinates and radius in pixels -> [0, 1]"""


def _cutout(thing: Object, sprite: Sprite, u: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Opacity (h, w) and colour (3, h, w) of a cut-out, whose long side is 1.7 radii."""
    side = max(4, round(1.7 * scale))
    half = side / 1.7
    along = [  # the affine map from pixels of the window to pixels of the cut-out, centres at halves
        (half * (w[0, 1] - w[0, 0]), half * (w[1, 0] - w[0, 0]), half * w[0, 0] + side / 2) for w in (u, v)
    ]
    matrix = [value for a, b, c in along for value in (a, b, c - (a + b) / 2)]
    placed = _resized(sprite, side).transform(
        u.shape[::-1], Image.Transform.AFFINE, [float(value) for value in matrix], Image.Resampling.BILINEAR
    )
    *channels, opacity = np.asarray(placed, np.float32).transpose(2, 0, 1)
    colour = np.stack(channels)
    if thing.colour:
        light = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), colour, 1) / 255
        base, _ = _tones(thing.colour)
        colour = base * (0.35 + 0.65 * _unit(light / 0.6)) + (255 - base) * 0.6 * _unit((light - 0.6) / 0.4)
    return opacity / 255, colour


@lru_cache(maxsize=2048)
def _resized(sprite: Sprite, side: int) -> Image.Image:
    """The cut-out in the middle of a transparent square, its long side `side` pixels."""
    picture = Image.fromarray(sprite.pixels)
    zoom = side / max(picture.size)
    picture = picture.resize([max(1, round(length * zoom)) for length in picture.size], Image.Resampling.BOX)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _background(background: Background, size: int) -> Array:
    """Pattern, scraps and noise, float32 (3, H, W), 0 to 255."""
    rng = np.random.default_rng(background.seed)
    canvas = _pattern(background.kind, background.tone, size).copy()
    for scrap in rng.random((background.clutter, 5)).tolist():
        _scrap(canvas, *scrap)
    if background.noise:
        field = _noise(2 * size)
        top, left = rng.integers(0, size + 1, 2)
        canvas += (background.noise * 255) * field[top : top + size, left : left + size]
    return canvas


@lru_cache(maxsize=64)
def _pattern(kind: str, tone: str, size: int) -> Array:
    """A pale picture in one tone; the patterns differ in brightness only, and weakly."""
    x, y = np.broadcast_arrays(*np.meshgrid(*[(np.arange(size, dtype=np.float32) + 0.5) / size] * 2))
    strength = {
        "plain": lambda: np.zeros_like(x),
        "gradient": lambda: 1.3 * (x + y) / 2,
        "waves": lambda: 0.5 + 0.5 * np.sin(2 * np.pi * (5 * y + 0.25 * np.sin(4 * np.pi * x))),
        "tiles": lambda: (np.floor(5 * x) + np.floor(5 * y)) % 2,
        "hills": lambda: sum(
            _unit((y - 0.45 - 0.2 * k - 0.07 * np.sin(5 * x + 2.4 * k)) * size) * 0.5 for k in range(3)
        ),
    }[kind]()
    colour = np.array(TONE_RGB[tone], np.float32)
    return colour[:, None, None] - 20 * np.asarray(strength, np.float32)


@lru_cache(maxsize=8)
def _noise(side: int) -> Array:
    """A field of grey noise with standard deviation 1, which pictures take windows of."""
    return np.random.default_rng(0).standard_normal((side, side), np.float32)


def _scrap(canvas: Array, x: float, y: float, length: float, turn: float, colour: float) -> None:
    """Paints one small bar, much smaller than any object; each of its properties is given as a number in [0, 1)."""
    size = canvas.shape[-1]
    stamp = _bar(size, int(4 * length), int(12 * turn))
    left, top = int(x * size) - stamp.shape[1] // 2, int(y * size) - stamp.shape[0] // 2
    patch = canvas[:, max(0, top) : top + stamp.shape[0], max(0, left) : left + stamp.shape[1]]
    stamp = stamp[max(0, -top) :, max(0, -left) :][: patch.shape[1], : patch.shape[2]]
    base, _ = _tones(COLOURS[int(colour * len(COLOURS))])
    patch += stamp * (base - patch)


@lru_cache(maxsize=256)
def _bar(size: int, length: int, turn: int) -> Array:
    """Opacity of a bar with round ends, one of 4 lengths and 12 directions, for pictures of this size."""
    reach, half = (0.014 + 0.005 * length) * size, 0.008 * size
    side = np.arange(-math.ceil(reach + half), math.ceil(reach + half) + 1, dtype=np.float32)
    cos, sin = math.cos(math.pi * turn / 12), math.sin(math.pi * turn / 12)
    along = np.maximum(np.abs(side * cos + side[:, None] * sin) - reach, 0)
    return 0.8 * _unit(half + 0.5 - np.hypot(along, side[:, None] * cos - side * sin))
