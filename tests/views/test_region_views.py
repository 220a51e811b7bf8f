"""Regions as a method sees them."""

import numpy as np
import pytest
import torch

from diptych.batch import Sample
from diptych.views.regions import geometry, overlap, view


def test_the_surest_regions_stay_in_their_order() -> None:
    sample = Sample(
        "a", {"regions": np.arange(6.0).reshape(3, 2), "region_scores": np.array([0.9, 0.1, 0.5], np.float32)}
    )
    seen = view(sample, 2)
    assert seen["regions"].tolist() == [[0, 1], [4, 5]]
    assert seen["region_scores"].tolist() == pytest.approx([0.9, 0.5])
    assert seen["region_mask"].tolist() == [True, True]


def test_fewer_regions_are_padded_and_the_mask_says_so() -> None:
    sample = Sample("a", {"regions": np.ones((1, 2), np.float32), "region_labels": np.array([7])})
    seen = view(sample, 3)
    assert seen["regions"].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert seen["region_labels"].tolist() == [7, 0, 0]
    assert seen["region_labels"].dtype == torch.int64
    assert seen["region_mask"].tolist() == [True, False, False]


def test_geometry_is_box_size_and_area() -> None:
    assert geometry(torch.tensor([[0.25, 0.0, 0.75, 0.5]])).tolist() == [[0.25, 0.0, 0.75, 0.5, 0.5, 0.5, 0.25]]


def test_overlap_is_intersection_over_union() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0]])
    others = torch.tensor([[0.25, 0.0, 0.75, 1.0], [0.9, 0.9, 0.9, 0.9]])
    assert overlap(boxes, others).tolist() == [[0.5, 0.0], [pytest.approx(1 / 3), 0.0]]
