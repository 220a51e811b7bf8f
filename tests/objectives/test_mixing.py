from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from diptych.objectives.mixing import one_task, weighted

RATIOS = {"itm": 2, "mlm": 2, "mrfr": 1, "kl": 1, "never": 0}


def test_tasks_are_drawn_in_proportion_and_depend_on_seed_and_step_alone() -> None:
    drawn = [one_task(RATIOS, 3, step) for step in range(6000)]
    counts = Counter(drawn)
    for task, ratio in RATIOS.items():
        share = ratio / 6
        assert abs(counts[task] - 6000 * share) <= 4 * math.sqrt(6000 * share * (1 - share))
    torch.manual_seed(9)  # as another process would
    assert drawn[1000:1010] == [one_task(RATIOS, 3, step) for step in range(1000, 1010)]
    assert drawn[:50] != [one_task(RATIOS, 4, step) for step in range(50)]
    assert one_task({"mlm": 1}, 0, 0) == "mlm"


@pytest.mark.parametrize("ratios", [{}, {"mlm": 0}, {"mlm": 1, "itm": -1}])
def test_ratios_that_make_no_sense(ratios: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        one_task(ratios, 0, 0)


def test_weighted_terms() -> None:
    terms = weighted({"wra": 0.1, "mlm": 0}, itm=torch.tensor(2.0), wra=torch.tensor(3.0), mlm=torch.tensor(math.nan))
    assert {name: pytest.approx(value.item()) for name, value in terms.items()} == {"itm": 2.0, "wra": 0.3}
    assert terms.total.item() == pytest.approx(2.3)
    with pytest.raises(ValueError, match="no loss 'mml'"):
        weighted({"mml": 1}, mlm=torch.tensor(1.0))
