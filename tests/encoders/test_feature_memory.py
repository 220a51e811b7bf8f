import copy

import torch
from torch import Tensor, nn

from diptych.batch import Features
from diptych.encoders.memory import FeatureMemory, _shared, fingerprint


class Counting(nn.Module):
    """A text tower that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.seen: set[tuple[int, ...]] = set()
        self.calls = 0

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Features:
        self.seen |= {tuple(row) for row in ids.tolist()}
        self.calls += 1
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        tokens = self.words(ids)
        return Features(tokens, (tokens * mask[..., None]).sum(1), mask)


IDS = torch.tensor([[1, 2, 3], [4, 5, 0], [1, 2, 3]])
MASK = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])


def test_a_frozen_tower_computes_each_input_once() -> None:
    tower, memory = Counting().requires_grad_(False), FeatureMemory(megabytes=1)
    first = memory(tower, IDS, MASK)
    assert tower.seen == {(1, 2, 3), (4, 5)}  # without padding
    assert tower.calls == 2  # one a length
    again = memory(tower, IDS.flip(0), MASK.flip(0))
    assert tower.calls == 2
    assert torch.equal(first.pooled.flip(0), again.pooled)


def test_it_returns_what_the_tower_would() -> None:
    tower = Counting().requires_grad_(False)
    remembered, plain = FeatureMemory(1)(tower, IDS, MASK), tower(IDS, MASK)
    torch.testing.assert_close(remembered.pooled, plain.pooled)
    torch.testing.assert_close(remembered.tokens[MASK], plain.tokens[MASK])
    assert torch.equal(remembered.mask, MASK)


def test_features_do_not_depend_on_the_rest_of_the_batch() -> None:
    tower = Counting().requires_grad_(False)
    together = FeatureMemory(1)(tower, IDS, MASK)
    alone = FeatureMemory(1)(tower, IDS[1:2, :2], MASK[1:2, :2])
    assert torch.equal(together.tokens[1, :2], alone.tokens[0])


def test_a_tower_that_trains_is_called_and_forgotten() -> None:
    tower, memory = Counting().requires_grad_(False), FeatureMemory(1)
    memory(tower, IDS, MASK)
    assert memory.kept
    tower.requires_grad_(True)
    assert memory(tower, IDS, MASK).pooled.requires_grad
    assert memory.kept is None


def test_nothing_more_is_kept_when_it_is_full() -> None:
    tower, memory = Counting().requires_grad_(False), FeatureMemory(1)
    memory.limit = 4 * 4 * (3 + 1)  # bytes of one row of three tokens and its pooled vector
    memory(tower, IDS, MASK)
    assert memory.kept is not None
    assert len(memory.kept) == 1


def test_without_room_the_tower_is_called() -> None:
    tower = Counting().requires_grad_(False)
    FeatureMemory(0)(tower, IDS, MASK)
    assert tower.seen == {(1, 2, 3), (4, 5, 0)}
    assert tower.calls == 1


def test_towers_of_equal_weights_share_what_they_said() -> None:
    first, second = Counting().requires_grad_(False), Counting().requires_grad_(False)
    second.load_state_dict(first.state_dict())
    FeatureMemory(1)(first, IDS, MASK)
    FeatureMemory(1)(second, IDS, MASK)
    assert not second.calls
    assert fingerprint(first) == fingerprint(second) != fingerprint(Counting())


def test_weights_that_changed_are_not_taken_for_the_old_ones() -> None:
    tower, memory = Counting().requires_grad_(False), FeatureMemory(1)
    before = memory(tower, IDS, MASK).pooled
    tower.requires_grad_(True)
    memory(tower, IDS, MASK)
    with torch.no_grad():
        tower.words.weight += 1
    tower.requires_grad_(False)
    assert not torch.equal(memory(tower, IDS, MASK).pooled, before)


def test_a_copy_shares_what_is_kept() -> None:
    tower, memory = Counting().requires_grad_(False), FeatureMemory(1)
    memory(tower, IDS, MASK)
    calls, twin = tower.calls, copy.deepcopy(memory)
    assert twin.kept is None
    twin(tower, IDS, MASK)
    assert twin.kept is memory.kept
    assert tower.calls == calls


def test_what_was_computed_on_one_device_is_not_returned_on_another() -> None:
    tower, memory = Counting().requires_grad_(False), FeatureMemory(1)
    memory(tower, IDS, MASK)
    kept, memory.device = memory.kept, torch.device("meta")  # as if it had been called there
    memory(tower, IDS, MASK)
    assert memory.kept is kept
    assert memory.device == IDS.device
    assert {device for _, device in _shared} == {IDS.device}
