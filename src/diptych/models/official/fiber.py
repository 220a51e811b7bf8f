"""FIBER's checkpoints of the coarse stage, as github.com/microsoft/FIBER at ca0f36b writes them: all of its tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from diptych.models.official.renaming import renamed

_IMAGE, _TEXT = "towers.image.encoder.model", "towers.text.encoder.model"
TABLE = (
    (r"vit_model\.((?:patch_embed|norm)\..*)", _IMAGE + r".\1"),
    (r"vit_model\.(layers\.\d+\.(?:blocks\.\d+\.(?!attn_mask)|downsample\.)(?!.*(?:i2t|relative_position_index)).*)",
     _IMAGE + r".\1"),
    (r"text_transformer\.(embeddings\..*|encoder\.layer\.\d+\.(?!.*t2i).*)", _TEXT + r".\1"),
    (r"cross_modal_(image|text)_transform\.(.*)", r"\1_map.\2"),
    (r"cross_modal_(image|text)_transform_itc\.(.*)", r"joint.\1_map.\2"),
    (r"cross_modal_(image|text)_pooler\.dense\.(.*)", r"\1_pooler.0.\2"),
    (r"cross_modal_(image|text)_pooler_itc\.dense\.(.*)", r"joint.\1_pooler.0.\2"),
    (r"mlm_score\.transform\.dense\.(.*)", r"word_head.0.0.\1"),
    (r"mlm_score\.transform\.LayerNorm\.(.*)", r"word_head.0.2.\1"),
    (r"mlm_score\.decoder\.weight", r"word_head.1.weight"),
    (r"mlm_score\.bias", r"word_head.1.bias"),
    (r"itm_score\.fc\.(.*)", r"match_head.\1"),
    (r"temp", r"joint.tau"),
    (r"vqa_classifier\.([01])\.(.*)", r"answer_head.transform.\1.\2"),
    (r"vqa_classifier\.3\.(.*)", r"answer_head.answers.\1"),
    (r"nlvr2_classifier\.(.*)", r"pair_head.\1"),
)  # fmt: skip
"""Theirs -> ours, for all that is one tensor on both sides and whose name says where it is."""

_TO_IMAGE = re.compile(r"vit_model\.layers\.(\d+)\.blocks\.(\d+)\.attn\.(\w*i2t\w*)\.?(.*)")
_TO_TEXT = re.compile(
    r"text_transformer\.encoder\.layer\.(\d+)\.(?:crossattention_t2i\.(?:self|output)\.(\w+)\.(.*)|(alpha)_t2i)"
)
_PARTS = {"qkv_i2t": "attention.query", "proj_i2t": "attention.out", "norm_i2t_i": "norm"}
_WORDS = {"query": "attention.query", "key": "attention.key", "value": "attention.value", "dense": "attention.out"}


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for a checkpoint of theirs.

    The k-th block and layer with cross-attention are those of the k-th pair. Patches are merged at the end of a stage
    there and at the head of the next one here. Left out are the queues, `rank_output` (a copy of a row of
    `itm_score` that goes stale), RoBERTa's pooler, norms and maps that no forward pass uses.
    """
    found = {_merged(name): value for name, value in renamed(state, TABLE).items()}
    blocks = sorted({_place(name, 2) for name in state if _TO_IMAGE.match(name)})
    layers = sorted({_place(name, 1) for name in state if "crossattention_t2i" in name})
    for name, value in state.items():
        if told := _TO_IMAGE.match(name):
            found |= _to_image(f"towers.to_image.{blocks.index(_place(name, 2))}", told[3], told[4], value)
        elif (told := _TO_TEXT.match(name)) and _place(name, 1) in layers:
            index = layers.index(_place(name, 1))
            if told[4]:
                found[f"towers.to_text.{index}.gate"] = value.reshape(())
            elif told[2] in _WORDS:
                found[f"towers.to_text.{index}.{_WORDS[told[2]]}.{told[3]}"] = value
        elif told := re.fullmatch(r"cross_modal_att_layers\.(\d+)\.(.*)", name):
            index = int(told[1]) - (layers[0][0] if layers else 0)  # one a layer there, those below the pairs unused
            found |= {f"towers.narrow.{index}.{told[2]}": value} if index >= 0 else {}
    return found


def _merged(name: str) -> str:
    return re.sub(r"layers\.(\d+)\.downsample", lambda told: f"layers.{int(told[1]) + 1}.downsample", name)


def _place(name: str, count: int) -> tuple[int, ...]:
    """The first numbers in a name: stage and block, or layer."""
    return tuple(int(number) for number in re.findall(r"\.(\d+)\.", name)[:count])


def _to_image(ours: str, part: str, kind: str, value: Tensor) -> dict[str, Tensor]:
    """One tensor of a block's cross-attention; keys and values are one map there."""
    if part == "alpha_i2t":
        return {f"{ours}.gate": value.reshape(())}
    if part == "qkv_text_i2t":
        key, value = value.chunk(2)
        return {f"{ours}.attention.key.{kind}": key, f"{ours}.attention.value.{kind}": value}
    return {f"{ours}.{_PARTS[part]}.{kind}": value}
