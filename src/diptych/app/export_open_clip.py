"""A dual encoder as a model of open_clip: CLIP's own form where it has that, else towers of timm and transformers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.app.export_parts import (
    ExportError,
    Files,
    cut,
    heads,
    logit_bias,
    normalisation,
    special_tokens,
    tokenizer_files,
)
from diptych.encoders.base import ImageEncoder, TextEncoder
from diptych.encoders.clip_form import Form, clip_form
from diptych.models.dual_encoder import DualEncoder

_POOLERS = {"mean": "mean_pooler", "cls": "cls_last_hidden_state_pooler"}  # ours -> open_clip's
_TEXTS = ("bert", "roberta", "xlm-roberta")  # what open_clip builds from a config of transformers


@dataclass
class Part:
    """One tower for open_clip: its section of the configuration, its tensors, and what goes with them."""

    section: dict[str, Any]
    tensors: dict[str, Tensor]
    others: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    activation: str = ""  # gelu or quick_gelu, of CLIP's own transformers only
    plain: bool = False  # CLIP's own form, which open_clip can also hold without `custom_text`


def open_clip_files(method: DualEncoder, out: Path) -> Files:
    """What `open_clip.create_model("local-dir:OUT")` reads.

    Raises:
        ExportError: open_clip has no such tower.
    """
    image_head, text_head = heads(method)
    image, text = _image(method.image, image_head), _text(method.text, text_head, out)
    plain = image.plain and text.plain
    activations = {part.activation for part in (image, text) if part.activation}
    if len(activations) > 1:
        raise ExportError("open_clip has one activation for both towers, and these have gelu and quick_gelu.")
    tensors = {f"visual.{name}": value for name, value in image.tensors.items()}
    tensors |= {name if plain else f"text.{name}": value for name, value in text.tensors.items()}
    tensors["logit_scale"] = method.scale.log()
    model: dict[str, Any] = {"embed_dim": len(image_head)}
    if "quick_gelu" in activations:
        model["quick_gelu"] = True
    if not plain:
        model["custom_text"] = True
    bias = logit_bias(method)
    if bias is not None:
        model["init_logit_bias"] = bias
        tensors["logit_bias"] = method.get_parameter("bias")
    model |= {"vision_cfg": image.section, "text_cfg": text.section}
    mean, std = normalisation(method.image)
    pictures = {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "squash"}
    others = {"open_clip_config.json": {"model_cfg": model, "preprocess_cfg": pictures}, **image.others, **text.others}
    return Files(tensors, others, image.notes + text.notes)


def _image(encoder: ImageEncoder, head: Tensor) -> Part:
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


def _text(encoder: TextEncoder, head: Tensor, out: Path) -> Part:
    form = clip_form(encoder)
    if form is not None:
        return _causal(encoder, form, head)
    if type(encoder).__name__ == "OpenClipText":
        section, activation = _section(encoder, "text_cfg")
        tensors = _fold(encoder.get_submodule("text").state_dict(), "text_projection", head)
        section["hf_tokenizer_name"] = "tokenizer.json"
        return Part(section, tensors, tokenizer_files(encoder), activation=activation)
    if type(encoder).__name__ == "HfText":
        return _hf(encoder, head, out)
    raise ExportError(
        f"open_clip has no text tower like {encoder.name}: it takes transformer, BERT, RoBERTa and CLIP's."
    )


def _causal(encoder: TextEncoder, form: Form, head: Tensor) -> Part:
    end = special_tokens(encoder)["eos_token"]
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
        files = tokenizer_files(encoder)
        section["hf_tokenizer_name"] = "tokenizer.json"  # open_clip only looks whether there is a name
    return Part(
        section, cut(form, encoder) | {"text_projection": head.T}, files, activation=form.activation, plain=True
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
    files = {"text/config.json": config.to_dict(), **tokenizer_files(encoder)}
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
