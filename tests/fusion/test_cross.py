from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from diptych.fusion import Attention, CrossLayer, CrossPair, Layer, initialise

B, T, K, D, C = 3, 5, 7, 16, 12
MASK = torch.arange(T)[None] < torch.tensor([5, 2, 4])[:, None]
CONTEXT_MASK = torch.arange(K)[None] < torch.tensor([7, 3, 1])[:, None]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(**options) -> CrossLayer:
    """A layer whose every parameter is drawn, biases and norms too; gates stay."""
    made = CrossLayer(D, 4, **options)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in made.named_parameters():
        if not name.endswith("gate"):
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return made


def additive(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float).min)[:, None, None]


def copy_linear(mine: nn.Module, theirs: nn.Module) -> None:
    mine.load_state_dict(theirs.state_dict())


def copy_attention(mine, queries, output) -> None:
    """From the parts of transformers' BERT-like attention: query, key, value; dense and norm."""
    for name in ("query", "key", "value"):
        copy_linear(getattr(mine.part, name), getattr(queries, name))
    copy_linear(mine.part.out, output.dense)
    copy_linear(mine.norm, output.LayerNorm)


def copy_feed_forward(mine, intermediate, output) -> None:
    copy_linear(mine.part.expand, intermediate.dense)
    copy_linear(mine.part.contract, output.dense)
    copy_linear(mine.norm, output.LayerNorm)


