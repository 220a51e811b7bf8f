"""Any object detector of transformers: pictures -> boxes, classes and features of the regions that it is surest of.

It needs to give a fixed number of boxes with scores of classes, as DETR, RT-DETR, YOLOS and their like do.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.curation.embed import digest
from diptych.curation.regions import Regions

if TYPE_CHECKING:
    from PIL.Image import Image

_BINS = 7  # places along each side of a box at which a map is read


class Detector:
    """An object detector of transformers, with what prepares its pictures. It can be sent to other processes.

    Args:
        model: made by `AutoModelForObjectDetection`.
        processor: made by `AutoImageProcessor` of the same name.
        name: by which it is known, for messages and for the record.
        settings: which boxes are kept, and which features.
        device: where it computes.

    Raises:
        ValueError: it has no parts of the kind that the features need.
    """

    def __init__(self, model: Any, processor: Any, name: str, settings: Regions, device: str = "cpu") -> None:
        self.model, self.processor, self.name = model.eval(), processor, name
        self.settings, self.device = settings, device
        self.accepts = set(inspect.signature(model.forward).parameters)
        config = model.config
        self.labels = tuple(str(config.id2label.get(number, number)) for number in range(config.num_labels))
        self.identity = f"{name} {asdict(settings)} {processor.to_dict()} {digest(model)}"
        self._backbone = next((part for path, part in model.named_modules() if path.endswith("backbone")), None)
        if settings.features == "roi" and self._backbone is None:
            raise ValueError(f"{name} has no backbone whose map could be read: leave out --features roi.")

    def prepare(self, picture: Image) -> dict[str, Tensor]:
        """What the model wants to see of a picture: tensors with a first dimension of 1."""
        made = self.processor(images=picture, return_tensors="pt")
        return {name: value for name, value in made.items() if name in self.accepts and hasattr(value, "shape")}

    def detect(self, prepared: Sequence[Mapping[str, Tensor]]) -> Iterator[dict[str, np.ndarray]]:
        """The regions of each picture, in order; neighbours of one size go through the model together."""
        self.model.to(self.device)
        for _, run in groupby(prepared, key=lambda one: {name: value.shape for name, value in one.items()}):
            alike = list(run)
            for start in range(0, len(alike), self.settings.batch):
                yield from self._together(alike[start : start + self.settings.batch])

    def _together(self, alike: Sequence[Mapping[str, Tensor]]) -> Iterator[dict[str, np.ndarray]]:
        batch = {name: torch.cat([one[name] for one in alike]).to(self.device) for name in alike[0]}
        with torch.no_grad(), _maps_of(self._backbone) as maps:
            output = self.model(**batch)
        logits, boxes = output.logits, corners(output.pred_boxes)  # (B, Q, C [+ 1]), (B, Q, 4)
        states = self._states(output, boxes, maps)  # (B, Q, D)
        for number in range(len(alike)):
            yield kept(logits[number], boxes[number], states[number], len(self.labels), self.settings)

    def _states(self, output: Any, boxes: Tensor, maps: Sequence[Tensor]) -> Tensor:
        if self.settings.features == "roi":
            if not maps:
                raise ValueError(f"the backbone of {self.name} gives no map: leave out --features roi.")
            return torch.stack([pooled(one, where) for one, where in zip(maps[-1], boxes, strict=True)])
        states: Tensor | None = getattr(output, "last_hidden_state", None)
        if states is None or states.shape[1] < boxes.shape[1]:
            raise ValueError(f"{self.name} has no state of its own for each box: use --features roi.")
        return states[:, -boxes.shape[1] :]  # in YOLOS the tokens of patches come first


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) centre, width and height -> x0, y0, x1, y1, cut at the picture's border."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1).clamp(0, 1)


def shares(logits: Tensor, classes: int) -> Tensor:
    """(Q, C + 1) with the background last, or (Q, C) of independent classes -> (Q, 1 + C) that sum to 1.

    Independent classes have no distribution: the surest one's confidence is shared out among all, and the rest is
    background.
    """
    if logits.shape[-1] == classes + 1:
        found = logits.softmax(-1)
        return torch.cat([found[:, -1:], found[:, :-1]], dim=-1)
    each = logits.sigmoid()
    best = each.amax(dim=-1, keepdim=True)
    return torch.cat([1 - best, best * each / each.sum(dim=-1, keepdim=True)], dim=-1)


def kept(logits: Tensor, boxes: Tensor, states: Tensor, classes: int, settings: Regions) -> dict[str, np.ndarray]:
    """Q boxes -> the fields of the R regions that are kept, the surest first.

    Args:
        logits: (Q, C) or (Q, C + 1).
        boxes: (Q, 4) corners.
        states: (Q, D).
        classes: C.
        settings: how many are kept.
    """
    found = shares(logits.float(), classes)
    confidence = logits.float().softmax(-1)[:, :-1] if logits.shape[-1] == classes + 1 else logits.float().sigmoid()
    scores, labels = confidence.max(dim=-1)
    order = scores.argsort(descending=True, stable=True)
    order = order[: min(max(int((scores > settings.threshold).sum()), settings.fewest), settings.most)]
    return {
        "regions": states[order].cpu().numpy().astype(np.float16),
        "region_boxes": boxes[order].float().cpu().numpy(),
        "region_labels": labels[order].cpu().numpy().astype(np.int32),
        "region_scores": scores[order].cpu().numpy(),
        "region_classes": found[order].cpu().numpy().astype(np.float16),
    }


def pooled(map: Tensor, boxes: Tensor) -> Tensor:
    """The mean of a map (C, H, W) over each box (R, 4), read at 7 x 7 places between its values: (R, C)."""
    steps = (torch.arange(_BINS, device=boxes.device) + 0.5) / _BINS
    x = boxes[:, :1] + (boxes[:, 2:3] - boxes[:, :1]) * steps  # (R, 7)
    y = boxes[:, 1:2] + (boxes[:, 3:] - boxes[:, 1:2]) * steps
    grid = torch.stack([x[:, None].expand(-1, _BINS, -1), y[:, :, None].expand(-1, -1, _BINS)], dim=-1)
    places = (2 * grid - 1).reshape(1, -1, 1, 2)
    read = F.grid_sample(map[None], places, padding_mode="border", align_corners=False)  # (1, C, R * 49, 1)
    return read[0, :, :, 0].reshape(len(map), len(boxes), -1).mean(-1).T


@contextmanager
def _maps_of(part: Any) -> Iterator[list[Tensor]]:
    """The maps (B, C, H, W) that a part of a model gives while it is called."""
    maps: list[Tensor] = []
    hook = part.register_forward_hook(lambda module, given, output: maps.extend(_maps(output))) if part else None
    try:
        yield maps
    finally:
        if hook:
            hook.remove()


def _maps(output: Any) -> Iterator[Tensor]:
    """All maps (B, C, H, W) of numbers in what a backbone gives, however it is wrapped."""
    if isinstance(output, Tensor):
        if output.ndim == 4 and output.is_floating_point():
            yield output
        return
    inside = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    for one in inside:
        yield from _maps(one)
