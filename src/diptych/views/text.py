"""Views of text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def choose(texts: Sequence[str], rng: np.random.Generator | None) -> str:
    """One of several captions of the same thing: a random one in training, the first in evaluation."""
    return texts[0] if rng is None else texts[int(rng.integers(len(texts)))]
