"""Two towers whose last blocks attend to each other, or not: the three ways of running one network (FIBER, section 3).

| run      | image blocks in pairs | text layers in pairs           | last norms      |
|----------|-----------------------|--------------------------------|-----------------|
| `alone`  | as in their tower     | as in their tower              | both            |
| `fuse`   | attend to the text    | attend to the image            | neither         |
| `write`  | as in their tower     | causal, attend to the image    | that of the text|

Letters: B batch, T tokens of the text, P of the image, D width of the text, C widths of image blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.encoders.base import EncoderError
from diptych.encoders.blocks import ImageBlocks
from diptych.encoders.halves import TextHalves, attended
from diptych.fusion import GatedCross, inside
from diptych.fusion.inside import without
from diptych.objectives.masked import causal_mask

Pairs = Sequence[tuple[int, int]]
"""Which image block runs beside which text layer, in order."""


class PairedTowers(nn.Module):
    """An image tower and a text tower with gated cross-attention in pairs of their blocks.

    Both of a pair read the *inputs* of the pair: the image block the text ahead of the text layer, and the other way
    round. What an image block hands on ahead of the first pair, and the text layers as well, is computed once for all
    runs (`begin_image`, `begin_text`).

    Args:
        image: the image tower.
        text: the text tower, of BERT's kind; its text half ends where the first pair begins.
        pairs: as `Pairs`; none leaves two towers that know nothing of each other.
        gate: initial alpha of every cross-attention.
        writes: makes the linear maps by which text layers attend to the tower's last image tokens (captions), where
            the widths differ.

    Raises:
        EncoderError: the pairs do not fit the towers.
    """

    def __init__(
        self, image: ImageBlocks, text: TextHalves, pairs: Pairs, gate: float = 0.0, writes: bool = False
    ) -> None:
        super().__init__()
        self.image, self.text, self.pairs = image, text, list(pairs)
        self._check()
        width, settings = text.width, text.encoder.model.config
        heads, dropout = int(settings.num_attention_heads), float(settings.attention_probs_dropout_prob)
        blocks = [image.blocks[index] for index, _ in self.pairs]
        self.to_image = nn.ModuleList(
            GatedCross(block.width, block.heads, width, normed=True, gate=gate) for block in blocks
        )
        self.to_text = nn.ModuleList(
            GatedCross(width, heads, block.reads, gate=gate, dropout=dropout) for block in blocks
        )
        self.narrow = nn.ModuleList(
            nn.Linear(image.width, block.reads) if block.reads != image.width else nn.Identity()
            for block in blocks
            if writes
        )

    def _check(self) -> None:
        blocks, layers = len(self.image.blocks), len(self.text.encoder.layers)
        ahead = (-1, -1)
        for pair in self.pairs:
            if not (ahead[0] < pair[0] < blocks and ahead[1] < pair[1] < layers):
                raise EncoderError(
                    f"The pair of image block {pair[0]} and text layer {pair[1]} does not fit: there are {blocks} "
                    f"blocks and {layers} layers, counted from 0, and each pair is behind the one before."
                )
            ahead = pair
        if self.text.text_layers != self.first[1]:
            raise EncoderError(f"The text half has {self.text.text_layers} layers and must have {self.first[1]}.")

    @property
    def first(self) -> tuple[int, int]:
        """Where the towers meet: the image block and the text layer of the first pair, or the end of both."""
        return self.pairs[0] if self.pairs else (len(self.image.blocks), len(self.text.encoder.layers))

    def begin_image(self, image: Tensor, maps: dict[int, Tensor] | None = None) -> Tensor:
        """(B, 3, H, W) -> the state ahead of the first pair; `maps` as for `ImageBlocks.run`."""
        return self.image.run(self.image.start(image), 0, self.first[0], maps)

    def pack(self, x: Tensor, maps: dict[int, Tensor]) -> Tensor:
        """A state and the maps ahead of it as one sequence (B, P, C), with zeros where a map is less wide."""
        parts = [self.image.tokens(part) for part in (x, *maps.values())]
        width = max(part.shape[-1] for part in parts)
        return torch.cat([F.pad(part, (0, width - part.shape[-1])) for part in parts], dim=1)

    def unpack(self, tokens: Tensor, levels: Sequence[int] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """The inverse of `pack`, with the maps of blocks `levels`."""
        start = 0
        found = []
        for index in (self.first[0] - 1, *levels):
            rows, columns = self.image.blocks[max(index, 0)].grid
            stop = start + self.image.encoder.prefix + rows * columns
            width = self.image.blocks[index].width if index >= 0 else self.image.blocks[0].reads
            found.append(self.image.state(tokens[:, start:stop, :width], index))
            start = stop
        return found[0], dict(zip(levels, found[1:], strict=True))

    def begin_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) ids and mask -> tokens (B, T, D) ahead of the first pair."""
        return self.text.text(ids, mask).tokens

    def image_alone(self, x: Tensor, normed: bool = True) -> Tensor:
        """The rest of the image tower on a state: places of the picture as tokens (B, P, C)."""
        x = self.image.finish(self.image.run(x, self.first[0], len(self.image.blocks)))
        return self.image.patches(self.image.norm(x) if normed else x)

    def text_alone(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The rest of the text tower: (B, T, D), (B, T) -> (B, T, D)."""
        return self.text.fuse(tokens, mask).tokens

    def fuse(
        self, x: Tensor, text: Tensor, mask: Tensor, maps: dict[int, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """A state and tokens (B, T, D), mask (B, T) -> fused tokens of the picture (B, P, C) and text (B, T, D)."""
        block, layer = self.first
        for (next_block, next_layer), to_image, to_text in zip(self.pairs, self.to_image, self.to_text, strict=True):
            x = self.image.run(x, block, next_block, maps)
            text = self.text.run(text, mask, layer, next_layer)
            x = self.image.enter(x, next_block)
            with self.image.joined(next_block, to_image, text, mask):
                fused = self.image.body(x, next_block, maps)
            seen, last = self.image.tokens(x), next_layer + 1 == self.layers
            text = self._layer(next_layer, to_text, text, mask, seen, normed=not last)
            x = fused
            block, layer = next_block + 1, next_layer + 1
        x = self.image.finish(self.image.run(x, block, len(self.image.blocks), maps))
        return self.image.patches(x), self.text.run(text, mask, layer, self.layers)

    def write(self, seen: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, T, D) of texts of which each position knows what is before it, and the picture.

        Args:
            seen: (B, P, C), of `image_alone` without its norm.
            ids: (B, T).
            mask: (B, T) bool.
        """
        causal = causal_mask(mask)
        layer = self.first[1]
        text = self.text.run(self.text.encoder.model.embeddings(input_ids=ids), causal, 0, layer)
        for (_, place), to_text, narrow in zip(self.pairs, self.to_text, self.narrow, strict=True):
            text = self.text.run(text, causal, layer, place)
            text = self._layer(place, to_text, text, causal, narrow(seen))
            layer = place + 1
        return self.text.run(text, causal, layer, self.layers)

    @property
    def layers(self) -> int:
        """How many layers the text tower has."""
        return len(self.text.encoder.layers)

    def _layer(
        self, index: int, cross: nn.Module, text: Tensor, mask: Tensor, seen: Tensor, normed: bool = True
    ) -> Tensor:
        layer = self.text.encoder.layers[index]
        with ExitStack() as stack:
            stack.enter_context(inside(attended(layer), cross, seen))
            if not normed:
                stack.enter_context(without(layer.output.LayerNorm))  # type: ignore[union-attr,arg-type]
            return self.text.run(text, mask, index, index + 1)


def last_pairs(image: ImageBlocks, layers: int, count: int) -> Pairs:
    """The last `count` blocks of an image tower beside the last layers of so many of a text tower."""
    blocks = len(image.blocks)
    return [(blocks - back, layers - back) for back in range(min(count, blocks, layers), 0, -1)]
