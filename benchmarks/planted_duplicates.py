"""How many planted duplicates `diptych curate dedup` finds, and how many of the pairs that it finds were planted.

    python benchmarks/planted_duplicates.py            # writes results/planted_duplicates.json for docs/curation.md

Some pictures of a data set are planted again, changed in one way. A pair counts as right where both are the same
picture; pairs that the data set has by itself, which are found without planting, are left out of the count.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych import methods
from diptych.app import sources
from diptych.curation.blocks import parts_of
from diptych.curation.dedup import Dedup, DedupTask, Prints
from diptych.curation.embed import Embedder
from diptych.curation.run import curate
from diptych.data.shards import ShardWriter

RESULTS = Path(__file__).resolve().parent.parent / "results" / "planted_duplicates.json"
DATA = ("starter", "world")
PICTURES, PLANTED = 200, 50


def cropped(image: Image.Image, share: float) -> Image.Image:
    """The middle of a picture, without `share` of each side in all."""
    x, y = round(image.width * share / 2), round(image.height * share / 2)
    return image.crop((x, y, image.width - x, image.height - y))


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """The same picture through JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


CHANGES = {
    "copied": lambda image: image,
    "made half as large": lambda image: image.resize((max(1, image.width // 2), max(1, image.height // 2))),
    "JPEG, quality 50": lambda image: compressed(image, 50),
    "half as large, JPEG 60": lambda image: compressed(image.resize((image.width // 2 + 1, image.height // 2 + 1)), 60),
    "brighter by 10 %": lambda image: image.point(lambda value: min(255, round(1.1 * value))),
    "cropped by 5 %": lambda image: cropped(image, 0.05),
    "cropped by 10 %": lambda image: cropped(image, 0.1),
    "cropped by 20 %": lambda image: cropped(image, 0.2),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def write(folder: Path, pictures: list[tuple[str, Image.Image]]) -> str:
    """Pictures by key as shards."""
    with ShardWriter(folder, "train") as writer:
        for key, picture in pictures:
            out = io.BytesIO()
            picture.save(out, "WEBP", lossless=True, method=0)
            writer.add(key, {"webp": out.getvalue()})
    return str(folder)


def found(task: DedupTask, folder: str) -> set[tuple[str, str]]:
    """The keys of all pairs of which one goes."""
    with tempfile.TemporaryDirectory() as work:
        outcome = curate(task, parts_of([folder]), Path(work) / "out", dry_run=True)
    keys = outcome.facts.table["key"].to_pylist()
    gone = np.flatnonzero(~outcome.verdicts.stays).tolist()
    return {(keys[row], keys[outcome.verdicts.partner[row]]) for row in gone if outcome.verdicts.partner[row] >= 0}


def same(pair: tuple[str, str]) -> bool:
    """Whether both of a pair are one picture."""
    return pair[0].split("-")[0] == pair[1].split("-")[0]


def measured(data: str, tasks: dict[str, DedupTask]) -> list[dict[str, Any]]:
    """A row a change and way to compare: recall, and precision where anything was found."""
    source = sources.open_source(data, "train")
    numbers = np.linspace(0, len(source) - 1, PICTURES).astype(int).tolist()
    pictures = [(f"k{number}", source.read(number, ("image",)).image) for number in numbers]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        plain = write(Path(folder) / "plain", pictures)
        own = {by: found(task, plain) for by, task in tasks.items()}
        for change, function in CHANGES.items():
            again = [(f"{key}-again", function(picture)) for key, picture in pictures[:: PICTURES // PLANTED]]
            planted = write(Path(folder) / change.replace(" ", "-").replace("%", ""), pictures + again)
            for by, task in tasks.items():
                pairs = found(task, planted)
                right = {frozenset(pair) for pair in pairs if same(pair)}
                wrong = [pair for pair in pairs - own[by] if not same(pair)]
                share = len(right) / max(1, len(right) + len(wrong))
                rows.append({"data": data, "change": change, "by": by, "recall": len(right) / len(again)})
                rows[-1] |= {"precision": share if pairs else None, "own": len(own[by])}
                print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Measures, and writes the result file."""
    config = methods.config_class("clip")(image="packaged:efficientnet_lite0", image_size=128, embed=512)
    import torch

    torch.manual_seed(0)
    embedder = Embedder(methods.build("clip", config), texts=False)
    tasks = {"perceptual": DedupTask(Dedup(), Prints())}
    for threshold in (0.9, 0.95):
        tasks[f"embedding, {threshold}"] = DedupTask(Dedup(by="embedding", threshold=threshold), Prints(embedder))
    rows = [row for data in DATA for row in measured(data, tasks)]
    told = {"pictures": PICTURES, "planted": PLANTED, "model": config.image, "rows": rows}
    RESULTS.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
