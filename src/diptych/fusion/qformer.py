"""The Q-Former: learned queries that read an image by cross-attention, beside a text or alone.

BLIP-2 (Li et al., arXiv 2301.12597, section 3.1) and InstructBLIP (Dai et al., arXiv 2305.06500, section 2.3). One
transformer of BERT's kind holds queries and text: they share its self-attention, each has feed-forward layers of its
own, and queries alone attend to the image, in every second layer. Which of them see each other is a mask, and makes
three models of one: queries and text side by side (matching; an instruction that tells the queries what to look for),
queries that never see the text while the text is written from left to right (captions), either of them alone.

The network is transformers' InstructBlipQFormerModel, so public weights load. Without a text it is Blip2QFormerModel.

Letters: B samples, Q queries, T tokens of a text, P tokens of the image, W width, C width of the image, D width of the
language model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diptych.batch import Features
from diptych.fusion.connectors import Connector


@dataclass(frozen=True)
class QFormerSizes:
    """Sizes; the defaults are those of BLIP-2."""

    queries: int = 32
    """Q"""
    vocab: int = 30523
    """V; the paper's is BERT's with one more, that begins what is written"""
    width: int = 768
    """W"""
    layers: int = 12
    """of the transformer"""
    heads: int = 12
    """of its attention"""
    hidden: int = 3072
    """width inside the feed-forward parts"""
    positions: int = 512
    """tokens of the longest text"""
    every: int = 2
    """cross-attention stands in layers 0, `every`, 2 `every`, ..."""
    dropout: float = 0.1
    """share of attention weights and of what each part finds that is dropped in training"""
    spread: float = 0.02
    """standard deviation of initial weights"""


class QFormer(nn.Module):
    """Queries, words and the transformer that holds both.

    Args:
        sizes: of it.
        context: C.

    Attributes:
        queries: (1, Q, W).
        model: transformers' InstructBlipQFormerModel.

    Raises:
        ImportError: transformers is missing.
    """

    model: Any

    def __init__(self, sizes: QFormerSizes, context: int) -> None:
        super().__init__()
        try:
            from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel
        except ImportError as error:
            raise ImportError(f"A Q-Former needs transformers ({error}): pip install 'diptych[hf]'.") from None
        self.sizes = sizes
        self.model = InstructBlipQFormerModel(
            InstructBlipQFormerConfig(
                vocab_size=sizes.vocab,
                hidden_size=sizes.width,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                intermediate_size=sizes.hidden,
                hidden_dropout_prob=sizes.dropout,
                attention_probs_dropout_prob=sizes.dropout,
                max_position_embeddings=sizes.positions,
                initializer_range=sizes.spread,
                cross_attention_frequency=sizes.every,
                encoder_hidden_size=context,
            )
        )
        self.queries = nn.Parameter(torch.empty(1, sizes.queries, sizes.width).normal_(std=sizes.spread))

    @torch.no_grad()
    def begin_as(self, weights: Mapping[str, Tensor]) -> None:
        """Takes over weights by the names of `model`, of as many words and places as there are."""
        own = self.model.state_dict()
        for name, value in weights.items():
            own[name][: len(value)].copy_(value)

    def words(self, ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, W): words with their positions, ahead of the norm that they share with the queries."""
        parts = self.model.embeddings
        places = torch.arange(ids.shape[1], device=ids.device)
        found: Tensor = parts.word_embeddings(ids) + parts.position_embeddings(places)
        return found

    def look(
        self,
        image: Tensor,
        image_mask: Tensor | None = None,
        words: Tensor | None = None,
        mask: Tensor | None = None,
        written: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Queries read images, with a text beside them or without.

        Args:
            image: (B, P, C).
            image_mask: (B, P) bool, which of its tokens count; None is all.
            words: (B, T, W), of `words`.
            mask: (B, T) bool, which of them are real.
            written: each word sees those before it and the queries, and the queries see no word (BLIP-2, figure 2);
                else all see all.

        Returns:
            queries (B, Q, W), text (B, T, W); T is 0 without a text.
        """
        queries = self.queries.expand(len(image), -1, -1)
        count = queries.shape[1]
        hidden, seen = queries, None
        if words is not None and mask is not None:
            hidden = torch.cat([queries, words.to(queries.dtype)], dim=1)
            seen = torch.cat([mask.new_ones(len(mask), count), mask], dim=1)[:, None, None]  # (B, 1, 1, Q + T)
            if written:
                order = torch.arange(hidden.shape[1], device=mask.device)
                earlier = (order <= order[:, None]) | (order[:, None] < count) & (order < count)
                seen = seen & earlier
        found = self._run(hidden, seen, count, image, image_mask)
        return found[:, :count], found[:, count:]

    def read(self, words: Tensor, mask: Tensor) -> Tensor:
        """A text alone: words (B, T, W) and which are real (B, T) bool -> (B, T, W)."""
        return self._run(words, mask[:, None, None], 0, None, None)

    def _run(
        self, hidden: Tensor, seen: Tensor | None, queries: int, image: Tensor | None, image_mask: Tensor | None
    ) -> Tensor:
        """Masks are bool; the first `queries` of hidden (B, L, W) attend to the image."""
        kept = None if image_mask is None or bool(image_mask.all()) else image_mask[:, None, None]
        hidden = self.model.embeddings(query_embeds=hidden)
        found: Tensor = self.model.encoder(
            hidden,
            attention_mask=_added(seen, hidden),
            encoder_hidden_states=image,
            encoder_attention_mask=_added(kept, hidden),
            query_length=queries,
        ).last_hidden_state
        return found


class QFormerConnector(Connector):
    """BLIP-2's connector: a norm of the image's tokens, the Q-Former, and a map of its queries to the language model.

    Args:
        qformer: the Q-Former.
        of: P, tokens of one picture.
        width: C.
        outputs: D.
        eps: of the norm; LAVIS has 1e-5, transformers 1e-6.

    Attributes:
        norm: LAVIS's `ln_vision`, transformers' `post_layernorm`.
        project: LAVIS's `llm_proj`, transformers' `language_projection`.
    """

    def __init__(self, qformer: QFormer, of: int, width: int, outputs: int, eps: float = 1e-5) -> None:
        super().__init__(qformer.sizes.queries, of)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.qformer = qformer
        self.project = nn.Linear(qformer.sizes.width, outputs)

    def instruction(self, ids: Tensor, mask: Tensor) -> Features:
        """Ids (B, T) and mask (B, T) of instructions -> what `forward` takes."""
        words = self.qformer.words(ids)
        return Features(words, words[:, 0], mask)

    def connect(self, tokens: Tensor, mask: Tensor | None, instruction: Features | None) -> Tensor:
        """(B, P, C), which of them count (B, P), and words of an instruction (B, T, W) or None -> (B, Q, D)."""
        words, real = (None, None) if instruction is None else (instruction.tokens, instruction.mask)
        queries, _ = self.qformer.look(self.norm(tokens), mask, words, real)
        found: Tensor = self.project(queries)
        return found


def _added(seen: Tensor | None, like: Tensor) -> Tensor | None:
    """A bool mask as numbers that are added to logits, which every implementation of attention understands."""
    if seen is None:
        return None
    return torch.zeros_like(seen, dtype=like.dtype).masked_fill(~seen, torch.finfo(like.dtype).min)
