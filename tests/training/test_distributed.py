"""Two processes learn what one does, whether each holds all weights or a share of them.

Tolerances: two processes add up gradients in another order than one. AdamW divides by the root of the second moment, so
that rounding (1e-7 of a gradient) becomes about 1e-7 of the learning rate, but more where a gradient is near zero.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toy import Config, Toy, ToyData, data_for, norm, recipe

from diptych.batch import Batch, Gather
from diptych.training import distributed, train
from diptych.training.distributed import Place, join, like, split, whole

HERE = Path(__file__).parent
STILL = {"dropout": 0.0, "layers": 3}  # dropout differs between the rows of one process and of two
ALL = {**STILL, "teacher": True, "stages": ["head", "slow"]}
CASES = {
    "plain": ({}, STILL),
    "all": ({"ema": 0.9, "batch": 8, "evaluations": 3}, ALL),
    "sgd": ({"optimizer": "sgd"}, STILL),
    "stream": ({"stream": True, "buffer": 3, "batch": 8}, ALL),
    "grad cache": ({"batch": 8, "accumulate": 2, "grad_cache": True}, STILL),
}
TOGETHER = 1e-5  # see above
KINDS = ("ddp", "fsdp")


def processes(count: int, out: Path, jobs: list[dict]) -> None:
    """Runs these jobs of `two_processes.py` on so many processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = subprocess.run(
        [*launch, str(HERE / "two_processes.py"), str(out), json.dumps(jobs)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """The folder with the runs of two processes: one start of them is most of the time."""
    out = tmp_path_factory.mktemp("two")
    jobs: list[dict] = []
    for case, (settings, config) in CASES.items():
        for kind in KINDS if case in ("all", "grad cache") else ("fsdp",):
            jobs.append({"name": f"{kind}-{case}", "settings": {"parallel": kind, **settings}, "config": config})
    for kind, other in (("ddp", "fsdp"), ("fsdp", "ddp")):
        parts = {"parallel": kind, "accumulate": 2, "batch": 8, "max_broken": 0.5}
        jobs.append({"name": f"{kind}-parts", "settings": parts, "config": STILL, "broken": [3]})
        begun = {"settings": {"ema": 0.9, "parallel": kind}, "config": STILL, "stop": 6}
        jobs += [{"name": f"{kind}-begun", **begun}, {"name": f"{kind}-mixed", **begun}]
        jobs.append({"name": f"{kind}-mixed", "settings": {"ema": 0.9, "parallel": other}, "config": STILL})
    jobs.append({"name": "alone", "settings": {"parallel": "fsdp"}, "config": STILL, "alone": True})
    processes(2, out, jobs)
    return out


def one(out: Path, settings: dict, config: dict) -> Toy:
    method = Toy(Config(**config))
    train(method, data_for(recipe(**settings)), out, recipe(**settings), evaluate=norm, logs=())
    return method


def weights(run: Path, name: str = "weights.safetensors") -> dict[str, torch.Tensor]:
    return load_file(run / name)


def last(run: Path) -> dict:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines() if "loss" in line][-1]


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = TOGETHER) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value, other[name], atol=tolerance, rtol=0), name


def test_a_world_of_one_is_the_identity() -> None:
    place = join("cpu")
    batch = Batch({"x": torch.arange(3)}, "abc")
    assert place.main
    assert type(place.gather) is Gather
    assert place.equal_share(batch) is batch
    assert place.collect({"a": 1}) == [{"a": 1}]
    assert (place.any(True), place.any(False)) == (True, False)
    value = torch.ones(2)
    assert whole(value) is value
    assert like(value, torch.zeros(3)) is value


def test_a_batch_is_split_in_nearly_equal_parts() -> None:
    batch = Batch({"x": torch.arange(7), "name": list("abcdefg")}, "abcdefg")
    parts = split(batch, 3)
    assert [part.sample_keys for part in parts] == [("a", "b"), ("c", "d"), ("e", "f", "g")]
    assert parts[2].x.tolist() == [4, 5, 6]
    assert parts[1].name == ["c", "d"]
    assert [part.size for part in split(Batch({"x": torch.arange(2)}, "ab"), 5)] == [1, 1]
    assert split(Batch({}), 3) == []
    assert split(batch, 1) == [batch]


def test_a_batch_that_cannot_be_shared_out_is_an_error(tmp_path) -> None:
    from diptych.training import loop

    with pytest.raises(ValueError, match="batch=4 cannot be shared out equally among 3 processes"):
        loop._begin(Toy(), ToyData(), tmp_path, recipe(), Place(torch.device("cpu"), 0, 3))


