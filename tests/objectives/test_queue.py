from __future__ import annotations

import torch
from objective_helpers import Rank, leaf, unit
from safetensors.torch import load, save
from torch import Tensor
from torch.testing import assert_close

from diptych.objectives.contrastive import info_nce
from diptych.objectives.queue import Queue, queue_info_nce, queue_logits

B, D = 5, 7
SCALE = torch.tensor(9.0)
NONE = torch.zeros(0, D), torch.zeros(0, D)


def numbers(start: int, stop: int) -> Tensor:
    return torch.arange(start, stop)


def test_a_young_queue_is_short_and_an_old_one_forgets_its_oldest_rows() -> None:
    queue = Queue(5, dtype=torch.int64)
    assert len(queue.filled) == 0
    queue.push(numbers(1, 4))
    assert queue.filled.tolist() == [1, 2, 3]
    queue.push(numbers(4, 8))  # 4 and 5 at the end, 6 and 7 over 1 and 2
    assert queue.filled.tolist() == [6, 7, 3, 4, 5]
    queue.push(numbers(8, 9))
    assert queue.filled.tolist() == [6, 7, 8, 4, 5]


def test_of_more_rows_than_there_is_room_for_the_last_stay() -> None:
    queue = Queue(4, dtype=torch.int64)
    queue.push(numbers(0, 1))
    queue.push(numbers(1, 12))
    assert sorted(queue.filled.tolist()) == [8, 9, 10, 11]
    queue.push(numbers(12, 13))
    assert sorted(queue.filled.tolist()) == [9, 10, 11, 12]


def test_queues_that_are_pushed_together_stay_in_step() -> None:
    features, ids = Queue(6, D), Queue(6, dtype=torch.int64)
    for i in range(5):
        rows = unit(4, D, seed=i)
        features.push(rows)
        ids.push(numbers(4 * i, 4 * i + 4))
    everything = torch.cat([unit(4, D, seed=i) for i in range(5)])
    assert torch.equal(features.filled, everything[ids.filled])


def test_a_queue_is_saved_with_the_weights_and_goes_on_where_it_was() -> None:
    queue, twin = Queue(5, 2), Queue(5, 2)
    queue.push(torch.rand(3, 2))
    twin.load_state_dict(load(save(queue.state_dict())))
    more = torch.rand(4, 2)
    queue.push(more)
    twin.push(more)
    assert torch.equal(twin.filled, queue.filled)
    assert len(twin.filled) == 5


def test_every_process_holds_the_rows_of_all() -> None:
    parts = [unit(B, D, seed=rank) for rank in range(2)]
    queues = [Queue(15, D) for _ in parts]
    for rank, queue in enumerate(queues):
        queue.push(parts[rank], Rank(rank, 2, [parts]))
    assert torch.equal(queues[0].filled, torch.cat(parts))
    assert torch.equal(queues[1].filled, queues[0].filled)


def test_a_push_between_loss_and_backward_does_no_harm() -> None:
    image, text, queue = leaf(unit(B, D, seed=1)), unit(B, D, seed=2), Queue(B, D)
    queue.push(unit(B, D, seed=3))
    keys = image.detach(), text
    loss = queue_info_nce(image, text, SCALE, keys, (queue.filled, queue.filled))
    expected = torch.autograd.grad(loss, image, retain_graph=True)[0]
    queue.push(text)
    loss.backward()
    assert torch.equal(image.grad, expected)
    assert not queue.filled.requires_grad


def test_without_a_queue_it_is_info_nce_and_with_detached_keys_only_in_value() -> None:
    image, text = leaf(unit(B, D, seed=1)), leaf(unit(B, D, seed=2))
    expected = info_nce(image, text, SCALE)
    same = queue_info_nce(image, text, SCALE, (image, text), NONE)
    detached = queue_info_nce(image, text, SCALE, (image.detach(), text.detach()), NONE)
    assert_close(same, expected)
    assert_close(detached, expected)
    wanted, whole, half = (torch.autograd.grad(loss, image)[0] for loss in (expected, same, detached))
    assert_close(whole, wanted)
    assert (half - wanted).abs().max() > 1e-2
    rows = torch.autograd.grad(torch.nn.functional.cross_entropy(SCALE * image @ text.T, numbers(0, B)) / 2, image)[0]
    assert_close(half, rows)  # what is left is the direction in which the image asks


def test_rows_of_the_queue_are_further_negatives() -> None:
    image, text = unit(B, D, seed=1), unit(B, D, seed=2)
    old_images, old_texts = unit(3, D, seed=3), unit(3, D, seed=4)
    forth, back = queue_logits(image, text, SCALE, (image, text), (old_images, old_texts))
    assert_close(forth, SCALE * image @ torch.cat([text, old_texts]).T)
    assert_close(back, SCALE * text @ torch.cat([image, old_images]).T)
    label = numbers(0, B)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(forth, label) + cross_entropy(back, label)) / 2
    assert_close(queue_info_nce(image, text, SCALE, (image, text), (old_images, old_texts)), expected)
    hard = torch.eye(B, B + 3)
    found = queue_info_nce(image, text, SCALE, (image, text), (old_images, old_texts), targets=(hard, hard))
    assert_close(found, expected)


def test_the_mean_over_processes_is_the_loss_of_the_whole_batch() -> None:
    image, text, old = unit(2 * B, D, seed=1), unit(2 * B, D, seed=2), (unit(3, D, seed=3), unit(3, D, seed=4))
    whole = queue_info_nce(image, text, SCALE, (image, text), old)
    parts = [list(image.split(B)), list(text.split(B))]
    losses = [
        queue_info_nce(*(part[r] for part in parts), SCALE, tuple(p[r] for p in parts), old, Rank(r, 2, parts))
        for r in range(2)
    ]
    assert_close(sum(losses) / 2, whole)
