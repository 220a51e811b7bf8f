from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation_fakes import MemoryData, TableMethod

from diptych.evaluation.embed import Bench, judging
from diptych.evaluation.gap import gap, gap_of_pairs, uniformity


def measured(images, texts):
    data = MemoryData([{"text": f"t{i}"} for i in range(len(images))])
    method = TableMethod(images, {f"t{i}": row for i, row in enumerate(texts)})
    with judging(method, "cpu"):
        return {measure.metric: measure.estimate for measure in gap(Bench(method, data, ("text",))).measures}


def test_opposite_modalities() -> None:
    found = measured([[3.0, 0.0]] * 4, [[-2.0, 0.0]] * 4)  # lengths do not count
    assert found["gap"].value == pytest.approx(2)
    assert found["alignment"].value == pytest.approx(4)
    assert found["image_uniformity"].value == pytest.approx(0)


def test_the_same_vectors_have_no_gap() -> None:
    rows = torch.eye(4)
    found = measured(rows, rows)
    assert found["gap"].value == 0
    assert found["alignment"].value == 0
    assert found["text_uniformity"].value == pytest.approx(-4)  # all pairs at squared distance 2: log exp(-4)


def test_the_mean_of_the_pairs_is_the_distance_of_the_centroids() -> None:
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(50, 6, generator=generator) + 1, dim=-1).double()
    text = F.normalize(torch.randn(50, 6, generator=generator) - 1, dim=-1).double()
    assert gap_of_pairs(image, text).mean() == pytest.approx(float((image.mean(0) - text.mean(0)).norm()))
    assert uniformity(image).value == pytest.approx(
        np.log(
            np.mean(
                [
                    np.exp(-2 * float((image[i] - image[j]).square().sum()))
                    for i in range(50)
                    for j in range(50)
                    if i != j
                ]
            )
        )
    )


def test_intervals_hold_the_value() -> None:
    generator = torch.Generator().manual_seed(1)
    found = measured(torch.randn(80, 5, generator=generator) + 0.5, torch.randn(80, 5, generator=generator) - 0.5)
    for estimate in found.values():
        assert estimate.low < estimate.value < estimate.high
