"""Sums over all pairs, computed tile by tile: the (B, C) or (I, T, n1, n2) table of similarities is never held.

Each function here is the memory-saving twin of a line or two of plain PyTorch in `contrastive` and
`late_interaction`; the tests hold the twins equal in value and gradient. The backward passes cannot be
differentiated again.

Letters: B queries, C keys, D width; I images of n1 tokens, T texts of n2 tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from diptych.batch import Gather
from diptych.compiling import never_compiled

ALONE = Gather()


@never_compiled  # the loop over tiles would be unrolled into one huge graph
def log_sum_exp(query: Tensor, key: Tensor, scale: Tensor, tile: int, gather: Gather = ALONE) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of the rows and, in the same sweep, of the columns of `scale * query @ key.T`.

    With several processes queries and keys are those of all, of which each computes the rows of its own queries: the
    others' keys come by one tile at a time, and their gradients leave so. All must compute gradients, or none.

    Args:
        query: (B, D), of this process.
        key: (B', D), of this process.
        scale: scalar tensor.
        tile: rows and columns of a tile.
        gather: of the processes; each has equally many rows.

    Returns:
        (B,) over all keys for each query of this process, and (B',) over all queries for each key of this process.
    """
    rows, cols, _ = cast(tuple[Tensor, Tensor, Tensor], _LogSumExp.apply(query, key, scale, tile, gather))
    return rows, cols


