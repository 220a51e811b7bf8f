import sys

import pytest
import torch
from torch import nn
from toy import Toy, recipe

from diptych.recipe import Stage
from diptych.training import optimiser
from diptych.training.optimiser import Average, decays, trainable


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("image.blocks.0.attn.qkv.weight", (4, 4), True),
        ("text.token_embedding.weight", (9, 4), True),
        ("image.blocks.0.attn.qkv.bias", (4,), False),
        ("image.norm.weight", (4,), False),
        ("logit_scale", (), False),
        ("image.pos_embed", (1, 5, 4), False),
        ("visual.positional_embedding", (5, 4), False),
        ("text.embeddings.position_embeddings.weight", (5, 4), False),
        ("decoder.wpe.weight", (5, 4), False),
        ("image.cls_token", (1, 1, 4), False),
        ("visual.class_embedding", (1, 4), False),
        ("heads.temperature", (2, 2), False),
        ("cls.predictions.transform.dense.weight", (4, 4), True),
        ("image.class_head.weight", (4, 4), True),
        ("composition.weight", (4, 4), True),
    ],
)
def test_weight_decay_is_for_matrices_only(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert decays(name, torch.zeros(shape)) is expected


def test_a_stage_says_what_trains_and_how_fast() -> None:
    stage = Stage("s", train=("image", "head"), freeze=(r"^image\.1",), lr=(("image.*bias", 0.0), ("image", 0.5)))
    chosen = {name: factor for name, (_, factor) in trainable(Toy(), stage).items()}
    assert chosen == {"image.0.weight": 0.5, "head.weight": 1.0}


def test_what_the_method_made_without_gradient_never_trains() -> None:
    method = Toy()
    method.head.requires_grad_(False)
    assert "head.weight" not in trainable(method, Stage())


def test_patterns_that_match_nothing_are_errors() -> None:
    for stage in (Stage("s", train=("vision",)), Stage("s", freeze=("vision",)), Stage("s", lr=(("vision", 2.0),))):
        with pytest.raises(ValueError, match="stage 's': the pattern 'vision' matches no parameter"):
            trainable(Toy(), stage)
    with pytest.raises(ValueError, match="trains nothing"):
        trainable(Toy(), Stage("s", freeze=(".*",)))


def one_step(kind: str, factor: float = 1.0) -> torch.Tensor:
    """The weight [[1, -2]] after one step along the gradient [[0.5, -0.25]], with lr 0.1 and decay 0.01."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, -2.0]])
    layer.weight.grad = torch.tensor([[0.5, -0.25]])
    settings = recipe(optimizer=kind, lr=0.1, weight_decay=0.01, eps=0.0)
    made = optimiser.make(settings, trainable(layer, Stage(lr=(("weight", factor),))))
    optimiser.set_rate(made, 0.1)
    made.step()
    return layer.weight.data


def test_one_step_of_each_optimiser_by_hand() -> None:
    # SGD: w - lr (g + decay w)
    assert torch.allclose(one_step("sgd"), torch.tensor([[1 - 0.1 * 0.51, -2 + 0.1 * 0.27]]))
    # AdamW: w (1 - lr decay) - lr sign(g)
    assert torch.allclose(one_step("adamw"), torch.tensor([[0.999 - 0.1, -1.998 + 0.1]]))
    # LAMB: u = sign(g) + decay w; w - lr u |w| / |u|
    weight, update = torch.tensor([[1.0, -2.0]]), torch.tensor([[1.01, -1.02]])
    assert torch.allclose(one_step("lamb"), weight - 0.1 * update * weight.norm() / update.norm())


def test_the_rate_of_a_group_is_multiplied() -> None:
    assert torch.allclose(one_step("sgd", 0.5), torch.tensor([[1 - 0.05 * 0.51, -2 + 0.05 * 0.27]]))


def test_lamb_without_timm_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(ImportError, match=r"pip install 'diptych\[timm\]'"):
        one_step("lamb")


def test_average_follows_with_a_decay_that_rises() -> None:
    weight = nn.Parameter(torch.tensor([0.0]))
    average = Average({"w": weight}, decay=0.15)
    weight.data.fill_(1.0)
    average.update()  # decay (1 + 0) / (10 + 0) = 0.1
    assert average.copies["w"].item() == pytest.approx(0.9)
    average.update()  # decay min(0.15, 2 / 11) = 0.15
    assert average.copies["w"].item() == pytest.approx(0.15 * 0.9 + 0.85)


def test_average_is_fp32_and_gives_the_weights_back_bit_for_bit() -> None:
    weight = nn.Parameter(torch.tensor([0.1, 0.2], dtype=torch.bfloat16))
    before, storage = weight.detach().clone(), weight.data_ptr()
    average = Average({"w": weight}, decay=0.999)
    average.copies["w"] += 1e-4
    with average.applied():
        assert torch.equal(weight, average.copies["w"].to(torch.bfloat16))
    assert average.copies["w"].dtype == torch.float32
    assert torch.equal(weight, before)
    assert weight.data_ptr() == storage
