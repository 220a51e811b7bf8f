"""How much a caption has in common with those that people wrote: CIDEr-D, BLEU and ROUGE-L.

All take captions as text and compare `words`. The official COCO evaluation cuts text with the Penn Treebank tokenizer
of Stanford's CoreNLP, which needs Java; on captions without unusual signs `words` gives the same.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ORDERS = 4  # longest run of words that is compared, in all of these metrics
SIGMA = 6.0  # words; how fast CIDEr-D falls where lengths differ
BETA = 1.2  # of ROUGE-L: above 1, recall counts for more

Ngram = tuple[str, ...]

_APOSTROPHES = re.compile(r"[’`]")
_CLITICS = re.compile(r"(n't|'(?:s|re|ve|ll|d|m))\b")
_WORDS = re.compile(r"n't|'\w+|[^\W_]+(?:-[^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a caption, as metrics count them.

    Lower case; all signs of punctuation are left out, but a hyphen within a word stays; `don't` is `do n't` and `dog's`
    is `dog 's`, as in the Penn Treebank.
    """
    return _WORDS.findall(_CLITICS.sub(r" \1", _APOSTROPHES.sub("'", text.lower())))


def ngrams(tokens: Sequence[str]) -> list[Counter[Ngram]]:
    """How often each run of 1, 2, 3 and 4 words occurs."""
    starts = [range(len(tokens) - order + 1) for order in range(1, ORDERS + 1)]
    return [Counter(tuple(tokens[at : at + order]) for at in of) for order, of in enumerate(starts, start=1)]


class CiderD:
    """CIDEr-D (Vedantam et al., CIDEr: Consensus-based Image Description Evaluation, 2015, section 5).

    Runs of words count by how rare they are among the pictures of a set; the table of that is made once.

    Args:
        references: the captions of each of the N pictures of the set, N > 1: with one, nothing is rarer than all else.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self.pictures = len(references)
        self.frequencies: Counter[Ngram] = Counter()
        for captions in references:
            counted = [order for caption in captions for order in ngrams(words(caption))]
            self.frequencies.update({ngram for order in counted for ngram in order})

    def __call__(self, candidate: str, references: Sequence[str]) -> float:
        """How well a caption agrees with others of the same picture: 0 to 10."""
        own, length = self._weighted(candidate)
        total = 0.0
        for reference in references:
            other, other_length = self._weighted(reference)
            closeness = math.exp(-((length - other_length) ** 2) / (2 * SIGMA**2))
            total += closeness * sum(_clipped_cosine(*pair) for pair in zip(own, other, strict=True)) / ORDERS
        return 10 * total / len(references)

    def _weighted(self, caption: str) -> tuple[list[dict[Ngram, float]], int]:
        """Counts times rarity, log(N / pictures whose captions have it), for each order; and the number of words."""
        tokens = words(caption)
        rarest = math.log(self.pictures)
        return [
            {ngram: count * (rarest - math.log(max(1, self.frequencies[ngram]))) for ngram, count in order.items()}
            for order in ngrams(tokens)
        ], len(tokens)


def bleu_counts(candidate: str, references: Sequence[str]) -> NDArray[np.float64]:
    """What BLEU sums over a set (10,): runs of each order that references have too, all runs, and both lengths.

    A run counts as often as it occurs in the reference that has it most often. The second length is that of the
    reference whose length is the closest, the shorter of two equally close ones.
    """
    own, others = words(candidate), [words(reference) for reference in references]
    counts, limits = ngrams(own), [ngrams(other) for other in others]
    right = [
        sum(min(count, max(limit[order][ngram] for limit in limits)) for ngram, count in counts[order].items())
        for order in range(ORDERS)
    ]
    closest = min((len(other) for other in others), key=lambda length: (abs(length - len(own)), length))
    return np.array([*right, *(sum(order.values()) for order in counts), len(own), closest], dtype=np.float64)


def bleu(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU-1 to BLEU-4 (Papineni et al., 2002) of a set: sums of `bleu_counts` (..., 10) -> (..., 4), in [0, 1]."""
    right, all_runs = totals[..., :ORDERS], totals[..., ORDERS : 2 * ORDERS]
    length, closest = totals[..., -2:-1], totals[..., -1:]
    with np.errstate(divide="ignore"):  # no run in common: log 0, which makes 0 of the mean
        precisions = np.log(right / np.maximum(all_runs, 1))
        brevity = np.minimum(0, 1 - closest / np.maximum(length, 1e-9))
    return np.asarray(np.exp(np.cumsum(precisions, axis=-1) / np.arange(1, ORDERS + 1) + brevity))


def rouge_l(candidate: str, references: Sequence[str]) -> float:
    """ROUGE-L (Lin, 2004): F of the longest common subsequence, with the best precision and the best recall."""
    own, others = words(candidate), [words(reference) for reference in references]
    common = [_common(own, other) for other in others]
    precision = max(common) / max(1, len(own))
    recall = max(shared / max(1, len(other)) for shared, other in zip(common, others, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision and recall else 0.0


def _clipped_cosine(own: dict[Ngram, float], other: dict[Ngram, float]) -> float:
    """Cosine of two weighted counts, in which a run counts at most as often as the other has it."""
    product = sum(min(weight, other[ngram]) * other[ngram] for ngram, weight in own.items() if ngram in other)
    lengths = math.hypot(*own.values()) * math.hypot(*other.values())
    return product / lengths if lengths else 0.0


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest sequence of words that both have in this order, with others between."""
    row = [0] * (len(second) + 1)
    for word in first:
        last = row
        row = [0]
        for place, other in enumerate(second):
            row.append(last[place] + 1 if word == other else max(last[place + 1], row[place]))
    return row[-1]