@never_compiled
def log_sum_exp_and_matched(
    query: Tensor, key: Tensor, scale: Tensor, weights: tuple[Tensor, Tensor], tile: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`log_sum_exp` of one process and, in the same sweep, the sum of `(forth + back.T) * scale * (query @ key.T)`.

    Args:
        query: (B, D).
        key: (B, D).
        scale: scalar tensor.
        weights: forth (B, B), a row a query, and back (B, B), a row a key; they get no gradient.
        tile: rows and columns of a tile.

    Returns:
        (B,) for each query, (B,) for each key, and the sum, a scalar.
    """
    return cast(tuple[Tensor, Tensor, Tensor], _LogSumExp.apply(query, key, scale, tile, ALONE, *weights))


@never_compiled
def softplus_sum(query: Tensor, key: Tensor, scale: Tensor, bias: Tensor, tile: int, gather: Gather = ALONE) -> Tensor:
    """The sum of `softplus(scale * query @ key.T + bias)` over the queries of this process and all keys, a scalar.

    Args:
        query: (B, D), of this process.
        key: (B', D), of this process.
        scale: scalar tensor.
        bias: scalar tensor.
        tile: rows and columns of a tile.
        gather: of the processes, as in `log_sum_exp`.
    """
    return cast(Tensor, _SoftplusSum.apply(query, key, scale, bias, tile, gather))


@never_compiled
def max_mean(
    query: Tensor, query_weight: Tensor, key: Tensor, key_weight: Tensor | None, tile: int
) -> tuple[Tensor, Tensor | None]:
    """For each pair the weighted sum, over one side's tokens, of the best cosine with the other side's tokens.

    The forward keeps the index of each winning token (2 bytes) and nothing else, and the backward touches winners
    only, one row of D numbers each. Computing the table again instead would spare those bytes for three more
    products over all pairs, which timed pieces put at half as much again.

    Args:
        query: (Q, nq, D) tokens; pads must not be better than real tokens (`late_interaction` sees to it).
        query_weight: (Q, nq), usually 1 / number of real tokens, 0 for pads; gets no gradient.
        key: (K, nk, D).
        key_weight: (K, nk), or None to skip the second result.
        tile: samples of a side in a tile.

    Returns:
        (Q, K) `sum_q weight * max over key tokens`, and (Q, K) `sum_k weight * max over query tokens`, or None.

    Where Triton is installed and the tensors are on CUDA (or `TRITON_INTERPRET=1` is set), kernels compute the same
    without tiles (`late_interaction_triton`), unless they do not fit.
    """
    if _triton_runs(query.device.type):
        from diptych.objectives import late_interaction_triton as kernels

        if kernels.fits(query, key):
            forth, back = kernels.max_mean(query, query_weight, key, key_weight)
            return forth, None if key_weight is None else back
    forth, back = _MaxMean.apply(query, query_weight, key, key_weight, tile)
    return forth, None if key_weight is None else back


@cache
def _triton_runs(device: str) -> bool:
    return (device == "cuda" or os.environ.get("TRITON_INTERPRET") == "1") and find_spec("triton") is not None


def _slices(length: int, tile: int) -> Iterator[slice]:
    return (slice(start, min(start + tile, length)) for start in range(0, length, tile))


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, scale: Tensor, tile: int, gather: Gather, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = query.new_full((len(query),), -torch.inf)
        cols = query.new_full((gather.world, len(key)), -torch.inf)  # over the queries of this process
        matched = torch.zeros_like(rows)
        for owner, j, keys in _keys(key, tile, gather):
            scaled = keys * scale
            for i in _slices(len(query), tile):
                logits = query[i] @ scaled.T
                rows[i] = torch.logaddexp(rows[i], logits.logsumexp(1))
                cols[owner, j] = torch.logaddexp(cols[owner, j], logits.logsumexp(0))
                if weights:
                    matched[i] += logits.mul_(_both(weights, i, j, logits)).sum(1)
        if gather.world > 1:
            cols = torch.stack([gather.shown(cols, rank) for rank in range(gather.world)]).logsumexp(0)
        ctx.save_for_backward(query, key, scale, rows, cols, *weights)
        ctx.tile, ctx.gather = tile, gather
        return rows, cols[gather.rank].clone(), matched.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, row_grad: Tensor, col_grad: Tensor, matched_grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, scale, rows, cols, *weights = ctx.saved_tensors
        col_grads = [ctx.gather.shown(col_grad, rank) for rank in range(ctx.gather.world)]

        def slope(logits: Tensor, i: slice, owner: int, j: slice) -> Tensor:
            slopes = (logits - rows[i, None]).exp_().mul_(row_grad[i, None])
            slopes += logits.sub_(cols[owner, j]).exp_().mul_(col_grads[owner][j])
            return slopes.add_(_both(weights, i, j, slopes).mul_(matched_grad)) if weights else slopes

        return (*_pull_back(ctx, query, key, scale, slope), None, None, *(None for _ in weights))


def _both(weights: Sequence[Tensor], i: slice, j: slice, like: Tensor) -> Tensor:
    """The tile of `forth + back.T`, weights of queries i and keys j, in the type of `like`, a tile of that shape."""
    forth, back = weights
    rows = back[j, i].contiguous()  # whose transpose is copied by blocks; others number by number, far apart
    return torch.empty_like(like).copy_(rows.T).add_(forth[i, j])


class _SoftplusSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, scale: Tensor, bias: Tensor, tile: int, gather: Gather) -> Tensor:
        total = query.new_zeros(())
        for _, _, keys in _keys(key, tile, gather):
            scaled = keys * scale
            for i in _slices(len(query), tile):
                total += F.softplus((query[i] @ scaled.T).add_(bias)).sum()
        ctx.save_for_backward(query, key, scale, bias)
        ctx.tile, ctx.gather = tile, gather
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, scale, bias = ctx.saved_tensors
        bias_grad = torch.zeros_like(bias)

        def slope(logits: Tensor, i: slice, owner: int, j: slice) -> Tensor:
            slopes = logits.add_(bias).sigmoid_().mul_(grad)
            bias_grad.add_(slopes.sum())
            return slopes

        return (*_pull_back(ctx, query, key, scale, slope), bias_grad, None, None)


def _keys(key: Tensor, tile: int, gather: Gather) -> Iterator[tuple[int, slice, Tensor]]:
    """The keys of all processes, a tile at a time: whose they are, which of theirs, and the rows."""
    for owner in range(gather.world):
        for j in _slices(len(key), tile):
            yield owner, j, gather.shown(key[j], owner)


def _pull_back(ctx: Any, query: Tensor, key: Tensor, scale: Tensor, slope: Any) -> tuple[Tensor | None, ...]:
    """Gradients of query, key and scale; `slope(logits, i, owner, j)` turns a tile of logits into its gradient."""
    query_grad, key_grad = torch.zeros_like(query), torch.zeros_like(key) if ctx.needs_input_grad[1] else None
    for owner, j, keys in _keys(key, ctx.tile, ctx.gather):
        scaled = keys * scale
        into = torch.zeros_like(keys) if key_grad is not None else None
        for i in _slices(len(query), ctx.tile):
            slopes = slope(query[i] @ scaled.T, i, owner, j)
            query_grad[i].addmm_(slopes, keys)
            if into is not None:
                into.addmm_(slopes.T, query[i])
        if key_grad is not None:
            summed = ctx.gather.handed(into, owner)
            if owner == ctx.gather.rank:
                key_grad[j] = summed * scale
    scale_grad = (query * query_grad).sum()  # the scale multiplies query . key, of which query_grad is the other half
    return query_grad.mul_(scale), key_grad, scale_grad


class _MaxMean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, query_weight: Tensor, key: Tensor, key_weight: Tensor | None, tile: int
    ) -> tuple[Tensor, Tensor]:
        (count, width, depth), (others, other_width, _) = query.shape, key.shape
        keep = ctx.needs_input_grad[0] or ctx.needs_input_grad[2]
        forth, back = query.new_empty(count, others), query.new_empty(count, others if key_weight is not None else 0)
        forth_winner = _indices(query, (count, width, others), other_width) if keep else None
        back_winner = _indices(query, (others, other_width, count), width) if keep and key_weight is not None else None
        for i in _slices(count, tile):
            for j in _slices(others, tile):
                table = query[i].reshape(-1, depth) @ key[j].reshape(-1, depth).T
                table = table.view(i.stop - i.start, width, j.stop - j.start, other_width)
                best = _best(table, 3, None if forth_winner is None else forth_winner[i, :, j])  # (i, nq, j)
                forth[i, j] = torch.einsum("iqj,iq->ij", best, query_weight[i])
                if key_weight is not None:
                    winner = None if back_winner is None else back_winner[j, :, i].permute(2, 0, 1)
                    best = _best(table, 1, winner)  # (i, j, nk)
                    back[i, j] = torch.einsum("ijk,jk->ij", best, key_weight[j])
        ctx.save_for_backward(query, query_weight, key, key_weight, forth_winner, back_winner)
        ctx.tile = tile
        return forth, back

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, forth_grad: Tensor, back_grad: Tensor) -> tuple[Tensor | None, ...]:
        query, query_weight, key, key_weight, forth_winner, back_winner = ctx.saved_tensors
        query_grad, key_grad = torch.zeros_like(query), torch.zeros_like(key)
        _spread(query, key, query_weight, forth_grad, forth_winner, (query_grad, key_grad), ctx.tile)
        if back_winner is not None:
            _spread(key, query, key_weight, back_grad.T, back_winner, (key_grad, query_grad), ctx.tile)
        return query_grad, None, key_grad, None, None


def _indices(like: Tensor, shape: tuple[int, ...], below: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int16 if below < 2**15 else torch.int32, device=like.device)


def _best(table: Tensor, dim: int, winner: Tensor | None) -> Tensor:
    """The maxima along `dim`; which entries they are is written into `winner`, if there is one."""
    if winner is None:
        return table.amax(dim)  # several times faster than `max`, which also finds the index
    best, index = table.max(dim)
    winner.copy_(index)
    return best


def _spread(
    query: Tensor,
    key: Tensor,
    weight: Tensor,
    grad: Tensor,
    winner: Tensor,
    into: tuple[Tensor, Tensor],
    tile: int,
) -> None:
    """Adds the gradients of `sum_q weight[q] * (query[q] . key[winner])` to `into`, a few query samples at a time.

    With the sparse matrix W (query tokens x key tokens, entry weight * grad at each winner), the gradients are
    W @ key and W.T @ query: two `embedding_bag` sums, the second over entries sorted by winner.
    """
    (_, width, depth), (others, other_width, _) = query.shape, key.shape
    keys, query_into, key_into = key.reshape(-1, depth), into[0].view(-1, depth), into[1].view(-1, depth)
    first = torch.arange(others, device=key.device) * other_width  # flat index of each key sample's first token
    every = torch.arange(len(keys), device=key.device)
    for i in _slices(len(query), tile):
        rows = slice(i.start * width, i.stop * width)
        queries = query[i].reshape(-1, depth)
        column = (winner[i].long() + first).flatten()  # (i * nq * K,): where each entry of W stands in its row
        entry = (weight[i, :, None] * grad[i, None, :]).flatten()
        bags = torch.arange(len(queries), device=key.device) * others
        query_into[rows] += F.embedding_bag(column, keys, bags, mode="sum", per_sample_weights=entry)
        column, order = column.sort()
        bags = torch.searchsorted(column, every)
        key_into += F.embedding_bag(order // others, queries, bags, mode="sum", per_sample_weights=entry[order])
