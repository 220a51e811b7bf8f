"""Towers of open_clip give what open_clip gives."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from diptych.encoders import EncoderError, image_encoder, text_encoder
from diptych.encoders.from_open_clip import OpenClipText, OpenClipViT
from diptych.encoders.own import TextTransformer, VisionTransformer

TEXTS = ["a red circle above a square!", "two dogs"]
SIZES = {"timm": 160}


@pytest.mark.parametrize("kind", ["vit", "quick", "thin", "resnet", "timm", "siglip"])
def test_embeddings_of_a_local_file(kind: str, open_clip_names: dict[str, str], tmp_path: Path) -> None:
    name, size = open_clip_names[kind], SIZES.get(kind, 32)
    torch.manual_seed(5)
    model = open_clip.create_model(name, pretrained_text=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases away from zeros and ones
            parameter += 0.02 * torch.randn_like(parameter)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    image = image_encoder(f"open_clip:{name}/{tmp_path}/weights.safetensors", size=size).eval()
    text = text_encoder(f"open_clip:{name}/{tmp_path}/weights.safetensors", context=77).eval()
    picture = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    ids, mask = text.tokenizer.encode(TEXTS)
    theirs = open_clip.get_tokenizer(name)(TEXTS)
    assert text.context == 16
    assert theirs[:, : ids.shape[1]].equal(ids)
    assert image.projection is not None
    assert text.projection is not None
    with torch.no_grad():
        ours = F.normalize(image(picture).pooled @ image.projection.T, dim=-1)
        torch.testing.assert_close(
            ours, model.encode_image(image.pixels(picture), normalize=True), atol=1e-5, rtol=1e-4
        )
        ours = F.normalize(text(ids, mask).pooled @ text.projection.T, dim=-1)
        torch.testing.assert_close(ours, model.encode_text(theirs, normalize=True), atol=1e-5, rtol=1e-4)
    assert image.logit_scale == pytest.approx(float(model.logit_scale.detach()))
    assert text.logit_bias == (pytest.approx(float(model.logit_bias.detach())) if kind == "siglip" else None)
    assert not {"visual.proj", "text.text_projection"} & {*image.state_dict(), *text.state_dict()}


def test_towers_built_as_clips_are_our_own(open_clip_names: dict[str, str]) -> None:
    name = open_clip_names["vit"]
    image, text = image_encoder(f"open_clip:{name}", size=32), text_encoder(f"open_clip:{name}", context=12)
    assert isinstance(image, VisionTransformer)
    assert isinstance(text, TextTransformer)
    assert image.name == text.name == "open_clip:tiny-vit"
    assert text.positions.shape == (12, 32)
    assert all(parameter.requires_grad for tower in (image, text) for parameter in tower.parameters())
    thin = open_clip_names["thin"]
    assert isinstance(image_encoder(f"open_clip:{thin}", size=32), OpenClipViT)
    assert isinstance(text_encoder(f"open_clip:{thin}"), OpenClipText)


@pytest.mark.parametrize("kind", ["vit", "thin"])
def test_vision_tokens_have_passed_the_last_norm(kind: str, open_clip_names: dict[str, str]) -> None:
    image = image_encoder(f"open_clip:{open_clip_names[kind]}", size=32)
    tokens = image(torch.zeros(1, 3, 32, 32)).tokens
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(1, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.std(-1, correction=0), torch.ones(1, 16), atol=1e-2, rtol=0)


def test_resnet_tokens_average_to_an_unweighted_pool(open_clip_names: dict[str, str]) -> None:
    """Were the attention of its pool uniform over positions and mean, pooled would be the mean of the values."""
    image = image_encoder(f"open_clip:{open_clip_names['resnet']}", size=64).eval()
    pool = image.get_submodule("visual.attnpool")
    torch.nn.init.zeros_(pool.q_proj.weight)
    torch.nn.init.zeros_(pool.q_proj.bias)
    torch.nn.init.zeros_(pool.positional_embedding)
    features = image(torch.rand(2, 3, 64, 64))
    assert image.grid == (2, 2)
    torch.testing.assert_close(features.tokens.mean(1), features.pooled, atol=1e-5, rtol=1e-4)


def test_random_towers_bring_no_temperature(open_clip_names: dict[str, str]) -> None:
    assert image_encoder(f"open_clip:{open_clip_names['vit']}", size=32).logit_scale is None
    assert text_encoder(f"open_clip:{open_clip_names['vit']}").logit_scale is None


def test_another_size_fits_the_positions(open_clip_names: dict[str, str]) -> None:
    image = image_encoder(f"open_clip:{open_clip_names['vit']}", size=48)
    assert image.grid == (6, 6)
    assert image(torch.zeros(1, 3, 48, 48)).tokens.shape == (1, 36, 32)


def test_attention_pools_are_refused() -> None:
    with torch.device("meta"), pytest.raises(EncoderError, match="pools by attention"):
        image_encoder("open_clip:coca_ViT-B-32", size=224)
