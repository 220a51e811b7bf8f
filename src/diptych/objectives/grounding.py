"""Boxes for phrases: which places answer for a box (ATSS), the losses of scores and boxes, and the choice of the best.

"Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection", Zhang et al.
(arXiv 1912.02424); scores of words in place of classes as in GLIP (arXiv 2112.03857).

Boxes are x0, y0, x1, y1 in [0, 1] of the picture.

Letters: B batch, A places (anchors) of all levels, N boxes, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.objectives.contrastive import exact

_SCALES = (10.0, 10.0, 5.0, 5.0)  # of a shift in sizes of the anchor, and of a logarithm of sizes (Faster R-CNN)
_MOST = math.log(1000 / 16)  # no box is larger than so many anchors


def anchors(grids: Sequence[tuple[int, int]], size: float, device: torch.device | str = "cpu") -> Tensor:
    """(A, 4): at every place of every level a square of `size` times the level's stride (8 in ATSS).

    Args:
        grids: rows and columns of each level; a picture is square.
        size: side of an anchor, in strides.
        device: where they are to be.
    """
    found = []
    for rows, columns in grids:
        y = (torch.arange(rows, device=device) + 0.5) / rows
        x = (torch.arange(columns, device=device) + 0.5) / columns
        centre = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1).flatten(0, 1)
        half = size / torch.tensor([columns, rows], device=device) / 2
        found.append(torch.cat([centre - half, centre + half], dim=-1))
    return torch.cat(found)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 4) as seen from anchors (..., 4): shifts and logarithms of sizes (..., 4)."""
    (centre, size), (from_centre, from_size) = _centred(boxes), _centred(anchors)
    found = torch.cat([(centre - from_centre) / from_size, (size / from_size).log()], dim=-1)
    return found * found.new_tensor(_SCALES)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode`."""
    shift, growth = (deltas / deltas.new_tensor(_SCALES)).split(2, dim=-1)
    centre, size = _centred(anchors)
    centre, half = centre + shift * size, size * growth.clamp(max=_MOST).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def overlaps(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of boxes (..., 4) with others (..., 4), pair by pair, and generalised (GIoU): two (...).

    GIoU (arXiv 1902.09630) takes away the share of the smallest box around both that neither fills.
    """
    shared = _area(torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:]))
    around = _area(torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:]))
    both = _area(boxes[..., :2], boxes[..., 2:]) + _area(others[..., :2], others[..., 2:]) - shared
    iou = shared / both.clamp(min=1e-12)
    return iou, iou - (around - both) / around.clamp(min=1e-12)


def assign(anchors: Tensor, levels: Sequence[tuple[int, int]], boxes: Tensor, nearest: int = 9) -> Tensor:
    """Which box each place answers for (ATSS): of the places of each level that are nearest to a box's centre, those
    whose anchor overlaps the box by at least the mean plus one standard deviation of these, and that lie in it.

    Args:
        anchors: (A, 4).
        levels: for each level its first place and the one behind its last.
        boxes: (N, 4), of one picture.
        nearest: places a level that are looked at.

    Returns:
        (A,) int64, -1 is none; of several boxes the one that the anchor overlaps most.
    """
    if not len(boxes):
        return torch.full((len(anchors),), -1, device=anchors.device)
    iou = overlaps(anchors[:, None], boxes[None])[0]  # (A, N)
    centre = _centred(anchors)[0]
    distance = torch.cdist(centre, _centred(boxes)[0])
    near = torch.cat(
        [
            distance[start:stop].topk(min(nearest, stop - start), dim=0, largest=False).indices + start
            for start, stop in levels
        ]
    )  # (K, N)
    found = iou.gather(0, near)
    enough = found >= found.mean(0) + found.std(0)
    side = torch.cat([centre[:, None] - boxes[:, :2], boxes[:, 2:] - centre[:, None]], dim=-1)  # (A, N, 4)
    enough &= side.amin(-1).gather(0, near) > 0
    chosen = torch.full_like(iou, -1.0).scatter(0, near, torch.where(enough, found, -1.0))
    best, box = chosen.max(1)
    return torch.where(best >= 0, box, -1)


def centredness(anchors: Tensor, boxes: Tensor) -> Tensor:
    """How near the middle of its box (..., 4) an anchor's centre (..., 4) is: 1 there, 0 at an edge (FCOS)."""
    centre = _centred(anchors)[0]
    low, high = centre - boxes[..., :2], boxes[..., 2:] - centre
    share = torch.minimum(low, high) / torch.maximum(low, high).clamp(min=1e-12)
    return share.clamp(min=0).prod(-1).sqrt()


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Binary cross-entropy that counts less the surer it is right (Lin et al., arXiv 1708.02002), of each logit."""
    right = torch.where(targets > 0, logits, -logits)
    weight = torch.where(targets > 0, alpha, 1 - alpha)
    return -weight * (1 - right.sigmoid()) ** gamma * F.logsigmoid(right)


def grounding_loss(
    said: tuple[Tensor, Tensor, Tensor],
    anchors: Tensor,
    levels: Sequence[tuple[int, int]],
    real: Tensor,
    named: tuple[Tensor, Tensor, Tensor],
) -> dict[str, Tensor]:
    """The three losses of GLIP and FIBER's fine stage, each ready to be added.

    Args:
        said: scores (B, A, T), deltas (B, A, 4) and centredness (B, A), as `fusion.grounding_head.Grounded` has them.
        anchors: (A, 4).
        levels: as for `assign`.
        real: (B, T) bool, tokens that are not padding.
        named: boxes (B, N, 4), which of them are real (B, N) bool, and which tokens name each (B, N, T) bool.

    Returns:
        token: focal loss of place and word, over the number of places that answer for a box.
        box: 2 (1 - GIoU), weighed by centredness.
        centre: binary cross-entropy of centredness, of places that answer for a box.
    """
    scores, deltas, centres = (exact(part) for part in said)
    boxes, there, tokens = named
    answers = torch.stack([assign(anchors, levels, one[mask]) for one, mask in zip(boxes, there, strict=True)])
    order = there.long().argsort(stable=True, dim=1, descending=True)  # real boxes first, as `assign` saw them
    index = answers.clamp(min=0)
    index = order.gather(1, index) if order.shape[1] else index
    hit = answers >= 0  # (B, A)
    count = hit.sum().clamp(min=1)
    rows, places = hit.nonzero(as_tuple=True)
    wanted = boxes[rows, index[rows, places]]  # (M, 4)
    targets = torch.zeros_like(scores)
    targets[rows, places] = tokens[rows, index[rows, places]].to(scores.dtype)
    middle = centredness(anchors[places], wanted)
    giou = overlaps(decode(deltas[rows, places], anchors[places]), wanted)[1]
    return {
        "token": (focal_loss(scores, targets) * real[:, None]).sum() / count,
        "box": 2 * ((1 - giou) * middle).sum() / middle.sum().clamp(min=1e-6),
        "centre": F.binary_cross_entropy_with_logits(centres[rows, places], middle, reduction="sum") / count,
    }


def phrase_scores(scores: Tensor, about: Tensor) -> Tensor:
    """(B, A, T) logits and tokens that are asked for (B, T) bool -> (B, A), the mean of their probabilities (GLIP)."""
    weight = about.to(scores.dtype)[:, None]
    return (scores.sigmoid() * weight).sum(-1) / weight.sum(-1).clamp(min=1)


def best_boxes(boxes: Tensor, scores: Tensor, most: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression: the best boxes, none of which overlaps a better one by more than `threshold`.

    Args:
        boxes: (B, A, 4).
        scores: (B, A).
        most: K, how many are kept of each picture.
        threshold: of intersection over union.

    Returns:
        boxes (B, K, 4) and their scores (B, K), best first; -inf where there are fewer.
    """
    left = scores.clone()
    kept: list[tuple[Tensor, Tensor]] = []
    rows = torch.arange(len(boxes), device=boxes.device)
    for _ in range(min(most, boxes.shape[1])):
        best, index = left.max(1)  # (B,)
        box = boxes[rows, index]
        kept.append((box, best))
        left = left.masked_fill(overlaps(boxes, box[:, None])[0] > threshold, -torch.inf)
        left[rows, index] = -torch.inf  # a box of no area overlaps nothing, itself included
    return torch.stack([box for box, _ in kept], dim=1), torch.stack([score for _, score in kept], dim=1)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 4) -> centres and sizes, (..., 2) each; no size is 0."""
    low, high = boxes.split(2, dim=-1)
    return (low + high) / 2, (high - low).clamp(min=1e-6)


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(-1)
