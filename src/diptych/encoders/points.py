"""Point towers: PointNet++ and a transformer on point patches, over clouds (B, N, 3+), xyz first.

PointNet++ (Qi et al. 2017, arXiv 1706.02413, section 3): centres that lie far from each other, the points in a ball
around each, a small network that all points of a ball pass, and the largest of what it says; layer by layer.
The transformer (Point-BERT, Yu et al. 2021, arXiv 2111.14819, section 3.1): the nearest points of each centre are a
patch, a small PointNet makes a token of it, and its place is that of the centre.

Letters: B clouds, N points, P centres, K points of a group, C columns, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Features
from diptych.encoders.base import Edit, Encoder, EncoderError, all_real
from diptych.encoders.own import initialise, run, stack

SOURCES = ("pointnet2", "point_patches")


def farthest(xyz: Tensor, count: int) -> Tensor:
    """(B, N, 3) -> indices (B, count): the first point, then always the one that is farthest from all chosen ones.

    Raises:
        EncoderError: there are fewer points.
    """
    if xyz.shape[1] < count:
        raise EncoderError(f"A cloud of {xyz.shape[1]} points has no {count} centres: take more points of it.")
    chosen = torch.zeros(len(xyz), count, dtype=torch.long, device=xyz.device)
    nearest = torch.full(xyz.shape[:2], torch.inf, device=xyz.device)
    for n in range(1, count):
        last = _at(xyz, chosen[:, n - 1 : n])  # (B, 1, 3)
        nearest = torch.minimum(nearest, (xyz - last).square().sum(-1))
        chosen[:, n] = nearest.argmax(1)
    return chosen


def ball(xyz: Tensor, centres: Tensor, radius: float, count: int) -> Tensor:
    """(B, N, 3), (B, P, 3) -> indices (B, P, count) of the nearest points within the radius, the nearest repeated."""
    distance, index = torch.cdist(centres, xyz).topk(min(count, xyz.shape[1]), largest=False)
    index = torch.where(distance <= radius, index, index[..., :1])
    return F.pad(index, (0, count - index.shape[-1]), mode="replicate") if index.shape[-1] < count else index


def _at(x: Tensor, index: Tensor) -> Tensor:
    """(B, N, C), (B, ...) -> (B, ..., C)."""
    return x.gather(1, index.flatten(1)[..., None].expand(-1, -1, x.shape[-1])).unflatten(1, index.shape[1:])


class Abstraction(nn.Module):
    """One layer of PointNet++: (B, N, 3), (B, N, C) -> centres (B, P, 3) and what is around each (B, P, D).

    Args:
        centres: P; 0 takes all points as one group around the origin.
        radius: of a ball.
        count: K, points of a ball.
        widths: C, then those of the small network, the last of which is D.
    """

    def __init__(self, centres: int, radius: float, count: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.centres, self.radius, self.count = centres, radius, count
        sizes = [3 + widths[0], *widths[1:]]
        layers = [(nn.Linear(a, b), nn.LayerNorm(b), nn.ReLU()) for a, b in pairwise(sizes)]
        self.network = nn.Sequential(*(part for layer in layers for part in layer))

    def forward(self, xyz: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """As the class says."""
        if not self.centres:
            return xyz.new_zeros(len(xyz), 1, 3), self.network(torch.cat([xyz, features], -1)).amax(1, keepdim=True)
        centres = _at(xyz, farthest(xyz, self.centres))
        index = ball(xyz, centres, self.radius, self.count)
        grouped = torch.cat([_at(xyz, index) - centres[:, :, None], _at(features, index)], dim=-1)  # (B, P, K, 3 + C)
        return centres, self.network(grouped).amax(2)


class PointEncoder(Encoder):
    """A tower for clouds: `encoder(points)` with points (B, N, columns) in the unit sphere, xyz first."""

    columns: int

    def forward(self, points: Tensor, edit: Edit | None = None) -> Features:
        """(B, N, columns) -> tokens (B, P, D), pooled (B, D), mask (B, P)."""
        raise NotImplementedError

    def check(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The places (B, N, 3) and everything there is of the points (B, N, columns).

        Raises:
            EncoderError: the points have other columns.
        """
        if points.shape[-1] != self.columns:
            raise EncoderError(f"{self.name!r} reads {self.columns} columns of a point and got {points.shape[-1]}.")
        return points[..., :3], points


