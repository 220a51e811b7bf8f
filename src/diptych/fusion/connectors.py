"""From what an image encoder sees to tokens of a language model: each connector says how many it makes of how many.

| system                    | connector                                           | tokens of one medium |
|---------------------------|-----------------------------------------------------|----------------------|
| LiMBeR, PRIOR             | `Projector(depth=1)`                                | as many              |
| LLaVA 1.5                 | `Projector(depth=2)`                                | as many              |
| PLLaVA                    | `Chain(Projector(depth=2), AdaptivePool)`           | cells of the pool    |
| BLIP-2, InstructBLIP      | `qformer.QFormerConnector`                          | queries              |

Whatever else there is (a resampler, cross-attention to a few queries, merging of tokens that are alike) is one more
class with a `connect` of its own; `Chain` puts it before or behind a projector.

Letters: B samples, P tokens that the encoder gave of one medium (a picture or a clip), Q tokens that are made of them,
C width of the encoder, D width of the language model, F frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.batch import Features


class Connector(nn.Module):
    """Makes `tokens` tokens of every `of`.

    Several media one after the other are connected each for itself, with the same instruction: a model that was
    trained on pictures sees a clip as its frames (InstructBLIP, section 2.5).

    Attributes:
        tokens: Q, how many it makes of one medium.
        of: P, of how many.
    """

    def __init__(self, tokens: int, of: int) -> None:
        super().__init__()
        self.tokens, self.of = tokens, of

    def forward(self, image: Features | Tensor, instruction: Features | None = None) -> Tensor:
        """(B, N P, C), and for connectors that read it an instruction (B, T, ...) -> (B, N Q, D), of N media.

        Raises:
            ValueError: the tokens are no multiple of `of`.
        """
        tokens, mask = (image.tokens, image.mask) if isinstance(image, Features) else (image, None)
        count, rest = divmod(tokens.shape[1], self.of)
        if rest or not count:
            raise ValueError(
                f"The connector makes {self.tokens} tokens of every {self.of} and got {tokens.shape[1]}: give it all "
                "tokens of each picture or clip."
            )
        if instruction is not None and count > 1:
            rows = torch.arange(len(tokens), device=tokens.device).repeat_interleave(count)
            instruction = instruction.take(rows)
        tokens = tokens.reshape(-1, self.of, tokens.shape[-1])  # (B N, P, C)
        mask = None if mask is None else mask.reshape(-1, self.of)
        made = self.connect(tokens, mask, instruction)  # (B N, Q, D)
        return made.reshape(-1, count * self.tokens, made.shape[-1])

    def connect(self, tokens: Tensor, mask: Tensor | None, instruction: Features | None) -> Tensor:
        """One medium a row: (B, P, C), which of its tokens count (B, P) or None for all -> (B, Q, D)."""
        raise NotImplementedError


class Projector(Connector):
    """A linear map (LiMBeR), or several with an exact GELU between them (LLaVA 1.5: two), of each token alone.

    Args:
        width: C.
        outputs: D, the width of all that follows the first map.
        of: P.
        depth: number of linear maps.
    """

    def __init__(self, width: int, outputs: int, of: int, depth: int = 1) -> None:
        super().__init__(of, of)
        if depth < 1:
            raise ValueError(f"A projector of depth {depth} has no map: give it one at least.")
        layers: list[nn.Module] = [nn.Linear(width, outputs)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(outputs, outputs)]
        self.layers = nn.Sequential(*layers)

    def connect(self, tokens: Tensor, mask: Tensor | None, instruction: Features | None) -> Tensor:
        """(B, P, C) -> (B, P, D)."""
        found: Tensor = self.layers(tokens)
        return found


class AdaptivePool(Connector):
    """Means over the cells of a grid with as many cells as wanted, in two or three dimensions (PLLaVA, section 3.2).

    Cell i of n along a side of length L covers floor(i L / n) to ceil((i + 1) L / n), so cells of sides that n does
    not divide overlap. With `to` equal to `shape` it changes nothing.

    Args:
        shape: (rows, columns) of the tokens, or (frames, rows, columns), in row-major order.
        to: cells along each of them.

    Raises:
        ValueError: the two do not fit.
    """

    def __init__(self, shape: Sequence[int], to: Sequence[int]) -> None:
        super().__init__(math.prod(to), math.prod(shape))
        _check("cells", shape, to)
        self.shape, self.cells = _three(shape), _three(to)  # `to` is a method of every module

    def connect(self, tokens: Tensor, mask: Tensor | None, instruction: Features | None) -> Tensor:
        """(B, P, C) -> (B, Q, C)."""
        return _row(F.adaptive_avg_pool3d(_grid(tokens, self.shape), self.cells))


class AveragePool(Connector):
    """Means over cells of a given size that do not overlap; what is left over at the far sides is dropped.

    Args:
        shape: as of `AdaptivePool`.
        cell: size of a cell along each side.

    Raises:
        ValueError: the two do not fit.
    """

    def __init__(self, shape: Sequence[int], cell: Sequence[int]) -> None:
        _check("a cell", shape, cell)
        super().__init__(math.prod(side // size for side, size in zip(shape, cell, strict=True)), math.prod(shape))
        self.shape, self.cell = _three(shape), _three(cell)

    def connect(self, tokens: Tensor, mask: Tensor | None, instruction: Features | None) -> Tensor:
        """(B, P, C) -> (B, Q, C)."""
        return _row(F.avg_pool3d(_grid(tokens, self.shape), self.cell))


class Chain(Connector):
    """Connectors one after the other; the instruction is handed to all of them, the mask to the first.

    Args:
        *parts: of which each takes as many tokens as the one before makes.

    Raises:
        ValueError: they do not fit each other.
    """

    def __init__(self, *parts: Connector) -> None:
        for before, after in pairwise(parts):
            if before.tokens != after.of:
                raise ValueError(
                    f"A connector that takes {after.of} tokens cannot follow one that makes {before.tokens}."
                )
        super().__init__(parts[-1].tokens, parts[0].of)
        self.parts = nn.ModuleList(parts)

    def connect(self, tokens: Tensor, mask: Tensor | None, instruction: Features | None) -> Tensor:
        """(B, P, C) -> (B, Q, D)."""
        for part in self.parts:
            assert isinstance(part, Connector)
            tokens, mask = part.connect(tokens, mask, instruction), None
        return tokens


def _check(what: str, shape: Sequence[int], sides: Sequence[int]) -> None:
    fits = len(shape) == len(sides) and all(1 <= part <= side for part, side in zip(sides, shape, strict=True))
    if len(shape) not in (2, 3) or not fits:
        raise ValueError(
            f"{what} of {tuple(sides)} does not fit tokens of {tuple(shape)}: give rows and columns, or frames, rows "
            "and columns, of both, each at least 1 and at most that of the tokens."
        )


def _three(sides: Sequence[int]) -> tuple[int, int, int]:
    """A grid of one frame where there is none."""
    frames, rows, columns = sides if len(sides) == 3 else (1, *sides)
    return frames, rows, columns


def _grid(tokens: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, P, C) -> (B, C, F, h, w)."""
    return tokens.transpose(1, 2).unflatten(-1, shape)


def _row(grid: Tensor) -> Tensor:
    """(B, C, f, h, w) -> (B, Q, C)."""
    return grid.flatten(2).transpose(1, 2)
