"""Towers in CLIP's own layout: what our transformers, open_clip's and transformers' CLIP have in common.

One form, with the names that open_clip gives to parameters; from there an export writes either library's files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from diptych.encoders.base import Encoder, ImageEncoder, TextEncoder
from diptych.encoders.own import Activation, Attention, TextTransformer, VisionTransformer
from diptych.encoders.tokenizer import Tokenizer

Own = TypeVar("Own", VisionTransformer, TextTransformer)

# ours -> open_clip
_OWN = (
    (r"^blocks\.(\d+)\.", r"transformer.resblocks.\1."),
    (r"\.norm_(\d)\.", r".ln_\1."),
    (r"\.attention\.qkv\.", ".attn.in_proj_"),
    (r"\.attention\.out\.", ".attn.out_proj."),
    (r"\.mlp\.expand\.", ".mlp.c_fc."),
    (r"\.mlp\.contract\.", ".mlp.c_proj."),
    (r"^patches\.", "conv1."),
    (r"^class_token$", "class_embedding"),
    (r"^words\.", "token_embedding."),
    (r"^positions$", "positional_embedding"),
    (r"^norm_in\.", "ln_pre."),
)
# open_clip -> transformers; q, k and v are one map there and three here
_HF = (
    (r"^transformer\.resblocks\.(\d+)\.", r"encoder.layers.\1."),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^conv1\.weight$", "embeddings.patch_embedding.weight"),
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^ln_pre\.", "pre_layrnorm."),  # the spelling is theirs
    (r"^ln_post\.", "post_layernorm."),
    (r"^ln_final\.", "final_layer_norm."),
)
_FROM_HF = (
    (r"^(vision|text)_model\.", ""),  # older versions of transformers have one more level
    (r"^encoder\.layers\.(\d+)\.", r"transformer.resblocks.\1."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"^embeddings\.patch_embedding\.weight$", "conv1.weight"),
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^pre_layrnorm\.", "ln_pre."),
    (r"^post_layernorm\.", "ln_post."),
    (r"^final_layer_norm\.", "ln_final."),
)


@dataclass(frozen=True)
class Form:
    """A tower as CLIP has it; `weights` are those without projection, named as in open_clip.

    `inner` is the width inside its MLPs, `activation` is `gelu` or `quick_gelu`, `patch` is 0 for text.
    """

    width: int
    layers: int
    heads: int
    inner: int
    activation: str
    eps: float
    weights: dict[str, Tensor]
    patch: int = 0


def clip_form(encoder: Encoder) -> Form | None:
    """The tower in CLIP's form, or None where its structure is another."""
    if isinstance(encoder, VisionTransformer | TextTransformer):
        return _own(encoder)
    kind = type(encoder).__name__
    if kind in ("OpenClipViT", "OpenClipText"):
        return _open_clip(getattr(encoder, "visual", None) or getattr(encoder, "text", None))
    config: Any = getattr(getattr(encoder, "model", None), "config", None)
    if kind in ("HfImage", "HfText") and config.model_type in ("clip_vision_model", "clip_text_model"):
        return _hf(encoder.get_submodule("model"), config)
    return None


def own_image(encoder: ImageEncoder) -> VisionTransformer | None:
    """A tower of another library in our own modules, with its weights; None where its structure is another."""
    form = clip_form(encoder)
    if form is None or not _fits(form):
        return None
    with torch.device("meta"):
        size = form.width, form.layers, form.heads
        own = VisionTransformer(encoder.image_size, *size, form.patch, _activation(form))
    return _filled(own, encoder, form.weights, {"mean": encoder.mean, "std": encoder.std})


def own_text(encoder: TextEncoder, tokenizer: Tokenizer) -> TextTransformer | None:
    """As `own_image`, for text; with the positions of the context of `tokenizer`, which may be fewer."""
    form = clip_form(encoder)
    if form is None or not _fits(form) or tokenizer.vocab_size != len(form.weights["token_embedding.weight"]):
        return None
    with torch.device("meta"):
        own = TextTransformer(tokenizer, form.width, form.layers, form.heads, _activation(form))
    # a view would keep all positions in memory
    positions = form.weights["positional_embedding"][: tokenizer.context].clone()
    return _filled(own, encoder, form.weights, {"positions": positions})


