"""CTP's checkpoints, as github.com/KevinLight831/CTP at 7baab57 writes them after each task."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from diptych.models.official.renaming import renamed

_BERT, _CROSS = r"text_mlm_encoder\.bert\.", r"text_mlm_encoder\.bert\.encoder\.layer\.(\d+)\.crossattention\."
TABLE = (
    (r"visual_encoder\.((?:cls_token|pos_embed|patch_embed\.|blocks\.|norm\.).*)", r"towers.image.model.\1"),
    (_CROSS + r"self\.(query|key|value)\.(.*)", r"towers.crosses.\1.part.\2.\3"),
    (_CROSS + r"output\.dense\.(.*)", r"towers.crosses.\1.part.out.\2"),
    (_CROSS + r"output\.LayerNorm\.(.*)", r"towers.crosses.\1.norm.\2"),
    (_BERT + r"(embeddings\.(?!position_ids).*|encoder\..*)", r"towers.text.encoder.model.\1"),
    (r"text_mlm_encoder\.cls\.predictions\.bias", r"word_head.bias"),
    (r"text_mlm_encoder\.cls\.predictions\.transform\.dense\.(.*)", r"word_head.transform.0.\1"),
    (r"text_mlm_encoder\.cls\.predictions\.transform\.LayerNorm\.(.*)", r"word_head.transform.2.\1"),
    (r"vision_proj\.(.*)", r"towers.image_head.\1"),
    (r"text_proj\.(.*)", r"towers.text_head.\1"),
)
"""Theirs -> ours, where the number of a layer with cross-attention is still theirs."""


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for a checkpoint of theirs, which holds the live model alone: its copies begin as that does.

    Cross-attention is counted from the first layer that has it. Left out are what is there twice (`text_encoder`, the
    tied `decoder`), both temperatures, which never change, and the queues, which fill anew.
    """
    found = renamed(state, TABLE)
    layers = sorted({int(told[1]) for name in state if (told := re.match(_CROSS, name))})
    return {
        re.sub(r"(?<=crosses\.)\d+", lambda told: f"{layers.index(int(told[0]))}", name): value
        for name, value in found.items()
    }
