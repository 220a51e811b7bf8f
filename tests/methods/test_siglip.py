"""SigLIP as a method; its loss alone is tested with the objectives."""

import math

import pytest
import torch
from method_helpers import batch_of, figures, small

from diptych.batch import Step
from diptych.methods.contrastive.siglip import PRESETS
from diptych.world.data import World


@pytest.mark.shows("F", "siglip")
def test_loss_asks_of_every_pair_whether_it_belongs_together() -> None:
    method = small("siglip", bias=-2.0).eval()
    batch = batch_of(method, World(size=4), 4)
    cosine = (method.embed_image(batch).pooled @ method.embed_text(batch).pooled.T).tolist()
    losses = [
        math.log1p(math.exp(-(1 if i == j else -1) * (10 * cosine[i][j] - 2))) for i in range(4) for j in range(4)
    ]
    torch.testing.assert_close(method.loss(batch, Step()).total, torch.tensor(sum(losses) / 4))


@pytest.mark.shows("R", "siglip")
def test_paper_preset_is_the_papers() -> None:
    paper = PRESETS["paper"].config
    assert (1 / paper.tau, paper.bias, paper.image_size, paper.context) == (10, -10, 224, 64)


@pytest.mark.shows("E", "siglip")
def test_the_tasks_of_its_paper_find_what_it_has_learned() -> None:
    found = figures("siglip", ["retrieval", "zero_shot"], bias=-2.0, tau=0.3)  # the paper's are for large batches
    for figure in ("retrieval image_to_text_r1", "retrieval text_to_image_r1", "zero_shot top1"):
        assert found[figure].value > 2 * found[figure].chance
