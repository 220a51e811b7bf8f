"""An exported model, loaded by the other library, gives the same embeddings, logits and token ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from diptych.app.export import ExportError, export
from diptych.batch import Batch
from diptych.encoders import own_tokenizer
from diptych.encoders.adapt import lora
from diptych.methods.contrastive.clip import CLIP, Config
from diptych.methods.contrastive.filip import FILIP, Config as FilipConfig
from diptych.methods.contrastive.siglip import Config as SiglipConfig, SigLIP
from diptych.models.dual_encoder import DualEncoder

TEXTS = ["a red circle above a blue square", "two dogs", "Ein Gänserich, ガチョウ!", "long " * 30]
SMALL: dict[str, Any] = {
    "image_size": 32,
    "image_width": 32,
    "image_layers": 2,
    "image_heads": 2,
    "text_width": 48,
    "text_layers": 2,
    "text_heads": 3,
    "context": 16,
    "embed": 24,
}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny towers of other libraries, by kind."""
    home = tmp_path_factory.mktemp("names")
    text = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
    resnet = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
    own = home / "own"
    own.mkdir()
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<start>", "eos_token": "<end>"}
    (own / "tokenizer.json").write_text(own_tokenizer(16).json, encoding="utf-8")
    (own / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "pad_token": "<pad>"}))
    both = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "vocab_size": 8192}
    clean = {"hf_tokenizer_name": str(own), "tokenizer_kwargs": {"clean": "canonicalize"}}
    for name, see, read in (
        ("vit", vision, text),
        ("avg", {**vision, "pool_type": "avg"}, text),
        ("resnet", resnet, text),
        ("siglip", vision, {**text, **both, **clean}),
    ):
        config = {"embed_dim": 32, "quick_gelu": name in ("vit", "avg"), "vision_cfg": see, "text_cfg": read}
        (home / f"small-{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(home)
    deep = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    words = {"vocab_size": 8192, "max_position_embeddings": 16, "pad_token_id": 0}
    gelu = {"hidden_act": "gelu"}
    clip = transformers.CLIPConfig(
        text_config={**deep, **words, **gelu, "bos_token_id": 8190, "eos_token_id": 8191},
        vision_config={**deep, **gelu, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    models = {
        "clip": transformers.CLIPModel(clip),
        "bert": transformers.BertModel(transformers.BertConfig(**deep, **words)),
    }
    for kind, model in models.items():
        model.save_pretrained(home / kind)
        for file in own.iterdir():
            (home / kind / file.name).write_bytes(file.read_bytes())
    return {kind: f"hf:{home / kind}" for kind in models} | {
        f"oc-{kind}": f"open_clip:small-{kind}" for kind in ("vit", "avg", "resnet", "siglip")
    }


def shaken(method: nn.Module) -> Any:
    """Every parameter and statistic away from the zeros and ones of a fresh model, as after training."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in [*method.named_parameters(), *method.named_buffers()]:
            if value.is_floating_point() and not name.endswith((".mean", ".std", "log_scale", "attn_mask")):
                value += 0.03 * torch.rand(value.shape, generator=generator)
    return method.eval()


def make(method: type[DualEncoder] = CLIP, config: Any = Config, **changes: Any) -> Any:
    torch.manual_seed(0)
    return shaken(method(config(**{**SMALL, **changes})))  # type: ignore[arg-type]


def pictures(size: int = 32) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(3)]


def ours(method: DualEncoder) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of the pictures and of the texts, and logits."""
    views = [torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures(method.config.image_size)]
    with torch.no_grad():
        image = method.embed_image(Batch({"image": torch.stack(views)}))
        text = method.embed_text(method.tokenize(TEXTS))
        return image.pooled, text.pooled, method.similarity(image, text)[0] * method.scale


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def check_transformers(method: DualEncoder, folder: Path) -> None:
    model, report = transformers.CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.CLIPImageProcessor.from_pretrained(folder)
    inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    pixels = processor(images=pictures(method.config.image_size), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model.eval()(**inputs, pixel_values=pixels)
    image, text, logits = ours(method)
    ids, mask = method.text.tokenizer.encode(TEXTS)
    assert inputs["input_ids"][mask].equal(ids[mask])
    assert inputs["attention_mask"].bool().equal(mask)
    close(output.image_embeds, image)
    close(output.text_embeds, text)
    torch.testing.assert_close(output.logits_per_image, logits, atol=2e-4, rtol=1e-5)


def check_open_clip(method: DualEncoder, folder: Path, bias: float = 0.0) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    with torch.no_grad():
        pixels = torch.stack([preprocess(p) for p in pictures(method.config.image_size)])
        theirs = model.eval().encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
        logits_there = model.get_logits(pixels, tokens)[0]
    image, text, logits = ours(method)
    ids, mask = method.text.tokenizer.encode(TEXTS)
    assert tokens[:, : ids.shape[1]][mask].equal(ids[mask])
    close(theirs[0], image)
    close(theirs[1], text)
    torch.testing.assert_close(logits_there, logits + bias, atol=2e-4, rtol=1e-5)


CLIP_FORMS = [
    ("vit", "transformer"),
    ("oc-vit", "oc-vit"),
    ("clip", "clip"),
    ("vit", "clip"),
    ("clip", "transformer"),
]
OPEN_CLIP_ONLY = [
    ("timm:test_efficientnet", "transformer"),
    ("timm:test_efficientnet", "bert"),
    ("vit", "bert"),
    ("oc-resnet", "oc-siglip"),
    ("oc-avg", "oc-vit"),
]


@pytest.mark.shows("P", "clip")
@pytest.mark.parametrize(("image", "text"), CLIP_FORMS)
def test_transformers(image: str, text: str, names: dict[str, str], tmp_path: Path) -> None:
    method = make(image=names.get(image, image), text=names.get(text, text))
    check_transformers(method, export(method, "transformers", tmp_path / "out"))


@pytest.mark.shows("P", "clip")
@pytest.mark.parametrize(("image", "text"), CLIP_FORMS + OPEN_CLIP_ONLY)
def test_open_clip(image: str, text: str, names: dict[str, str], tmp_path: Path) -> None:
    method = make(image=names.get(image, image), text=names.get(text, text))
    check_open_clip(method, export(method, "open_clip", tmp_path / "out"))


@pytest.mark.parametrize(("image", "text"), OPEN_CLIP_ONLY)
def test_what_transformers_cannot_hold_is_said(image: str, text: str, names: dict[str, str], tmp_path: Path) -> None:
    method = make(image=names.get(image, image), text=names.get(text, text))
    with pytest.raises(ExportError, match=r"has no tower like .*try --to open_clip"):
        export(method, "transformers", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.shows("P", "siglip")
def test_the_bias_of_siglip(tmp_path: Path) -> None:
    method = make(SigLIP, SiglipConfig)
    bias = float(method.bias.detach())
    check_open_clip(method, export(method, "open_clip", tmp_path / "a"), bias)
    check_transformers(method, export(method, "transformers", tmp_path / "b"))
    assert f"adds the bias {bias:.4f}" in (tmp_path / "b" / "README.md").read_text()


def test_towers_that_end_in_the_joint_space_have_no_heads(tmp_path: Path) -> None:
    method = make(embed=0, text_width=32, text_heads=2)
    assert isinstance(method.image_head, nn.Identity)
    check_transformers(method, export(method, "transformers", tmp_path / "a"))
    check_open_clip(method, export(method, "open_clip", tmp_path / "b"))


def test_the_clamped_temperature_is_exported(tmp_path: Path) -> None:
    method = make()
    torch.nn.init.constant_(method.log_scale, 9.0)
    assert float(method.scale.detach()) == pytest.approx(100)
    check_transformers(method, export(method, "transformers", tmp_path))


def test_lora_is_merged(tmp_path: Path) -> None:
    method = make()
    lora(method.image, ["mlp"], rank=2)
    lora(method.text, ["qkv"], rank=2)
    method = shaken(method)
    names = [name for name, _ in method.named_parameters()]
    check_transformers(method, export(method, "transformers", tmp_path))
    assert [name for name, _ in method.named_parameters()] == names  # the method itself is as it was


def test_pictures_of_other_sizes_are_squeezed_as_here(tmp_path: Path) -> None:
    folder = export(make(), "transformers", tmp_path / "a")
    picture = Image.fromarray(np.tile(np.linspace(0, 255, 80, dtype=np.uint8)[None, :, None], (40, 1, 3)))
    pixels = transformers.CLIPImageProcessor.from_pretrained(folder)(images=picture, return_tensors="pt")[
        "pixel_values"
    ]
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{export(make(), 'open_clip', tmp_path / 'b')}")
    method = make()
    view = method.view_image(picture, None)[None]
    for there in (pixels, preprocess(picture)[None]):
        torch.testing.assert_close(there, method.image.pixels(view), atol=0.05, rtol=0)


def test_a_method_that_compares_tokens_is_scored_as_its_readme_says(tmp_path: Path, monkeypatch) -> None:
    method = make(FILIP, FilipConfig)
    export(method, "transformers", tmp_path)
    monkeypatch.chdir(tmp_path)
    code = (tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    picture = pictures()[0]
    found: dict[str, Any] = {"picture": picture}
    exec(code, found)
    view = method.view_image(picture, None)[None]
    with torch.no_grad():
        mine = method.embed_image(Batch({"image": view})), method.embed_text(method.tokenize(["a cat", "a dog"]))
        expected = method.similarity(*mine)
    close(found["image_to_text"], expected[0])
    close(found["text_to_image"], expected[1])


def test_only_dual_encoders_that_the_library_can_hold(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"FILIP compares tokens.*export it to transformers"):
        export(make(FILIP, FilipConfig), "open_clip", tmp_path)
    with pytest.raises(ExportError, match="Linear is no dual encoder"):
        export(nn.Linear(2, 2), "open_clip", tmp_path)
    with pytest.raises(ExportError, match="no format 'onnx': choose transformers or open_clip"):
        export(make(), "onnx", tmp_path)


def test_what_open_clip_cannot_hold_is_said(names: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="one activation for both towers"):
        export(make(image=names["oc-vit"]), "open_clip", tmp_path)
    with pytest.raises(ExportError, match="only for pictures of 160 pixels"):
        export(make(image="timm:test_vit", image_size=64), "open_clip", tmp_path)
