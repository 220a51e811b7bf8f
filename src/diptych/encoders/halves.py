"""A text encoder of BERT's kind in two halves: the first layers read text, the rest fuse it with another modality.

The fusion half runs on text and vision side by side, by self-attention alone (ALPRO, HD-VILA stage 2), or on the text
with cross-attention put into its layers (FIBER). Both halves are the layers of the encoder that they were cut from, so
one after the other they are that encoder, and its pretrained weights serve both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from diptych.batch import Features
from diptych.encoders.base import EncoderError, TextEncoder, all_real, need
from diptych.encoders.from_hf import HfText
from diptych.encoders.tokenizer import own_tokenizer
from diptych.fusion import inside

KINDS = ("bert", "roberta", "xlm-roberta", "camembert")


class TextHalves(nn.Module):
    """Text half and fusion half of a BERT or RoBERTa.

    Args:
        encoder: such as `text_encoder("hf:bert-base-uncased")` or `own_bert()`.
        text_layers: how many of its layers are the text half; 6 of 12 in ALPRO and FIBER.

    Attributes:
        encoder: the whole, with its tokenizer, context and width.

    Raises:
        EncoderError: the encoder is of another kind, or has fewer layers.
    """

    def __init__(self, encoder: TextEncoder, text_layers: int) -> None:
        super().__init__()
        kind = encoder.model.config.model_type if isinstance(encoder, HfText) else encoder.name
        if not isinstance(encoder, HfText) or kind not in KINDS:
            raise EncoderError(f"{encoder.name!r} is of the kind {kind!r}; those cut in halves are {', '.join(KINDS)}.")
        if not 0 <= text_layers <= len(encoder.layers):
            raise EncoderError(
                f"{encoder.name!r} has {len(encoder.layers)} layers, so its text half cannot have {text_layers}."
            )
        self.encoder, self.text_layers = encoder, text_layers

    @property
    def width(self) -> int:
        """D."""
        return self.encoder.width

    @property
    def fusion_layers(self) -> list[nn.Module]:
        """The layers of the fusion half."""
        return self.encoder.layers[self.text_layers :]

    def cut(self) -> TextHalves:
        """Without the fusion half, for what reads texts alone; itself, changed."""
        model = self.encoder.model
        model.encoder.layer = model.encoder.layer[: self.text_layers]
        model.config.num_hidden_layers = self.text_layers
        return self

    def text(self, ids: Tensor, mask: Tensor | None = None) -> Features:
        """The text half: (B, T) ids -> tokens (B, T, D), the first of them (B, D), mask (B, T)."""
        real = self.encoder.real(ids, mask)
        x = self.run(self.encoder.model.embeddings(input_ids=ids), real, 0, self.text_layers)
        return Features(x, x[:, 0], real)

    def fuse(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        crosses: Sequence[nn.Module] = (),
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Features:
        """The fusion half.

        Args:
            tokens: (B, T, D), of the text half; for fusion by self-attention with those of the other modality behind.
            mask: (B, T) bool, or (B or 1, 1, T, T) where it depends on the query, such as a causal one.
            crosses: a module a fusion layer, such as `fusion.GatedCross`, that adds what it finds in the context to
                what the layer's self-attention found; none for fusion by self-attention.
            context: (B, K, C), what these attend.
            context_mask: (B, K) bool.

        Returns:
            tokens (B, T, D), the first of them (B, D), and the mask (B, T).
        """
        if crosses and context is None:
            raise ValueError("Modules for cross-attention need a context: hand it in, or leave them out.")
        with ExitStack() as stack:
            for layer, cross in zip(self.fusion_layers, crosses, strict=True) if crosses else ():
                assert context is not None
                stack.enter_context(inside(attended(layer), cross, context, context_mask))
            x = self.run(tokens, mask, self.text_layers, len(self.encoder.layers))
        real = mask if mask is not None and mask.ndim == 2 else all_real(x)
        return Features(x, x[:, 0], real)

    def run(self, tokens: Tensor, mask: Tensor | None, start: int, stop: int) -> Tensor:
        """Layers `start` to `stop` - 1 on tokens (B, T, D), mask as for `fuse` -> (B, T, D).

        For methods in which each layer has something to do with one of another tower, as in FIBER's pairs.
        """
        added = None if mask is None or bool(mask.all()) else _added(mask, tokens)
        for layer in self.encoder.layers[start:stop]:
            found = layer(tokens, added)
            tokens = found[0] if isinstance(found, tuple) else found
        return tokens


def attended(layer: Any) -> nn.Module:
    """The module of a layer of BERT's kind whose output is what self-attention found, ahead of residual and norm."""
    place: nn.Module = layer.attention.output.dense
    return place


def own_bert(context: int = 32, width: int = 128, layers: int = 4, heads: int = 4, dropout: float = 0.1) -> HfText:
    """A small BERT with random weights and our own tokenizer, whose last id, `vocab_size` - 1, is for the mask.

    Raises:
        EncoderError: transformers is missing.
    """
    try:
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise need("hf", error) from None
    tokenizer = own_tokenizer(context)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size + 1,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        initializer_range=0.02 * math.sqrt(768 / width),  # BERT-base's, at any width: else texts begin all alike
        max_position_embeddings=context,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad,
    )
    return HfText(BertModel(config, add_pooling_layer=False), "bert", tokenizer, "cls")


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A bool mask as numbers to be added to attention's logits, which every implementation of it understands."""
    allowed = mask[:, None, None, :] if mask.ndim == 2 else mask
    return torch.zeros_like(allowed, dtype=like.dtype).masked_fill(~allowed, torch.finfo(like.dtype).min)
