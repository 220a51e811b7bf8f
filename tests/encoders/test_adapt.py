"""Freezing, LoRA and layer-wise learning rates."""

from __future__ import annotations

import re

import pytest
import torch

from diptych.encoders import EncoderError, image_encoder
from diptych.encoders.adapt import freeze, has_lora, layer_decay, lora, merged
from diptych.encoders.own import VisionTransformer


def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(size=16, width=16, layers=3, heads=2, patch=8)


PICTURE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_freeze_by_pattern() -> None:
    encoder = vit()
    names = freeze(encoder, [r"^patches\.", r"blocks\.[01]\."])
    frozen = {name for name, p in encoder.named_parameters() if not p.requires_grad}
    assert frozen == set(names)
    assert "patches.weight" in frozen
    assert "blocks.1.mlp.expand.bias" in frozen
    assert all(p.requires_grad for p in encoder.blocks[2].parameters())
    encoder(PICTURE).pooled.sum().backward()
    assert all((p.grad is None) == (name in frozen) for name, p in encoder.named_parameters())


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(EncoderError, match=r"No parameter matches the pattern 'layers\\\\.0'; there are \d+, such as"):
        freeze(vit(), [r"layers\.0"])
    with pytest.raises(EncoderError, match="No linear layer matches the pattern 'patches'"):
        lora(vit(), ["patches"])


def test_lora_changes_nothing_until_it_is_trained() -> None:
    encoder, plain = vit(), vit()
    names = lora(encoder, [r"attention\.(qkv|out)$"], rank=2, alpha=4)
    assert len(names) == 6
    assert has_lora(encoder)
    assert not has_lora(plain)
    torch.testing.assert_close(encoder(PICTURE), plain(PICTURE))
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert len(trained) == 12
    assert all("lora_" in name for name in trained)
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == 3 * 2 * ((16 + 48) + (16 + 16))


def test_merged_equals_the_detour_and_has_the_old_structure() -> None:
    encoder = vit()
    lora(encoder, ["mlp"], rank=2, alpha=4)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    whole = merged(encoder)
    assert [name for name, _ in whole.named_parameters()] == [name for name, _ in vit().named_parameters()]
    torch.testing.assert_close(whole(PICTURE), encoder(PICTURE), atol=1e-4, rtol=1e-4)
    assert has_lora(encoder)  # the original is as it was
    assert not torch.allclose(whole(PICTURE).pooled, vit()(PICTURE).pooled)


def multiplier(pairs: tuple[tuple[str, float], ...], name: str) -> float:
    """As `Stage.lr` reads them: the first match wins."""
    return next((value for pattern, value in pairs if re.search(pattern, name)), 1.0)


def test_layer_decay() -> None:
    pairs = layer_decay(vit(), 0.5, prefix="image")
    expected = {
        "image.class_token": 0.125,
        "image.patches.weight": 0.125,
        "image.norm_in.bias": 0.125,
        "image.blocks.0.attention.qkv.weight": 0.25,
        "image.blocks.1.norm_1.weight": 0.5,
        "image.blocks.2.mlp.contract.bias": 1.0,
        "image.norm_out.weight": 1.0,
        "text.blocks.0.norm_1.weight": 1.0,
        "image_head.weight": 1.0,
    }
    assert {name: multiplier(pairs, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("timm:test_vit", "model.patch_embed.proj.weight", "model.norm.weight")],
)
def test_layer_decay_of_another_librarys_encoder(name: str, first: str, last: str) -> None:
    encoder = image_encoder(name, size=64)
    pairs = layer_decay(encoder, 0.5)
    count = len(encoder.layers)
    assert multiplier(pairs, first) == 0.5**count
    assert multiplier(pairs, "model.blocks.0.attn.qkv.weight") == 0.5 ** (count - 1)
    assert multiplier(pairs, last) == 1.0
    assert all(multiplier(pairs, name) <= 1.0 for name, _ in encoder.named_parameters())
