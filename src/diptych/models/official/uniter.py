"""UNITER's checkpoints, as github.com/ChenRocks/UNITER at 1dbfa62 writes them: pre-trained and fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from diptych.models.official.renaming import renamed

_TRUNK = r"(?:uniter|bert)\."
_TYPES = "trunk.encoder.model.embeddings.token_type_embeddings.weight"
TABLE = (
    (_TRUNK + r"((?:embeddings|encoder)\..*)", r"trunk.encoder.model.\1"),
    (_TRUNK + r"img_embeddings\.img_linear\.(.*)", r"regions.look.\1"),
    (_TRUNK + r"img_embeddings\.img_layer_norm\.(.*)", r"regions.look_norm.\1"),
    (_TRUNK + r"img_embeddings\.pos_linear\.(.*)", r"regions.place.\1"),
    (_TRUNK + r"img_embeddings\.pos_layer_norm\.(.*)", r"regions.place_norm.\1"),
    (_TRUNK + r"img_embeddings\.mask_embedding\.weight", r"regions.blank"),
    (_TRUNK + r"img_embeddings\.LayerNorm\.(.*)", r"region_norm.\1"),
    (_TRUNK + r"pooler\.dense\.(.*)", r"pooler.\1"),
    (r"cls\.predictions\.bias", r"word_head.bias"),
    (r"cls\.predictions\.transform\.dense\.(.*)", r"word_head.transform.0.\1"),
    (r"cls\.predictions\.transform\.LayerNorm\.(.*)", r"word_head.transform.2.\1"),
    (r"feat_regress\.net\.(.*)", r"feature_head.transform.\1"),
    (r"feat_regress\.bias", r"feature_head.bias"),
    (r"region_classifier\.net\.([012])\.(.*)", r"class_head.0.\1.\2"),
    (r"region_classifier\.net\.3\.(.*)", r"class_head.1.\1"),
    (r"itm_output\.(.*)", r"match_head.\1"),
    (r"vqa_output\.([012])\.(.*)", r"answer_head.transform.\1.\2"),
    (r"vqa_output\.3\.(.*)", r"answer_head.answers.\1"),
    (r"re_output\.(.*)", r"region_head.\1"),
    (r"nlvr2_output\.(.*)", r"pair_head.\1"),
    (r"attn1\.(.*)", r"pair_attention.first.\1"),
    (r"attn2\.(.*)", r"pair_attention.second.\1"),
    (r"fc\.(.*)", r"pair_attention.join.\1"),
    (r"attn_pool\.fc\.0\.(.*)", r"pair_attention.pool.score.\1"),
)
"""Theirs -> ours. Tied weights are in their files twice and in ours once."""


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for a checkpoint of theirs.

    Of the table of masks only the second row is used, as the first is kept at zero. The third kind of token, that of
    the second picture, is held as what it has more than the second kind. A checkpoint of retrieval ranks by
    `rank_output`, which is the second row of `itm_output` trained on.
    """
    found = renamed(state, TABLE)
    if "regions.blank" in found:
        found["regions.blank"] = found["regions.blank"][1]
    if len(found.get(_TYPES, ())) == 3:
        found["second"] = found[_TYPES][2] - found[_TYPES][1]
        found[_TYPES] = found[_TYPES][:2]
    if "rank_output.weight" in state and "match_head.weight" in found:
        for name in ("weight", "bias"):
            found[f"match_head.{name}"] = found[f"match_head.{name}"].clone()
            found[f"match_head.{name}"][1:] = state[f"rank_output.{name}"]
    return found
