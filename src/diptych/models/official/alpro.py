"""ALPRO's checkpoints, as github.com/salesforce/ALPRO at 4ff6163 writes them: prompter, pre-trained and fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from diptych.models.official.renaming import renamed

_VIDEO = (
    (r"model\.cls_token", r"embeddings.cls_token"),
    (r"model\.pos_embed", r"embeddings.position_embeddings"),
    (r"model\.time_embed", r"embeddings.time_embeddings"),
    (r"model\.patch_embed\.proj\.(.*)", r"embeddings.patch_embeddings.projection.\1"),
    (r"model\.norm\.(.*)", r"layernorm.\1"),
    (r"model\.blocks\.(\d+)\.temporal_norm1\.(.*)", r"encoder.layer.\1.temporal_layernorm.\2"),
    (r"model\.blocks\.(\d+)\.temporal_attn\.qkv\.(.*)", r"encoder.layer.\1.temporal_attention.attention.qkv.\2"),
    (r"model\.blocks\.(\d+)\.temporal_attn\.proj\.(.*)", r"encoder.layer.\1.temporal_attention.output.dense.\2"),
    (r"model\.blocks\.(\d+)\.temporal_fc\.(.*)", r"encoder.layer.\1.temporal_dense.\2"),
    (r"model\.blocks\.(\d+)\.norm1\.(.*)", r"encoder.layer.\1.layernorm_before.\2"),
    (r"model\.blocks\.(\d+)\.attn\.qkv\.(.*)", r"encoder.layer.\1.attention.attention.qkv.\2"),
    (r"model\.blocks\.(\d+)\.attn\.proj\.(.*)", r"encoder.layer.\1.attention.output.dense.\2"),
    (r"model\.blocks\.(\d+)\.norm2\.(.*)", r"encoder.layer.\1.layernorm_after.\2"),
    (r"model\.blocks\.(\d+)\.mlp\.fc1\.(.*)", r"encoder.layer.\1.intermediate.dense.\2"),
    (r"model\.blocks\.(\d+)\.mlp\.fc2\.(.*)", r"encoder.layer.\1.output.dense.\2"),
)


def _towers(theirs: str, ours: str) -> list[tuple[str, str]]:
    """A video tower, a BERT and the joint space, below a prefix of either side."""
    video = [(rf"{theirs}visual_encoder\.{old}", f"{ours}video.model.{new}") for old, new in _VIDEO]
    return [
        *video,
        (rf"{theirs}text_encoder\.(?:bert\.)?((?:embeddings|encoder)\..*)", rf"{ours}text.encoder.model.\1"),
        (rf"{theirs}vision_proj\.(.*)", rf"{ours}video_head.\1"),
        (rf"{theirs}text_proj\.(.*)", rf"{ours}text_head.\1"),
        (rf"{theirs}temp", f"{ours}tau"),
    ]


TABLE = (
    *_towers(r"prompter\.", "prompter."),
    *_towers("", "towers."),
    (r"text_encoder\.cls\.predictions\.bias", r"word_head.bias"),
    (r"text_encoder\.cls\.predictions\.transform\.dense\.(.*)", r"word_head.transform.0.\1"),
    (r"text_encoder\.cls\.predictions\.transform\.LayerNorm\.(.*)", r"word_head.transform.2.\1"),
    (r"itm_head\.(.*)", r"match_head.\1"),
    (r"mpm_head\.(.*)", r"entity_head.\1"),
    (r"classifier\.0\.(.*)", r"answer_head.dense.\1"),
    (r"classifier\.2\.(.*)", r"answer_head.answers.\1"),
)
"""Theirs -> ours. Tied weights are in their files twice and in ours once."""


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for a checkpoint of theirs; means over templates are made anew from our own list of entities."""
    return renamed(state, TABLE)
