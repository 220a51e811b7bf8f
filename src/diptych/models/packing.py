"""Sequences side by side in rows, so that only tokens that exist are computed, with attention kept within each.

Dense attention costs the square of a row's length, so that rows are about as long as the longest sequence and many,
rather than few and long; a larger budget pays where a kernel skips what the mask excludes (FlexAttention, or the
kernels for sequences of different lengths of flash attention).

Letters: B sequences, T length of the longest, R rows, L length of a row, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

NOTHING = -1
"""The number of the sequence where a row has none."""


class Packed(NamedTuple):
    """Where the tokens of B sequences lie in R rows.

    source: (R, L) int64, where each token stands among (B * T); 0 where there is none.
    sequence: (R, L) int64, the number of its sequence, NOTHING where there is none.
    positions: (R, L) int64, its place within its sequence.
    """

    source: Tensor
    sequence: Tensor
    positions: Tensor

    def take(self, values: Tensor, nothing: float | None = None) -> Tensor:
        """(B, T, ...) -> (R, L, ...), with `nothing` where a row has no token, or anything if that is None."""
        found = values.flatten(0, 1).index_select(0, self.source.flatten()).unflatten(0, self.source.shape)
        if nothing is None:
            return found
        empty = (self.sequence == NOTHING).view(*self.sequence.shape, *(1,) * (values.ndim - 2))
        return found.masked_fill(empty, nothing)

    @property
    def mask(self) -> Tensor:
        """(R, 1, L, L) bool: a token sees itself and those before it in its own sequence."""
        same = self.sequence[:, :, None] == self.sequence[:, None, :]
        return same.tril()[:, None]

    @property
    def padding(self) -> Tensor:
        """The share of positions without a token, a scalar."""
        return (self.sequence == NOTHING).float().mean()


def pack(lengths: Sequence[int], width: int, budget: int = 1, device: torch.device | str = "cpu") -> Packed:
    """Packs sequences into rows. The same lengths are packed in the same way, always.

    Args:
        lengths: of the B sequences, in tokens.
        width: T, the number of positions that each has with its padding.
        budget: tokens of a row; at least those of the longest sequence.
        device: where the plan lies.
    """
    rows = filled(lengths, max(budget, *lengths))
    longest = max(sum(lengths[one] for one in row) for row in rows)
    source, sequence, positions = (np.full((len(rows), longest), empty) for empty in (0, NOTHING, 0))
    for number, row in enumerate(rows):
        ends = np.cumsum([lengths[one] for one in row])
        for one, end in zip(row, ends.tolist(), strict=True):
            there = slice(end - lengths[one], end)
            source[number, there] = one * width + np.arange(lengths[one])
            sequence[number, there] = one
            positions[number, there] = np.arange(lengths[one])
    return Packed(*(torch.from_numpy(values).to(device, non_blocking=True) for values in (source, sequence, positions)))


def filled(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Which sequences share a row: the longest first, each into the fullest row that has room (best-fit decreasing).

    Returns:
        Numbers of sequences, a list a row; no row has more than `budget` tokens.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for one in sorted(range(len(lengths)), key=lambda one: (-lengths[one], one)):
        fits = [row for row, left in enumerate(room) if left >= lengths[one]]
        if fits:
            best = min(fits, key=lambda row: room[row])
        else:
            best = len(rows)
            rows.append([])
            room.append(budget)
        rows[best].append(one)
        room[best] -= lengths[one]
    return rows


def mask_for(packed: Packed, attention: str) -> Any:
    """The mask in the form that a way of attending in transformers takes.

    Args:
        packed: the rows.
        attention: `LanguageModel.attention`.

    Returns:
        (R, 1, L, L) bool; for `flex_attention` a `BlockMask`, with which blocks without anything to see cost nothing.

    Raises:
        ValueError: nothing keeps sequences apart that lie side by side.
    """
    if attention in ("sdpa", "eager"):
        return packed.mask
    if attention != "flex_attention":
        raise ValueError(f"sequences cannot be packed with the attention {attention}: use sdpa or flex_attention.")
    from torch.nn.attention.flex_attention import create_block_mask

    sequence = packed.sequence

    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (sequence[row, query] == sequence[row, key]) & (query >= key)

    rows, length = sequence.shape
    return create_block_mask(seen, rows, None, length, length, device=str(sequence.device))
