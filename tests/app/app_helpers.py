"""A tiny data set and the settings of tiny runs."""

import io
import json

from PIL import Image

from diptych.data.shards import ShardWriter, write_dataset_json
from diptych.recipe import Recipe

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220), "grey": (120, 120, 120)}
TINY = {
    "image_size": 16,
    "image_width": 16,
    "image_layers": 1,
    "image_heads": 2,
    "patch": 8,
    "text_width": 16,
    "text_layers": 1,
    "text_heads": 2,
    "embed": 8,
}
FLAGS = [text for name, value in TINY.items() for text in (f"--{name.replace('_', '-')}", str(value))]
RECIPE = Recipe(samples=64, batch=8, workers=0, evaluations=2, checkpoints=2, precision="fp32")


def png(colour, size=(16, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def members(number: int) -> dict[str, bytes]:
    """A coloured picture, brighter or darker by its number, and the caption that says so."""
    name = list(COLOURS)[number % len(COLOURS)]
    colour = tuple(min(255, value + number % 30) for value in COLOURS[name])
    return {"png": png(colour), "txt": f"a {name} field number {number}".encode()}


def write_shards(folder, splits=(("train", 40), ("val", 20)), **more):
    """Shards with pictures and captions."""
    first = 0
    for split, count in splits:
        with ShardWriter(folder, split) as writer:
            for number in range(first, first + count):
                writer.add(f"s{number:04d}", members(number))
        first += count
    info = {
        "name": folder.name,
        "licence": "CC0-1.0",
        "has": ["image", "text", "texts"],
        "splits": {split: {"samples": count, "shards": 1} for split, count in splits},
    }
    write_dataset_json(folder, info | more)
    return folder


def tiny(method: str, **options):
    """A method's Config with small towers."""
    from diptych import methods

    return methods.config_class(method)(**{**TINY, **options})


def rows_of(text: str) -> list[dict]:
    """The rows that a command printed as JSON."""
    return json.loads(text)
