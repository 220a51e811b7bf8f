"""Tiny models of the other libraries, random, on disk: what a hub would give, in a few kilobytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diptych.encoders import own_tokenizer

SIZE = 32


def save_tokenizer(folder: Path, pad: str = "<pad>") -> None:
    """Our tokenizer in the files of transformers."""
    (folder / "tokenizer.json").write_text(own_tokenizer(16).json, encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<start>", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": pad}), encoding="utf-8")


@pytest.fixture(scope="session")
def hf_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Kind -> folder of a tiny model of transformers with its weights and, for text, a tokenizer."""
    import transformers as hf

    torch.manual_seed(0)
    home = tmp_path_factory.mktemp("hf")
    deep = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    see = {"image_size": SIZE, "patch_size": 8}
    words = {"vocab_size": 8192, "max_position_embeddings": 16, "pad_token_id": 0}
    ids = {"bos_token_id": 8190, "eos_token_id": 8191}
    vision, text = hf.CLIPVisionConfig(**deep, **see), hf.CLIPTextConfig(**deep, **words, **ids)
    both = hf.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24)
    slip = hf.SiglipConfig(text_config={**deep, **words}, vision_config={**deep, **see})
    models = {
        "clip": hf.CLIPModel(both),
        "siglip": hf.SiglipModel(slip),
        "vit": hf.ViTModel(hf.ViTConfig(**deep, **see)),
        "deit": hf.DeiTModel(hf.DeiTConfig(**deep, **see)),
        "dinov2": hf.Dinov2Model(hf.Dinov2Config(**{**deep, **see, "mlp_ratio": 2})),
        "dinov2_with_registers": hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(**{**deep, **see, "mlp_ratio": 2, "num_register_tokens": 3})
        ),
        "bert": hf.BertModel(hf.BertConfig(**deep, **words)),
        "roberta": hf.RobertaModel(hf.RobertaConfig(**{**deep, **words, "max_position_embeddings": 17})),
        "distilbert": hf.DistilBertModel(
            hf.DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, **words),
        ),
        "electra": hf.ElectraModel(hf.ElectraConfig(embedding_size=32, **deep, **words)),
    }
    folders = {}
    for kind, model in models.items():
        for parameter in model.parameters():  # away from the zeros and ones of fresh biases and norms
            parameter.data += 0.02 * torch.randn_like(parameter)
        folder = home / kind
        model.save_pretrained(folder)
        save_tokenizer(folder, pad="<end>" if kind == "siglip" else "<pad>")
        folders[kind] = str(folder)
    mean = home / "sentence"
    models["bert"].save_pretrained(mean)
    save_tokenizer(mean)
    (mean / "1_Pooling").mkdir()
    (mean / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    folders["sentence"] = str(mean)
    return folders


@pytest.fixture(scope="session")
def open_clip_names(tmp_path_factory: pytest.TempPathFactory, hf_folders: dict[str, str]) -> dict[str, str]:
    """Kind -> name of a tiny model that open_clip knows from here on."""
    import open_clip

    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    vision = {"image_size": SIZE, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
    timm = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"}
    siglip = {"vocab_size": 8192, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    bert = {"hf_model_name": hf_folders["bert"], "hf_tokenizer_name": hf_folders["bert"], "hf_proj_type": "linear"}
    clean = {"hf_tokenizer_name": hf_folders["siglip"], "tokenizer_kwargs": {"clean": "canonicalize"}}
    configs = {
        "tiny-vit": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text},
        "tiny-quick": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text},
        "tiny-thin": {"embed_dim": 24, "vision_cfg": {**vision, "mlp_ratio": 2}, "text_cfg": {**text, "mlp_ratio": 2}},
        "tiny-resnet": {
            "embed_dim": 24,
            "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
            "text_cfg": text,
        },
        "tiny-timm": {
            "embed_dim": 24,
            "vision_cfg": timm,
            "text_cfg": {**bert, "context_length": 16, "hf_pooler_type": "mean_pooler"},
        },
        "tiny-siglip": {
            "embed_dim": 32,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": vision,
            "text_cfg": {**text, **siglip, **clean},
        },
    }
    home = tmp_path_factory.mktemp("open_clip")
    for name, config in configs.items():
        (home / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(home)
    return {name.removeprefix("tiny-"): name for name in configs}
