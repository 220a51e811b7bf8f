"""The folder of a run."""

import json

import pytest
from app_helpers import RECIPE, tiny

from diptych.app import runs
from diptych.app.runs import AnotherRun


def described(**options):
    return runs.describe("clip", tiny("clip", **options), RECIPE, {"data": ["starter"], "val": []}, ())


def test_a_new_folder_is_taken(tmp_path):
    info = described()
    assert runs.claim(tmp_path / "new", info) == info
    run = runs.read(tmp_path / "new")
    assert (run.name, run.method, run.finished, run.rows) == ("new", "clip", {}, [])


def test_the_same_run_goes_on(tmp_path):
    first = runs.claim(tmp_path / "run", described())
    assert runs.claim(tmp_path / "run", {**described(), "started": "later"}) == json.loads(json.dumps(first))


def test_another_run_is_refused_and_told_apart(tmp_path):
    runs.claim(tmp_path / "run", described())
    with pytest.raises(AnotherRun, match="embed is 8 there and 12 here"):
        runs.claim(tmp_path / "run", described(embed=12))
    with pytest.raises(AnotherRun, match="method is clip there and filip here"):
        runs.claim(tmp_path / "run", {**described(), "method": "filip"})
    with pytest.raises(AnotherRun, match="data is"):
        runs.claim(tmp_path / "run", {**described(), "data": {"data": ["world"], "val": []}})


def test_what_leaves_the_result_alone_may_change(tmp_path):
    info = described()
    runs.claim(tmp_path / "run", info)
    changed = {**info, "recipe": {**info["recipe"], "workers": 7, "checkpoints": 1}, "tasks": ["retrieval"]}
    assert runs.claim(tmp_path / "run", changed)["recipe"]["workers"] == 0


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(AnotherRun, match="not empty"):
        runs.claim(tmp_path, described())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_killed_in_its_first_moment_goes_on(tmp_path) -> None:
    info = described()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json.partial").write_text('{"meth')
    assert runs.claim(tmp_path / "run", info) == info
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_what_is_no_run_names_the_runs_beside_it(tmp_path):
    runs.claim(tmp_path / "one", described())
    with pytest.raises(FileNotFoundError, match="Runs beside it: one"):
        runs.read(tmp_path / "two")


def test_a_log_that_a_crash_cut_off_is_read_as_far_as_it_goes(tmp_path):
    runs.claim(tmp_path / "run", described())
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert [record["step"] for record in runs.read(tmp_path / "run").log] == [1, 2]


def test_options_that_were_changed_are_kept():
    changed = described(embed=12)["changed"]
    assert changed["embed"] == 12
    assert changed["batch"] == 8
    assert "tau" not in changed
