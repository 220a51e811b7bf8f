"""A stream of tasks, on the command line and from Python: what is measured after each, and how runs are compared."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from app_helpers import FLAGS, RECIPE, rows_of, tiny

from diptych.app import api, compare, judging, measure, runs
from diptych.app.main import main
from diptych.data.mixture import parts_of
from diptych.evaluation.measures import read_samples

SMALL = "pixels=16,objects=1,shapes=6,evaluation=16,train=40"
TASKS = f"world:{SMALL} + world:{SMALL},seed=1 + world:{SMALL},seed=2"
STREAM = replace(RECIPE, samples=96, stream=True, buffer=6, evaluations=1)
ASKED = ("tasks_retrieval", "forgetting")
QUIET = api.Where(device="cpu", logs=())


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """A CLIP that learned three small worlds one after the other."""
    out = tmp_path_factory.mktemp("stream") / "clip"
    return api.train("clip", TASKS, out, config=tiny("clip"), recipe=STREAM, tasks=ASKED, where=QUIET)


def test_what_is_measured_after_each_task(stream):
    value = {(row.task, row.metric): row.value for row in stream.rows}
    assert {row.data for row in stream.rows} == {"world + world2 + world3/val"}
    tables = [read_samples(stream.folder / f"samples/after_task{task}.parquet") for task in (1, 2, 3)]
    once = [(one["among3/image_to_text_r1"] + one["among3/text_to_image_r1"]) / 2 for one in tables]
    task = tables[0]["task"]
    assert value["tasks_retrieval", "r1"] == pytest.approx(once[2].mean())  # the last look is at the finished model
    lost = np.concatenate([once[of - 1][task == of] - once[2][task == of] for of in (1, 2)])
    assert value["forgetting", "r1"] == pytest.approx(lost.mean())
    assert value["forgetting", "after1_r_mean"] > 0
    told = [line for line in stream.log if any(row["task"] == "forgetting" for row in line.get("rows", []))]
    assert [line["step"] for line in told] == [4, 8, 12]
    assert {"forgetting"} <= {path.stem for path in stream.pictures}
    assert "What it forgets" in (stream.folder / "index.html").read_text()


def test_a_stream_of_several_sets_is_evaluated_on_all_of_them_again(stream, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(stream.folder, out)
    info = json.loads((out / runs.RUN).read_text())
    info["data"]["data"] = TASKS.split(" + ")
    (out / runs.RUN).write_text(json.dumps(info))
    (first, *_) = api.evaluate(out, tasks=["tasks_retrieval"], how=api.Measuring(device="cpu"))
    assert first.data == "world + world2 + world3/val"
    assert first.value == next(row.value for row in stream.rows if (row.task, row.metric) == ("tasks_retrieval", "r1"))


def test_a_comparison_finds_the_samples_behind_forgetting(stream):
    data = [measure.sets([TASKS], STREAM, api.sources.open_sources([TASKS]))[0].data]
    for name, count in (("r1", 32), ("task1_r1", 16)):
        row = next(row for row in stream.rows if (row.task, row.metric) == ("forgetting", name))
        table = judging.tables([stream], data, row)
        assert table is not None
        assert table.values.shape == (1, count)


def test_all_tasks_at_once_are_judged_alike(tmp_path, capsys):
    command = ["train", "clip", "--data", TASKS, "--out", str(tmp_path / "joint"), *FLAGS, "--device", "cpu"]
    settings = [
        "--samples",
        "16",
        "--batch",
        "8",
        "--workers",
        "0",
        "--evaluations",
        "0",
        "--writers",
        "none",
        "--json",
    ]
    assert main([*command, *settings, "--task", "tasks_retrieval"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [(row["data"], row["metric"]) for row in rows[:2]] == [
        ("world + world2 + world3/val", "r1"),
        ("world + world2 + world3/val", "r_mean"),
    ]
    assert "stream" not in json.loads((tmp_path / "joint" / runs.RUN).read_text())["recipe"]
    assert main([*command, *settings, "--task", "forgetting", "--out", str(tmp_path / "other")]) == 1
    assert "train with --stream" in capsys.readouterr().err


def test_a_stream_of_several_data_sets_is_judged_on_all_together():
    learn = api.sources.open_sources([f"world:{SMALL}", f"world:{SMALL},seed=1"])
    (one,) = measure.sets([f"world:{SMALL}", f"world:{SMALL},seed=1@test"], STREAM, learn)
    assert one.data.name == "world + world2"
    assert parts_of(one.data)[1].tolist() == [0] * 16 + [1] * 16
    assert [part.split for part in one.data.parts] == ["val", "test"]
    with pytest.raises(ValueError, match="a stream of 2 tasks is judged on one set for each"):
        measure.sets([TASKS], STREAM, learn)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("world", "at least two tasks"),
        ("starter#tasks900", "cannot be cut into 900 tasks"),
        ("world#tasks2", "no classes"),
    ],
)
def test_streams_that_cannot_be_are_told_in_one_line(data, says, tmp_path, capsys):
    assert main(["train", "clip", "--data", data, "--stream", "--out", str(tmp_path / "run"), *FLAGS]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in error
    assert not (tmp_path / "run").exists()


def test_streams_are_compared_on_their_tasks_as_one_set(tmp_path):
    contest = compare.Contest(("clip", "filip"), (f"world:{SMALL}", f"world:{SMALL},seed=1"), settings=("stream=true",))
    with pytest.raises(ValueError, match="as one data set: join them"):
        compare.plan(contest, tmp_path, compare.How())
