import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import Config, Toy, ToyData, recipe

from diptych.batch import Batch, Gather
from diptych.training import train
from diptych.training.distributed import Place, join, split

HERE = Path(__file__).parent
STILL = {"dropout": 0.0}  # dropout differs between the rows of one process and of two


def two_processes(out: Path, *, settings=None, config=None, broken=(), stop: int = 0) -> dict[str, torch.Tensor]:
    """The weights after training on two processes with gloo."""
    job = {"settings": {"seed": 0, **(settings or {})}, "config": config or STILL, "broken": list(broken), "stop": stop}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "two_processes.py"), str(out), json.dumps(job)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return load_file(out / "of-0.safetensors") if not stop else {}


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, value in one.items():
        assert torch.allclose(value, other[name], atol=1e-5), name


def test_a_world_of_one_is_the_identity() -> None:
    place = join("cpu")
    batch = Batch({"x": torch.arange(3)}, "abc")
    assert place.main
    assert type(place.gather) is Gather
    assert place.equal_share(batch) is batch
    assert place.collect({"a": 1}) == [{"a": 1}]
    assert (place.any(True), place.any(False)) == (True, False)


def test_a_batch_is_split_in_nearly_equal_parts() -> None:
    batch = Batch({"x": torch.arange(7), "name": list("abcdefg")}, "abcdefg")
    parts = split(batch, 3)
    assert [part.sample_keys for part in parts] == [("a", "b"), ("c", "d"), ("e", "f", "g")]
    assert parts[2].x.tolist() == [4, 5, 6]
    assert parts[1].name == ["c", "d"]
    assert [part.size for part in split(Batch({"x": torch.arange(2)}, "ab"), 5)] == [1, 1]
    assert split(Batch({}), 3) == []
    assert split(batch, 1) == [batch]


def test_a_batch_that_cannot_be_shared_out_is_an_error(tmp_path, monkeypatch) -> None:
    from diptych.training import loop

    with pytest.raises(ValueError, match="batch=4 cannot be shared out equally among 3 processes"):
        loop._begin(Toy(), ToyData(), tmp_path, recipe(), Place(torch.device("cpu"), 0, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (STILL, {}),
        ({**STILL, "stages": ["head", "slow"]}, {"ema": 0.9, "batch": 8}),
        (STILL, {"batch": 8, "accumulate": 2, "grad_cache": True}),
    ],
)
def test_two_processes_learn_what_one_does(config, settings, tmp_path) -> None:
    two = two_processes(tmp_path / "two", config=config, settings=settings)
    one = Toy(Config(**config))
    train(one, ToyData(), tmp_path / "one", recipe(**settings), logs=())
    close(dict(one.state_dict()), two)
    losses = [json.loads((tmp_path / run / "log.jsonl").read_text().splitlines()[-1]) for run in ("one", "two")]
    for name in ("loss", "grad_norm"):
        assert losses[0][name] == pytest.approx(losses[1][name], rel=1e-3), name


@pytest.mark.slow
def test_accumulation_and_a_broken_sample_on_two_processes(tmp_path) -> None:
    weights = two_processes(tmp_path, settings={"accumulate": 2, "batch": 8, "max_broken": 0.5}, broken=[3])
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.slow
def test_begun_on_two_processes_and_finished_on_one(tmp_path) -> None:
    two_processes(tmp_path / "run", stop=6)
    assert json.loads((tmp_path / "run/checkpoints/last/state.json").read_text())["world"] == 2
    resumed, unbroken = Toy(Config(**STILL)), Toy(Config(**STILL))
    train(resumed, ToyData(), tmp_path / "run", recipe(), logs=())
    train(unbroken, ToyData(), tmp_path / "unbroken", recipe(), logs=())
    close(dict(unbroken.state_dict()), dict(resumed.state_dict()))
