"""From a name to an encoder, and what is said when there is none."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import pytest
import torch

from diptych.encoders import EncoderError, image_encoder, text_encoder


@pytest.mark.parametrize("name", ["", "resnet", "timm:", "hf:", "packaged:clip", "vit:b"])
def test_unknown_image_encoder(name: str) -> None:
    with pytest.raises(EncoderError, match=r"write one of vit, patches, timm:NAME"):
        image_encoder(name, size=32)


@pytest.mark.parametrize("name", ["", "brt", "timm:vit", "packaged:clip"])
def test_unknown_text_encoder(name: str) -> None:
    with pytest.raises(EncoderError, match=r"write one of transformer, bert, hf:NAME"):
        text_encoder(name)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: image_encoder("timm:vit_tiny_patch99", size=32), r"timm knows no model .* vit_"),
        (lambda: image_encoder("open_clip:ViT-Z", size=32), "open_clip knows no model 'ViT-Z'"),
        (lambda: text_encoder("open_clip:ViT-Z/openai"), "open_clip knows no model 'ViT-Z'"),
        (lambda: text_encoder("hf:/no/such/folder"), "no model that transformers knows at '/no/such/folder'"),
        (lambda: image_encoder("open_clip:ViT-B-32/no-such-tag", size=32), "open_clip cannot make"),
    ],
)
def test_names_that_the_library_does_not_know(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(EncoderError, match=words):
        make()


@pytest.mark.parametrize(
    ("library", "extra", "make"),
    [
        ("timm", "timm", lambda: image_encoder("timm:resnet18", size=32)),
        ("transformers", "hf", lambda: text_encoder("hf:bert-base-uncased")),
        ("open_clip", "open_clip", lambda: image_encoder("open_clip:ViT-B-32", size=32)),
    ],
)
def test_a_missing_library_names_its_extra(
    library: str, extra: str, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == library:
            raise ImportError(f"No module named {library!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EncoderError, match=rf"No module named '{library}'.*diptych\[{extra}\]"):
        make()


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [
        ("timm:vit_base_patch16_224.augreg_in21k", 224, 85_798_656),
        ("open_clip:ViT-B-32/openai", 224, 87_849_216 - 768 * 512),
        ("packaged:efficientnet_lite0", 64, 4_652_008 - 1_281_000),
    ],
)
def test_images_build_on_the_meta_device_without_weights(name: str, size: int, count: int) -> None:
    with torch.device("meta"):
        encoder = image_encoder(name, size=size)
    assert sum(p.numel() for p in encoder.parameters()) == count
    assert all(p.is_meta for p in encoder.parameters())
    assert encoder.logit_scale is None


def test_siglip_on_the_meta_device_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        image = image_encoder("open_clip:ViT-B-16-SigLIP", size=224)
        text = text_encoder("open_clip:ViT-B-16-SigLIP", context=64)
    count = sum(p.numel() for encoder in (image, text) for p in encoder.parameters())
    assert count + 2 == 203_155_970  # with the scale and the bias


def test_texts_build_on_the_meta_device_without_weights() -> None:
    with torch.device("meta"):
        encoder = text_encoder("open_clip:ViT-B-32/openai", context=77)
    assert sum(p.numel() for p in encoder.parameters()) == 63_428_096 - 512 * 512
    assert encoder.projection is not None
    assert encoder.projection.shape == (512, 512)
