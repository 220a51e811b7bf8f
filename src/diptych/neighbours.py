"""Search by inner product among many vectors: ranks, nearest neighbours, near pairs; never the whole (Q, K) matrix.

Products are computed tile by tile into one buffer that stays in the processor's cache, where comparing and counting
cost little beside them. A product in single precision carries a rounding error that depends on where in a matrix it
was computed. `ranks` and `pairs_above` compute it again in double precision wherever that error could decide, and so
find what the whole matrix in double precision would show, whatever the tiles, the threads or the device.

Letters: Q queries, K keys, D width. Vectors of another floating type are taken as float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIDE = 1024
"""Rows and columns of a tile: 4 MB in float32."""
_UNIT = 2.0**-24  # relative rounding error of an operation in float32
_PAIRS = 8192  # pairs of vectors that are multiplied at a time

Ints = NDArray[np.int64]


@torch.no_grad()
def ranks(queries: Tensor, keys: Tensor, pairs: Ints, *, tie: float, side: int = SIDE) -> tuple[Ints, Ints]:
    """The rank of each query's best right key among the wrong ones, and of each key's best right query; 1 is best.

    Args:
        queries: (Q, D).
        keys: (K, D).
        pairs: (M, 2) the right answers, each once: query i belongs to key j.
        tie: a wrong answer counts as before the right one unless it scores less by more than this, which should be
            more than rounding in double precision.
        side: rows and columns of a tile.

    Returns:
        (Q,) and (K,); 0 for what has no right answer. Not-a-number ranks last.
    """
    queries, keys = queries.float(), keys.float()
    scores = pair_scores(queries, keys, torch.from_numpy(pairs).to(queries.device))
    slack = _slack(queries, keys)
    of_queries = _Counting(len(queries), pairs[:, 0], scores, tie, slack)
    of_keys = _Counting(len(keys), pairs[:, 1], scores, tie, slack)
    scratch = queries.new_empty(side * side)
    for rows, columns, tile in _tiles(queries, keys, side):
        mask = scratch[: tile.numel()].view_as(tile)
        q, k = queries[rows], keys[columns]
        of_queries.add(rows, tile, mask, q, k)
        of_keys.add(columns, tile.T, mask.T, k, q)
    return of_queries.ranks(), of_keys.ranks()


class _Counting:
    """Counts the wrong answers that stand before each query's best right one. Not-a-number is never behind."""

    def __init__(self, size: int, asked: Ints, scores: Tensor, tie: float, slack: float) -> None:
        """Of `size` queries: `asked` (M,) are those of the right answers, `scores` (M,) what these score."""
        own = torch.from_numpy(asked).to(scores.device)
        # what scores less is behind; between low and high single precision cannot tell
        self.limit = scores.new_full((size,), -torch.inf).scatter_reduce_(0, own, scores, "amax") - tie
        self.low, self.high = ((self.limit + shift).float()[:, None] for shift in (-slack, slack))
        self.asked = torch.zeros(size, dtype=torch.bool, device=scores.device).index_fill_(0, own, True)
        self.ahead = -torch.bincount(own[~(scores < self.limit[own])], minlength=size)  # right ones are in nobody's way

    def add(self, rows: slice, scores: Tensor, mask: Tensor, queries: Tensor, keys: Tensor) -> None:
        """Takes the scores (r, c) of queries (r, D) and keys (c, D); `mask` (r, c) is overwritten."""
        limit, low, high = self.limit[rows], self.low[rows], self.high[rows]
        # a comparison that is written as 0.0 and 1.0, and summed as such, is several times faster than one as bool
        surely_behind = torch.lt(scores, low, out=mask).sum(1)  # type: ignore[call-overload]
        behind = torch.lt(scores, high, out=mask).sum(1)  # type: ignore[call-overload]
        self.ahead[rows] += (scores.shape[1] - behind).long()
        some = (behind != surely_behind).nonzero().squeeze(1)
        if len(some):
            doubtful = (scores[some] >= low[some]) & (scores[some] < high[some])
            near = doubtful.any(0).nonzero().squeeze(1)
            exact = queries[some].double() @ keys[near].double().T
            self.ahead[rows][some] += (doubtful[:, near] & ~(exact < limit[some, None])).sum(1)

    def ranks(self) -> Ints:
        """(size,), 1 is best; 0 for a query without a right answer."""
        return torch.where(self.asked, self.ahead + 1, 0).cpu().numpy()


