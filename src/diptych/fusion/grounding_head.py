"""From maps of a picture and the words of a text to boxes, and how well each word fits each (GLIP; FIBER's fine stage).

A pyramid of maps (FPN, Lin et al. 2017), dynamic blocks over it (DyHead, Dai et al., arXiv 2106.08322), and at every
place a box, its centredness and a score for every word (GLIP, arXiv 2112.03857). Deformable convolutions are written
in plain torch, by `grid_sample`; they want several times the memory of a kernel made for them.

Letters: B batch, T tokens, D width, A places of all levels, h and w rows and columns of a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LARGEST = 50_000.0  # of a score; GLIP clamps there, for half precision
_PRIOR = 0.01  # share of pairs of place and word that is taken to fit, at first
_TAPS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]


class Grounded(NamedTuple):
    """What the head says of each place.

    scores: (B, A, T) logits, of each word.
    deltas: (B, A, 4), the box, as `objectives.grounding.decode` reads it.
    centredness: (B, A) logits.
    grids: rows and columns of each level, finest first; places are in rows, level by level.
    """

    scores: Tensor
    deltas: Tensor
    centredness: Tensor
    grids: list[tuple[int, int]]


def deformed(x: Tensor, weight: Tensor, bias: Tensor, offset: Tensor, amount: Tensor, stride: int = 1) -> Tensor:
    """A 3 x 3 convolution with padding 1 whose taps are moved and weighed (DCN v2, Zhu et al., arXiv 1811.11168).

    Args:
        x: (B, D, h, w).
        weight: (E, D, 3, 3).
        bias: (E,).
        offset: (B, 18, h', w'), rows and columns by which each of the nine taps is moved, in places of x.
        amount: (B, 9, h', w'), by which what each tap finds is multiplied.
        stride: of the convolution; h' and w' are h and w divided by it, rounded up.

    Returns:
        (B, E, h', w'). Outside of x there are zeros, and between its places it is interpolated.
    """
    height, width = x.shape[-2:]
    rows, columns = (
        torch.arange(size, device=x.device, dtype=x.dtype) * stride for size in offset.shape[-2:]
    )  # of the middle tap
    found = x.new_zeros(len(x), len(weight), *offset.shape[-2:])
    for tap, (down, right) in enumerate(_TAPS):
        y = rows[:, None] + down + offset[:, 2 * tap]  # (B, h', w')
        z = columns[None, :] + right + offset[:, 2 * tap + 1]
        where = torch.stack([(2 * z + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
        seen = F.grid_sample(x, where.to(x.dtype), padding_mode="zeros", align_corners=False)
        found = found + F.conv2d(seen * amount[:, tap : tap + 1], weight[:, :, down + 1, right + 1, None, None])
    return found + bias[:, None, None]


class DeformedConv(nn.Module):
    """A deformable 3 x 3 convolution and a GroupNorm."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width, 3, stride, padding=1)
        self.norm = nn.GroupNorm(math.gcd(16, max(width // 4, 1)), width)

    def forward(self, x: Tensor, offset: Tensor, amount: Tensor) -> Tensor:
        """(B, D, h, w), offsets and amounts as for `deformed` -> (B, D, h', w')."""
        assert self.conv.bias is not None
        return self.norm(deformed(x, self.conv.weight, self.conv.bias, offset, amount, self.stride))


class DynamicRelu(nn.Module):
    """The larger of two straight lines, a channel at a time, that depend on the mean of the map (arXiv 2003.10027).

    It begins near a ReLU: slopes 1 and 0, no shifts.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lines = nn.Sequential(nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, 4 * width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> the same."""
        told = F.hardsigmoid(self.lines(x.mean((2, 3)))) - 0.5  # (B, 4 D), 0 in the middle
        slope, shift, other, other_shift = told[..., None, None].chunk(4, dim=1)
        return torch.maximum(x * (1 + 2 * slope) + shift, x * 2 * other + other_shift)


class DynamicBlock(nn.Module):
    """Each level reads itself and its two neighbours, weighed by how much they matter (DyHead).

    Where a level reads the coarser one, the offsets, which are its own, are averaged to that one's places.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.coarser, self.same, self.finer = DeformedConv(width), DeformedConv(width), DeformedConv(width, stride=2)
        self.moves = nn.Conv2d(width, 27, 3, padding=1)
        self.matters = nn.Conv2d(width, 1, 1)
        self.bend = DynamicRelu(width)
        for part in (self.coarser.conv, self.same.conv, self.finer.conv, self.matters):
            nn.init.normal_(part.weight, std=0.01)
            if part.bias is not None:
                nn.init.zeros_(part.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Levels (B, D, h, w), finest first -> the same."""
        return [self._level(maps, index) for index in range(len(maps))]

    def _level(self, maps: Sequence[Tensor], index: int) -> Tensor:
        x = maps[index]
        told = self.moves(x)
        offset, amount = told[:, :18], told[:, 18:].sigmoid()
        found = [self.same(x, offset, amount)]
        if index:
            found.append(self.finer(maps[index - 1], offset, amount))
        if index + 1 < len(maps):
            height, width = maps[index + 1].shape[-2:]
            there = [F.adaptive_avg_pool2d(part, (height, width)) for part in (offset, amount)]
            far = self.coarser(maps[index + 1], *there)
            found.append(F.interpolate(far, x.shape[-2:], mode="bilinear", align_corners=True))
        weighed = [part * F.hardsigmoid(F.relu(self.matters(part.mean((2, 3), keepdim=True)))) for part in found]
        return self.bend(torch.stack(weighed).mean(0))  # type: ignore[no-any-return]


class Pyramid(nn.Module):
    """Maps of a tower's stages -> maps of one width, each with what the coarser ones know, and coarser ones still.

    Args:
        widths: of the tower's maps, finest first.
        width: D.
        coarser: how many levels are added, each half as large as the one before.
    """

    def __init__(self, widths: Sequence[int], width: int, coarser: int = 2) -> None:
        super().__init__()
        self.inner = nn.ModuleList(nn.Conv2d(one, width, 1) for one in widths)
        self.outer = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in widths)
        self.coarser = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(coarser))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_uniform_(part.weight, a=1)
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Levels (B, C, h, w) of their own widths -> levels (B, D, h, w), finest first."""
        inner = [part(x) for part, x in zip(self.inner, maps, strict=True)]
        for index in reversed(range(len(inner) - 1)):
            inner[index] = inner[index] + F.interpolate(inner[index + 1], inner[index].shape[-2:])
        found = [part(x) for part, x in zip(self.outer, inner, strict=True)]
        for index, part in enumerate(self.coarser):
            found.append(part(F.relu(found[-1]) if index else found[-1]))
        return found


class GroundingHead(nn.Module):
    """Boxes at every place of a pyramid, and the score of every word for each of them.

    Score of place i and word j (GLIP): x_i . W(e_j / |e_j| / 2) / exp(log_scale) + e_j / |e_j| . b + b0.

    Args:
        widths: of the tower's maps, finest first.
        text_width: of the words' vectors.
        width: D.
        blocks: how many dynamic blocks.
        coarser: levels beyond the tower's.
    """

    def __init__(self, widths: Sequence[int], text_width: int, width: int, blocks: int, coarser: int = 2) -> None:
        super().__init__()
        self.pyramid = Pyramid(widths, width, coarser)
        self.blocks = nn.ModuleList(DynamicBlock(width) for _ in range(blocks))
        self.box, self.centre = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 1, 1)
        self.level_scale = nn.Parameter(torch.ones(len(widths) + coarser))
        self.words = nn.Linear(text_width, width)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(text_width))
        self.base = nn.Parameter(torch.tensor(-math.log((1 - _PRIOR) / _PRIOR)))
        for part in (self.box, self.centre):
            nn.init.normal_(part.weight, std=0.01)
            nn.init.zeros_(part.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor], text: Tensor) -> Grounded:
        """The tower's maps (B, C, h, w), finest first, and words (B, T, E)."""
        levels = self.pyramid(maps)
        for block in self.blocks:
            levels = block(levels)
        places = torch.cat([x.flatten(2) for x in levels], dim=2).transpose(1, 2)  # (B, A, D)
        deltas = [scale * self.box(x).flatten(2) for scale, x in zip(self.level_scale, levels, strict=True)]
        centres = [self.centre(x).flatten(1) for x in levels]
        return Grounded(
            self.scores(places, text),
            torch.cat(deltas, dim=2).transpose(1, 2),
            torch.cat(centres, dim=1),
            [(x.shape[2], x.shape[3]) for x in levels],
        )

    def scores(self, places: Tensor, text: Tensor) -> Tensor:
        """(B, A, D), (B, T, E) -> (B, A, T) logits."""
        words = F.normalize(text, dim=-1)
        match = places @ self.words(words / 2).transpose(1, 2) / self.log_scale.exp()
        return (match + (words @ self.bias + self.base)[:, None]).clamp(-_LARGEST, _LARGEST)


def level_ends(grids: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """For each level the first of its places and the one behind its last."""
    ends = [0]
    for rows, columns in grids:
        ends.append(ends[-1] + rows * columns)
    return list(pairwise(ends))