def _fits(form: Form) -> bool:
    return form.inner == 4 * form.width and form.eps == nn.LayerNorm(1).eps


def _activation(form: Form) -> Activation:
    kinds: tuple[Activation, ...] = get_args(Activation)
    return next(kind for kind in kinds if kind == form.activation)


def _filled(own: Own, encoder: Encoder, weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> Own:
    theirs = {mine: weights[name] for mine, name in _own_names(own).items()}
    own.load_state_dict({**theirs, **others}, assign=True)
    own.name, own.projection = encoder.name, encoder.projection
    own.requires_grad_()
    return own


def to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a `Form` -> the names of transformers' CLIPVisionModel and CLIPTextModel."""
    found = {}
    for name, value in weights.items():
        if ".attn.in_proj_" in name:
            start, _, kind = name.partition(".attn.in_proj_")
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                found[_rename(f"{start}.", _HF) + f"self_attn.{part}_proj.{kind}"] = piece
        else:
            found[_rename(name, _HF)] = value
    return found


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def _own_names(encoder: VisionTransformer | TextTransformer) -> dict[str, str]:
    """Our name of each parameter -> open_clip's."""
    last = "ln_post." if isinstance(encoder, VisionTransformer) else "ln_final."
    return {name: _rename(name, (*_OWN, (r"^norm_out\.", last))) for name, _ in encoder.named_parameters()}


def _own(encoder: VisionTransformer | TextTransformer) -> Form:
    names = _own_names(encoder)
    weights = {names[name]: value.detach() for name, value in encoder.named_parameters()}
    block: Any = encoder.blocks[0]
    attention: Attention = block.attention
    return Form(
        width=encoder.width,
        layers=len(encoder.blocks),
        heads=attention.heads,
        inner=block.mlp.expand.out_features,
        activation=block.mlp.activation,
        eps=encoder.norm_out.eps,
        weights=weights,
        patch=encoder.patches.kernel_size[0] if isinstance(encoder, VisionTransformer) else 0,
    )


def _open_clip(tower: Any) -> Form | None:
    """None for the towers of open_clip that are not built as OpenAI's."""
    vision = hasattr(tower, "conv1")
    blocks = tower.transformer.resblocks
    block = blocks[0]
    activation = {"GELU": "gelu", "QuickGELU": "quick_gelu"}.get(type(block.mlp.gelu).__name__)
    plain = type(block).__name__ == "ResidualAttentionBlock" and isinstance(block.ls_1, nn.Identity)
    if vision:
        plain &= tower.pool_type == "tok" and not tower.final_ln_after_pool and isinstance(tower.ln_pre, nn.LayerNorm)
    else:
        plain &= tower.attn_mask is not None and tower.text_projection is None
    if activation is None or not plain or tower.transformer.width != block.attn.embed_dim:
        return None
    return Form(
        width=tower.transformer.width,
        layers=len(blocks),
        heads=block.attn.num_heads,
        inner=block.mlp.c_fc.out_features,
        activation=activation,
        eps=block.ln_1.eps,
        weights={name: value.detach() for name, value in tower.named_parameters()},
        patch=tower.conv1.kernel_size[0] if vision else 0,
    )


def _hf(model: nn.Module, config: Any) -> Form:
    theirs = {_rename(name, _FROM_HF): value.detach() for name, value in model.named_parameters()}
    weights = {name: value for name, value in theirs.items() if ".self_attn." not in name}
    for index in range(config.num_hidden_layers):
        start = f"transformer.resblocks.{index}."
        for kind in ("weight", "bias"):
            parts = [theirs[f"{start}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            weights[f"{start}attn.in_proj_{kind}"] = torch.cat(parts)
    return Form(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        inner=config.intermediate_size,
        activation=config.hidden_act,
        eps=config.layer_norm_eps,
        weights=weights,
        patch=getattr(config, "patch_size", 0),
    )
