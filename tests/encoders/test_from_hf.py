"""Encoders of transformers give what transformers gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from torch.nn import functional as F

from diptych.encoders import EncoderError, image_encoder, text_encoder

TEXTS = ["a red circle above a square", "two dogs"]


def picture(size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.shows("L", "clip")
def test_clip(hf_folders: dict[str, str]) -> None:
    """With the projections that came along, pooled vectors are CLIPModel's embeddings; so are padded texts'."""
    whole = transformers.CLIPModel.from_pretrained(hf_folders["clip"]).eval()
    image = image_encoder(f"hf:{hf_folders['clip']}", size=32).eval()
    text = text_encoder(f"hf:{hf_folders['clip']}", context=16).eval()
    ids, mask = text.tokenizer.encode(TEXTS)
    output = whole(input_ids=ids, attention_mask=mask.long(), pixel_values=image.pixels(picture()))
    features, words = image(picture()), text(ids, mask)
    assert image.projection is not None
    assert text.projection is not None
    close(F.normalize(features.pooled @ image.projection.T, dim=-1), output.image_embeds)
    close(F.normalize(words.pooled @ text.projection.T, dim=-1), output.text_embeds)
    close(words.tokens[mask], output.text_model_output.last_hidden_state[mask])
    close(torch.tensor(image.logit_scale), whole.logit_scale.detach())
    patches = output.vision_model_output.last_hidden_state[:, 1:]
    close(features.tokens, whole.vision_model.post_layernorm(patches))


@pytest.mark.shows("L", "siglip")
def test_siglip(hf_folders: dict[str, str]) -> None:
    """Its pooled vectors are its embeddings: the projections are the identity. Padding is attended, as in training."""
    whole = transformers.SiglipModel.from_pretrained(hf_folders["siglip"]).eval()
    image = image_encoder(f"hf:{hf_folders['siglip']}", size=32).eval()
    text = text_encoder(f"hf:{hf_folders['siglip']}", context=8).eval()
    ids, mask = text.tokenizer.encode(TEXTS)
    assert ids.shape == (2, 16)  # all of its positions, whatever was asked for
    output = whole(input_ids=ids, pixel_values=image.pixels(picture()))
    assert image.projection is not None
    assert image.projection.equal(torch.eye(32))
    close(F.normalize(image(picture()).pooled, dim=-1), output.image_embeds)
    close(F.normalize(text(ids, mask).pooled, dim=-1), output.text_embeds)
    length = int(mask.sum(1).max())
    close(text(ids[:, :length], mask[:, :length]).pooled, text(ids, mask).pooled)
    assert text(ids).mask.equal(mask)
    assert text.logit_bias == pytest.approx(float(whole.logit_bias.detach()))


@pytest.mark.parametrize(("kind", "prefix"), [("vit", 1), ("deit", 2), ("dinov2", 1), ("dinov2_with_registers", 4)])
def test_vision_transformers(kind: str, prefix: int, hf_folders: dict[str, str]) -> None:
    whole = transformers.AutoModel.from_pretrained(hf_folders[kind]).eval()
    encoder = image_encoder(f"hf:{hf_folders[kind]}", size=32).eval()
    hidden = whole(pixel_values=encoder.pixels(picture())).last_hidden_state
    features = encoder(picture())
    assert encoder.grid == (4, 4)
    close(features.tokens, hidden[:, prefix:])
    close(features.pooled, hidden[:, 0])


@pytest.mark.parametrize("kind", ["clip", "siglip", "vit", "dinov2"])
def test_positions_are_fitted_to_another_size_of_picture(kind: str, hf_folders: dict[str, str]) -> None:
    encoder = image_encoder(f"hf:{hf_folders[kind]}", size=48).eval()
    assert encoder.grid == (6, 6)
    assert encoder(picture(48)).tokens.shape == (2, 36, 32)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra"])
def test_text_transformers_are_pooled_at_their_first_token(kind: str, hf_folders: dict[str, str]) -> None:
    whole = transformers.AutoModel.from_pretrained(hf_folders[kind]).eval()
    encoder = text_encoder(f"hf:{hf_folders[kind]}", context=64).eval()
    ids, mask = encoder.tokenizer.encode(TEXTS)
    hidden = whole(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    close(encoder(ids, mask).tokens, hidden)
    close(encoder(ids, mask).pooled, hidden[:, 0])
    assert encoder.context == 16  # its positions
    assert encoder(ids).mask.equal(mask)


def test_sentence_encoders_are_pooled_by_the_mean_of_real_tokens(hf_folders: dict[str, str]) -> None:
    encoder = text_encoder(f"hf:{hf_folders['sentence']}").eval()
    ids, mask = encoder.tokenizer.encode(TEXTS)
    features = encoder(ids, mask)
    close(features.pooled[1], features.tokens[1, : int(mask[1].sum())].mean(0))


def test_tokenizer_equals_transformers(hf_folders: dict[str, str]) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(hf_folders["bert"])
    ids, mask = text_encoder(f"hf:{hf_folders['bert']}", context=16).tokenizer.encode(TEXTS)
    output = theirs(TEXTS, padding=True, return_tensors="pt")
    assert ids.equal(output["input_ids"])
    assert mask.long().equal(output["attention_mask"])


def test_random_from_the_config_alone(hf_folders: dict[str, str], tmp_path: Path) -> None:
    shutil.copy(Path(hf_folders["clip"]) / "config.json", tmp_path)
    with pytest.raises(EncoderError, match=r"weights from its config alone, write 'hf:.*#random'"):
        image_encoder(f"hf:{tmp_path}", size=32)
    torch.manual_seed(1)
    first = image_encoder(f"hf:{tmp_path}#random", size=32)
    second = image_encoder(f"hf:{tmp_path}", size=32, pretrained=False)
    assert [p.shape for p in first.parameters()] == [p.shape for p in second.parameters()]
    assert not torch.equal(first(picture()).pooled, second(picture()).pooled)
    assert first.logit_scale is None
    with pytest.raises(EncoderError, match=r"put its tokenizer\.json there"):
        text_encoder(f"hf:{tmp_path}#random")


def test_weights_that_lack_a_part_are_refused(hf_folders: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "deeper"
    shutil.copytree(hf_folders["bert"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(EncoderError, match=r"lacks \d+ of its weights, such as encoder.layer.2"):
        text_encoder(f"hf:{folder}")


def test_normalisation_of_the_folder_is_used(hf_folders: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    shutil.copytree(hf_folders["vit"], folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 2]}')
    encoder = image_encoder(f"hf:{folder}", size=32)
    close(encoder.pixels(torch.ones(1, 3, 32, 32))[0, :, 0, 0], torch.tensor([0.9, 0.8, 0.35]))


def test_other_kinds_are_refused(tmp_path: Path, hf_folders: dict[str, str]) -> None:
    transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=8).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="of the kind 'gpt2'; text encoders can be of clip_text_model"):
        text_encoder(f"hf:{tmp_path}#random")
    with pytest.raises(EncoderError, match="of the kind 'bert'; image encoders can be of clip_vision_model"):
        image_encoder(f"hf:{hf_folders['bert']}", size=32)
