"""Weights by other names: a table of regular expressions, the first that matches counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor


def renamed(state: Mapping[str, Tensor], table: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    r"""The tensors of a checkpoint under our names; what no line of the table matches is left out.

    Args:
        state: name -> tensor.
        table: (pattern of a whole name, our name with its groups as `\1`), in the order in which they are tried.
    """
    found = {}
    for name, value in state.items():
        ours = next((re.sub(old, new, name) for old, new in table if re.fullmatch(old, name)), None)
        if ours is not None:
            found[ours] = value
    return found
