"""Encoders of timm give what timm gives."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer

from diptych.encoders import EncoderError, image_encoder
from diptych.encoders.from_timm import TimmImage


def picture(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("test_vit", 160, (10, 10)),
        ("test_vit", 64, (4, 4)),  # positions are made for the size asked for
        ("test_efficientnet", 96, (3, 3)),
        ("test_resnet", 70, (3, 3)),  # rounds up
        ("test_convnext", 96, (3, 3)),
    ],
)
def test_features_are_timms(name: str, size: int, grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    encoder = image_encoder(f"timm:{name}", size=size).eval()
    assert isinstance(encoder, TimmImage)
    model, x = encoder.model, encoder.pixels(picture(size))
    features, theirs = encoder(picture(size)), model.forward_features(x)
    assert encoder.grid == grid
    assert features.tokens.shape == (2, grid[0] * grid[1], encoder.width)
    torch.testing.assert_close(features.pooled, model.forward_head(theirs, pre_logits=True))
    if theirs.ndim == 3:
        torch.testing.assert_close(features.tokens, model.fc_norm(theirs[:, encoder.prefix :]))
    else:
        torch.testing.assert_close(features.tokens[:, grid[1] + 2], theirs[:, :, 1, 2])


def test_maps_with_channels_last() -> None:
    model = SwinTransformer(img_size=64, embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=4, num_classes=0)
    encoder = TimmImage(model, "swin", 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).eval()
    features, theirs = encoder(picture(64)), model.forward_features(encoder.pixels(picture(64)))  # (B, 8, 8, 32)
    assert encoder.grid == (8, 8)
    assert len(encoder.layers) == 2
    torch.testing.assert_close(features.tokens[:, 8 + 2], theirs[:, 1, 2])
    seen = []
    encoder(picture(64), edit=lambda index, hidden, mask: (seen.append(hidden.shape) or hidden, mask))
    assert seen == [(2, 256, 16), (2, 256, 16)]


def test_normalisation_is_that_of_the_model() -> None:
    encoder = image_encoder("timm:test_vit", size=160)
    mean = torch.tensor(timm.get_pretrained_cfg("test_vit").mean)
    std = torch.tensor(timm.get_pretrained_cfg("test_vit").std)
    black = torch.zeros(1, 3, 160, 160, dtype=torch.uint8)
    torch.testing.assert_close(encoder.pixels(black)[0, :, 0, 0], -mean / std)


def test_a_tag_is_not_fetched_where_weights_are_not_wanted() -> None:
    encoder = image_encoder("timm:test_vit.r160_in1k", size=160, pretrained=False)
    assert sum(p.numel() for p in encoder.parameters()) > 100_000


def test_two_widths_are_refused() -> None:
    with pytest.raises(EncoderError, match="tokens of width 288 and a pooled vector of width 1024"):
        image_encoder("timm:mobilenetv3_small_050", size=64)
