"""What `test_distributed.py` runs under torchrun: checks the gather, then trains one toy after the other.

two_processes.py FOLDER JOBS, with JOBS in JSON: a list of {"name": of the run's folder, "settings": fields of the
recipe, "config": fields of the toy's Config, "broken": samples, "stop": the step at which all processes die, "alone":
whether it has a part that one process calls alone}. Each leaves `weights.safetensors` and its samples' keys by rank.
"""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from toy import PIXELS, Config, Toy, ToyData, data_for, norm, recipe

from diptych.batch import Batch
from diptych.training import guards, train
from diptych.training.distributed import DistributedGather, join
from diptych.training.state import Run


class Stopping(Toy):
    """Dies in the step `stop`."""

    stop = -1

    def after_step(self, step) -> None:
        if step.index == self.stop:
            raise KeyboardInterrupt
        super().after_step(step)


class Alone(Stopping):
    """Has frozen layers that only one process calls; shared out, they would let it wait for the others for ever."""

    def __init__(self, config, seed) -> None:
        super().__init__(config, seed)
        layers = [nn.Linear(PIXELS, PIXELS) for _ in range(2)]
        self.frozen = nn.Sequential(*layers).requires_grad_(False)

    def whole(self) -> list[nn.Module]:
        return [self.frozen]

    def loss(self, batch, step):
        if step.gather.rank:
            self.frozen(batch.image)
        return super().loss(batch, step)


class Noted(ToyData):
    """Notes which samples were read."""

    def __init__(self, broken) -> None:
        super().__init__(20, broken)
        self.keys: list[str] = []

    def read(self, index, fields):
        self.keys.append(self.key(index))
        return super().read(index, fields)


def check_gather() -> None:
    """Values and gradients of the gather against those computed by hand, and its agreements."""
    place = join("cpu")
    gather = DistributedGather(place)
    rank = place.rank
    x = (torch.arange(4.0).reshape(2, 2) + 10 * rank).requires_grad_()
    y = gather(x)
    assert y.tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]
    (y * torch.arange(1.0, 9.0).reshape(4, 2) * (rank + 1)).sum().backward()
    # both processes send back: (1 + 2) times the factors of the rows
    assert x.grad.tolist() == [[[3, 6], [9, 12]], [[15, 18], [21, 24]]][rank]
    mask = gather(torch.ones(1, 2 + rank, dtype=torch.bool))  # of unequal length
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert place.any(rank == 1)
    assert not place.any(False)
    assert place.collect({"rank": rank, "words": "ä" * rank}) == [{"rank": 0, "words": ""}, {"rank": 1, "words": "ä"}]
    assert place.equal_share(Batch({"x": torch.zeros(3 - rank)}, "abc"[: 3 - rank])).sample_keys == ("a", "b")
    with pytest.raises(ValueError, match="equally many rows"):
        gather(torch.ones(1 + rank))
    assert dist.is_initialized()


def check_guards(out: Path) -> None:
    """A figure that is not finite in one process: both skip the step, and what is noted names both batches."""
    place = join("cpu")
    out.mkdir(exist_ok=True)
    run, batch = Run(Toy(), recipe(), place, out), Batch({"x": torch.zeros(1)}, [f"of-{place.rank}"])
    assert guards.leaves_out(run, batch, {"loss": torch.tensor(math.inf if place.rank else 1.0)})
    assert not guards.leaves_out(run, batch, {"loss": torch.tensor(1.0)})
    assert (run.skipped, run.skipped_in_a_row) == (1, 0)
    if place.main:
        noted = json.loads(run.nonfinite.read_text())
        assert noted == {"step": 0, "figures": "loss 1.0; loss inf", "keys": ["of-0", "of-1"]}


def run(out: Path, settings: dict, config: dict, broken=(), stop: int = -1, alone: bool = False) -> None:
    rank = dist.get_rank()
    method = (Alone if alone else Stopping)(Config(**config), seed=rank)  # rank 0 has the weights that count
    method.stop, data = stop, data_for(recipe(**settings)) if settings.get("stream") else Noted(broken)
    try:
        finished = train(method, data, out, recipe(**settings), evaluate=norm, logs=(), device="cpu")
        assert len(finished.quarantine) == len(broken)
        if rank == 0:
            save_file(dict(method.state_dict()), out / "weights.safetensors")
    except KeyboardInterrupt:
        pass
    (out / f"keys-{rank}.json").write_text(json.dumps(getattr(data, "keys", [])))


if __name__ == "__main__":
    folder, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])
    if join("cpu").world == 2:
        check_gather()
        check_guards(folder / "guards")
    for job in jobs:
        run(folder / job.pop("name"), **job)
