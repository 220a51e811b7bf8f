"""Whether pictures that a comparison judges by are also among those that it trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diptych.app import measure, sources, terminal
from diptych.data.decode import BrokenSample
from diptych.data.duplicates import find_duplicates, fingerprint

if TYPE_CHECKING:
    from diptych.data.dataset import Dataset

_LISTED = 50


class Leaking(ValueError):
    """Judged pictures are also trained on, so that figures would flatter whoever remembers."""


def search(data: Sequence[str], val: Sequence[str]) -> dict[str, Any]:
    """Looks at every picture of both sides, by content and by perceptual hash (`data.duplicates`).

    Returns:
        `found`, the number of judged pictures that equal or look like a trained one, `judged` and `trained`, how many
        there are, and the first `pairs` of keys. Data without pictures have none.
    """
    train = [sources.open_source(sources.weighted(spec)[0], "train") for spec in data]
    sides = [("train", one) for one in train]
    sides += [("judged", one.data) for one in measure.judged(val or data, "val")]
    sides = [(side, one) for side, one in sides if "image" in one.has]
    keys, names, prints = [], [], []
    total = sum(len(one) for _, one in sides)
    with terminal.progress("looking for judged pictures among the trained ones") as show:
        for side, one in sides:
            for key, picture in _pictures(one):
                keys.append(key)
                names.append(side)
                prints.append(fingerprint(picture))
                show(len(keys), total)
    found = find_duplicates(keys, names, prints).leaks
    return {
        "found": len(found),
        "judged": names.count("judged"),
        "trained": names.count("train"),
        "pairs": [list(leak.keys) for leak in found[:_LISTED]],
    }


def refusal(leaks: dict[str, Any]) -> str:
    """The sentence that says why there is no table."""
    a, b = leaks["pairs"][0]
    return (
        f"{leaks['found']:,} of {leaks['judged']:,} judged pictures are (nearly) the same as one that is trained on, "
        f"such as {b} and {a}: `diptych inspect` lists them. Take them out of one side, or say --allow-leaks."
    )


def _pictures(data: Dataset) -> Any:
    """Key and picture of every sample that can be read."""
    for index in range(len(data)):
        try:
            yield data.key(index), data.read(index, ("image",))["image"]
        except BrokenSample:
            continue
