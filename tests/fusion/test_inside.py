from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from diptych.fusion import GatedCross, inside


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bert_layer():
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer

    torch.manual_seed(0)
    config = BertConfig(hidden_size=16, num_attention_heads=4, intermediate_size=32)
    config._attn_implementation = "sdpa"
    return BertLayer(config).eval()


def swin():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.models.swin_transformer.SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(2,), num_heads=(2,), num_classes=0
    )
    return model.eval()


def test_a_shut_gate_leaves_a_layer_of_bert_as_it_is_and_an_open_one_stands_ahead_of_its_norm() -> None:
    layer, cross = bert_layer(), GatedCross(16, 4, 12)
    x, context, mask = draw(2, 5, 16), draw(2, 3, 12, seed=1), torch.tensor([[True] * 3, [True, False, False]])
    plain = layer(x)
    with inside(layer.attention.output.dense, cross, context, mask):
        assert torch.equal(layer(x), plain)
        cross.gate.data.fill_(0.5)
        fused = layer(x)
    assert torch.equal(layer(x), plain)  # outside of the context the layer is untouched
    s = layer.attention.output.dense(layer.attention.self(x)[0])
    s = s + 0.5 * cross.attention(s, context, mask)
    h = layer.attention.output.LayerNorm(x + s)
    assert_close(fused, layer.output(layer.intermediate(h), h))


def test_every_window_of_a_shifted_swin_block_attends_to_the_whole_text_of_its_own_picture() -> None:
    block = swin().layers[0].blocks[1]
    assert block.shift_size == (2, 2)
    cross = GatedCross(16, 2, 12, normed=True, gate=8.0)
    x, text, mask = draw(2, 8, 8, 16), draw(2, 3, 12, seed=1), torch.tensor([[True] * 3, [True, False, True]])
    found = {}

    def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
        found["windows"] = output

    with inside(block.attn, cross, text, mask):
        fused = block(x)
    handle = block.attn.register_forward_hook(keep)
    plain = block(x)
    handle.remove()
    assert found["windows"].shape == (2 * 4, 16, 16)  # four windows a picture, those of a picture side by side
    attended = block._attn(block.norm1(x))  # (2, 8, 8, 16)
    attended = cross(attended.flatten(1, 2), text, mask).view_as(x)
    middle = x + attended
    assert_close(fused, middle + block.mlp(block.norm2(middle)))
    assert (fused - plain).abs().max() > 1e-2
    text[1] += 1
    with inside(block.attn, cross, text, mask):
        changed = block(x)
    assert torch.equal(changed[0], fused[0])
    assert not torch.equal(changed[1], fused[1])


def test_at_a_shut_gate_only_the_gate_learns() -> None:
    cross = GatedCross(16, 4, 12, normed=True)
    (cross(draw(2, 5, 16), draw(2, 3, 12)) * draw(2, 5, 16, seed=4)).sum().backward()
    assert cross.gate.grad.abs() > 1e-3
    assert all(p.grad.abs().max() == 0 for p in cross.attention.parameters())


def test_parameters_are_those_of_fiber() -> None:
    def count(*arguments, **options) -> int:
        return sum(p.numel() for p in GatedCross(*arguments, **options).parameters())

    with torch.device("meta"):
        assert count(512, 16, 768, normed=True) == 1_313_793
        assert count(1024, 32, 768, normed=True) == 3_676_161
        assert count(768, 12, 512) == 1_969_152 + 1  # and alpha
        assert count(768, 12, 1024) == 2_755_584 + 1
