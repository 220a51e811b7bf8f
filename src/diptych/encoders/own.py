"""Our own small towers, the default: a vision and a text transformer whose structure is exactly CLIP's.

"Learning Transferable Visual Models From Natural Language Supervision", Radford et al. 2021 (arXiv 2103.00020),
section 2.4: pre-norm transformers; the picture has a class token, a convolution without bias as patch embedding and a
LayerNorm before the first layer; the text is causal and pooled at its end token. The weights can therefore be
exported to transformers' CLIPModel and to open_clip (`diptych.app.export`).

CLIP applies the last LayerNorm of the picture to the class token only. Here every patch token passes through that
same LayerNorm too, so tokens and pooled vector live on one scale; the pooled vector is CLIP's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Features
from diptych.encoders.base import (
    CLIP_MEAN,
    CLIP_STD,
    Edit,
    EncoderError,
    ImageEncoder,
    TextEncoder,
    all_real,
    apply_edit,
    attention_mask,
    last_position,
    last_real,
    rows_at,
)
from diptych.encoders.tokenizer import Tokenizer

_MOST_LAYERS = 1000
Activation = Literal["gelu", "quick_gelu"]


class MLP(nn.Module):
    """Two linear maps with a GELU between them, 4 times as wide inside; `quick_gelu` is x * sigmoid(1.702 x)."""

    def __init__(self, width: int, activation: Activation = "gelu") -> None:
        super().__init__()
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = self.expand(x)
        x = F.gelu(x) if self.activation == "gelu" else x * torch.sigmoid(1.702 * x)
        return self.contract(x)


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values come from one linear map, as in CLIP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise EncoderError(f"The width {width} is not a multiple of the {heads} heads: change one of them.")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """(B, T, D), mask (B or 1, 1, T, T) bool, True where a query may see a key -> (B, T, D).

        With `at` (B,) only the query at that position of each row is answered: (B, 1, D).
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 of (B, heads, T, D/heads)
        if at is not None:
            q = rows_at(q.transpose(1, 2), at)[:, :, None]  # (B, heads, 1, D/heads)
            mask = None if mask is None else rows_at(mask.expand(len(x), -1, -1, -1).squeeze(1), at)[:, None, None]
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(x.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, activation: Activation = "gelu") -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = MLP(width, activation)

    def forward(self, x: Tensor, mask: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """(B, T, D), mask and `at` as in `Attention` -> (B, T, D), or (B, 1, D) at these positions alone."""
        added = self.attention(self.norm_1(x), mask, at)
        x = (x if at is None else rows_at(x, at)[:, None]) + added
        return x + self.mlp(self.norm_2(x))


def stack(layers: int, width: int, heads: int, activation: Activation) -> nn.ModuleList:
    """So many layers, if that is a number which a transformer can have."""
    if not 0 < layers <= _MOST_LAYERS or width < 1 or heads < 1:
        raise EncoderError(f"A tower cannot have {layers} layers of width {width} with {heads} heads: change them.")
    return nn.ModuleList(Block(width, heads, activation) for _ in range(layers))


class VisionTransformer(ImageEncoder):
    """CLIP's vision transformer over pictures of size x size pixels, cut into patches of patch x patch."""

    prefix = 1

    def __init__(
        self, size: int, width: int, layers: int, heads: int, patch: int, activation: Activation = "gelu"
    ) -> None:
        super().__init__()
        if patch < 1 or size < 1 or size % patch:
            raise EncoderError(f"Pictures of {size} pixels cannot be cut into patches of {patch}: change one of them.")
        self.name, self.width = "vit", width
        self.grid = (size // patch, size // patch)
        self.set_pixels(size, CLIP_MEAN, CLIP_STD)
        self.patches = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(1 + self.grid[0] * self.grid[1], width))
        self.norm_in = nn.LayerNorm(width)
        self.blocks = stack(layers, width, heads, activation)
        self.norm_out = nn.LayerNorm(width)
        nn.init.normal_(self.patches.weight, std=(3 * patch * patch) ** -0.5)
        nn.init.normal_(self.class_token, std=width**-0.5)
        nn.init.normal_(self.positions, std=width**-0.5)
        initialise(self.blocks)

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers."""
        return list(self.blocks)

    def forward(self, image: Tensor, edit: Edit | None = None) -> Features:
        """(B, 3, H, W) -> patch tokens (B, P, D), class token (B, D), mask (B, P)."""
        x, mask = run(self.blocks, self.embedded(image), None, causal=False, edit=edit)
        self.check_tokens(x)
        x = self.norm_out(x)
        return Features(x[:, 1:], x[:, 0], (all_real(x) if mask is None else mask)[:, 1:])

    def pooled(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> class token (B, D); the last layer computes nothing else."""
        x = self.embedded(image)
        return self.norm_out(run_to(self.blocks, x, None, torch.zeros(len(x), dtype=torch.long, device=x.device)))

    def embedded(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + P, D), what the first layer gets."""
        x = self.patches(self.pixels(image)).flatten(2).transpose(1, 2)  # (B, P, D)
        x = torch.cat([self.class_token.expand(len(x), 1, -1).to(x.dtype), x], dim=1)  # (B, 1 + P, D)
        return self.norm_in(x + self.positions)


class TextTransformer(TextEncoder):
    """CLIP's text transformer: causal, pooled at the end token, which is the last that is not padding."""

    def __init__(
        self, tokenizer: Tokenizer, width: int, layers: int, heads: int, activation: Activation = "gelu"
    ) -> None:
        super().__init__()
        self.name, self.width = "transformer", width
        self.tokenizer, self.context, self.vocab_size = tokenizer, tokenizer.context, tokenizer.vocab_size
        self.words = nn.Embedding(self.vocab_size, width)
        self.positions = nn.Parameter(torch.empty(self.context, width))
        self.blocks = stack(layers, width, heads, activation)
        self.norm_out = nn.LayerNorm(width)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        initialise(self.blocks)

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers."""
        return list(self.blocks)

    def forward(self, ids: Tensor, mask: Tensor | None = None, edit: Edit | None = None) -> Features:
        """(B, T) ids -> tokens (B, T, D), end token (B, D), mask (B, T)."""
        real: Tensor | None = self.real(ids, mask)
        x, real = run(self.blocks, self._embedded(ids), real, causal=True, edit=edit)
        x = self.norm_out(x)
        real = all_real(x) if real is None else real
        return Features(x, last_real(x, real), real)

    def pooled(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T) ids -> end token (B, D); the last layer computes nothing else."""
        real = self.real(ids, mask)
        allowed = attention_mask(real, ids.shape[1], causal=True, like=ids)
        return self.norm_out(run_to(self.blocks, self._embedded(ids), allowed, last_position(real)))

    def _embedded(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, D), what the first layer gets."""
        return self.words(ids) + self.positions[: ids.shape[1]]


def run(
    blocks: Iterable[nn.Module], x: Tensor, mask: Tensor | None, *, causal: bool, edit: Edit | None
) -> tuple[Tensor, Tensor | None]:
    """Runs the layers with `edit` before each: (B, T, D), (B, T) or None -> the same, as the edits left them."""
    allowed = attention_mask(mask, x.shape[1], causal, x)
    for index, block in enumerate(blocks):
        if edit is not None:
            before = mask, x.shape[1]
            x, mask = apply_edit(edit, index, x, mask)
            if mask is not before[0] or x.shape[1] != before[1]:
                allowed = attention_mask(mask, x.shape[1], causal, x)
        x = block(x, allowed)
    return x, mask


def run_to(blocks: nn.ModuleList, x: Tensor, allowed: Tensor | None, at: Tensor) -> Tensor:
    """Runs the layers for the sake of one position of each row: (B, T, D), mask as in `Attention`, (B,) -> (B, D).

    The last layer needs all keys and values but one query: three quarters of its operations are left out.
    """
    *before, last = blocks
    for block in before:
        x = block(x, allowed)
    return last(x, allowed, at).squeeze(1)


def initialise(blocks: nn.ModuleList) -> None:
    """CLIP's initialisation: what each layer adds to the residual stream shrinks with the number of layers.

    The standard deviations are those of the text transformer in OpenAI's `CLIP.initialize_parameters`.
    """
    shrink = (2 * len(blocks)) ** -0.5
    for block in blocks:
        assert isinstance(block, Block)
        width = block.attention.out.in_features
        for linear, std in (
            (block.attention.qkv, width**-0.5),
            (block.attention.out, width**-0.5 * shrink),
            (block.mlp.expand, (2 * width) ** -0.5),
            (block.mlp.contract, width**-0.5 * shrink),
        ):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)