def test_what_is_shared_out_block_by_block() -> None:
    """Members of a list or sequence of several of a class: not what lies in them, and not a sequence of different."""

    def layer() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    towers = nn.ModuleDict(
        {
            "deep": nn.Sequential(nn.Conv2d(3, 2, 1), nn.ModuleList([layer(), layer()]), nn.LayerNorm(2)),
            "flat": nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)),
            "empty": nn.Sequential(nn.GELU(), nn.GELU()),
            "whole": nn.Sequential(layer(), layer()),
        }
    )
    assert list(distributed._blocks(towers, {towers["whole"]})) == list(towers["deep"][1])
    assert len(list(distributed._blocks(towers, set()))) == 4


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_does(case, two, tmp_path) -> None:
    unbroken = one(tmp_path, *CASES[case])
    for run in sorted(two.glob(f"*-{case}")):
        close(dict(unbroken.state_dict()), weights(run))
        for file in ("model", "state"):
            checkpoints = (folder / f"checkpoints/last/{file}.safetensors" for folder in (tmp_path, run))
            close(*(load_file(path) for path in checkpoints))
        for name in ("loss", "grad_norm"):
            assert last(run)[name] == pytest.approx(last(tmp_path)[name], rel=1e-3), name
        rows = [json.loads(line)["rows"] for line in (run / "log.jsonl").read_text().splitlines() if "rows" in line]
        alone = [
            json.loads(line)["rows"] for line in (tmp_path / "log.jsonl").read_text().splitlines() if "rows" in line
        ]
        assert len(rows) == len(alone)
        for mine, theirs in zip(rows, alone, strict=True):  # of the averaged weights, on the way
            assert mine[0]["value"] == pytest.approx(theirs[0]["value"], rel=1e-5)


def test_accumulation_and_a_broken_sample_on_two_processes(two) -> None:
    ddp, fsdp = weights(two / "ddp-parts"), weights(two / "fsdp-parts")
    assert all(torch.isfinite(value).all() for value in ddp.values())
    close(ddp, fsdp, 1e-6)


def test_a_part_that_one_process_calls_alone_is_left_whole(two) -> None:
    mine, plain = weights(two / "alone"), weights(two / "fsdp-plain")
    close({name: value for name, value in mine.items() if name in plain}, plain, 0)


def order(run: Path, world: int, share: int) -> list[str]:
    """The keys of all samples of a run, in the order of the stream."""
    parts = [json.loads((run / f"keys-{rank}.json").read_text()) for rank in range(world)]
    return [key for start in range(0, len(parts[0]), share) for part in parts for key in part[start : start + share]]


def stream(samples: int) -> list[str]:
    """What one process reads."""
    data = ToyData()
    return [data.key(i) for epoch in range(-(-samples // 20)) for i in data.order(epoch, 0, True)][:samples]


@pytest.mark.parametrize("kind", KINDS)
def test_begun_on_two_processes_and_finished_otherwise(kind, two, tmp_path) -> None:
    """Stopped in step 6 it goes on from the checkpoint of step 4: on one process, and on two in the other way."""
    assert json.loads((two / f"{kind}-begun/checkpoints/last/state.json").read_text())["world"] == 2
    assert order(two / f"{kind}-begun", 2, 2) == stream(28)
    unbroken = one(tmp_path, {"ema": 0.9}, STILL)
    resumed = one(two / f"{kind}-begun", {"ema": 0.9}, STILL)
    close(dict(unbroken.state_dict()), dict(resumed.state_dict()))
    close(dict(unbroken.state_dict()), weights(two / f"{kind}-mixed"))
    assert order(two / f"{kind}-mixed", 2, 2) == stream(48)[16:]


@pytest.mark.slow
def test_begun_on_two_processes_and_finished_on_four(tmp_path) -> None:
    jobs = [{"name": kind, "settings": {"ema": 0.9, "parallel": kind}, "config": STILL} for kind in KINDS]
    jobs.append({"name": "lamb", "settings": {"optimizer": "lamb", "parallel": "fsdp"}, "config": STILL})
    processes(2, tmp_path, [{**job, "stop": 6} for job in jobs])
    processes(4, tmp_path, jobs)
    for job in jobs:
        unbroken = one(tmp_path / f"one-{job['name']}", {**job["settings"], "parallel": "ddp"}, STILL)
        close(dict(unbroken.state_dict()), weights(tmp_path / job["name"]))
        assert order(tmp_path / job["name"], 4, 1) == stream(48)[16:]
