"""`tiled.max_mean` as Triton kernels: the cosines of two samples' tokens live in registers and nowhere else.

A program takes one sample of each side, so that one product of their tokens serves both maxima. The backward pass
rebuilds from the winners, pair by pair of samples, the gradients of all cosines (one for each token that won) and
multiplies them with the tokens of the other side: dense products, which such devices do fastest, and no additions that
race, so that results repeat.

What the tests run is Triton's interpreter on a CPU (`make test-triton`): on a GPU the kernels were never run, and how
fast they are is not known.

Letters: the longer side has samples i of tokens m (nl of them), the shorter one samples j of tokens s (ns); d counts
the width. Blocks are powers of two; what lies beyond the edge of a tensor is masked.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

LONGEST = 128  # tokens of the shorter side, which stand in one block
_BLOCK = 64  # tokens of the longer side, and numbers of the width, at a time


def fits(query: Tensor, key: Tensor) -> bool:
    """Whether the kernels can compute these: not in float64, not of nothing, and one side short enough for a block."""
    wide = query.dtype == torch.float64 or key.dtype == torch.float64
    return not wide and bool(query.numel() and key.numel()) and min(query.shape[1], key.shape[1]) <= LONGEST


def max_mean(query: Tensor, query_weight: Tensor, key: Tensor, key_weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `tiled.max_mean`; the second result is empty where there is no `key_weight`. Sums are in float32."""
    forth, back = _MaxMean.apply(query, query_weight, key, key_weight)
    return forth, back


class _MaxMean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, query_weight: Tensor, key: Tensor, key_weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.swapped, both = key.shape[1] > query.shape[1], key_weight is not None
        sides = [(query.contiguous(), query_weight.contiguous()), (key.contiguous(), query_weight)]
        if key_weight is not None:
            sides[1] = key.contiguous(), key_weight.contiguous()
        (long, long_weight), (short, short_weight) = reversed(sides) if ctx.swapped else sides
        wanted = (both, True) if ctx.swapped else (True, both)  # for the tokens of the long side, of the short side
        keep = ctx.needs_input_grad[0] or ctx.needs_input_grad[2]
        pairs = len(long), len(short)
        sums = [long.new_empty(pairs if want else (0, 0), dtype=torch.float32) for want in wanted]
        index = torch.int16 if max(long.shape[1], short.shape[1]) < 2**15 else torch.int32
        winners = [
            torch.empty((*pairs, side.shape[1]) if want and keep else 0, dtype=index, device=long.device)
            for side, want in zip((long, short), wanted, strict=True)
        ]
        ctx.blocks = _blocks(long, short)
        sizes = len(long), len(short), long.shape[1], short.shape[1], long.shape[2]
        with torch.cuda.device_of(long):
            _forward[(pairs[0] * pairs[1],)](
                (long, short), (long_weight, short_weight), tuple(sums), tuple(winners), sizes, wanted, keep, ctx.blocks
            )
        ctx.save_for_backward(long, short, long_weight, short_weight, *winners)
        ctx.sizes, ctx.wanted = sizes, wanted
        forth, back = (part.T for part in reversed(sums)) if ctx.swapped else sums
        return forth, back

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, forth_grad: Tensor, back_grad: Tensor) -> tuple[Tensor | None, ...]:
        long, short, *weights_and_winners = ctx.saved_tensors
        weights, winners = tuple(weights_and_winners[:2]), tuple(weights_and_winners[2:])
        sides = (back_grad.T, forth_grad.T) if ctx.swapped else (forth_grad, back_grad)
        grads = tuple(grad.contiguous() for grad in sides)
        long_grad, short_grad = torch.empty_like(long), torch.empty_like(short)
        across = triton.cdiv(long.shape[2], ctx.blocks[2])
        more = winners, weights, grads, ctx.sizes, ctx.wanted, ctx.blocks
        with torch.cuda.device_of(long):
            _long_grad[(len(long) * triton.cdiv(long.shape[1], ctx.blocks[0]), across)](long_grad, short, *more)
            _short_grad[(len(short), across)](short_grad, long, *more)
        query_grad, key_grad = (short_grad, long_grad) if ctx.swapped else (long_grad, short_grad)
        return query_grad, None, key_grad, None


def _blocks(long: Tensor, short: Tensor) -> tuple[int, int, int]:
    """Tokens of the longer side, tokens of the shorter side and numbers of the width in a block."""
    long_tokens, short_tokens, width = (
        max(16, triton.next_power_of_2(size)) for size in (long.shape[1], short.shape[1], long.shape[2])
    )
    return min(_BLOCK, long_tokens), short_tokens, min(_BLOCK, width)


