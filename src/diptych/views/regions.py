"""Views of a picture as regions: what a detector said of each, cut to a number of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.batch import Sample

FIELDS = (
    "regions",
    "region_boxes",
    "region_labels",
    "region_scores",
    "region_attributes",
    "region_attribute_scores",
    "region_classes",
)


def view(sample: Sample, most: int) -> dict[str, Any]:
    """The regions of a sample, padded with zeros to `most`.

    Where there are more, the surest stay (by `region_scores`, else the first), in their order.

    Args:
        sample: with `regions`, and any of the other fields of `FIELDS`.
        most: R, how many a picture has at most.

    Returns:
        `region_mask` (R,) bool, and each field that is there as a tensor (R, ...): float32, or int64 for labels.
    """
    count = len(sample.regions)
    kept = np.arange(count)
    if count > most:
        sureness = sample["region_scores"] if "region_scores" in sample else -np.arange(count)
        kept = np.sort(np.argsort(-sureness, kind="stable")[:most])
    seen: dict[str, Any] = {name: _padded(sample[name][kept], most) for name in FIELDS if name in sample}
    return {**seen, "region_mask": torch.arange(most) < count}


def geometry(boxes: Tensor) -> Tensor:
    """(..., 4) x0, y0, x1, y1 -> (..., 7): the same, width, height and area, of pictures of side 1 (UNITER)."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return torch.cat([boxes, torch.stack([width, height, width * height], dim=-1)], dim=-1)


def overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (..., N, 4) with others (..., M, 4): (..., N, M); 0 where both are empty."""
    low = torch.maximum(boxes[..., :, None, :2], others[..., None, :, :2])
    high = torch.minimum(boxes[..., :, None, 2:], others[..., None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(side[..., 2:] - side[..., :2]).clamp(min=0).prod(-1) for side in (boxes, others)]
    return shared / (areas[0][..., :, None] + areas[1][..., None, :] - shared).clamp(min=1e-12)


def _padded(values: np.ndarray, most: int) -> Tensor:
    kind = np.int64 if values.dtype.kind in "iu" else np.float32
    padded = np.zeros((most, *values.shape[1:]), kind)
    padded[: len(values)] = values
    return torch.from_numpy(padded)
