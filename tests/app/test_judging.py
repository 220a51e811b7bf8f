"""From runs on disk to scores and differences, on values made by hand."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.app import judging
from diptych.app.runs import Run
from diptych.results import Row

DATA = SimpleNamespace(name="set", split="val")


def run(folder: Path, method: str, seed: int, hits: list[int], keys: list[str] | None = None, **other: float) -> Run:
    """A run with one task: single values, their mean as a figure, and other figures without values."""
    folder = folder / f"{method}-{seed}"
    (folder / "samples").mkdir(parents=True)
    keys = keys or [f"k{i}" for i in range(len(hits))]
    pq.write_table(pa.table({"key": keys, "top1": hits}), folder / "samples" / "zero_shot.parquet")
    value = sum(hits) / len(hits)
    rows = [Row(method, folder.name, "set/val", "zero_shot", "top1", value, n=len(hits), chance=0.1, seed=seed)]
    rows += [Row(method, folder.name, "set/val", "zero_shot", name, v, seed=seed) for name, v in other.items()]
    return Run(folder, {"method": method}, rows)


def test_means_and_paired_differences(tmp_path: Path) -> None:
    runs = {
        "a": [run(tmp_path, "a", 0, [1, 0, 0, 0] * 20), run(tmp_path, "a", 1, [1, 0, 0, 0] * 20)],
        "b": [run(tmp_path, "b", 0, [1, 1, 0, 0] * 20), run(tmp_path, "b", 1, [1, 1, 1, 0] * 20)],
    }
    scores, differences = judging.judge(runs, [DATA])
    by_label = {score.label: score for score in scores}
    assert by_label["a"].value == pytest.approx(0.25)
    assert by_label["b"].value == pytest.approx(0.625)
    assert by_label["b"].by_seed == (0.5, 0.75)
    assert by_label["b"].low < 0.625 < by_label["b"].high
    (only,) = differences
    assert (only.label, only.against, only.metric) == ("b", "a", "top1")
    assert only.value == pytest.approx(0.375)
    assert only.low < only.value < only.high
    assert only.p_holm == only.p  # one comparison needs no correction


def test_a_figure_that_is_no_mean_of_values_is_not_paired(tmp_path: Path) -> None:
    runs = {m: [run(tmp_path, m, s, [1, 0], median=3.0 + s) for s in (0, 1)] for m in ("a", "b")}
    scores, differences = judging.judge(runs, [DATA])
    medians = [score for score in scores if score.metric == "median"]
    assert [score.value for score in medians] == [3.5, 3.5]
    assert not [d for d in differences if d.metric == "median"]


def test_runs_that_were_judged_on_other_samples_are_not_paired(tmp_path: Path) -> None:
    runs = {
        "a": [run(tmp_path, "a", 0, [1, 0])],
        "b": [run(tmp_path, "b", 0, [1, 0], keys=["x", "y"])],
    }
    _, differences = judging.judge(runs, [DATA])
    assert differences == []


def test_holm_counts_the_contestants(tmp_path: Path) -> None:
    runs = {
        "a": [run(tmp_path, "a", 0, [1, 0] * 50)],
        "b": [run(tmp_path, "b", 0, [1, 1] * 50)],
        "c": [run(tmp_path, "c", 0, [0, 1] * 50)],
    }
    _, (b, c) = judging.judge(runs, [DATA])
    assert b.p_holm == pytest.approx(min(1, 2 * b.p))
    assert c.p == pytest.approx(1, abs=0.2)
    assert c.p_holm >= c.p


def test_samples_of_one_picture_are_drawn_together(tmp_path: Path) -> None:
    lone, joined = [1, 1, 0, 0] * 25, [f"k{i // 2}" for i in range(100)]
    single = judging.judge({"a": [run(tmp_path / "x", "a", 0, lone)]}, [DATA])[0][0]
    paired = judging.judge({"a": [run(tmp_path / "y", "a", 0, lone, keys=joined)]}, [DATA])[0][0]
    assert paired.high - paired.low > 1.2 * (single.high - single.low)  # half as many independent samples