@triton.jit
def _block(matrix, row, rows, column, columns):
    """Some rows and columns of a (rows, columns) matrix, in float32; zeros beyond its edges."""
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(matrix + row[:, None] * columns + column[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _forward(tokens, weights, sums, winners, sizes, wanted: tl.constexpr, keep: tl.constexpr, blocks: tl.constexpr):
    """Both weighted sums of maxima for a pair of samples, and who won."""
    _, shorts, nl, ns, depth = sizes
    pair = tl.program_id(0).to(tl.int64)
    i, j = pair // shorts, pair % shorts
    s = tl.arange(0, blocks[1])
    total = 0.0
    best = tl.full((blocks[1],), float("-inf"), tl.float32)
    winner = tl.zeros((blocks[1],), tl.int32)
    for start in range(0, nl, blocks[0]):
        m = start + tl.arange(0, blocks[0])
        cosine = tl.zeros((blocks[0], blocks[1]), tl.float32)
        for first in range(0, depth, blocks[2]):
            d = first + tl.arange(0, blocks[2])
            x = _block(tokens[0] + i * nl * depth, m, nl, d, depth)
            y = _block(tokens[1] + j * ns * depth, s, ns, d, depth)
            cosine = tl.dot(x, tl.trans(y), cosine, input_precision="ieee")
        if wanted[0]:
            value, index = tl.max(tl.where((s < ns)[None, :], cosine, float("-inf")), 1, return_indices=True)
            weight = tl.load(weights[0] + i * nl + m, mask=m < nl, other=0.0)
            total += tl.sum(tl.where(m < nl, value * weight, 0.0))
            if keep:
                tl.store(winners[0] + pair * nl + m, index.to(winners[0].dtype.element_ty), mask=m < nl)
        if wanted[1]:
            value, index = tl.max(tl.where((m < nl)[:, None], cosine, float("-inf")), 0, return_indices=True)
            winner = tl.where(value > best, index + start, winner)
            best = tl.maximum(value, best)
    if wanted[0]:
        tl.store(sums[0] + pair, total)
    if wanted[1]:
        weight = tl.load(weights[1] + j * ns + s, mask=s < ns, other=0.0)
        tl.store(sums[1] + pair, tl.sum(tl.where(s < ns, best * weight, 0.0)))
        if keep:
            tl.store(winners[1] + pair * ns + s, winner.to(winners[1].dtype.element_ty), mask=s < ns)


@triton.jit
def _slopes(samples, m, s, winners, weights, grads, sizes, wanted: tl.constexpr):
    """The gradients of the cosines of tokens m with tokens s of `samples`, a long one and a short one."""
    i, j = samples
    _, shorts, nl, ns, _ = sizes
    pair = i * shorts + j
    slopes = tl.zeros((m.shape[0], s.shape[0]), tl.float32)
    if wanted[0]:
        won = tl.load(winners[0] + pair * nl + m, mask=m < nl, other=-1)
        slope = tl.load(grads[0] + pair) * tl.load(weights[0] + i * nl + m, mask=m < nl, other=0.0)
        slopes += tl.where(won[:, None] == s[None, :], slope[:, None], 0.0)
    if wanted[1]:
        won = tl.load(winners[1] + pair * ns + s, mask=s < ns, other=-1)
        slope = tl.load(grads[1] + pair) * tl.load(weights[1] + j * ns + s, mask=s < ns, other=0.0)
        slopes += tl.where(won[None, :] == m[:, None], slope[None, :], 0.0)
    return slopes


@triton.jit
def _long_grad(into, short, winners, weights, grads, sizes, wanted: tl.constexpr, blocks: tl.constexpr):
    """The gradient of a block of tokens of a long sample: from all short samples."""
    _, shorts, nl, ns, depth = sizes
    cuts = tl.cdiv(nl, blocks[0])
    i = (tl.program_id(0) // cuts).to(tl.int64)
    m = tl.program_id(0) % cuts * blocks[0] + tl.arange(0, blocks[0])
    s = tl.arange(0, blocks[1])
    d = tl.program_id(1) * blocks[2] + tl.arange(0, blocks[2])
    total = tl.zeros((blocks[0], blocks[2]), tl.float32)
    for j in range(0, shorts):
        slopes = _slopes((i, j), m, s, winners, weights, grads, sizes, wanted)
        tokens = _block(short, s, ns, d, depth)
        total = tl.dot(slopes, tokens, total, input_precision="ieee")
        short += ns * depth  # a pointer that walks cannot overflow as an index in 32 bits can
    inside = (m < nl)[:, None] & (d < depth)[None, :]
    tl.store(into + i * nl * depth + m[:, None] * depth + d[None, :], total.to(into.dtype.element_ty), mask=inside)


@triton.jit
def _short_grad(into, long, winners, weights, grads, sizes, wanted: tl.constexpr, blocks: tl.constexpr):
    """The gradient of a short sample's tokens: from all long samples."""
    longs, _, nl, ns, depth = sizes
    j = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, blocks[1])
    d = tl.program_id(1) * blocks[2] + tl.arange(0, blocks[2])
    total = tl.zeros((blocks[1], blocks[2]), tl.float32)
    for i in range(0, longs):
        for start in range(0, nl, blocks[0]):
            m = start + tl.arange(0, blocks[0])
            slopes = _slopes((i, j), m, s, winners, weights, grads, sizes, wanted)
            tokens = _block(long, m, nl, d, depth)
            total = tl.dot(tl.trans(slopes), tokens, total, input_precision="ieee")
        long += nl * depth
    inside = (s < ns)[:, None] & (d < depth)[None, :]
    tl.store(into + j * ns * depth + s[:, None] * depth + d[None, :], total.to(into.dtype.element_ty), mask=inside)
