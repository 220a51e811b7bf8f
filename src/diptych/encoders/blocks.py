"""An image tower as blocks that run one by one, each with the place where another modality may come in (FIBER).

blocks = ImageBlocks(image_encoder("timm:swin_base_patch4_window12_384", size=384))
x = blocks.run(blocks.start(image), 0, 18)          # as far as the two towers do not know each other
with blocks.joined(18, cross, text, mask):          # the 19th block attends to the text
    x = blocks.run(x, 18, 19)
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from torch import Tensor, nn

from diptych.encoders.base import EncoderError, ImageEncoder
from diptych.encoders.from_timm import TimmImage
from diptych.encoders.own import VisionTransformer
from diptych.fusion import inside


class Block(NamedTuple):
    """One block of a tower.

    enter: what stands ahead of it, such as the merging of patches.
    body: the block itself.
    place: the module behind whose output cross-attention goes: the block's attention, or the whole of a convolutional
        stage, which has none.
    reads: width of what the body reads.
    width: of what it returns.
    heads: attention heads, for cross-attention beside it.
    grid: rows and columns of what it returns.
    """

    enter: nn.Module
    body: nn.Module
    place: nn.Module
    reads: int
    width: int
    heads: int
    grid: tuple[int, int]


class ImageBlocks(nn.Module):
    """Our own ViT, or a ViT, Swin or EfficientNet of timm, opened.

    A state x is what the tower's blocks hand on: tokens (B, T, D), a map (B, H, W, D) in a Swin, (B, D, H, W) in an
    EfficientNet.

    Args:
        encoder: such as `image_encoder("timm:swin_tiny_patch4_window7_224", size=224)`.

    Attributes:
        encoder: the whole.
        blocks: its blocks in order.
        channels: the dimension of a state that is its width.

    Raises:
        EncoderError: the tower is of another kind.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        model: Any = encoder.model if isinstance(encoder, TimmImage) else encoder
        self.channels = 1 if hasattr(model, "conv_stem") else -1
        if isinstance(encoder, VisionTransformer):
            bodies: Any = encoder.blocks
            self.blocks = [_block(body, body.attention, body.attention.heads, encoder) for body in bodies]
        elif hasattr(model, "layers") and hasattr(model.layers[0], "downsample"):
            self.blocks = _swin(model)
        elif hasattr(model, "conv_stem") and hasattr(model, "conv_head"):
            self.blocks = _stages(model, encoder.image_size)
        elif hasattr(model, "_pos_embed"):
            self.blocks = [_block(body, body.attn, body.attn.num_heads, encoder) for body in model.blocks]
        else:
            raise EncoderError(
                f"The blocks of {encoder.name!r} are not known: take our own vit, or vit, swin or efficientnet of timm."
            )

    @property
    def width(self) -> int:
        """D of the tower's last tokens."""
        return self.encoder.width

    @property
    def levels(self) -> list[int]:
        """The last block of each resolution, finest first."""
        ends = range(len(self.blocks))
        return [i for i in ends if i + 1 == len(self.blocks) or self.blocks[i + 1].grid != self.blocks[i].grid]

    def start(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> what the first block gets."""
        encoder = self.encoder
        if isinstance(encoder, VisionTransformer):
            return encoder.embedded(image)
        model: Any = encoder.model
        x = encoder.pixels(image)
        if self.channels == 1:
            return model.bn1(model.conv_stem(x))  # type: ignore[no-any-return]
        x = model.patch_embed(x)
        return model.norm_pre(model.patch_drop(model._pos_embed(x))) if hasattr(model, "_pos_embed") else x

    def enter(self, x: Tensor, index: int) -> Tensor:
        """What stands ahead of a block: the state that its body reads."""
        return self.blocks[index].enter(x)  # type: ignore[no-any-return]

    def body(self, x: Tensor, index: int, maps: dict[int, Tensor] | None = None) -> Tensor:
        """A block on what `enter` returned; noted in `maps` if it is one of `levels`."""
        x = self.blocks[index].body(x)
        if maps is not None and index in self.levels:
            maps[index] = x
        return x

    def run(self, x: Tensor, start: int, stop: int, maps: dict[int, Tensor] | None = None) -> Tensor:
        """Blocks `start` to `stop` - 1; what those of `levels` return is noted in `maps`."""
        for index in range(start, stop):
            x = self.body(self.enter(x, index), index, maps)
        return x

    def joined(self, index: int, cross: nn.Module, context: Tensor, mask: Tensor | None) -> AbstractContextManager:
        """While it is entered, a block attends to (B, K, C) through `cross`, such as `GatedCross`."""
        return inside(self.blocks[index].place, cross, context, mask, self.channels)

    def finish(self, x: Tensor) -> Tensor:
        """What stands behind the last block and is no norm: the last convolution of an EfficientNet."""
        if self.channels == 1:
            model: Any = self.encoder.model
            x = model.bn2(model.conv_head(x))
        return x

    def norm(self, x: Tensor) -> Tensor:
        """The tower's last norm, of what `finish` returned."""
        model: Any = getattr(self.encoder, "model", self.encoder)
        last = getattr(model, "norm_out", None) or getattr(model, "norm", None)
        return x if last is None else last(x)

    def tokens(self, x: Tensor) -> Tensor:
        """A state as tokens (B, T, D), class token and all."""
        return x if x.ndim == 3 else x.movedim(self.channels, -1).flatten(1, 2)

    def patches(self, x: Tensor) -> Tensor:
        """A state as tokens (B, P, D) of places in the picture alone, in rows."""
        return self.tokens(x)[:, self.encoder.prefix :]

    def map(self, x: Tensor, index: int) -> Tensor:
        """What block `index` returned as a map of the picture (B, D, h, w)."""
        return self.patches(x).unflatten(1, self.blocks[index].grid).movedim(-1, 1)

    def state(self, tokens: Tensor, index: int) -> Tensor:
        """The inverse of `tokens`, of what block `index` returned; -1 is what the first block gets."""
        if isinstance(self.encoder, VisionTransformer) or hasattr(self.encoder.model, "_pos_embed"):
            return tokens
        return tokens.unflatten(1, self.blocks[max(index, 0)].grid).movedim(-1, self.channels)


def _block(body: Any, place: nn.Module, heads: int, encoder: ImageEncoder) -> Block:
    return Block(nn.Identity(), body, place, encoder.width, encoder.width, heads, encoder.grid)


def _swin(model: Any) -> list[Block]:
    """Timm merges patches at the head of a stage, since 0.9."""
    found = []
    for stage in model.layers:
        for index, body in enumerate(stage.blocks):
            enter = nn.Identity() if index else stage.downsample
            grid = tuple(body.input_resolution)
            found.append(Block(enter, body, body.attn, body.dim, body.dim, body.attn.num_heads, grid))
    return found


def _stages(model: Any, size: int) -> list[Block]:
    """The stages of an EfficientNet, as many heads as fit up to eight."""
    told = {int(info["module"].split(".")[-1]): info["reduction"] for info in model.feature_info}
    found: list[Block] = []
    reads = int(model.conv_stem.out_channels)
    for index, body in enumerate(model.blocks):
        width = int([layer for layer in body.modules() if isinstance(layer, nn.Conv2d)][-1].out_channels)
        side = math.ceil(size / next(told[end] for end in sorted(told) if end >= index))
        found.append(Block(nn.Identity(), body, body, reads, width, math.gcd(width, 8), (side, side)))
        reads = width
    return found
