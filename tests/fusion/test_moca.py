import copy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from diptych.fusion.moca import MoCa

WIDTH, LAYERS = 16, 2
VISUAL = torch.tensor([[True, True, False, False, False], [False, True, True, True, False]])


def base_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def calibrated(model):
    return MoCa(model.model.layers, WIDTH)


IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])


@pytest.mark.shows("F", "mir")
def test_begins_as_the_identity_with_a_scale_and_a_shift_a_layer() -> None:
    model = base_model()
    expected = model(IDS).logits
    moca = calibrated(model)
    moca.visual = VISUAL
    assert torch.equal(model(IDS).logits, expected)
    assert sum(parameter.numel() for parameter in moca.parameters()) == 2 * WIDTH * LAYERS
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in MoCa([nn.Identity()] * 32, 4096).parameters()) == 262_144


@pytest.mark.shows("F", "mir")
def test_changes_visual_tokens_alone_and_none_where_there_are_none() -> None:
    moca = MoCa([nn.Identity()] * LAYERS, WIDTH)
    torch.nn.init.normal_(moca.scale)
    torch.nn.init.normal_(moca.shift)
    states = torch.randn(2, 5, WIDTH)
    moca.visual = VISUAL
    found = moca(states, 1)
    assert torch.equal(found[~VISUAL], states[~VISUAL])
    torch.testing.assert_close(found[VISUAL], moca.scale[1] * states[VISUAL] + moca.shift[1])
    moca.visual = torch.zeros_like(VISUAL)
    assert torch.equal(moca(states, 1), states)
    moca.visual = VISUAL
    assert torch.equal(moca(states[:, :1], 1), states[:, :1])  # as text is written, token by token
    beams = moca(states.repeat_interleave(3, 0), 1)
    assert torch.equal(beams, found.repeat_interleave(3, 0))


def test_learns_through_checkpointing_and_in_a_copy() -> None:
    gradients = []
    for checkpointed in (False, True):
        model = base_model().train()
        model.moca = calibrated(model)
        model = copy.deepcopy(model)  # the copy's layers call the copy's own
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.moca.visual = VISUAL
        model(IDS).logits.square().mean().backward()
        gradients.append(model.moca.scale.grad)
    assert gradients[0].abs().min() > 0
    assert torch.equal(*gradients)


def test_layers_that_return_tuples_too() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=11, bos_token_id=0, eos_token_id=0, n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_positions=8)
    ).eval()
    moca = MoCa(model.transformer.h, WIDTH)
    expected = model(IDS).logits
    moca.visual = VISUAL
    torch.nn.init.normal_(moca.shift)
    found = model(IDS).logits
    assert torch.equal(found[1, 0], expected[1, 0])  # nothing that is seen stands before it
    assert not torch.allclose(found[0], expected[0])
