"""LXMERT's published weights: github.com/airsplay/lxmert at 0db1182, and transformers.

Both call the parts alike. Theirs begin with `bert.`, of fine-tuned models with `lxrt_encoder.model.bert.`,
transformers' with `lxmert.`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from diptych.models.official.renaming import renamed

_TRUNK = r"(?:lxrt_encoder\.model\.)?(?:bert|lxmert)\."
_ENCODER = _TRUNK + r"encoder\."


def _attention(theirs: str, inner: str, ours: str) -> tuple[tuple[str, str], ...]:
    return (
        (rf"{theirs}\.{inner}\.(query|key|value)\.(.*)", rf"{ours}.part.\2.\3"),
        (rf"{theirs}\.output\.dense\.(.*)", rf"{ours}.part.out.\2"),
        (rf"{theirs}\.output\.LayerNorm\.(.*)", rf"{ours}.norm.\2"),
    )


def _feed_forward(expand: str, contract: str, ours: str) -> tuple[tuple[str, str], ...]:
    return (
        (rf"{expand}\.dense\.(.*)", rf"{ours}.feed_forward.part.expand.\2"),
        (rf"{contract}\.dense\.(.*)", rf"{ours}.feed_forward.part.contract.\2"),
        (rf"{contract}\.LayerNorm\.(.*)", rf"{ours}.feed_forward.norm.\2"),
    )


def _layer(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    layer = rf"{_ENCODER}{theirs}\.(\d+)"
    return (
        *_attention(rf"{layer}\.attention", "self", rf"{ours}.\1.self_attention"),
        *_feed_forward(rf"{layer}\.intermediate", rf"{layer}\.output", rf"{ours}.\1"),
    )


def _stream(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    layer = rf"{_ENCODER}x_layers\.(\d+)\.{theirs}"
    return (
        *_attention(rf"{layer}_self_att", "self", rf"cross.\1.{ours}.self_attention"),
        *_feed_forward(rf"{layer}_inter", rf"{layer}_output", rf"cross.\1.{ours}"),
    )


def _head(name: str) -> tuple[tuple[str, str], ...]:
    return (
        (rf"{name}\.logit_fc\.([012])\.(.*)", rf"{name}.transform.\1.\2"),
        (rf"{name}\.logit_fc\.3\.(.*)", rf"{name}.answers.\1"),
    )


TABLE = (
    (_TRUNK + r"embeddings\.(word|position)_embeddings\.(.*)", r"words.\1.\2"),
    (_TRUNK + r"embeddings\.token_type_embeddings\.(.*)", r"words.kind.\1"),
    (_TRUNK + r"embeddings\.LayerNorm\.(.*)", r"words.norm.\1"),
    (_ENCODER + r"visn_fc\.visn_fc\.(.*)", r"objects.look.\1"),
    (_ENCODER + r"visn_fc\.visn_layer_norm\.(.*)", r"objects.look_norm.\1"),
    (_ENCODER + r"visn_fc\.box_fc\.(.*)", r"objects.place.\1"),
    (_ENCODER + r"visn_fc\.box_layer_norm\.(.*)", r"objects.place_norm.\1"),
    *_layer("layer", "language"),
    *_layer("r_layers", "relations"),
    *_attention(_ENCODER + r"x_layers\.(\d+)\.visual_attention", "att", r"cross.\1.first.cross_attention"),
    *_stream("lang", "first"),
    *_stream("visn", "second"),
    (_TRUNK + r"pooler\.dense\.(.*)", r"pooler.\1"),
    (r"cls\.predictions\.bias", r"word_head.bias"),
    (r"cls\.predictions\.transform\.dense\.(.*)", r"word_head.transform.0.\1"),
    (r"cls\.predictions\.transform\.LayerNorm\.(.*)", r"word_head.transform.2.\1"),
    (r"cls\.seq_relationship\.(.*)", r"match_head.\1"),
    (r"obj_predict_head\.transform\.dense\.(.*)", r"object_head.transform.0.\1"),
    (r"obj_predict_head\.transform\.LayerNorm\.(.*)", r"object_head.transform.2.\1"),
    (r"obj_predict_head\.decoder_dict\.obj\.(.*)", r"object_head.outputs.label.\1"),
    (r"obj_predict_head\.decoder_dict\.attr\.(.*)", r"object_head.outputs.attribute.\1"),
    (r"obj_predict_head\.decoder_dict\.feat\.(.*)", r"object_head.outputs.feature.\1"),
    *_head("answer_head"),
)
"""Theirs -> ours. The map from states to words is in their files a second time, as `cls.predictions.decoder`."""


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for a checkpoint of theirs; a fine-tuned one's head judges statements, if it is square, or answers."""
    found = renamed(state, TABLE)
    first = state.get("logit_fc.0.weight")
    if first is not None:
        head = "pair_head" if first.shape[0] == first.shape[1] else "answer_head"
        found |= renamed({f"{head}.{name}": value for name, value in state.items()}, _head(head))
    return found
