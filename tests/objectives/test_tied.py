from __future__ import annotations

import torch
from torch import nn
from torch.testing import assert_close

from diptych.objectives.tied import TiedHead


def test_a_tied_head_ends_in_the_map_of_another_in_one_storage() -> None:
    embedding = nn.Linear(6, 4)
    head = TiedHead(4, 6)
    hidden = torch.randn(2, 3, 4)
    first = head(hidden, embedding.weight.T)
    assert_close(first, head.transform(hidden) @ embedding.weight + head.bias)
    embedding.weight.data *= 2
    assert_close(head(hidden, embedding.weight.T) - head.bias, 2 * (first - head.bias))
    head(hidden, embedding.weight.T).sum().backward()
    assert embedding.weight.grad.abs().sum() > 0
    assert sum(p.numel() for p in head.parameters()) == 4 * 4 + 4 + 8 + 6
