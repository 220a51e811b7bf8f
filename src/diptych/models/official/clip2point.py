"""From the names of CLIP2Point's released checkpoints (github.com/tyhuang0428/CLIP2Point) to ours.

Their encoders are OpenAI's vision transformers, which here are our own (`encoders.own`).
"""

from __future__ import annotations

import torch

from diptych.models.official.renaming import renamed
from diptych.models.start import State

_BLOCK = r"transformer\.resblocks\.(\d+)\."
_TOWER = (
    (r"conv1\.(.+)", r"patches.\1"),
    (r"class_embedding", "class_token"),
    (r"positional_embedding", "positions"),
    (r"ln_pre\.(.+)", r"norm_in.\1"),
    (r"ln_post\.(.+)", r"norm_out.\1"),
    (_BLOCK + r"ln_(\d)\.(.+)", r"blocks.\1.norm_\2.\3"),
    (_BLOCK + r"attn\.in_proj_(.+)", r"blocks.\1.attention.qkv.\2"),
    (_BLOCK + r"attn\.out_proj\.(.+)", r"blocks.\1.attention.out.\2"),
    (_BLOCK + r"mlp\.c_fc\.(.+)", r"blocks.\1.mlp.expand.\2"),
    (_BLOCK + r"mlp\.c_proj\.(.+)", r"blocks.\1.mlp.contract.\2"),
)
_ADAPTER = (
    (r"fusion_ratio", "ratio"),
    (r"global_f\.0\.bn\.(.+)", r"norm.\1"),
    (r"global_f\.3\.(.+)", r"join.\1"),
    (r"global_f\.4\.(.+)", r"joined_norm.\1"),
    (r"global_f\.7\.(.+)", r"out.\1"),
)
_TABLE = (
    (r"(?:point_model|pre_model)\.proj", "depth_head.weight"),
    (r"(?:image_model|ori_model)\.proj", "image_head.weight"),
    (r"weights", "balance"),
    *((rf"(?:point_model|pre_model)\.{old}", f"depth.{new}") for old, new in _TOWER),
    *((rf"(?:image_model|ori_model)\.{old}", f"image.{new}") for old, new in _TOWER),
    *((rf"adapter1\.{old}", f"adapters.depth.{new}") for old, new in _ADAPTER),
    *((rf"adapter2\.{old}", f"adapters.image.{new}") for old, new in _ADAPTER),
)


def from_official(state: State) -> State:
    """Pre-training (`point_model`, `image_model`, `weights`) and few-shot (`pre_model`, `ori_model`, two adapters).

    CLIP keeps its maps into the joint space as (width, D), we as (D, width). `begun`: there is a depth encoder.
    """
    found = renamed(state, _TABLE)
    for name in ("depth_head.weight", "image_head.weight"):
        if name in found:
            found[name] = found[name].T.contiguous()
    return {**found, "begun": torch.tensor(True)} if "depth_head.weight" in found else found
