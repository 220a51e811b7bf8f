"""Training, evaluating and loading, from Python and from the command line, on a tiny data set."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch
from app_helpers import FLAGS, RECIPE, rows_of, tiny, write_shards

import diptych
from diptych import results
from diptych.app import api, measure, runs
from diptych.app.main import main
from diptych.app.runs import AnotherRun
from diptych.batch import MissingField
from diptych.evaluation.embed import CannotEvaluate

QUIET = api.Where(device="cpu", logs=())


def trained(shards, out, method="clip", **more):
    return api.train(method, str(shards), out, config=tiny(method), recipe=RECIPE, where=QUIET, **more)


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    """A CLIP that was trained for eight steps."""
    return trained(shards, tmp_path_factory.mktemp("runs") / "clip")


def test_tasks_that_cannot_run_are_told_before_the_training(shards, tmp_path):
    for task, error, said in (("pair_foils", CannotEvaluate, "pair_foils"), ("foil", ValueError, "foils")):
        with pytest.raises(error, match=said):
            trained(shards, tmp_path / task, tasks=("retrieval", task))
        assert not list(tmp_path.rglob("log.jsonl"))


def test_a_run_leaves_everything_behind(run):
    there = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    assert {
        "run.json",
        "log.jsonl",
        "results.json",
        "results.parquet",
        "quarantine.json",
        "README.md",
        "index.html",
        "pictures/text_to_image.png",
        "pictures/words.png",
        "samples/retrieval.parquet",
        "checkpoints/last/model.safetensors",
        "checkpoints/best/model.safetensors",
    } <= there
    assert run.finished["steps"] == 8
    assert run.finished["train"] == [{"name": "colours", "split": "train", "samples": 40, "licence": "CC0-1.0"}]


def test_rows_follow_the_schema(run):
    assert {row.task for row in run.rows} >= {"retrieval", "gap"}
    assert {(row.method, row.run, row.data) for row in run.rows} == {("clip", "clip", "colours/val")}
    recall = next(row for row in run.rows if row.metric == "image_to_text_r1")
    assert recall.low <= recall.value <= recall.high
    assert recall.n == 20
    assert recall.chance == pytest.approx(1 / 20)
    assert results.from_json((run.folder / "results.json").read_text()) == run.rows


def test_the_same_call_again_changes_nothing(run, shards, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file()}
    again = trained(shards, run.folder)
    assert again.rows == run.rows
    assert "finished already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file()} == before


def test_another_run_does_not_overwrite_it(run, shards):
    with pytest.raises(AnotherRun, match="lr is"):
        api.train("clip", str(shards), run.folder, config=tiny("clip"), recipe=dataclasses.replace(RECIPE, lr=0.5))


def test_what_the_data_lack_is_said_before_anything_is_made(tmp_path):
    folder = write_shards(tmp_path / "blind", has=["text", "texts"])
    with pytest.raises(MissingField, match="clip needs image"):
        api.train("clip", str(folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_loading_gives_the_trained_weights(run):
    from safetensors.torch import load_file

    model = diptych.load(run.folder)
    saved = load_file(run.folder / "checkpoints" / "last" / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert not model.training
    same = diptych.load(run.folder / "checkpoints" / "last")
    batch = model.tokenize(["a red field"])
    assert torch.equal(model.embed_text(batch).pooled, same.embed_text(batch).pooled)


def test_loading_what_is_not_there(run, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="it has best, last"):
        diptych.load(run.folder, "first")
    with pytest.raises(FileNotFoundError, match="Runs beside it: clip"):
        diptych.load(run.folder.parent / "clop")
    monkeypatch.chdir(run.folder.parent.parent)
    with pytest.raises(FileNotFoundError, match="Runs beside it: clip"):  # has the form of a name on the hub
        diptych.load(f"{run.folder.parent.name}/clop")
    with pytest.raises(FileNotFoundError, match="no saved method"):
        diptych.load(tmp_path)


def test_evaluating_gives_the_figures_of_the_run(run):
    rows = diptych.evaluate(run.folder, tasks=["retrieval"])
    assert rows == [row for row in run.rows if row.task == "retrieval"]
    folder = run.folder / "evaluations" / "colours-val"
    assert results.from_json((folder / "results.json").read_text()) == rows
    assert (folder / "samples" / "retrieval.parquet").is_file()


def test_evaluating_a_saved_method_needs_data(run):
    with pytest.raises(ValueError, match="--data"):
        diptych.evaluate(run.folder / "checkpoints" / "last")


def test_a_run_that_was_interrupted_goes_on_to_the_same_figures(run, shards, tmp_path, monkeypatch):
    evaluate = measure.evaluation.evaluate

    def interrupt(*args, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*args, **options)

    monkeypatch.setattr(measure.evaluation, "evaluate", interrupt)
    with pytest.raises(KeyboardInterrupt, match="saved at step 4"):
        trained(shards, tmp_path / "clip")
    assert not runs.read(tmp_path / "clip").finished
    monkeypatch.undo()
    second = trained(shards, tmp_path / "clip")
    assert second.rows == run.rows
    assert second.finished["steps"] == 8


def test_several_data_sets_are_mixed_to_learn_from_and_judged_one_by_one(shards, tmp_path):
    other = write_shards(tmp_path / "other", [("train", 16), ("val", 12)])
    data = [str(shards), f"{other}@2"]
    recipe = dataclasses.replace(RECIPE, samples=16, evaluations=1, checkpoints=1)
    run = api.train(
        "clip", data, tmp_path / "run", config=tiny("clip"), recipe=recipe, tasks=["retrieval"], where=QUIET
    )
    assert {(row.data, row.n) for row in run.rows if row.metric == "image_to_text_r1"} == {
        ("colours/val", 20),
        ("other/val", 12),
    }
    kept = run.folder / "evaluations" / "other-val"
    assert results.from_json((kept / "results.json").read_text()) == [r for r in run.rows if r.data == "other/val"]
    assert "40 samples of colours and 16 samples of other" in (run.folder / "index.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="two of the data sets"):
        diptych.evaluate(run.folder, [str(other), str(other)])


def test_the_page_and_the_card_say_what_was_frozen(shards, tmp_path):
    recipe = dataclasses.replace(RECIPE, samples=16, evaluations=0, checkpoints=1)
    config = tiny("clip", freeze=("^image\\.", "^text\\."))
    run = api.train("clip", str(shards), tmp_path / "run", config=config, recipe=recipe, tasks=["gap"], where=QUIET)
    model = diptych.load(run.folder)
    heads = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(("image.", "text.")))
    assert run.finished["trained_parameters"] == heads < run.finished["parameters"]
    assert "were trained here; the others are frozen" in (run.folder / "index.html").read_text(encoding="utf-8")
    assert "not trained here" in (run.folder / "README.md").read_text(encoding="utf-8")


def test_loading_from_the_hub(run, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append(name)
        return str(run.folder / "checkpoints" / "last")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert diptych.load("someone/clip-of-colours").card.id == "clip"
    assert asked == ["someone/clip-of-colours"]


def test_the_best_checkpoint_has_the_largest_mean_of_shares():
    share = results.Row("m", "r", "d", "t", "r1", 0.5, chance=0.1)
    rank = results.Row("m", "r", "d", "t", "median_rank", 30.0, chance=50.0)
    assert measure.mean_share([share, dataclasses.replace(share, value=0.7), rank]) == pytest.approx(0.6)
    assert measure.mean_share([rank]) == -math.inf


def test_from_the_command_line(shards, tmp_path, capsys):
    out = tmp_path / "filip"
    command = ["train", "filip", "--data", str(shards), "--out", str(out), *FLAGS]
    command += ["--samples", "32", "--batch", "8", "--workers", "0", "--writers", "none", "--task", "retrieval"]
    assert main([*command, "--json"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert {row["task"] for row in rows} == {"retrieval"}
    assert set(rows[0]) == set(results.COLUMNS)
    assert main(["evaluate", str(out), "--data", str(shards), "--task", "gap", "--limit", "16", "--json"]) == 0
    assert {row["n"] for row in rows_of(capsys.readouterr().out)} == {16}
    assert main(["evaluate", str(out), "--task", "retrieval"]) == 0
    assert "R@1" in capsys.readouterr().out
    assert main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
    assert "FILIP" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_two_processes_make_one_run_and_print_it_once(shards, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "diptych", "train", "clip"]
    command += ["--data", str(shards), "--out", str(tmp_path / "run"), *FLAGS, "--samples", "32", "--batch", "8"]
    command += ["--workers", "0", "--writers", "none", "--task", "retrieval", "--device", "cpu", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert results.from_json(first) == runs.read(tmp_path / "run").rows
    again = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert again == first


def test_a_task_that_does_not_exist_names_the_nearest(run, capsys):
    assert main(["evaluate", str(run.folder), "--task", "retreival"]) == 1
    assert "'retrieval'" in capsys.readouterr().err


def test_run_json_says_how_the_run_was_made(run):
    info = json.loads((run.folder / "run.json").read_text())
    assert info["versions"]["torch"] == torch.__version__.partition("+")[0] or info["versions"]["torch"]
    assert info["config"]["embed"] == 8
    assert info["recipe"]["samples"] == 64
