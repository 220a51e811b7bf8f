import math

import pytest
import torch
from torch.nn import functional as F

from diptych.objectives.nt_xent import nt_xent


@pytest.mark.shows("F", "clip2point")
def test_two_orthogonal_pairs_by_hand() -> None:
    """Each vector meets its partner (1) and the two of the other pair (0): ln(1 + 2 / e)."""
    both = torch.eye(2)
    assert nt_xent(both, both, tau=1.0).item() == pytest.approx(math.log(1 + 2 / math.e), abs=1e-6)
    assert nt_xent(5 * both, 0.1 * both, tau=1.0).item() == pytest.approx(0.5514, abs=1e-4)


def test_is_the_definition_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 5, 3, generator=generator)
    every = F.normalize(torch.cat([first, second]), dim=-1)
    expected = 0.0
    for n in range(10):
        others = [m for m in range(10) if m != n]
        logits = every[n] @ every[others].T / 0.3
        expected -= logits.log_softmax(0)[others.index((n + 5) % 10)].item() / 10
    assert nt_xent(first, second, 0.3).item() == pytest.approx(expected, rel=1e-5)
    assert nt_xent(second, first, 0.3).item() == pytest.approx(expected, rel=1e-5)


def test_processes_share_their_negatives() -> None:
    """The mean of the losses of two processes is the loss of the whole batch."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 4, generator=generator)

    class Two:
        world = 2

        def __init__(self, rank: int) -> None:
            self.rank = rank

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            whole = [F.normalize(side, dim=-1) for side in (first, second)]
            return next(w for w in whole if torch.equal(w[3 * self.rank : 3 * self.rank + 3], x))

    halves = [nt_xent(*(side[3 * r : 3 * r + 3] for side in (first, second)), 0.2, Two(r)) for r in (0, 1)]
    torch.testing.assert_close(sum(halves) / 2, nt_xent(first, second, 0.2))
