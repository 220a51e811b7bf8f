"""A trained dual encoder as a model of another library, which then gives the same embeddings.

`export(method, "transformers", folder)` writes a folder for `CLIPModel.from_pretrained(folder)`, with its tokenizer
and image processor; `export(method, "open_clip", folder)` one for
`open_clip.create_model_and_transforms("local-dir:folder")`. The weights are safetensors. A README.md in the folder
shows how to load it and says what the other library does not carry over.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from diptych.encoders.adapt import has_lora, merged
from diptych.encoders.base import ImageEncoder, TextEncoder
from diptych.encoders.clip_form import Form, clip_form, to_transformers
from diptych.models.dual_encoder import DualEncoder

_TRANSFORMERS = """import torch
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

model = CLIPModel.from_pretrained("FOLDER").eval()
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
processor = CLIPImageProcessor.from_pretrained("FOLDER")
inputs = tokenizer(["a cat", "a dog"], padding=True, truncation=True, return_tensors="pt")
inputs |= processor(images=[picture], return_tensors="pt")
with torch.no_grad():
    print(model(**inputs).logits_per_image.softmax(-1))
"""
_OPEN_CLIP = """import open_clip
import torch

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")
model.eval()
with torch.no_grad():
    image = model.encode_image(preprocess(picture)[None], normalize=True)
    text = model.encode_text(tokenizer(["a cat", "a dog"]), normalize=True)
