"""What `test_global_negatives.py` runs under torchrun: two processes of B/2 against one process of B, by each method.

Each process computes the gradients of the whole batch by itself, and compares with them those that it gets together
with the other from its half of the batch.
"""

import copy

import torch
from torch.testing import assert_close

from diptych import methods
from diptych.batch import Batch, Step
from diptych.training.distributed import join, part_of_batch, rows, unwrapped, whole, wrap

SIZES = {"image_width": 16, "image_heads": 2, "text_width": 16, "text_heads": 2, "embed": 8, "image_size": 16}
B, T = 8, 6


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (B, 3, 16, 16), generator=generator, dtype=torch.uint8)
    text = torch.randint(3, 200, (B, T), generator=generator)
    lengths = torch.tensor([6, 3, 4, 6, 2, 3, 3, 2])  # the second half is shorter
    return Batch({"image": image, "text": text, "text_mask": torch.arange(T) < lengths[:, None]}, "abcdefgh")


def gradients(method: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: whole(value.grad) for name, value in method.named_parameters() if value.grad is not None}


def compare(name: str, tile: int) -> None:
    place = join("cpu")
    torch.manual_seed(0)
    method = methods.build(name, methods.config_class(name)(**SIZES, tile=tile))
    alone = copy.deepcopy(method)
    total = alone.loss(batch(), Step()).total
    total.backward()
    half = rows(batch(), place.rank * B // 2, (place.rank + 1) * B // 2)
    for parallel in ("ddp", "fsdp"):
        loss = wrap(copy.deepcopy(method), place, parallel)
        with part_of_batch(loss, last=True):
            mine, _ = loss(half, Step(place.gather))
            mine.backward()
        assert_close(torch.tensor(place.collect(mine.item())).mean(), total.detach(), atol=1e-6, rtol=1e-6)
        found, expected = gradients(unwrapped(loss)), gradients(alone)
        assert found.keys() == expected.keys()
        assert any(value.abs().max() > 1e-3 for value in expected.values())
        for key, value in expected.items():
            rounding = 1e-6 + 1e-4 * value.abs().max()  # sums of float32 in another order
            assert (found[key] - value).abs().max() < rounding, (name, tile, parallel, key)


if __name__ == "__main__":
    for name in ("clip", "siglip", "filip"):
        for tile in (0, 3):
            compare(name, tile)
    print("equal")
