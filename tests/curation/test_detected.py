"""Which boxes are kept, what their shares are, and what is read from a map."""

import numpy as np
import pytest
import torch

from diptych.curation.detect import corners, kept, pooled, shares
from diptych.curation.regions import Regions
from diptych.data.decode import decode_npz
from diptych.data.fields import decode_sample
from diptych.data.freeze import npz


def logits(*scores):
    """(Q, 2) of one class and background, with these probabilities of the class."""
    share = torch.tensor(scores)
    return torch.stack([share.log(), (1 - share).log()], dim=-1)


def found(scores, **settings):
    count = len(scores)
    states = torch.arange(count).float()[:, None].expand(-1, 3)
    return kept(logits(*scores), torch.rand(count, 4), states, 1, Regions(**settings))


def test_boxes_are_corners_inside_the_picture():
    boxes = corners(torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.1, 0.9, 0.4, 0.4]]))
    assert boxes.tolist() == pytest.approx(np.array([[0.4, 0.3, 0.6, 0.7], [0.0, 0.7, 0.3, 1.0]]))


def test_shares_put_the_background_first_and_sum_to_one():
    with_background = torch.tensor([[0.0, 1.0, 2.0]])  # two classes, then the background
    expected = torch.tensor([2.0, 0.0, 1.0]).softmax(0)
    assert torch.allclose(shares(with_background, 2)[0], expected)
    independent = torch.tensor([[0.0, -100.0], [2.0, 2.0]])
    assert torch.allclose(shares(independent, 2)[0], torch.tensor([0.5, 0.5, 0.0]))
    sure = torch.tensor(2.0).sigmoid()
    assert torch.allclose(shares(independent, 2)[1], torch.stack([1 - sure, sure / 2, sure / 2]))


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({"fewest": 1, "most": 6}, 3),  # 0.9, 0.5 and 0.3 are surer than 0.2
        ({"fewest": 1, "most": 2}, 2),
        ({"fewest": 5, "most": 6}, 5),
        ({"fewest": 10, "most": 36}, 6),  # there are no more
        ({"fewest": 1, "most": 6, "threshold": 0.5}, 1),  # 0.5 is not surer than 0.5
        ({"fewest": 1, "most": 6, "threshold": 1.0}, 1),
    ],
)
def test_as_many_as_are_surer_than_the_threshold_within_bounds(settings, number):
    regions = found([0.1, 0.9, 0.2, 0.5, 0.05, 0.3], **settings)
    assert regions["regions"][:, 0].tolist() == [1, 3, 5, 2, 0, 4][:number]
    assert regions["region_scores"].tolist() == pytest.approx([0.9, 0.5, 0.3, 0.2, 0.1, 0.05][:number])
    assert {name: (len(value), value.dtype.name) for name, value in regions.items()} == {
        "regions": (number, "float16"),
        "region_boxes": (number, "float32"),
        "region_labels": (number, "int32"),
        "region_scores": (number, "float32"),
        "region_classes": (number, "float16"),
    }


def test_a_score_of_independent_classes_is_that_of_the_class():
    regions = kept(torch.tensor([[2.0, 1.0]]), torch.rand(1, 4), torch.zeros(1, 2), 2, Regions())
    assert regions["region_scores"][0] == pytest.approx(torch.tensor(2.0).sigmoid().item())
    assert regions["region_labels"].tolist() == [0]


@pytest.mark.parametrize("settings", [{"fewest": 0}, {"fewest": 40}, {"threshold": 1.5}, {"batch": 0}])
def test_settings_that_leave_nothing_are_refused(settings):
    with pytest.raises(ValueError, match=r"--fewest|--threshold"):
        Regions(**settings)


def test_what_is_written_is_read_as_fields():
    regions = found([0.9, 0.3, 0.1], fewest=2)
    regions["region_boxes"] = np.sort(regions["region_boxes"].reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    sample = decode_sample("k", {"regions.npz": npz(regions)}, list(regions))
    assert all((sample[name] == decode_npz(npz(regions))[name]).all() for name in regions)


def test_a_map_is_averaged_over_each_box():
    map = torch.zeros(2, 8, 8)
    map[0, :, 4:] = 1.0  # the right half
    map[1] = torch.arange(8.0)[:, None]  # the row's number
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.6, 0.0, 0.9, 1.0], [0.0, 0.25, 0.4, 0.75], [0.3, 0.3, 0.3, 0.3]])
    means = pooled(map, boxes)
    assert means.shape == (4, 2)
    assert means[:, 0].tolist() == pytest.approx([0.5, 1.0, 0.0, 0.0])
    assert means[:3, 1].tolist() == pytest.approx([3.5, 3.5, 3.5], abs=1e-5)
    assert means[3, 1] == pytest.approx(0.3 * 8 - 0.5)  # a point between two rows
