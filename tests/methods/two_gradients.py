"""What `test_global_negatives.py` runs under torchrun: two processes against one, by each method.

A contrastive loss of two processes with half of the batch each is that of one process with all of it. Other losses
are means over what each process has masked or drawn, of different number: there the gradient is the mean of those
that the processes compute by themselves, for each of the tasks and in each way to share out the weights.
"""

import copy

import torch
from method_helpers import DRAWS, batch_of, first_stage, small, world_of
from torch.testing import assert_close

from diptych import methods
from diptych.batch import Batch, Step
from diptych.training.distributed import Place, join, part_of_batch, rows, unwrapped, whole, wrap

SIZES = {"image_width": 16, "text_width": 16, "embed": 8, "image_size": 16}
B = 8
SHARED = 2
"""draws in which weights are shared out too, which takes longest"""

Found = dict[str, torch.Tensor]


def gradients(method: torch.nn.Module) -> Found:
    return {name: whole(value.grad) for name, value in method.named_parameters() if value.grad is not None}


def together(method: torch.nn.Module, half: Batch, step: Step, place: Place, parallel: str) -> tuple[float, Found]:
    """Loss and gradients of a process as training computes them."""
    loss = wrap(copy.deepcopy(method), place, parallel)
    seed(step, place)
    with part_of_batch(loss, last=True):
        total, _ = loss(half, step)
        total.backward()
    return sum(place.collect(total.item())) / place.world, gradients(unwrapped(loss))


def alone(method: torch.nn.Module, batch: Batch, step: Step) -> tuple[float, Found]:
    """Loss and gradients that the method itself has."""
    method = copy.deepcopy(method)
    total = method.loss(batch, step).total
    total.backward()
    return total.item(), gradients(method)


def averaged(method: torch.nn.Module, half: Batch, step: Step, place: Place) -> tuple[float, Found]:
    """The mean, over the processes, of what each has by itself; what none has stays out."""
    seed(step, place)
    total, found = alone(method, half, step)
    every = {name: found.get(name, torch.zeros_like(value)) for name, value in method.named_parameters()}
    shared = {name: place.gather(value[None]).mean(0) for name, value in every.items()}
    return sum(place.collect(total)) / place.world, {name: value for name, value in shared.items() if value.any()}


def seed(step: Step, place: Place) -> None:
    torch.manual_seed(10 * step.index + place.rank)


def compare(id: str, tile: int) -> None:
    place = join("cpu")
    method = small(id, **SIZES, tile=tile)
    batch = batch_of(method, world_of(id, B), B)
    half = rows(batch, place.rank * B // 2, (place.rank + 1) * B // 2)
    contrastive = methods.card(id).family == "contrastive"
    for index in range(1 if contrastive else DRAWS):
        here = Step(place.gather, first_stage(method).name, index)
        total, expected = alone(method, batch, Step()) if contrastive else averaged(method, half, here, place)
        assert any(value.abs().max() > 1e-3 for value in expected.values())
        for parallel in ("ddp", "fsdp") if index < SHARED else ("ddp",):
            mean, found = together(method, half, here, place, parallel)
            assert_close(mean, total, atol=1e-6, rtol=1e-6)
            assert expected.keys() <= found.keys()
            for key, value in found.items():
                truth = expected.get(key, torch.zeros_like(value))
                rounding = 1e-6 + 1e-4 * truth.abs().max()  # sums of float32 in another order
                assert (value - truth).abs().max() < rounding, (id, tile, parallel, key)


if __name__ == "__main__":
    for id in methods.IDS:
        for tile in (0, 3) if methods.card(id).family == "contrastive" else (0,):
            compare(id, tile)
    print("equal\n", end="", flush=True)  # in one piece: the other process writes to the same pipe
