"""Search by inner product among many vectors: ranks, nearest neighbours, near pairs; never the whole (Q, K) matrix.

Products are computed tile by tile into a buffer that stays in the processor's cache, where comparing and counting
cost little beside them; each thread of a CPU has its own. A product in single precision carries a rounding error that
depends on where in a matrix it was computed. `ranks` and `pairs_above` compute it again in double precision wherever
that error could decide, and so find what the whole matrix in double precision would show, whatever the tiles, the
threads or the device.

Letters: Q queries, K keys, D width. Vectors of another floating type are taken as float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIDE = 1024
"""Rows and columns of a tile: 4 MB in float32."""
_UNIT = 2.0**-24  # relative rounding error of an operation in float32
_PAIRS = 1024  # pairs of vectors that are multiplied at a time

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

    def count(rows: slice) -> None:
        scratch = queries.new_empty((rows.stop - rows.start) * side)
        for columns, tile in _tiles(queries, rows, keys, side):
            mask = scratch[: tile.numel()].view_as(tile)
            q, k = queries[rows], keys[columns]
            of_queries.add(rows, tile, mask, q, k)
            of_keys.add(columns, tile.T, mask.T, k, q)

    _for_strips(count, queries, side)
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
        self.lock = Lock()

    def add(self, rows: slice, scores: Tensor, mask: Tensor, queries: Tensor, keys: Tensor) -> None:
        """Takes the scores (r, c) of queries (r, D) and keys (c, D); `mask` (r, c) is overwritten."""
        limit, low, high = self.limit[rows], self.low[rows], self.high[rows]
        surely_behind = _less(scores, low, mask).sum(1)
        behind = _less(scores, high, mask).sum(1)
        ahead = scores.shape[1] - behind.long()
        some = (behind != surely_behind).nonzero().squeeze(1)
        if len(some):
            near_by = scores.index_select(0, some)
            doubtful = _less(near_by, high[some]) - _less(near_by, low[some])
            near = doubtful.sum(0).nonzero().squeeze(1)
            exact = queries[some].double() @ keys[near].double().T
            ahead[some] += (doubtful[:, near] * ~(exact < limit[some, None])).sum(1).long()
        with self.lock:
            self.ahead[rows] += ahead

    def ranks(self) -> Ints:
        """(size,), 1 is best; 0 for a query without a right answer."""
        return torch.where(self.asked, self.ahead + 1, 0).cpu().numpy()


def _less(scores: Tensor, limit: Tensor, out: Tensor | None = None) -> Tensor:
    """1.0 where scores (r, c) are less than limits (r, 1), 0.0 elsewhere: several times faster than as bool."""
    out = torch.empty_like(scores) if out is None else out
    return torch.lt(scores, limit, out=out)  # type: ignore[call-overload,no-any-return]


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

    def search(rows: slice) -> None:
        kept, where = best[rows], index[rows]
        for columns, tile in _tiles(queries, rows, keys, side):
            # a later key that is no better than the worst of those kept changes nothing
            some = (~(tile.amax(1) <= kept[:, -1])).nonzero().squeeze(1)
            if len(some):
                kept[some], place = _first(torch.cat([kept[some], tile[some]], 1), k)
                before = where[some].gather(1, place.clamp(max=k - 1))
                where[some] = torch.where(place < k, before, place - k + columns.start)

    _for_strips(search, queries, side)
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
    for rows in _strips(len(queries), side):
        for columns, tile in _tiles(queries, rows, others, side, start=rows.start if keys is None else 0):
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


def _strips(count: int, most: int) -> list[slice]:
    """Rows of a tile, one tile after another."""
    return [slice(top, min(top + most, count)) for top in range(0, count, most)]


def _for_strips(work: Callable[[slice], None], queries: Tensor, side: int) -> None:
    """Calls `work` for each strip of rows, on the CPU for as many at a time as there are threads.

    A thread that has a strip to itself need not wait for the others after each small operation.
    """
    threads = torch.get_num_threads() if queries.device.type == "cpu" else 1
    strips = _strips(len(queries), min(side, math.ceil(len(queries) / threads)) or 1)
    work = torch.inference_mode()(work)  # modes belong to a thread
    if threads == 1:
        for rows in strips:
            work(rows)
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, strips))  # raises what a strip raised
    finally:
        torch.set_num_threads(threads)


def _tiles(queries: Tensor, rows: slice, keys: Tensor, side: int, *, start: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """Columns from `start` on and their products (r, c) with a strip of rows, in a buffer that the next overwrites."""
    strip = queries[rows]
    buffer = queries.new_empty(len(strip) * side)
    for left in range(start, len(keys), side):
        columns = slice(left, min(left + side, len(keys)))
        shape = len(strip), columns.stop - left
        tile = buffer[: shape[0] * shape[1]].view(shape)
        yield columns, torch.mm(strip, keys[columns].T, out=tile)


def _slack(queries: Tensor, keys: Tensor) -> float:
    """What rounding may add to a product of a query (Q, D) and a key (K, D) in single precision.

    Errors of D additions grow as the square root of D (Higham and Mary, A New Approach to Probabilistic Rounding Error
    Analysis, 2019); twice that lies beyond eight standard deviations of what they come to. For small D the constant
    makes it the bound that always holds.
    """
    longest = [float(side.norm(dim=1).nan_to_num(0, 0).max()) if len(side) else 0.0 for side in (queries, keys)]
    return (math.sqrt(queries.shape[1]) + 4) * _UNIT * longest[0] * longest[1]
