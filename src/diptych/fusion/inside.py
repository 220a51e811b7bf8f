"""Cross-attention inside the layers of somebody's tower, without a copy of it (FIBER, arXiv 2206.07643).

    with inside(block.attn, self.fuse[i], text.tokens, text.mask):
        image = block(image)
    with inside(layer.attention.output.dense, self.fuse_text[i], image):
        text = layer(text)

Outside of the context the tower is what it was: that is FIBER's dual-encoder mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diptych.fusion.cross import Attention, initialise


class GatedCross(nn.Module):
    """x + alpha * attention(norm(x), context), alpha a learned scalar that begins at `gate`.

    Args:
        width: D, of the tower's tokens.
        heads: attention heads.
        context: C, width of the tokens that are attended.
        normed: whether x is normalised on its way in (FIBER's image blocks) or not (its text layers).
        gate: initial alpha. At 0 nothing is changed and only alpha has a gradient.
        dropout: share of attention weights that is dropped in training.
    """

    def __init__(
        self, width: int, heads: int, context: int, normed: bool = False, gate: float = 0.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, context, dropout)
        self.norm = nn.LayerNorm(width) if normed else nn.Identity()
        self.gate = nn.Parameter(torch.tensor(gate))
        initialise(self)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D), context (B, K, C), its mask (B, K) bool -> (B, T, D)."""
        return x + self.gate * self.attention(self.norm(x), context, mask)


@contextmanager
def inside(
    place: nn.Module, cross: nn.Module, context: Tensor, mask: Tensor | None = None, channels: int = -1
) -> Iterator[None]:
    """While it is entered, what `place` returns has passed through `cross(x, context, mask)`.

    `place` may work on windows of a picture, (B * windows, T, D): each token attends to the whole context of its own
    picture, so windows, shifts and their masks do not matter to it.

    Args:
        place: the module behind whose output the cross-attention goes, such as the attention of a Swin block or the
            output map of a BERT layer's attention; its output is one tensor.
        cross: such as `GatedCross`.
        context: (B, K, C), what is attended.
        mask: (B, K) bool, True where it may be attended; None is all.
        channels: the dimension of the output that is D: 1 where a stage of a convolutional network returns
            (B, D, H, W), all of whose positions then attend to the context.
    """

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        last = output.movedim(channels, -1)
        tokens = last.reshape(len(context), -1, last.shape[-1])  # (B, windows * T, D)
        return cross(tokens, context, mask).reshape(last.shape).movedim(-1, channels)

    handle = place.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def without(module: nn.Module) -> Iterator[None]:
    """While it is entered, `module` returns its first argument as it is: a norm is left out."""
    handle = module.register_forward_hook(lambda module, args, output: args[0])
    try:
        yield
    finally:
        handle.remove()
