"""Packed rows: which sequences share one, what sees what, and that nothing changes by it."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from diptych.encoders.language import LanguageModel, own_chat_tokenizer
from diptych.models.packing import NOTHING, filled, mask_for, pack

IGNORE = -100
LENGTHS = [5, 2, 9, 1, 4, 3]


def test_rows_by_hand() -> None:
    assert filled(LENGTHS, 9) == [[2], [0, 4], [5, 1, 3]]
    assert filled(LENGTHS, 24) == [[2, 0, 4, 5, 1, 3]]
    assert filled([4, 3, 3, 2], 6) == [[0, 3], [1, 2]]  # the fullest row that has room


def test_the_plan_by_hand() -> None:
    packed = pack([2, 3, 1], width=4)
    assert packed.source.tolist() == [[4, 5, 6], [0, 1, 8]]
    assert packed.sequence.tolist() == [[1, 1, 1], [0, 0, 2]]
    assert packed.positions.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert packed.padding == 0
    assert packed.mask[1, 0].tolist() == [[True, False, False], [True, True, False], [False, False, True]]


def test_what_lies_nowhere_is_padding() -> None:
    packed = pack([3, 2, 2], width=3)
    values = torch.arange(9).view(3, 3)
    assert packed.take(values, IGNORE).tolist() == [[0, 1, 2], [3, 4, IGNORE], [6, 7, IGNORE]]
    assert packed.take(values[:, :, None], 0).shape == (3, 3, 1)
    assert packed.padding.item() == pytest.approx(2 / 9)
    assert packed.mask.any(-1).all()  # attention over nothing at all would be no number


@pytest.mark.parametrize("budget", [1, 12, 1000])
def test_every_token_lies_in_one_place(budget: int) -> None:
    packed = pack(LENGTHS, 9, budget)
    real = packed.sequence != NOTHING
    expected = [9 * one + place for one, length in enumerate(LENGTHS) for place in range(length)]
    assert sorted(packed.source[real].tolist()) == expected
    assert packed.source.shape[1] <= max(budget, 9)
    assert torch.equal(packed.source[real] % 9, packed.positions[real])
    assert torch.equal(packed.source[real] // 9, packed.sequence[real])


def tiny(name: str, attention: str = "sdpa") -> LanguageModel:
    """A causal language model of transformers, of random weights."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    configs = {
        "llama": partial(LlamaConfig, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4),
        "gpt2": partial(GPT2Config, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0),
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configs[name](vocab_size=50), attn_implementation=attention)
    return LanguageModel(model, own_chat_tokenizer(), 32, name).eval()


def loss_and_gradients(language: LanguageModel, budget: int) -> dict[str, torch.Tensor]:
    """The mean cross-entropy over sequences of LENGTHS: padded, or packed where there is a budget."""
    torch.manual_seed(1)
    language.zero_grad()
    embeds = torch.randn(len(LENGTHS), max(LENGTHS), 32, requires_grad=True)
    real = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    labels = torch.randint(50, real.shape).masked_fill(~real, IGNORE)
    if budget:
        packed = pack(LENGTHS, max(LENGTHS), budget, embeds.device)
        hidden = language.hidden(packed.take(embeds), mask_for(packed, language.attention), packed.positions)
        labels = packed.take(labels, IGNORE)
    else:
        hidden = language.hidden(embeds, real)
    loss = F.cross_entropy(language.logits(hidden).flatten(0, 1), labels.flatten())
    loss.backward()
    gradients = {name: value.grad for name, value in language.named_parameters() if value.grad is not None}
    return {"loss": loss.detach(), "embeds": embeds.grad, **gradients}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_packed_is_unpacked(name: str, attention: str) -> None:
    language = tiny(name, attention)
    expected = loss_and_gradients(language, 0)
    for budget in (1, 15, 1000):
        found = loss_and_gradients(language, budget)
        assert found.keys() == expected.keys()
        for part in expected:
            torch.testing.assert_close(found[part], expected[part], rtol=1e-5, atol=1e-6, msg=part)


def test_blocks_of_flex_attention_show_what_the_mask_shows() -> None:
    from torch.nn.attention.flex_attention import create_mask

    packed = pack(LENGTHS, 9, 12)
    blocks = mask_for(packed, "flex_attention")
    shown = create_mask(blocks.mask_mod, len(packed.source), 1, *2 * packed.source.shape[1:], device="cpu")
    assert torch.equal(shown, packed.mask)


def test_far_blocks_cost_nothing_with_flex_attention() -> None:
    blocks = mask_for(pack([128] * 8, 128, 1024), "flex_attention")
    assert blocks.sparsity() == pytest.approx(100 * (1 - 8 / 64))  # of 8 x 8 blocks those on the diagonal


@pytest.mark.slow
def test_flex_attention_computes_the_same() -> None:
    """Forwards: on the CPU it has no backward pass."""
    found = []
    for attention in ("sdpa", "flex_attention"):
        packed = pack(LENGTHS, 9, 12)
        torch.manual_seed(1)
        embeds, mask = torch.randn(len(LENGTHS), 9, 32), mask_for(packed, attention)
        with torch.no_grad():
            found.append(tiny("llama", attention).hidden(packed.take(embeds), mask, packed.positions))
    real = packed.sequence != NOTHING
    torch.testing.assert_close(found[0][real], found[1][real])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_flex_attention_packs_exactly_on_a_gpu() -> None:
    torch.set_default_device("cuda")
    try:
        expected = loss_and_gradients(tiny("llama"), 0)
        found = loss_and_gradients(tiny("llama", "flex_attention"), 15)
    finally:
        torch.set_default_device("cpu")
    for part in expected:
        assert F.cosine_similarity(found[part].flatten(), expected[part].flatten(), dim=0) > 0.999, part


def test_other_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be packed with the attention flash_attention_2"):
        mask_for(pack([1], 1), "flash_attention_2")
