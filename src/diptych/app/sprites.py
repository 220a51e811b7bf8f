"""Cut-outs for the world from a data set whose pictures are transparent around what they show."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image

from diptych.data.dataset import ShardedData
from diptych.data.decode import NORMAL, BrokenSample, image_header
from diptych.world import Sprite

_FEWEST = 0.1  # share of a picture that must be transparent for it to be a cut-out
_KINDS = ("webp", "png")  # that can be transparent


def cutouts(data: ShardedData) -> list[Sprite]:
    """The pictures of shards that are cut-outs and have a caption of one word: the first for each word, in order.

    Raises:
        ValueError: there is none.
    """
    found: dict[str, Sprite] = {}
    for index in range(len(data)):
        try:
            sprite = _cutout(data.raw(index))
        except BrokenSample:  # it is told when the data set itself is read
            continue
        if sprite is not None:
            found.setdefault(sprite.name, sprite)
    if not found:
        raise ValueError(
            f"{data.name} has no cut-outs for the world: transparent .webp or .png pictures with a caption of one word."
        )
    return list(found.values())


def _cutout(members: dict[str, bytes]) -> Sprite | None:
    kind = next((kind for kind in _KINDS if kind in members), "")
    record = json.loads(members.get("json", b"{}"))
    names = record.get("captions") or {}
    name = str(names.get("en") or (record.get("texts") or [members.get("txt", b"").decode("utf-8", "replace")])[0])
    if not kind or not name.isalpha():
        return None
    image_header(members[kind], NORMAL)
    with Image.open(io.BytesIO(members[kind]), formats=("WEBP", "PNG")) as opened:
        pixels = np.asarray(opened.convert("RGBA"))  # (h, w, 4)
    if (pixels[..., 3] < 128).mean() < _FEWEST:
        return None
    return Sprite(name.lower(), pixels, {language: word for language, word in names.items() if language != "en"})
