"""What the exports have in common: heads, scale, tokenizer files, normalisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diptych.encoders.base import ImageEncoder, TextEncoder
from diptych.encoders.clip_form import Form
from diptych.models.dual_encoder import DualEncoder


class ExportError(ValueError):
    """The model cannot be expressed there; the message says why and what can be done."""


@dataclass
class Files:
    """What is to be written: the tensors, JSON values or text by file name, and what a reader should know."""

    tensors: dict[str, Tensor]
    others: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def heads(method: DualEncoder) -> tuple[Tensor, Tensor]:
    """The maps of the image and of the text tower into the joint space, (D_out, width) each."""
    found = []
    for head, width in ((method.image_head, method.image.width), (method.text_head, method.text.width)):
        found.append(
            head.weight.detach() if isinstance(head, nn.Linear) else torch.eye(width, device=method.log_scale.device)
        )
    return found[0], found[1]


def logit_bias(method: DualEncoder) -> float | None:
    """The learned bias of the logits, for methods that have one (SigLIP)."""
    bias = getattr(method, "bias", None)
    return None if bias is None else float(bias.detach())


def cut(form: Form, encoder: TextEncoder) -> dict[str, Tensor]:
    """The weights with as many positions as the encoder uses, so that the other library cuts texts where we do."""
    name = "positional_embedding"
    return form.weights | {name: form.weights[name][: encoder.context]}


def normalisation(encoder: ImageEncoder) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of values in [0, 1]."""
    return encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()


def special_tokens(encoder: TextEncoder) -> dict[str, int]:
    """Ids of the special tokens. Where padding has the id of a word (open_clip), the end token pads instead."""
    tokenizer = encoder.tokenizer
    empty = tokenizer.backend.encode("").ids
    added = tokenizer.backend.get_added_tokens_decoder()
    pad = tokenizer.pad if tokenizer.pad in added else empty[-1]
    return {"bos_token": empty[0], "eos_token": empty[-1], "pad_token": pad}


def tokenizer_files(encoder: TextEncoder) -> dict[str, Any]:
    """The files from which transformers makes the tokenizer."""
    names = {kind: encoder.tokenizer.backend.id_to_token(index) for kind, index in special_tokens(encoder).items()}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": encoder.context,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **names,
    }
    return {"tokenizer.json": encoder.tokenizer.json, "tokenizer_config.json": config}