class PointNet2(PointEncoder):
    """PointNet++ with three layers (the sizes of SceneVerse's at width 768), and LayerNorm in place of batch norm.

    Tokens are the centres of the second layer, pooled is the third's one vector.
    """

    def __init__(self, width: int, columns: int = 3, centres: tuple[int, int] = (32, 16)) -> None:
        super().__init__()
        self.name, self.width, self.columns = "pointnet2", width, columns
        small, middle = max(1, width // 6), max(1, width // 3)
        self.first = Abstraction(centres[0], 0.2, 32, (columns, small // 2 or 1, small // 2 or 1, small))
        self.second = Abstraction(centres[1], 0.4, 32, (small, small, small, middle))
        self.last = Abstraction(0, 0.0, 0, (middle, middle, 2 * middle, width))
        self.to_tokens = nn.Linear(middle, width)

    @property
    def layers(self) -> list[nn.Module]:
        """The layers."""
        return [self.first, self.second, self.last]

    def forward(self, points: Tensor, edit: Edit | None = None) -> Features:
        """(B, N, columns) -> tokens (B, P, D), pooled (B, D), mask (B, P)."""
        if edit is not None:
            raise EncoderError("The layers of PointNet++ are groups of points, which cannot be edited.")
        xyz, features = self.second(*self.first(*self.check(points)))
        tokens = self.to_tokens(features)
        return Features(tokens, self.last(xyz, features)[1].squeeze(1), all_real(tokens))


class PointPatches(PointEncoder):
    """A pre-norm transformer over patches of nearest points, with a class token."""

    prefix = 1

    def __init__(
        self, width: int, layers: int, heads: int, columns: int = 3, patches: int = 64, group: int = 32
    ) -> None:
        super().__init__()
        self.name, self.width, self.columns = "point_patches", width, columns
        self.patches, self.group = patches, group
        self.each = nn.Sequential(nn.Linear(columns, width), nn.GELU(), nn.Linear(width, width))
        self.whole = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width))
        self.place = nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, width))
        self.class_token = nn.Parameter(torch.empty(width))
        self.blocks = stack(layers, width, heads, "gelu")
        self.norm_out = nn.LayerNorm(width)
        nn.init.normal_(self.class_token, std=width**-0.5)
        initialise(self.blocks)

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers."""
        return list(self.blocks)

    def forward(self, points: Tensor, edit: Edit | None = None) -> Features:
        """(B, N, columns) -> tokens (B, P, D), class token (B, D), mask (B, P)."""
        xyz, everything = self.check(points)
        centres = _at(xyz, farthest(xyz, self.patches))
        grouped = _at(everything, ball(xyz, centres, torch.inf, self.group))  # (B, P, K, columns)
        local = torch.cat([grouped[..., :3] - centres[:, :, None], grouped[..., 3:]], dim=-1)
        each = self.each(local)
        each = self.whole(torch.cat([each, each.amax(2, keepdim=True).expand_as(each)], dim=-1))
        x = each.amax(2) + self.place(centres)  # (B, P, D)
        x = torch.cat([self.class_token.expand(len(x), 1, -1).to(x.dtype), x], dim=1)
        x, mask = run(self.blocks, x, None, causal=False, edit=edit)
        self.check_tokens(x)
        x = self.norm_out(x)
        return Features(x[:, 1:], x[:, 0], (all_real(x) if mask is None else mask)[:, 1:])


def point_encoder(name: str, *, width: int = 128, layers: int = 4, heads: int = 4, columns: int = 3) -> PointEncoder:
    """A point encoder by its name.

    Args:
        name: `pointnet2` or `point_patches`.
        width: D.
        layers: of the transformer, as its heads.
        heads: attention heads.
        columns: of a point that are read, xyz first.

    Raises:
        EncoderError: the name is not known.
    """
    if name == "pointnet2":
        return PointNet2(width, columns)
    if name == "point_patches":
        return PointPatches(width, layers, heads, columns)
    raise EncoderError(f"There is no point encoder {name!r}: write one of {', '.join(SOURCES)}.")
