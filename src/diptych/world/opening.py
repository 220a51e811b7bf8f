"""A world from text, as the command line names it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diptych.world.clips import Clips
from diptych.world.data import World
from diptych.world.draw import Sprite
from diptych.world.knobs import READERS, Knobs, parse_options, whole
from diptych.world.made import Made
from diptych.world.pairs import Pairs
from diptych.world.rooms import Solids
from diptych.world.texts import Texts


def open_world(options: str = "", split: str = "train", sprites: Sequence[Sprite] = ()) -> Made[Any]:
    """A world from text such as `objects=4,named=2,seed=1`: knobs, and `seed`.

    With `pairs=true` its samples are statements about two pictures (`Pairs`), with `video=true` clips (`Clips`), with
    `points=true` solid things (`Solids`), with `text=true` texts and nothing else (`Texts`).

    Raises:
        ValueError: an unknown name (the nearest one is named), or a value that does not fit.
    """
    values = parse_options(options, {"seed": whole, **READERS})
    seed, knobs = values.pop("seed", 0), Knobs(**values)
    kinds: dict[str, type[Made[Any]]] = {"pairs": Pairs, "video": Clips, "points": Solids, "text": Texts}
    kind = next((found for name, found in kinds.items() if getattr(knobs, name)), World)
    return kind(split, seed=seed, knobs=knobs, sprites=sprites)