print((model.logit_scale.exp() * image @ text.T).softmax(-1))
"""
_POOLERS = {"mean": "mean_pooler", "cls": "cls_last_hidden_state_pooler"}  # ours -> open_clip's
_TEXTS = ("bert", "roberta", "xlm-roberta")  # what open_clip builds from a config of transformers


class ExportError(ValueError):
    """The model cannot be expressed there; the message says why and what can be done."""


@dataclass
class Files:
    """What is to be written: the tensors, JSON values or text by file name, and what a reader should know."""

    tensors: dict[str, Tensor]
    others: dict[str, Any]
    notes: list[str] = field(default_factory=list)


@dataclass
class Part:
    """One tower for open_clip: its section of the configuration, its tensors, and what goes with them."""

    section: dict[str, Any]
    tensors: dict[str, Tensor]
    others: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    activation: str = ""  # gelu or quick_gelu, of CLIP's own transformers only
    plain: bool = False  # CLIP's own form, which open_clip can also hold without `custom_text`


def export(method: Any, to: str, out: Path) -> Path:
    """Writes `method` for the library `to` (`transformers` or `open_clip`) into the folder `out`, which it returns.

    Raises:
        ExportError: the method is no dual encoder that compares pooled vectors, or the other library has no model with
            such towers; the message names what it has.
    """
    libraries = {"transformers": _transformers, "open_clip": _open_clip}
    if to not in libraries:
        raise ExportError(f"There is no format {to!r}: choose {' or '.join(libraries)}.")
    method = check(method)
    out = Path(out)
    files = libraries[to](method, out)
    out.mkdir(parents=True, exist_ok=True)
    name = "model.safetensors" if to == "transformers" else "open_clip_model.safetensors"
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in files.tensors.items()}
    save_file(tensors, out / name, metadata={"format": "pt"})
    files.others["README.md"] = _readme(method, to, files.notes)
    for path, value in files.others.items():
        (out / path).parent.mkdir(exist_ok=True)
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        (out / path).write_text(text, encoding="utf-8")
    return out


def check(method: Any) -> DualEncoder:
    """`method` as a dual encoder of pooled vectors, with LoRA merged into its weights.

    Raises:
        ExportError: it is something else.
    """
    if not isinstance(method, DualEncoder):
        raise ExportError(
            f"{type(method).__name__} is no dual encoder, an image and a text tower: only those can be exported."
        )
    if type(method).similarity is not DualEncoder.similarity:
        title = method.card.title
        raise ExportError(
            f"{title} compares tokens, while the CLIP of transformers and of open_clip compares one vector a side, "
            f"which {title} does not train: share it with save_pretrained or push_to_hub instead."
        )
    if has_lora(method):
        method = merged(method)  # type: ignore[assignment]
    return method


def _readme(method: DualEncoder, to: str, notes: list[str]) -> str:
    code = {"transformers": _TRANSFORMERS, "open_clip": _OPEN_CLIP}[to]
    text = f"{method.card.title}, trained with diptych, for {to}.\n\n```python\n{code}```\n"
    return text + "".join(f"\n- {note}" for note in notes) + ("\n" if notes else "")


def _bias(method: DualEncoder) -> float | None:
    """The learned bias of the logits, for methods that have one (SigLIP)."""
    bias = getattr(method, "bias", None)
    return None if bias is None else float(bias.detach())


# -- transformers ------------------------------------------------------------------------------------------------------


def _transformers(method: DualEncoder, out: Path) -> Files:
    image, text = clip_form(method.image), clip_form(method.text)
    if image is None or text is None:
        odd = [tower.name for tower, form in ((method.image, image), (method.text, text)) if form is None]
        raise ExportError(
            f"The CLIPModel of transformers has no tower like {' and '.join(odd)}: it takes vit, transformer and CLIP "
            "towers of open_clip: and hf:; try --to open_clip, which also takes timm, BERT and RoBERTa."
        )
    tensors = {f"vision_model.{name}": value for name, value in to_transformers(image.weights).items()}
    tensors |= {f"text_model.{name}": value for name, value in to_transformers(_cut(text, method.text)).items()}
    tensors["visual_projection.weight"] = method.image_head.weight
    tensors["text_projection.weight"] = method.text_head.weight
    tensors["logit_scale"] = method.scale.log()
    embed, special = method.image_head.out_features, _special(method.text)
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": embed,
        "logit_scale_init_value": math.log(float(method.scale.detach())),
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": method.image.image_size,
            "patch_size": image.patch,
            **_tower(image, embed),
        },
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": method.text.vocab_size,
            "max_position_embeddings": method.text.context,
            "bos_token_id": special["bos_token"],
            "eos_token_id": special["eos_token"],
            "pad_token_id": special["pad_token"],
            **_tower(text, embed),
        },
    }
    bias = _bias(method)
    notes = [] if bias is None else [f"{method.card.title} adds the bias {bias:.4f} to the logits; CLIPModel has none."]
    others = {"config.json": config, "preprocessor_config.json": _processor(method.image), **_tokenizer(method.text)}
    return Files(tensors, others, notes)


def _tower(form: Form, embed: int) -> dict[str, Any]:
    return {
        "hidden_size": form.width,
        "intermediate_size": form.inner,
        "num_hidden_layers": form.layers,
        "num_attention_heads": form.heads,
        "hidden_act": form.activation,
        "layer_norm_eps": form.eps,
        "projection_dim": embed,
    }


def _cut(form: Form, encoder: TextEncoder) -> dict[str, Tensor]:
    """The weights with as many positions as the encoder uses, so that the other library cuts texts where we do."""
    name = "positional_embedding"
    return form.weights | {name: form.weights[name][: encoder.context]}


def _processor(encoder: ImageEncoder) -> dict[str, Any]:
    mean, std = _normalisation(encoder)
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": encoder.image_size, "width": encoder.image_size},
        "resample": 3,  # bicubic
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }


def _normalisation(encoder: ImageEncoder) -> tuple[list[float], list[float]]:
    return encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()


def _special(encoder: TextEncoder) -> dict[str, int]:
    """Ids of the special tokens. Where padding has the id of a word (open_clip), the end token pads instead."""
    tokenizer = encoder.tokenizer
    empty = tokenizer.backend.encode("").ids
    added = tokenizer.backend.get_added_tokens_decoder()
    pad = tokenizer.pad if tokenizer.pad in added else empty[-1]
    return {"bos_token": empty[0], "eos_token": empty[-1], "pad_token": pad}


def _tokenizer(encoder: TextEncoder) -> dict[str, Any]:
    """The files from which transformers makes the tokenizer."""
    names = {kind: encoder.tokenizer.backend.id_to_token(index) for kind, index in _special(encoder).items()}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": encoder.context,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **names,
    }
    return {"tokenizer.json": encoder.tokenizer.json, "tokenizer_config.json": config}


# -- open_clip ---------------------------------------------------------------------------------------------------------


def _open_clip(method: DualEncoder, out: Path) -> Files:
    image = _open_clip_image(method.image, method.image_head.weight)
    text = _open_clip_text(method.text, method.text_head.weight, out)
    plain = image.plain and text.plain
    activations = {part.activation for part in (image, text) if part.activation}
    if len(activations) > 1:
        raise ExportError("open_clip has one activation for both towers, and these have gelu and quick_gelu.")
    tensors = {f"visual.{name}": value for name, value in image.tensors.items()}
    tensors |= {name if plain else f"text.{name}": value for name, value in text.tensors.items()}
    tensors["logit_scale"] = method.scale.log()
    model: dict[str, Any] = {"embed_dim": method.image_head.out_features}
    if "quick_gelu" in activations:
        model["quick_gelu"] = True
    if not plain:
        model["custom_text"] = True
    bias = _bias(method)
    if bias is not None:
        model["init_logit_bias"] = bias
        tensors["logit_bias"] = method.get_parameter("bias")
    model |= {"vision_cfg": image.section, "text_cfg": text.section}
    mean, std = _normalisation(method.image)
    pictures = {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "squash"}
    others = {"open_clip_config.json": {"model_cfg": model, "preprocess_cfg": pictures}, **image.others, **text.others}
    return Files(tensors, others, image.notes + text.notes)


def _open_clip_image(encoder: ImageEncoder, head: Tensor) -> Part:
    form = clip_form(encoder)
    if form is not None:
        section = {
            "image_size": encoder.image_size,
            "layers": form.layers,
            "width": form.width,
            "head_width": form.width // form.heads,
            "patch_size": form.patch,
            "mlp_ratio": form.inner / form.width,
            "norm_kwargs": {"eps": form.eps},
        }
        return Part(section, form.weights | {"proj": head.T}, activation=form.activation, plain=True)
    kind = type(encoder).__name__
    if kind == "TimmImage":
        return _timm(encoder, head)
    if kind == "OpenClipViT":
        section, activation = _section(encoder, "vision_cfg")
        tensors = encoder.get_submodule("visual").state_dict()
        return Part(section, tensors | {"proj": head.T}, activation=activation)
    if kind == "OpenClipResNet":
        tensors = encoder.get_submodule("visual").state_dict()
        return Part(_section(encoder, "vision_cfg")[0], _fold(tensors, "attnpool.c_proj", head))
    raise ExportError(
        f"open_clip has no image tower like {encoder.name}: it takes vit, timm, open_clip and the CLIP towers of hf:."
    )


def _timm(encoder: Any, head: Tensor) -> Part:
    settings = encoder.model.pretrained_cfg
    if settings.get("fixed_input_size") and settings["input_size"][-1] != encoder.image_size:
        raise ExportError(
            f"open_clip builds {encoder.name} only for pictures of {settings['input_size'][-1]} pixels, and this one "
            f"was made for {encoder.image_size}."
        )
    pool = encoder.model.global_pool
    section = {
        "image_size": encoder.image_size,
        "timm_model_name": settings["architecture"],
        "timm_model_pretrained": False,
        "timm_pool": pool if isinstance(pool, str) else "",
        "timm_proj": "linear",
    }
    tensors = {f"trunk.{name}": value for name, value in encoder.model.state_dict().items()}
    return Part(section, tensors | {"head.proj.weight": head})


def _open_clip_text(encoder: TextEncoder, head: Tensor, out: Path) -> Part:
    form = clip_form(encoder)
    if form is not None:
        return _causal(encoder, form, head)
    if type(encoder).__name__ == "OpenClipText":
        section, activation = _section(encoder, "text_cfg")
        tensors = _fold(encoder.get_submodule("text").state_dict(), "text_projection", head)
        section["hf_tokenizer_name"] = "tokenizer.json"
        return Part(section, tensors, _tokenizer(encoder), activation=activation)
    if type(encoder).__name__ == "HfText":
        return _hf(encoder, head, out)
    raise ExportError(
        f"open_clip has no text tower like {encoder.name}: it takes transformer, BERT, RoBERTa and CLIP's."
    )


def _causal(encoder: TextEncoder, form: Form, head: Tensor) -> Part:
    end = _special(encoder)["eos_token"]
    section = {
        "context_length": encoder.context,
        "vocab_size": encoder.vocab_size,
        "width": form.width,
        "heads": form.heads,
        "layers": form.layers,
        "mlp_ratio": form.inner / form.width,
        "norm_kwargs": {"eps": form.eps},
        "pad_id": encoder.tokenizer.pad,
        "eos_id": end,
        "pool_type": "argmax" if end == encoder.vocab_size - 1 else "eos",
    }
    files = {}
    if encoder.tokenizer.pad in encoder.tokenizer.backend.get_added_tokens_decoder():
        files = _tokenizer(encoder)
        section["hf_tokenizer_name"] = "tokenizer.json"  # open_clip only looks whether there is a name
    return Part(
        section, _cut(form, encoder) | {"text_projection": head.T}, files, activation=form.activation, plain=True
    )


def _hf(encoder: Any, head: Tensor, out: Path) -> Part:
    config = encoder.model.config
    if config.model_type not in _TEXTS or encoder.pooling not in _POOLERS:
        raise ExportError(f"open_clip has no text tower like {encoder.name}: of transformers it takes {_TEXTS}.")
    folder = out.resolve() / "text"
    section = {
        "context_length": encoder.context,
        "hf_model_name": str(folder),
        "hf_tokenizer_name": "tokenizer.json",
        "hf_proj_type": "linear",
        "hf_pooler_type": _POOLERS[encoder.pooling],
    }
    tensors = {f"transformer.{name}": value for name, value in encoder.model.state_dict().items()}
    note = "open_clip wants the place of the text tower's config: after moving the folder, change `hf_model_name`."
    files = {"text/config.json": config.to_dict(), **_tokenizer(encoder)}
    return Part(section, tensors | {"proj.weight": head}, files, [note])


def _section(encoder: Any, name: str) -> tuple[dict[str, Any], str]:
    """What open_clip built its tower from, for the size of picture in use, and the activation of its transformers."""
    import open_clip

    base = encoder.name.removeprefix("open_clip:").partition("/")[0]
    model = open_clip.get_model_config(base)
    section = dict(model[name])
    if name == "vision_cfg":
        section["image_size"] = encoder.image_size
    return section, "quick_gelu" if model.get("quick_gelu") else "gelu"


def _fold(tensors: dict[str, Tensor], layer: str, head: Tensor) -> dict[str, Tensor]:
    """The linear map `layer`, which ends the tower, followed by `head`: one map, W' = H W and b' = H b."""
    folded = {f"{layer}.weight": head @ tensors[f"{layer}.weight"], f"{layer}.bias": head @ tensors[f"{layer}.bias"]}
    return dict(tensors) | folded


__all__ = ["ExportError", "check", "export"]
