"""Published weights of BLIP-2 and InstructBLIP: github.com/salesforce/LAVIS, and transformers.

Of LAVIS: `Blip2Qformer` at baad2d7, `Blip2VicunaInstruct` at 76c556e, their `Qformer.py` at c6bec01 and `eva_vit.py`
at 6cfbf15.

LAVIS calls the parts by BERT's names and writes `Qformer.bert.`; of the frozen parts its files have the vision encoder
at most. transformers' files are `InstructBlipForConditionalGeneration`, `Blip2ForConditionalGeneration`, and
`Blip2ForImageTextRetrieval` for what stage 1 learned.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diptych.models.official.renaming import renamed

_QFORMER, _IMAGE = r"connector.qformer.model", r"encoder.model"
_LAYER = rf"{_QFORMER}.encoder.layer"
BERT = (
    (r"embeddings\.((?:word|position)_embeddings\..*)", r"embeddings.\1"),
    (r"embeddings\.LayerNorm\.(.*)", r"embeddings.layernorm.\1"),
    (r"(encoder\.layer\.\d+\.(?:cross)?attention)\.self\.(.*)", r"\1.attention.\2"),
    (r"(encoder\.layer\.\d+\..*)", r"\1"),
)
"""A BERT's names -> those of the Q-Former's text side."""

_LAVIS = (
    *((rf"Qformer\.bert\.{old}", rf"{_QFORMER}.{new}") for old, new in BERT),
    (r"Qformer\.cls\.predictions\.bias", r"querying.word_head.bias"),
    (r"Qformer\.cls\.predictions\.transform\.dense\.(.*)", r"querying.word_head.transform.0.\1"),
    (r"Qformer\.cls\.predictions\.transform\.LayerNorm\.(.*)", r"querying.word_head.transform.2.\1"),
    (r"ln_vision\.(.*)", r"connector.norm.\1"),
    (r"(?:llm|opt)_proj\.(.*)", r"connector.project.\1"),
    (r"(?:llm|opt)_model\.(.*)", r"language.model.\1"),
    (r"vision_proj\.(.*)", r"querying.image_map.\1"),
    (r"text_proj\.(.*)", r"querying.text_map.\1"),
    (r"temp", r"querying.tau"),
    (r"visual_encoder\.cls_token", rf"{_IMAGE}.embeddings.class_embedding"),
    (r"visual_encoder\.pos_embed", rf"{_IMAGE}.embeddings.position_embedding"),
    (r"visual_encoder\.patch_embed\.proj\.(.*)", rf"{_IMAGE}.embeddings.patch_embedding.\1"),
    (r"visual_encoder\.blocks\.(\d+)\.norm([12])\.(.*)", rf"{_IMAGE}.encoder.layers.\1.layer_norm\2.\3"),
    (r"visual_encoder\.blocks\.(\d+)\.attn\.qkv\.(.*)", rf"{_IMAGE}.encoder.layers.\1.self_attn.qkv.\2"),
    (r"visual_encoder\.blocks\.(\d+)\.attn\.proj\.(.*)", rf"{_IMAGE}.encoder.layers.\1.self_attn.projection.\2"),
    (r"visual_encoder\.blocks\.(\d+)\.mlp\.(.*)", rf"{_IMAGE}.encoder.layers.\1.mlp.\2"),
)
_TRANSFORMERS = (
    (r"vision_model\.post_layernorm\.(.*)", r"connector.norm.\1"),
    (r"vision_model\.(.*)", rf"{_IMAGE}.\1"),
    (r"qformer\.(layernorm\..*)", rf"{_QFORMER}.embeddings.\1"),
    (r"(?:qformer\.)?(embeddings\.(?:word|position)_embeddings\..*)", rf"{_QFORMER}.\1"),
    (r"qformer\.(.*)", rf"{_QFORMER}.\1"),
    (r"language_projection\.(.*)", r"connector.project.\1"),
    (r"language_model\.(.*)", r"language.model.\1"),
    (r"vision_projection\.(.*)", r"querying.image_map.\1"),
    (r"text_projection\.(.*)", r"querying.text_map.\1"),
)
TABLE = (
    (r"query_tokens", r"connector.qformer.queries"),
    (r"itm_head\.(.*)", r"querying.match_head.\1"),
    *_LAVIS,
    *_TRANSFORMERS,
)
"""Theirs -> ours. The map from states to words is in LAVIS's files a second time, as that from words to states."""


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for a checkpoint of theirs. The vision encoder of LAVIS keeps biases of queries and values alone."""
    found = renamed(state, TABLE)
    for name, bias in state.items():
        if name.startswith("visual_encoder.") and name.endswith(".attn.q_bias"):
            block = name.split(".")[2]
            both = bias, torch.zeros_like(bias), state[name.replace("q_bias", "v_bias")]
            found[f"{_IMAGE}.encoder.layers.{block}.self_attn.qkv.bias"] = torch.cat(both)
    return found


def from_bert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A BERT's weights as those of a Q-Former's model: the layers of queries begin as copies of the text's (LAVIS)."""
    found = renamed(state, BERT)
    for name in list(found):
        part = name.split(".")[3] if name.startswith("encoder.layer.") else ""
        if part in ("intermediate", "output"):
            found[name.replace(f".{part}.", f".{part}_query.", 1)] = found[name].clone()
    return found
