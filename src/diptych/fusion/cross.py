"""Transformer layers in which one modality attends to another: one layer, with the order, sharing and gate as options.

| system                  | place    | norm   | shared | gate                                    |
|-------------------------|----------|--------|--------|-----------------------------------------|
| LXMERT                  | "before" | "post" | yes    | none                                    |
| METER, M3AE, ARL        | "after"  | "post" | no     | none                                    |
| VALOR, BERT as decoder  | "after"  | "post" | -      | none; without a context: a BERT layer   |
| FIBER, text             | "inside" | "post" | no     | 0.0 (in a backbone's layer: `inside`)   |

Letters: B batch, T tokens of this stream, K tokens of its context, D width, C width of the context.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Place = Literal["before", "after", "inside"]
"""Where cross-attention stands: before self-attention, after it, or added to what it returns ahead of the residual."""

Norm = Literal["pre", "post"]
"""Whether a sublayer normalises what it reads (GPT, ViT) or the sum that it returns (BERT)."""


class Attention(nn.Module):
    """Multi-head attention whose queries come from one sequence and whose keys and values from another, or the same.

    Args:
        width: D, of queries and output.
        heads: number of heads; D is a multiple of it.
        context: C, width of the other sequence; 0 means D.
        dropout: share of attention weights that is dropped in training.

    Raises:
        ValueError: the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, context: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"The width {width} is not a multiple of the {heads} heads: change one of them.")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context or width, width)
        self.value = nn.Linear(context or width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attends from x (B, T, D) to context (B, K, C), or to x itself where there is none; returns (B, T, D).

        Args:
            x: the queries' sequence.
            context: the sequence that is attended.
            mask: bool, True where a key may be attended: (B, K), or (B or 1, 1, T, K) where it depends on the query.
                A query that may attend nothing gets zeros (ahead of the last linear map).
        """
        context = x if context is None else context
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T or K, D / heads)
            for part in (self.query(x), self.key(context), self.value(context))
        )
        if mask is not None and mask.ndim == 2:
            mask = mask[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        if mask is None:
            found = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        else:
            some = mask.any(-1, keepdim=True)  # (B or 1, 1, T or 1, 1); a row of no key at all would become NaN
            found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask | ~some, dropout_p=dropout) * some
        return self.out(found.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear maps with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.contract(F.gelu(self.expand(x)))


class Sublayer(nn.Module):
    """A part with its residual, norm, dropout and, where wanted, a gate: x + alpha * part(x, ...).

    Args:
        part: what is computed; called with x (B, T, D) and whatever else the sublayer is called with.
        width: D.
        norm: "pre" normalises what the part reads, "post" the sum.
        dropout: share of what the part finds that is dropped in training.
        eps: of the LayerNorm; BERT's by default.
        gate: initial value of alpha, a learned scalar; None for a constant 1.
    """

    def __init__(
        self,
        part: nn.Module,
        width: int,
        norm: Norm,
        dropout: float = 0.0,
        eps: float = 1e-12,
        gate: float | None = None,
    ) -> None:
        super().__init__()
        self.part = part
        self.norm: nn.Module = nn.LayerNorm(width, eps=eps)
        self.pre = norm == "pre"
        self.dropout = nn.Dropout(dropout)
        self.gate = None if gate is None else nn.Parameter(torch.tensor(gate))

    def forward(self, x: Tensor, *rest: Tensor | None) -> Tensor:
        """(B, T, D), and what else the part wants -> (B, T, D)."""
        if self.pre:
            return x + self.gated(self.part(self.norm(x), *rest))
        return self.norm(x + self.gated(self.part(x, *rest)))

    def gated(self, found: Tensor) -> Tensor:
        """What is added to the residual: alpha times what the part found, after dropout."""
        found = self.dropout(found)
        return found if self.gate is None else self.gate * found


class Layer(nn.Module):
    """A transformer layer of one stream alone: self-attention, feed-forward. With "post" it is BERT's.

    Args:
        width: D.
        heads: attention heads.
        hidden: width inside the feed-forward part; 0 means 4 D.
        norm: see `Norm`.
        dropout: share of attention weights and of each part's output that is dropped in training.

    Attributes:
        self_attention, feed_forward: the sublayers, for methods that put steps of their own between.
    """

    def __init__(self, width: int, heads: int, hidden: int = 0, norm: Norm = "post", dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.self_attention = Sublayer(Attention(width, heads, 0, dropout), width, norm, dropout)
        self.feed_forward = Sublayer(FeedForward(width, hidden or 4 * width), width, norm, dropout)
        initialise(self)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D); which tokens may be attended, (B, T) or (B or 1, 1, T, T) bool, None is all -> (B, T, D)."""
        return self.feed_forward(self.self_attention(x, None, mask))


class CrossLayer(Layer):
    """One stream's layer: self-attention, cross-attention to a context, feed-forward.

    Without a context at the call, cross-attention is left out, as in VALOR, whose one BERT reads text and writes it.
    With a gate of 0 the layer begins as the one without cross-attention, and only the gate has a gradient at first.
    That holds exactly for `place="inside"` and for `norm="pre"`; a post-norm before or after stays, as in METER.

    Args:
        width: D.
        heads: attention heads.
        context: C, width of the context; 0 means D.
        hidden: width inside the feed-forward part; 0 means 4 D.
        place: where cross-attention stands. Inside, it reads what self-attention found and adds to it: with "post"
            LN(x + s + alpha CA(s)) (FIBER's text), with "pre" x + s + alpha CA(LN s) (FIBER's image).
        norm: see `Norm`. Two streams with other values are made as two layers, joined by `CrossPair`.
        gate: initial value of the learned scalar alpha of the cross-attention; None has no gate.
        dropout: share of attention weights and of each part's output that is dropped in training.

    Attributes:
        cross_attention: the third sublayer.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context: int = 0,
        hidden: int = 0,
        place: Place = "after",
        norm: Norm = "post",
        gate: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(width, heads, hidden, norm, dropout)
        self.place = place
        self.cross_attention = Sublayer(Attention(width, heads, context, dropout), width, norm, dropout, gate=gate)
        if place == "inside" and norm == "post":
            self.cross_attention.norm = nn.Identity()  # the norm of the self-attention follows
        initialise(self.cross_attention)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """One layer.

        Args:
            x: (B, T, D), this stream.
            mask: which tokens of x may be attended, (B, T) or (B or 1, 1, T, T) bool; None is all.
            context: (B, K, C), the other one, or None.
            context_mask: which tokens of the context may be attended, (B, K) bool; None is all.

        Returns:
            (B, T, D).
        """
        if context is None:
            return super().forward(x, mask)
        if self.place == "inside":
            return self.feed_forward(self._inside(x, context, mask, context_mask))
        if self.place == "before":
            x = self.cross_attention(x, context, context_mask)
            return self.feed_forward(self.self_attention(x, None, mask))
        x = self.self_attention(x, None, mask)
        return self.feed_forward(self.cross_attention(x, context, context_mask))

    def _inside(self, x: Tensor, context: Tensor, mask: Tensor | None, context_mask: Tensor | None) -> Tensor:
        outer = self.self_attention
        found = outer.part(outer.norm(x) if outer.pre else x, None, mask)  # s = O SA(x)
        found = self.cross_attention(found, context, context_mask)  # s + alpha CA(s)
        return x + outer.dropout(found) if outer.pre else outer.norm(x + outer.dropout(found))


class CrossPair(nn.Module):
    """Two streams that attend to each other in one layer; both read the other's *input* of the layer.

    Args:
        first: the layer of one stream, such as the text.
        second: that of the other.
        share: one cross-attention, norm and all, serves both directions (LXMERT); its weights are in the state once.

    Raises:
        ValueError: sharing was asked for between streams of different widths.
    """

    def __init__(self, first: CrossLayer, second: CrossLayer, share: bool = False) -> None:
        super().__init__()
        if share and first.width != second.width:
            raise ValueError(
                f"Streams of widths {first.width} and {second.width} cannot share their cross-attention: make the "
                "widths equal, or do not share."
            )
        self.first, self.second, self.share = first, second, share
        if share:
            del second.cross_attention
            object.__setattr__(second, "cross_attention", first.cross_attention)

    def forward(
        self, first: Tensor, second: Tensor, first_mask: Tensor | None = None, second_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, T, D1), (B, K, D2), masks (B, T) and (B, K) bool -> both streams after the layer."""
        return (
            self.first(first, first_mask, second, second_mask),
            self.second(second, second_mask, first, first_mask),
        )


def initialise(module: nn.Module, std: float = 0.02) -> None:
    """BERT's initialisation: weights of linear maps and embeddings from N(0, std), biases zero; in place."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
