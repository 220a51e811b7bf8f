"""Ray starts the processes of a training: what they come to is what they come to under torchrun."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from app_helpers import FLAGS
from safetensors.torch import load_file

from diptych.app import runs
from diptych.app.main import main

LENGTH = ["--samples", "3200", "--batch", "8", "--evaluations", "0", "--checkpoints", "2", "--workers", "1"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "diptych"]
RAY = ["-m", "diptych"]


def options(shards, out, *more: str) -> list[str]:
    task = ["--task", "retrieval", "--writers", "none", "--device", "cpu", "--json"]
    return ["train", "clip", "--data", str(shards), "--out", str(out), *FLAGS, *LENGTH, *task, *more]


def start(launch, shards, out, *more: str) -> subprocess.Popen:
    """The command in a group of its own, so that a signal reaches all of its processes, as Ctrl-C does."""
    return subprocess.Popen(
        [sys.executable, *launch, *options(shards, out, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def weights(run) -> dict:
    return {name: value.tolist() for name, value in load_file(run / "checkpoints/last/model.safetensors").items()}


def figures(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "run"} for row in rows]


def test_without_ray_it_says_what_to_install(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(options(shards, tmp_path / "run", "--launcher", "ray")) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "diptych[ray]" in said
    assert not list(tmp_path.iterdir())


def test_two_ways_to_start_processes_at_once_are_one_sentence(shards, tmp_path, monkeypatch, capsys):
    pytest.importorskip("ray")
    monkeypatch.setenv("RANK", "1")
    assert main(options(shards, tmp_path / "run", "--launcher", "ray")) == 1
    assert capsys.readouterr().err == "diptych: torchrun and --launcher ray both start processes: use one of them.\n"


@pytest.mark.parametrize("option", [("--processes", "2"), ("--address", "auto")])
def test_options_of_ray_without_ray_are_one_sentence(option, shards, tmp_path, capsys):
    assert main(options(shards, tmp_path / "run", *option)) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--launcher ray" in said


@pytest.fixture(scope="module")
def by_torchrun(shards, tmp_path_factory):
    """A run on two processes that torchrun started."""
    out = tmp_path_factory.mktemp("torchrun") / "run"
    process = start(TORCHRUN, shards, out)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error[-4000:]
    return out


@pytest.mark.slow
def test_ray_trains_what_torchrun_trains(by_torchrun, shards, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "run"
    process = start(RAY, shards, out, "--launcher", "ray", "--processes", "2")
    told, error = process.communicate(timeout=500)
    assert process.returncode == 0, error[-4000:]
    assert weights(out) == weights(by_torchrun)
    assert figures(json.loads(told)) == figures(json.loads((by_torchrun / "results.json").read_text()))
    assert "steps of 8 samples" in error  # what the first process says is shown
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing is left beside it


@pytest.mark.slow
def test_after_ctrl_c_torchrun_goes_on_with_what_ray_began(by_torchrun, shards, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "run"
    process = start(RAY, shards, out, "--launcher", "ray")
    while process.poll() is None and not (out / "log.jsonl").exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=100)[1]
    assert process.returncode == 130, error[-4000:]
    assert error.endswith("diptych: the run is saved; the same command goes on from there\n")
    assert not runs.is_finished(out)
    assert (out / "checkpoints/last/model.safetensors").exists()
    process = start(TORCHRUN, shards, out)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error[-4000:]
    assert "going on after step" in error
    assert weights(out) == weights(by_torchrun)


@pytest.mark.slow
def test_the_error_of_a_process_is_the_sentence_of_the_command(shards, tmp_path):
    pytest.importorskip("ray")
    process = start(RAY, shards, tmp_path / "run", "--launcher", "ray", "--batch", "9")
    told, error = process.communicate(timeout=500)
    assert (process.returncode, told) == (1, "")
    assert error.splitlines()[-1] == "diptych: batch=9 cannot be shared out equally among 2 processes."
    assert "Traceback" not in error