@torch.no_grad()
def top_k(queries: Tensor, keys: Tensor, k: int, *, side: int = SIDE) -> tuple[Tensor, Tensor]:
    """The k keys of the largest inner products with each query, in single precision; of equal ones the first.

    Args:
        queries: (Q, D).
        keys: (K, D).
        k: how many; all where there are fewer keys.
        side: rows and columns of a tile.

    Returns:
        Products (Q, k), descending, and indices of the keys (Q, k). Not-a-number counts as the largest.
    """
    queries, keys = queries.float(), keys.float()
    k = min(k, len(keys))
    best = queries.new_full((len(queries), k), -torch.inf)
    index = torch.full_like(best, len(keys), dtype=torch.long)
    for rows, columns, tile in _tiles(queries, keys, side):
        # a later key that is no better than the worst of those kept changes nothing
        some = (~(tile.amax(1) <= best[rows, -1])).nonzero().squeeze(1)
        if len(some):
            at = some + rows.start
            best[at], place = _first(torch.cat([best[at], tile[some]], 1), k)
            kept = index[at].gather(1, place.clamp(max=k - 1))
            index[at] = torch.where(place < k, kept, place - k + columns.start)
    return best, index


def _first(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of (r, n), n > k, descending, and their places; of equal ones the first."""
    best, place = scores.topk(k + 1, dim=1)  # which of equal ones it takes is left open
    tied = (best[:, k - 1] == best[:, k]).nonzero().squeeze(1)
    place[tied] = scores[tied].argsort(dim=1, descending=True, stable=True)[:, : k + 1]
    place = place[:, :k].sort(1).values
    best, order = scores.gather(1, place).sort(dim=1, descending=True, stable=True)
    return best, place.gather(1, order)


@torch.no_grad()
def pairs_above(
    queries: Tensor, keys: Tensor | None, threshold: float, *, side: int = SIDE
) -> Iterator[tuple[Ints, NDArray[np.float64]]]:
    """All pairs whose inner product is at least `threshold`, a tile at a time.

    Args:
        queries: (Q, D).
        keys: (K, D); None compares the queries with each other, each pair once and nobody with itself.
        threshold: to be reached in double precision.
        side: rows and columns of a tile.

    Yields:
        Pairs (M, 2) of a tile, query i < key j where the queries are compared with each other, and their products (M,).
    """
    queries = queries.float()
    others = queries if keys is None else keys.float()
    low = threshold - _slack(queries, others)
    for rows, columns, tile in _tiles(queries, others, side, above_diagonal=keys is None):
        if not tile.amax() >= low:
            continue
        pairs = (tile >= low).nonzero() + tile.new_tensor([rows.start, columns.start], dtype=torch.long)
        if keys is None:
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        scores = pair_scores(queries, others, pairs)
        near = scores >= threshold
        if near.any():
            yield pairs[near].cpu().numpy(), scores[near].cpu().numpy()


@torch.no_grad()
def pair_scores(queries: Tensor, keys: Tensor, pairs: Tensor) -> Tensor:
    """Inner products (M,) of pairs (M, 2), queries (Q, D) and keys (K, D), in double precision."""
    parts = [(queries[i].double() * keys[j].double()).sum(1) for i, j in (some.T for some in pairs.split(_PAIRS))]
    return torch.cat([queries.new_empty(0, dtype=torch.float64), *parts])


def _tiles(
    queries: Tensor, keys: Tensor, side: int, *, above_diagonal: bool = False
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and their products (r, c), in a buffer that the next tile overwrites.

    `above_diagonal` leaves out tiles that lie wholly below the diagonal.
    """
    buffer = queries.new_empty(side * side)
    for top in range(0, len(queries), side):
        rows = slice(top, min(top + side, len(queries)))
        for left in range(top if above_diagonal else 0, len(keys), side):
            columns = slice(left, min(left + side, len(keys)))
            shape = rows.stop - top, columns.stop - left
            tile = buffer[: shape[0] * shape[1]].view(shape)
            yield rows, columns, torch.mm(queries[rows], keys[columns].T, out=tile)


def _slack(queries: Tensor, keys: Tensor) -> float:
    """What rounding may add to a product of a query (Q, D) and a key (K, D) in single precision.

    Errors of D additions grow as the square root of D (Higham and Mary, A New Approach to Probabilistic Rounding Error
    Analysis, 2019); twice that lies beyond eight standard deviations of what they come to. For small D the constant
    makes it the bound that always holds.
    """
    longest = [float(side.norm(dim=1).nan_to_num(0, 0).max()) if len(side) else 0.0 for side in (queries, keys)]
    return (math.sqrt(queries.shape[1]) + 4) * _UNIT * longest[0] * longest[1]
