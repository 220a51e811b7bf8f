"""What `test_distributed.py` runs under torchrun: trains a toy, checks the gather, and saves what came out."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from toy import Config, Toy, ToyData, recipe

from diptych.batch import Batch
from diptych.training import train
from diptych.training.distributed import DistributedGather, join


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


def main(out: Path, settings: dict, config: dict, broken: list[int], stop: int) -> None:
    check_gather()
    method = Toy(Config(**config), seed=dist.get_rank())  # rank 0 has the weights that count
    if stop:
        after_step = method.after_step

        def killed(step):
            if step.index == stop:
                raise KeyboardInterrupt
            after_step(step)

        method.after_step = killed
    try:
        finished = train(method, ToyData(20, broken), out, recipe(**settings), logs=(), device="cpu")
    except KeyboardInterrupt:
        return
    save_file(dict(method.state_dict()), out / f"of-{settings['seed']}.safetensors")
    assert len(finished.quarantine) == len(broken)


if __name__ == "__main__":
    main(Path(sys.argv[1]), **json.loads(sys.argv[2]))
