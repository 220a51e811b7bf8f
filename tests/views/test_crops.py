"""Crops of whole patches."""

import numpy as np
import pytest
import torch

from diptych.views.crops import patch_crop


@pytest.mark.shows("F", "alpro")
def test_a_crop_is_one_box_of_the_sizes_that_are_allowed() -> None:
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(300):
        inside = patch_crop((14, 14), rng)
        rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        height, width = len(rows), len(columns)
        assert inside[rows[0] : rows[0] + height, columns[0] : columns[0] + width].all()
        assert inside.sum() == height * width
        areas.append(height * width / 196)
    assert max(areas) <= 0.5
    assert 0.2 < min(areas) < 0.3  # sides are rounded down
    assert 0.3 < np.mean(areas) < 0.4


def test_a_crop_of_a_picture_of_few_patches_has_at_least_one() -> None:
    rng = np.random.default_rng(0)
    assert min(int(patch_crop((2, 2), rng).sum()) for _ in range(200)) >= 1


def test_without_a_generator_it_is_always_the_same() -> None:
    assert torch.equal(patch_crop((8, 8), None), patch_crop((8, 8), None))
    assert not torch.equal(patch_crop((8, 8), np.random.default_rng(1)), patch_crop((8, 8), np.random.default_rng(2)))
