"""Methods against each other on the same data, with the same budget and several seeds.

    python benchmarks/head_to_head.py world              trains, evaluates, writes results/world.json, docs/world.md
    python benchmarks/head_to_head.py pictures --sets DIR   the same on packed sets of real pictures below DIR
    python benchmarks/head_to_head.py world --table      only writes the table again

Interrupted, the same command goes on where it stopped. Both methods of a pair start from the same weights, see the
same samples in the same order, and are judged on the same samples, so that differences are paired.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

import diptych
from diptych import methods, results
from diptych.config import to_dict
from diptych.evaluation.statistics import paired_difference
from diptych.recipe import Recipe
from diptych.results import Row

ROOT = Path(__file__).resolve().parent.parent
RESULTS, DOCS, RUNS = ROOT / "results", ROOT / "docs", ROOT / "runs" / "head_to_head"


@dataclass(frozen=True)
class Setting:
    """What is compared. `judged` lists (data, split, tasks); the first metrics of `decisive` are tested in pairs."""

    title: str
    about: str
    methods: tuple[str, ...]
    data: tuple[str, ...]
    judged: tuple[tuple[str, str, tuple[str, ...]], ...]
    decisive: tuple[tuple[str, str], ...]
    recipe: Recipe
    options: dict[str, object] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)


WORLD = "world"
SETTINGS = {
    "world": Setting(
        title="FILIP against CLIP in the world",
        about=(
            "20,000 scenes of 64 px with five or six objects, of which the caption names two; equal towers, data order "
            "and number of samples. Pointing: does the strongest patch for a phrase lie in the box that it names? Hard "
            "gallery: 16 scenes that differ in one attribute of one named object."
        ),
        methods=("clip", "filip"),
        data=(WORLD,),
        judged=((WORLD, "val", ("pointing", "retrieval", "foils")), (WORLD, "gallery", ("hard_gallery",))),
        decisive=(
            ("pointing", "phrase"),
            ("pointing", "word"),
            ("pointing", "phrase_alone"),
            ("hard_gallery", "image_to_text_r1"),
            ("hard_gallery", "text_to_image_r1"),
            ("retrieval", "image_to_text_r5"),
            ("retrieval", "text_to_image_r5"),
        ),
        recipe=Recipe(samples=32_768, batch=64, lr=1e-3, workers=1, evaluations=0, checkpoints=2),
        options={"image_width": 96, "text_width": 96, "embed": 64},
    ),
    "pictures": Setting(
        title="Real pictures, real encoders",
        about=(
            "EfficientNet-Lite0 (ImageNet) and MiniLM (sentences), both frozen, with trained maps into a joint space; "
            "trained on the drawings of openclipart, emoji and Tux Paint stamps with their English captions, each val "
            "split judged on its own."
        ),
        methods=("clip", "filip"),
        data=("openclipart", "emoji_multilingual", "tuxpaint_stamps"),
        judged=tuple(
            (name, "val", ("retrieval",)) for name in ("openclipart", "emoji_multilingual", "tuxpaint_stamps")
        ),
        decisive=(("retrieval", "image_to_text_r1"), ("retrieval", "text_to_image_r1")),
        recipe=Recipe(samples=6_836 * 6, batch=64, lr=2e-3, workers=1, evaluations=0, checkpoints=2),
        options={
            "image": "packaged:efficientnet_lite0",
            "image_size": 128,
            "text": "packaged:minilm",
            "embed": 256,
            "crop": (1.0, 1.0),
            "freeze": (r"^image\.", r"^text\."),
            "remember": 4096,
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--sets", type=Path, default=None, help="folder below which the named data sets lie")
    parser.add_argument("--table", action="store_true", help="only write the table from the results")
    parser.add_argument("--only", metavar="METHOD", help="only train and judge this method (processes share the work)")
    arguments = parser.parse_args()
    setting = SETTINGS[arguments.setting]
    if arguments.only:
        for seed in setting.seeds:
            run_one(arguments.setting, setting, arguments.sets, arguments.only, seed)
        return
    path = RESULTS / f"{arguments.setting}.json"
    if not arguments.table:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(measure(arguments.setting, setting, arguments.sets), indent=1) + "\n")
    page = DOCS / f"{arguments.setting}.md"
    page.write_text(table(arguments.setting, setting, json.loads(path.read_text())))
    print(page.read_text())


def run_one(name: str, setting: Setting, sets: Path | None, method: str, seed: int) -> tuple[Path, list[Row], dict]:
    """Trains a method with a seed and judges it, or reads what was done before: folder, figures and cost."""

    def source(spec: str) -> str:
        return str(sets / spec) if sets and spec != WORLD else spec

    out = RUNS / name / f"{method}-{seed}"
    config = methods.config_class(method)(**setting.options)
    recipe = replace(setting.recipe, seed=seed)
    data = [source(spec) for spec in setting.data]
    run = diptych.train(method, data, out, config=config, recipe=recipe, tasks=("gap",))
    rows = []
    for spec, split, tasks in setting.judged:
        where = out / "judged" / f"{spec}-{split}"
        if not (where / "results.json").is_file():
            diptych.evaluate(out, source(spec), tasks, split=split, out=where)
        found = results.from_json((where / "results.json").read_text())
        rows += [replace(row, data=f"{spec}/{split}", seed=seed) for row in found]
    return out, rows, run.finished


def measure(name: str, setting: Setting, sets: Path | None) -> dict[str, object]:
    """Trains and judges every method with every seed; the figures and the paired differences to the first method."""
    rows: list[Row] = []
    folders, cost = {}, {}
    for method in setting.methods:
        for seed in setting.seeds:
            folders[method, seed], found, cost[f"{method}-{seed}"] = run_one(name, setting, sets, method, seed)
            rows += found
    return {
        "setting": {**vars(setting), "recipe": to_dict(setting.recipe)},
        "machine": {"kind": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "commit": commit(),
        "cost": cost,
        "rows": json.loads(results.to_json(rows)),
        "differences": differences(setting, folders),
    }


def differences(setting: Setting, folders: dict[tuple[str, int], Path]) -> list[dict[str, object]]:
    """Method minus the first method, per sample, over seeds: mean and 95 % interval (hierarchical bootstrap)."""
    found = []
    for spec, split, tasks in setting.judged:
        for task, metric in setting.decisive:
            if task not in tasks:
                continue

            def values(
                method: str, task: str = task, metric: str = metric, part: str = f"{spec}-{split}"
            ) -> np.ndarray:
                return np.stack(
                    [
                        column(folders[method, seed] / "judged" / part / "samples" / f"{task}.parquet", metric)
                        for seed in setting.seeds
                    ]
                )

            first = values(setting.methods[0])
            for method in setting.methods[1:]:
                estimate = paired_difference(values(method), first)
                labels = {"method": method, "against": setting.methods[0], "data": f"{spec}/{split}"}
                found.append({**labels, "task": task, "metric": metric, **estimate._asdict()})
    return found


def column(path: Path, name: str) -> np.ndarray:
    """A column of a table of samples, without the rows in which it is empty."""
    return pq.read_table(path, columns=[name]).column(name).drop_null().to_numpy().astype(float)


def table(name: str, setting: Setting, result: dict) -> str:
    """The page: a row a metric, a column a method, and the paired differences."""
    rows = [Row(**{k: np.nan if v is None else v for k, v in row.items()}) for row in result["rows"]]
    first = setting.methods[0]
    head = ["data", "task", "metric", "chance", *setting.methods, *(f"{m} - {first}" for m in setting.methods[1:])]
    lines = [f"# {setting.title}", "", setting.about, ""]
    lines += [
        f"{len(setting.seeds)} seeds, {setting.recipe.samples:,} samples a run in batches of {setting.recipe.batch}. "
        "A method's column is its mean over the seeds with the seeds' range; a difference is paired by sample and has "
        "a 95 % interval over seeds and samples. Bold: the interval excludes zero.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
    ]
    metrics = dict.fromkeys((row.data, row.task, row.metric) for row in rows)
    for data, task, metric in metrics:
        cells = []
        chance = next(r.chance for r in rows if (r.data, r.task, r.metric) == (data, task, metric))
        for method in setting.methods:
            values = [r.value for r in rows if (r.method, r.data, r.task, r.metric) == (method, data, task, metric)]
            cells.append(f"{number(np.mean(values))} ({number(min(values))} to {number(max(values))})")
        for method in setting.methods[1:]:
            cells.append(difference(result["differences"], method, data, task, metric))
        lines.append("| " + " | ".join([data, task, metric, number(chance), *cells]) + " |")
    cost = result["cost"]
    speeds = {m: np.mean([cost[f"{m}-{s}"]["samples_per_second"] for s in setting.seeds]) for m in setting.methods}
    lines += [
        "",
        "Time of a training step against the first method's: "
        + ", ".join(f"{m} {speeds[first] / speed:.2f}" for m, speed in speeds.items())
        + ".",
    ]
    lines += [
        "",
        f"Made by `python benchmarks/head_to_head.py {name}` from `results/{name}.json` (commit {result['commit']}).",
    ]
    return "\n".join(lines) + "\n"


def difference(found: list[dict], method: str, data: str, task: str, metric: str) -> str:
    """One paired difference with its interval, bold where it excludes zero, empty where it was not tested."""
    for item in found:
        if (item["method"], item["data"], item["task"], item["metric"]) == (method, data, task, metric):
            text = f"{item['value']:+.3f} [{item['low']:+.3f}, {item['high']:+.3f}]"
            return f"**{text}**" if item["low"] > 0 or item["high"] < 0 else text
    return ""


def number(value: float) -> str:
    """Three decimals for shares, one for ranks, nothing for what is not known."""
    if np.isnan(value):
        return ""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def commit() -> str:
    """The commit that the figures were made with; a trailing + says that files had changed since."""
    run = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return run.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