def randomised(module: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


# ---- parity with transformers


@pytest.mark.parametrize("masked", [False, True])
def test_a_shared_pair_that_crosses_first_equals_the_layer_of_lxmert(masked: bool) -> None:
    from transformers import LxmertConfig
    from transformers.models.lxmert.modeling_lxmert import LxmertXLayer

    theirs = randomised(LxmertXLayer(LxmertConfig(hidden_size=D, num_attention_heads=4, intermediate_size=40)))
    text, image = (CrossLayer(D, 4, hidden=40, place="before") for _ in range(2))
    mine = CrossPair(text, image, share=True).eval()
    copy_attention(text.cross_attention, theirs.visual_attention.att, theirs.visual_attention.output)
    copy_attention(text.self_attention, theirs.lang_self_att.self, theirs.lang_self_att.output)
    copy_attention(image.self_attention, theirs.visn_self_att.self, theirs.visn_self_att.output)
    copy_feed_forward(text.feed_forward, theirs.lang_inter, theirs.lang_output)
    copy_feed_forward(image.feed_forward, theirs.visn_inter, theirs.visn_output)
    masks = (MASK, CONTEXT_MASK) if masked else (None, None)
    words, regions = draw(B, T, D), draw(B, K, D, seed=1)
    theirs_masks = (additive(MASK), additive(CONTEXT_MASK)) if masked else (None, None)
    expected = theirs(words, theirs_masks[0], regions, theirs_masks[1])
    for ours, other in zip(mine(words, regions, *masks), expected, strict=True):
        assert_close(ours, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("crossed", [False, True])
def test_a_layer_that_crosses_second_equals_that_of_bert_with_and_without_a_context(crossed: bool) -> None:
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer

    config = BertConfig(
        hidden_size=D, num_attention_heads=4, intermediate_size=40, is_decoder=True, add_cross_attention=True
    )
    config._attn_implementation = "eager"
    theirs = randomised(BertLayer(config))
    mine = CrossLayer(D, 4, hidden=40, place="after").eval()
    copy_attention(mine.self_attention, theirs.attention.self, theirs.attention.output)
    copy_attention(mine.cross_attention, theirs.crossattention.self, theirs.crossattention.output)
    copy_feed_forward(mine.feed_forward, theirs.intermediate, theirs.output)
    x, context = draw(B, T, D), draw(B, K, D, seed=1) if crossed else None
    expected = theirs(x, additive(MASK), context, additive(CONTEXT_MASK) if crossed else None)
    assert_close(mine(x, MASK, context, CONTEXT_MASK), expected, atol=1e-6, rtol=1e-6)


def test_attention_equals_that_of_torch_and_gives_zeros_where_there_is_no_key() -> None:
    mine = Attention(D, 4, C)
    theirs = nn.MultiheadAttention(D, 4, kdim=C, vdim=C, batch_first=True)
    for name in ("query", "key", "value"):
        getattr(theirs, f"{name[0]}_proj_weight").data = getattr(mine, name).weight.data
    theirs.in_proj_bias.data = torch.cat([mine.query.bias, mine.key.bias, mine.value.bias]).data
    theirs.out_proj.load_state_dict(mine.out.state_dict())
    x, context = draw(B, T, D), draw(B, K, C, seed=1)
    expected, _ = theirs(x, context, context, key_padding_mask=~CONTEXT_MASK)
    assert_close(mine(x, context, CONTEXT_MASK), expected, atol=1e-6, rtol=1e-6)

    none = CONTEXT_MASK.clone()
    none[1] = False
    context.requires_grad_()
    found = mine(x, context, none)
    assert_close(found[1], mine.out.bias.expand(T, D))
    found.sum().backward()
    assert torch.isfinite(context.grad).all()
    assert context.grad[1].abs().sum() == 0


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_without_a_context_a_cross_layer_is_a_layer(norm) -> None:
    crossed = layer(context=C, norm=norm)
    alone = Layer(D, 4, norm=norm)
    alone.load_state_dict({name: v for name, v in crossed.state_dict().items() if "cross_attention" not in name})
    x = draw(B, T, D)
    assert torch.equal(alone(x, MASK), crossed(x, MASK))


# ---- gates


@pytest.mark.parametrize(
    ("place", "norm"), [("inside", "post"), ("inside", "pre"), ("before", "pre"), ("after", "pre")]
)
def test_a_layer_whose_gate_is_shut_is_the_one_without_cross_attention_and_only_the_gate_can_learn(place, norm) -> None:
    shut = layer(context=C, place=place, norm=norm, gate=0.0)
    x, context = draw(B, T, D), draw(B, K, C, seed=1)
    crossed = shut(x, MASK, context, CONTEXT_MASK)
    assert torch.equal(crossed, shut(x, MASK))
    (crossed * draw(B, T, D, seed=3)).sum().backward()
    cross = shut.cross_attention
    assert cross.gate.grad.abs() > 1e-3
    for part in (cross.part.query, cross.part.key, cross.part.value, cross.part.out):
        assert part.weight.grad.abs().max() == 0
    cross.gate.data.fill_(0.5)
    assert (shut(x, MASK, context, CONTEXT_MASK) - crossed).abs().max() > 1e-2


def test_inside_adds_to_what_self_attention_found_ahead_of_the_norm() -> None:
    made = layer(context=C, place="inside", gate=0.7).eval()
    x, context = draw(B, T, D), draw(B, K, C, seed=1)
    s = made.self_attention.part(x, None, MASK)
    s = s + 0.7 * made.cross_attention.part(s, context, CONTEXT_MASK)
    expected = made.feed_forward(made.self_attention.norm(x + s))
    assert_close(made(x, MASK, context, CONTEXT_MASK), expected)


# ---- what attention can and cannot depend on


@pytest.mark.parametrize("place", ["before", "after", "inside"])
def test_order_of_the_context_does_not_matter_and_that_of_the_stream_is_kept(place) -> None:
    pair = CrossPair(layer(place=place), layer(place=place))
    text, image = draw(B, T, D), draw(B, K, D, seed=1)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    words, regions = pair(text, image, MASK, CONTEXT_MASK)
    shuffled, moved = pair(text, image[:, order], MASK, CONTEXT_MASK[:, order])
    assert_close(shuffled, words, atol=1e-5, rtol=1e-5)
    assert_close(moved, regions[:, order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("place", ["before", "after", "inside"])
def test_masked_tokens_are_never_seen(place) -> None:
    made = layer(context=C, place=place)
    x, context = draw(B, T, D), draw(B, K, C, seed=1)
    found = made(x, MASK, context, CONTEXT_MASK)
    x, context = x.masked_fill(~MASK[..., None], 9.0), context.masked_fill(~CONTEXT_MASK[..., None], -9.0)
    assert torch.equal(made(x, MASK, context, CONTEXT_MASK)[MASK], found[MASK])


def test_a_mask_a_query_makes_the_layer_causal() -> None:
    made = layer(context=C)
    x, context = draw(B, T, D), draw(B, K, C, seed=1)
    causal = torch.ones(1, 1, T, T, dtype=torch.bool).tril()
    found = made(x, causal, context)
    x[:, 3:] += 1
    assert torch.equal(made(x, causal, context)[:, :3], found[:, :3])


def test_both_streams_of_a_pair_read_the_input_of_the_other() -> None:
    first, second = layer(), layer()
    text, image = draw(B, T, D), draw(B, K, D, seed=1)
    words, regions = CrossPair(first, second)(text, image)
    assert torch.equal(words, first(text, None, image))
    assert torch.equal(regions, second(image, None, text))


# ---- sharing


def test_a_shared_cross_attention_is_one_storage_that_learns_from_either_direction() -> None:
    pair = CrossPair(layer(place="before"), layer(place="before"), share=True)
    assert pair.first.cross_attention is pair.second.cross_attention
    names = [name for name in pair.state_dict() if "cross_attention" in name]
    assert names
    assert all(name.startswith("first.") for name in names)
    pair(draw(B, T, D), draw(B, K, D, seed=1))[1].pow(2).sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in pair.first.cross_attention.part.query.parameters()
    )
    twin = copy.deepcopy(pair)
    assert twin.second.cross_attention is twin.first.cross_attention
    assert twin.first.cross_attention is not pair.first.cross_attention


def test_streams_of_unequal_width_cannot_share() -> None:
    with pytest.raises(ValueError, match="cannot share"):
        CrossPair(CrossLayer(D, 4, context=C), CrossLayer(C, 4, context=D), share=True)
    with pytest.raises(ValueError, match="not a multiple"):
        CrossLayer(10, 4)


def test_parameters_are_those_of_the_papers() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        lxmert = CrossPair(CrossLayer(768, 12, place="before"), CrossLayer(768, 12, place="before"), share=True)
        assert count(lxmert) == 16_539_648
        assert count(CrossLayer(768, 12)) == 9_451_776  # METER, M3AE, ARL
        assert count(Layer(768, 12)) == 7_087_872  # BERT: 4 maps of D + D^2, two of D * 4D with biases, two norms


def test_initialisation_is_that_of_bert() -> None:
    torch.manual_seed(0)
    made = CrossLayer(128, 4, gate=0.0)
    weights = torch.cat([p.flatten() for n, p in made.named_parameters() if n.endswith("weight") and "norm" not in n])
    assert_close(weights.std(), torch.tensor(0.02), rtol=0.01, atol=0)
    assert all(p.abs().max() == 0 for n, p in made.named_parameters() if n.endswith("bias"))
    table = nn.Embedding(50, 80)
    initialise(table, std=0.5)
    assert_close(table.weight.std(), torch.tensor(0.5), rtol=0.05, atol=0)
