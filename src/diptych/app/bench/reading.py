"""Reading shards of 256-pixel JPEGs to augmented 224-pixel tensors, on one core: ours against webdataset, PIL and v2.

Both read the same shards, which our writer makes of mosaics of the starter set (as busy as photos), and give a
(3, 224, 224) uint8 tensor a picture: a random resized crop of 0.9 to 1.0 of the area, bicubic, mirrored half of the
time. Ours are the reader and the views of a dual encoder; theirs the pipeline of webdataset's documentation with the
transforms of torchvision's, v2 on tensors. The second case also scales and normalises: ours in batches, as a tower
does, theirs each picture.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.app import sources
from diptych.app.bench.measure import Aim, Case, Form, Limit, Step, timed
from diptych.data.dataset import ShardedData
from diptych.data.shards import ShardWriter
from diptych.encoders.base import CLIP_MEAN, CLIP_STD, ImageEncoder
from diptych.views import image as views

SIDE, SIZE, CROP = 256, 224, (0.9, 1.0)
_TILES = 3  # a mosaic has so many pictures of the starter set in a row
_QUALITY = 90
_BATCH = 64
_folders: list[tempfile.TemporaryDirectory[str]] = []  # go when the process ends


@dataclass(frozen=True)
class Options:
    """How much is read."""

    samples: int = 1000
    """pictures in the shards"""
    repeats: int = 5
    """turns"""


def cases(options: Options) -> list[Case]:
    """Augmented pictures as bytes and as normalised numbers, and reading in another order."""
    limit = Limit("decoding alone, by PIL (libjpeg-turbo)", partial(decoding, options))
    against = Aim("speed", "diptych", "webdataset", at_least=1.5)
    shape = f"{SIDE}-pixel JPEGs to {SIZE}-pixel"

    def case(title: str, aim: Aim, steps: dict[str, Callable[[Options], Step]]) -> Case:
        forms = {name: Form(partial(make, options), memory=False) for name, make in steps.items()}
        return Case(title, forms, (aim,), "pictures", options.samples, options.repeats, limit)

    return [
        case(f"{shape} tensors, uint8", against, {"diptych": ours, "webdataset": theirs}),
        case(f"{shape} tensors, normalised", against, {"diptych": ours_normalised, "webdataset": theirs_normalised}),
        case(
            f"{shape} tensors, in random order",
            Aim("speed", "at random", "in order", at_least=0.8),
            {"at random": ours_shuffled, "in order": ours},
        ),
    ]


# -- the shards --------------------------------------------------------------------------------------------------------


@cache
def shards(samples: int) -> Path:
    """A folder of shards of mosaics; made once a process, and gone with it."""
    from PIL import Image

    _folders.append(tempfile.TemporaryDirectory())
    folder, starter, rng = Path(_folders[-1].name), sources.open_source("starter", "train"), np.random.default_rng(0)
    tiles = [starter.read(index, ["image"]).image for index in range(min(len(starter), 300))]
    side = -(-SIDE // _TILES)
    with ShardWriter(folder, "train", max_bytes=8 << 20) as writer:
        for number in range(samples):
            mosaic = Image.new("RGB", (SIDE, SIDE))
            for place, tile in enumerate(rng.choice(len(tiles), _TILES**2)):
                mosaic.paste(tiles[tile].resize((side, side)), (place % _TILES * side, place // _TILES * side))
            data = io.BytesIO()
            mosaic.save(data, "JPEG", quality=_QUALITY)
            writer.add(f"{number:06d}", {"jpg": data.getvalue(), "txt": b"a mosaic"})
    return folder


def decoding(options: Options) -> float:
    """Seconds in which PIL decodes all pictures from memory, and nothing else."""
    from PIL import Image

    data = ShardedData(shards(options.samples), "train")
    pictures = [data.raw(index)["jpg"] for index in range(len(data))]
    return timed(lambda: [Image.open(io.BytesIO(picture), formats=["JPEG"]).load() for picture in pictures])


def consume(batches: Callable[[], Iterator[Tensor]], samples: int) -> Step:
    """A step that reads all of them, on one thread, and makes sure that they were all there."""

    def step() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            found = sum(len(batch) for batch in batches())
        finally:
            torch.set_num_threads(threads)
        if found != samples:
            raise RuntimeError(f"{found} pictures were read of {samples}.")

    return step


def stacked(pictures: Iterator[Tensor]) -> Iterator[Tensor]:
    """(3, H, W) each -> batches (B, 3, H, W)."""
    while some := list(islice(pictures, _BATCH)):
        yield torch.stack(some)


# -- ours --------------------------------------------------------------------------------------------------------------


def ours(options: Options, *, shuffle: bool = False, normalise: bool = False) -> Step:
    """Our reader and views, in the order of the shards or at random."""
    data = ShardedData(shards(options.samples), "train")

    def pictures() -> Iterator[Tensor]:
        for index in data.order(0, 0, shuffle).tolist():
            rng = np.random.default_rng([0, 0, index])
            crop = views.random_resized_crop(data.read(index, ["image"]).image, SIZE, rng, CROP)
            yield views.random_flip(crop, rng)

    tower = ImageEncoder()
    tower.set_pixels(SIZE, CLIP_MEAN, CLIP_STD)

    def batches() -> Iterator[Tensor]:
        for batch in stacked(pictures()):
            yield tower.pixels(batch) if normalise else batch

    return consume(batches, options.samples)


ours_shuffled = partial(ours, shuffle=True)
ours_normalised = partial(ours, normalise=True)


# -- webdataset, PIL and torchvision -----------------------------------------------------------------------------------


def theirs(options: Options, *, normalise: bool = False) -> Step:
    """The pipelines that webdataset's and torchvision's documentation recommend."""
    import webdataset
    from torchvision.transforms import v2

    end: list[Any] = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(CLIP_MEAN, CLIP_STD)] if normalise else []
    bicubic = v2.InterpolationMode.BICUBIC
    crop = v2.RandomResizedCrop(SIZE, scale=CROP, interpolation=bicubic, antialias=True)
    transforms = v2.Compose([v2.ToImage(), crop, v2.RandomHorizontalFlip(), *end])
    tars = [str(tar) for tar in sorted(shards(options.samples).glob("*.tar"))]
    data = webdataset.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("jpg").map_tuple(transforms)
    return consume(lambda: stacked(picture for (picture,) in data), options.samples)


theirs_normalised = partial(theirs, normalise=True)
