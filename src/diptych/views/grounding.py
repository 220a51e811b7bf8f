"""Views of a text that names boxes: which tokens are about which box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.batch import Sample

ABSENT = 85
Span = tuple[int, int, int]
Offsets = Sequence[tuple[int, int]]


def grounded(sample: Sample, names: Sequence[str], rng: np.random.Generator | None) -> tuple[str, Sequence[Span]]:
    """The text of a sample that names boxes, and which characters of it name which: its caption, or else a prompt.

    Args:
        sample: with `text` and `spans`, or with `phrases`.
        names: of things; so many as GLIP's 85 that are not in the picture are asked for in a prompt as well.
        rng: chooses these; None takes the first.
    """
    if "spans" in sample:
        return sample.text, sample.spans
    absent = [name for name in names if name not in sample.phrases]
    return prompt(sample.phrases, absent[:ABSENT] if rng is None else rng.permutation(absent)[:ABSENT].tolist())


def named_boxes(sample: Sample, spans: Sequence[Span], offsets: Offsets, most: int) -> dict[str, Any]:
    """The boxes that a text names, and the tokens that name each.

    Args:
        sample: with `boxes`.
        spans: characters (start, end) of the text, and the box that they name; several may name one.
        offsets: characters (start, end) of each of the T tokens, (0, 0) for special ones.
        most: N, boxes beyond which are left out.

    Returns:
        `boxes` (N, 4) float32, `box_mask` (N,) bool, `phrase_tokens` (N, T) bool; zeros and False behind the last.
    """
    named = list(dict.fromkeys(box for _, _, box in spans))[:most]
    boxes, tokens = torch.zeros(most, 4), torch.zeros(most, len(offsets), dtype=torch.bool)
    for row, box in enumerate(named):
        boxes[row] = torch.from_numpy(np.asarray(sample.boxes[box], np.float32))
        for start, end, other in spans:
            if other == box:
                tokens[row] |= within(offsets, start, end)
    there = tokens.any(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)  # a text may be cut ahead of a phrase
    return {"boxes": boxes, "box_mask": there, "phrase_tokens": tokens}


def within(offsets: Offsets, start: int, end: int) -> Tensor:
    """(T,) bool: tokens of which some letter is among the characters from `start` to `end`."""
    return torch.tensor([low < end and high > start for low, high in offsets], dtype=torch.bool)


def prompt(phrases: Sequence[str], others: Sequence[str] = ()) -> tuple[str, list[Span]]:
    """Phrases, one a box, as one text "cat. dog. person" in which each stands once, and its spans (GLIP).

    Args:
        phrases: R names or phrases.
        others: what is not in the picture and is asked for as well, behind them.
    """
    places: dict[str, tuple[int, int]] = {}
    text = ""
    for phrase in dict.fromkeys([*phrases, *others]):
        text += ". " if text else ""
        places[phrase] = len(text), len(text) + len(phrase)
        text += phrase
    return text, [(*places[phrase], box) for box, phrase in enumerate(phrases)]
