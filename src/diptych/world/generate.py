"""Scenes out of numbers: the same seed, split and index give the same scene, whatever was drawn before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

from diptych.world.knobs import Knobs
from diptych.world.scene import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES, TONES, Background, Object, Scene, overlap

LARGE, SMALL = 1.0, 0.62
"""radius of the two sizes, against the largest that suits the number of objects"""


@dataclass(frozen=True)
class Vocabulary:
    """The words that objects may have. An empty list: no object has the attribute."""

    categories: tuple[str, ...]
    colours: tuple[str, ...]
    textures: tuple[str, ...]
    sizes: tuple[str, ...]
    held_out: frozenset[tuple[str, str]] = frozenset()
    """(category, colour) pairs that occur in the split `composition` only"""

    @cached_property
    def known(self) -> dict[str, list[tuple[str, str]]]:
        """Category -> its (category, colour) pairs that are not held out."""
        pairs = {category: [(category, colour) for colour in self.colours or ("",)] for category in self.categories}
        return {category: [pair for pair in own if pair not in self.held_out] for category, own in pairs.items()}

    def of(self, attribute: str) -> tuple[str, ...]:
        """The values of one attribute: category, colour, texture or size."""
        words = {"category": self.categories, "colour": self.colours, "texture": self.textures, "size": self.sizes}
        return words[attribute]


def vocabulary(knobs: Knobs, cutouts: Sequence[str] = ()) -> Vocabulary:
    """The words of a world: of drawn shapes, or of cut-outs with these names.

    Cut-outs have no texture, and a colour only where `knobs.tint` dyes them.

    Raises:
        ValueError: more objects that must differ than there are categories.
    """
    categories = tuple(cutouts or SHAPES)[: knobs.shapes]
    if not knobs.repeats and knobs.objects[1] > len(categories):
        raise ValueError(
            f"a scene of {knobs.objects[1]} different objects needs as many categories, and there are "
            f"{len(categories)}: lower objects, raise shapes, or set repeats=true."
        )
    colours = COLOURS[: knobs.colours] if knobs.tint or not cutouts else ()
    textures = () if cutouts else TEXTURES[: knobs.textures]
    sizes = SIZES if knobs.sizes == 2 else ()
    return Vocabulary(categories, colours, textures, sizes, _held_out(categories, colours, knobs.composition))


def _held_out(categories: Sequence[str], colours: Sequence[str], share: float) -> frozenset[tuple[str, str]]:
    """Every k-th diagonal of the table of pairs, so that each category and each colour is still seen in training."""
    if not share or len(categories) < 2 or len(colours) < 2:
        return frozenset()
    step = round(1 / share)
    return frozenset((a, b) for i, a in enumerate(categories) for j, b in enumerate(colours) if (i + j) % step == 0)


def stream(*name: object) -> Random:
    """A source of randomness of its own for everything that has a name."""
    return Random("/".join(map(str, name)))


def scene(seed: int, index: int, knobs: Knobs, split: str = "train", words: Vocabulary | None = None) -> Scene:
    """Scene number `index` of a split; it depends on nothing but the arguments.

    Args:
        seed: the world's seed.
        index: any whole number.
        knobs: how hard the world is.
        split: in `composition` every object in focus has a held-out (category, colour) pair; in any other, none has.
        words: the world's vocabulary, if it is at hand.
    """
    words = words or vocabulary(knobs)
    rng = stream("scene", seed, split, index)
    count = rng.randint(*knobs.objects)
    focus = sorted(rng.sample(range(count), knobs.focus(count)))
    held_out = set(focus) if split == "composition" else set()
    pairs = _pairs(rng, count, words, held_out, knobs)
    sizes = [rng.choice(words.sizes) if words.sizes else "" for _ in pairs]
    centres, radii = _layout(rng, knobs, sizes)
    depths = rng.sample(range(count), count)
    objects = tuple(
        Object(
            category=category,
            colour=colour,
            texture=rng.choice(words.textures) if words.textures else "",
            size=size,
            x=x,
            y=y,
            z=(depth + 0.5) / count,
            radius=radius,
            angle=math.radians(rng.uniform(-knobs.tilt, knobs.tilt)),
        )
        for (category, colour), size, (x, y), radius, depth in zip(pairs, sizes, centres, radii, depths, strict=True)
    )
    return Scene(objects, _background(rng, knobs), tuple(focus))


def _background(rng: Random, knobs: Knobs) -> Background:
    return Background(
        kind=rng.choice(BACKGROUNDS[: knobs.backgrounds]),
        tone=rng.choice(TONES),
        clutter=rng.randint(0, knobs.clutter),
        noise=knobs.noise,
        seed=rng.getrandbits(32),
    )


def _pairs(rng: Random, count: int, words: Vocabulary, held_out: set[int], knobs: Knobs) -> list[tuple[str, str]]:
    """A (category, colour) for each object; no pair twice in a scene, so that the two words always single one out.

    The objects in `held_out` get held-out pairs, the others never do.
    """
    repeats, company = knobs.repeats, knobs.company
    for _ in range(50):
        unseen = _unseen(rng, len(held_out), words, repeats)
        taken = [category for category, _ in unseen]
        rest = _accompanied(rng, _categories(rng, count - len(unseen), words, taken, repeats), words, taken, company)
        seen: list[tuple[str, str]] = []
        for category in rest:
            free = [pair for pair in words.known[category] if pair not in seen]
            if free:
                seen.append(rng.choice(free))
        if len(seen) + len(unseen) == count and len(unseen) == len(held_out):
            return [(unseen if i in held_out else seen).pop() for i in range(count)]
    raise ValueError(
        f"no {count} objects of {len(words.categories)} categories and {len(words.colours)} colours differ as they "
        "must: lower objects or named, or raise shapes, colours or composition."
    )


def _unseen(rng: Random, count: int, words: Vocabulary, repeats: bool) -> list[tuple[str, str]]:
    """Held-out pairs, of different categories unless categories may repeat; fewer than `count` if there are not."""
    pairs = sorted(words.held_out) if count else []
    rng.shuffle(pairs)
    if not repeats:
        pairs = list({category: (category, colour) for category, colour in pairs}.values())
    return pairs[:count]


def _categories(rng: Random, count: int, words: Vocabulary, taken: Sequence[str], repeats: bool) -> list[str]:
    """Categories of the other objects: all different, or such that with those taken each occurs about twice."""
    fresh = [category for category in words.categories if category not in taken]
    if not repeats:
        return rng.sample(fresh, min(count, len(fresh)))
    few = list(dict.fromkeys(taken))
    few += rng.sample(fresh, min(len(fresh), max(0, (count + len(taken) + 1) // 2 - len(few))))
    wanted = few * (count + len(taken))
    for category in taken:
        wanted.remove(category)
    wanted = wanted[:count]
    rng.shuffle(wanted)
    return wanted


def companion(category: str, categories: Sequence[str]) -> str:
    """The category that often is where this one is, with `Knobs.company`; "" for the last of an odd number."""
    other = categories.index(category) ^ 1
    return categories[other] if other < len(categories) else ""


def _accompanied(rng: Random, chosen: list[str], words: Vocabulary, taken: Sequence[str], company: float) -> list[str]:
    """The same categories, but that the second, the fourth, ... often is the companion of the one before it."""
    for first in range(0, len(chosen) - 1, 2) if company else ():
        other = companion(chosen[first], words.categories)
        if rng.random() < company and other and other not in (*chosen, *taken):
            chosen[first + 1] = other
    return chosen


def _layout(rng: Random, knobs: Knobs, sizes: Sequence[str]) -> tuple[list[tuple[float, float]], list[float]]:
    """Centres and radii that overlap no deeper than `knobs.occlusion`; all shrink together until they fit."""
    shares = [(SMALL if size == "small" else LARGE) * rng.uniform(0.94, 1.06) for size in sizes]
    largest = 0.41 / knobs.grid if knobs.grid else min(0.2, 0.43 / math.sqrt(len(sizes)))
    while True:
        radii = [largest * share for share in shares]
        centres = _cells(rng, knobs.grid, len(radii)) if knobs.grid else _scatter(rng, radii, knobs.occlusion)
        if centres:
            return centres, radii
        largest *= 0.95


def _scatter(rng: Random, radii: Sequence[float], occlusion: float) -> list[tuple[float, float]]:
    """A place for each radius, or an empty list where none was found in a fair number of tries."""
    placed: list[tuple[float, float, float]] = []
    for radius in radii:
        low, room = radius + 0.01, 0.98 - 2 * radius
        apart = [(a, b, radius + other - 2 * occlusion * min(radius, other)) for a, b, other in placed]
        for _ in range(40):
            x, y = low + rng.random() * room, low + rng.random() * room
            if all(math.hypot(x - a, y - b) >= distance for a, b, distance in apart):
                placed.append((x, y, radius))
                break
        else:
            return []
    return [(x, y) for x, y, _ in placed]


def _cells(rng: Random, grid: int, count: int) -> list[tuple[float, float]]:
    cells = rng.sample(range(grid * grid), count)
    jitter = 0.05  # with the largest radius of 0.41 * 1.06 it stays in the cell
    return [
        tuple((part + 0.5 + rng.uniform(-jitter, jitter)) / grid for part in (cell % grid, cell // grid))  # type: ignore[misc]
        for cell in cells
    ]


def changed(base: Scene, index: int, attribute: str, word: str, knobs: Knobs) -> Scene | None:
    """The scene with one attribute of one object changed; None where a small object cannot grow for want of room."""
    thing = base.objects[index]
    radius = thing.radius
    if attribute == "size":
        radius *= LARGE / SMALL if word == "large" else SMALL / LARGE
    fresh = replace(thing, **{attribute: word}, radius=radius)  # type: ignore[arg-type]
    others = [other for i, other in enumerate(base.objects) if i != index]
    inside = all(radius <= value <= 1 - radius for value in (thing.x, thing.y))
    if radius > thing.radius and not (inside and all(overlap(fresh, other) <= knobs.occlusion for other in others)):
        return None
    objects = (*base.objects[:index], fresh, *base.objects[index + 1 :])
    return replace(base, objects=objects)
