"""CLIP as a method; its loss alone is tested with the objectives."""

import pytest
import torch
import torch.nn.functional as F
from method_helpers import batch_of, figures, small

from diptych.batch import Step
from diptych.world.data import World


@pytest.mark.shows("F", "clip")
def test_loss_is_the_cross_entropy_over_rows_and_columns_of_one_matrix() -> None:
    method = small("clip").eval()
    batch = batch_of(method, World(size=8))
    logits = method.embed_image(batch).pooled @ method.embed_text(batch).pooled.T / 0.07
    here = torch.arange(8)
    expected = (F.cross_entropy(logits, here) + F.cross_entropy(logits.T, here)) / 2
    torch.testing.assert_close(method.loss(batch, Step()).total, expected)


@pytest.mark.shows("E", "clip")
def test_the_tasks_of_its_paper_find_what_it_has_learned() -> None:
    found = figures("clip", ["retrieval", "zero_shot", "linear_probe"])
    for figure in ("retrieval image_to_text_r1", "retrieval text_to_image_r1", "zero_shot top1"):
        assert found[figure].value > 2 * found[figure].chance
    assert found["linear_probe top1"].n == 8
