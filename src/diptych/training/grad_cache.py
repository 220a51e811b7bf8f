"""The loss of a whole batch in the memory of a part: GradCache (Gao et al. 2021, arXiv 2101.06983).

A contrastive loss meets its samples only in their features, which are small; what takes memory is how they came about.
So features are computed part by part, keeping nothing else; the loss is that of the whole batch; and the backward pass
computes each part once more, now keeping what its gradients need until they are there. Random numbers (dropout) are
drawn as they were the first time. It costs a forward pass, about a third more time.

The paper does this with two passes and a cache of gradients; a checkpoint a part is the same as one graph, so that
mixed precision, the gather of several processes and DDP's single reduction need nothing of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diptych.batch import Batch, Embed
from diptych.compiling import never_compiled
from diptych.recipe import Recipe
from diptych.training import distributed

T = TypeVar("T")


class InParts(Embed):
    """Computes features in `count` parts, twice each; `used` tells whether a loss asked for any."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.used = False

    @never_compiled  # a graph of all parts would be as large as their number
    def __call__(self, features: Callable[[Batch], T], batch: Batch) -> T:
        """The features of all rows: what `features` says of each part, one after the other."""
        self.used = True
        parts = distributed.split(batch, self.count)
        return joined([checkpoint(features, part, use_reentrant=False) for part in parts])


def embedding(recipe: Recipe) -> Embed:
    """How the features of a batch are computed under a recipe."""
    return InParts(recipe.accumulate) if recipe.grad_cache else Embed()


def check(embed: Embed, who: str) -> None:
    """To be called after a loss.

    Raises:
        ValueError: features were to be computed in parts, and the loss asked for none.
    """
    if isinstance(embed, InParts) and not embed.used:
        raise ValueError(
            f"{who} does not compute its features through `step.embed`, so no loss of the whole batch can be had in "
            f"parts: leave out --grad-cache (each part of --accumulate then has a loss of its own)."
        )


def joined(parts: Sequence[Any]) -> Any:
    """Tensors, or tuples of them, of several parts of a batch as those of the whole batch.

    Texts of a part may be shorter than those of another: zeros (False in a mask) fill them up.
    """
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        longest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
        return torch.cat([_padded(part, longest) for part in parts])
    values = [joined(same) for same in zip(*parts, strict=True)]
    return type(first)(*values) if hasattr(first, "_fields") else type(first)(values)


def _padded(x: Tensor, longest: Sequence[int]) -> Tensor:
    lacking = [(0, most - size) for most, size in zip(longest, x.shape[1:], strict=True)]
    flat = [number for pair in reversed(lacking) for number in pair]  # the last dimension comes first
    return F.pad(x, flat) if any(flat) else x
