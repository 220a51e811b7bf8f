"""Words of a caption that only the picture fixes: how well are they predicted, all words before them being given?

The words are those that name an attribute of an object (by spans and attributes), as in `masked_words`; PRIOR (2025)
is about learning them first. What is left of the caption is told beside them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate
from diptych.evaluation.generation import Ask, Tokens, how, own_prompt, token_likelihoods
from diptych.evaluation.masked_words import Blank, blanks
from diptych.evaluation.measures import Measure, Result

REST = "rest"
"""the kind of what names no attribute"""


class Word(NamedTuple):
    """A word of a caption, or a token of the rest: `hit`, every token of it was the likeliest; `nats`, -log p of it."""

    row: int
    kind: str
    text: str
    hit: bool
    nats: float


def attribute_tokens(bench: Bench) -> Result:
    """Teacher-forced figures of the words of captions.

    accuracy: the share of words of attributes of which every token was held the likeliest; accuracy_colour and so on
    are those of one attribute; accuracy_rest is of all other tokens, which the language alone may tell. nats and
    nats_rest are the means of minus the log probability of such a word, and of such a token. Chance is the most
    frequent word of each attribute, or token of the rest.

    Raises:
        CannotEvaluate: no caption has spans with words of attributes.
    """
    by_caption: dict[tuple[int, str], list[Blank]] = defaultdict(list)
    for blank in blanks(bench):
        by_caption[blank.row, blank.text].append(blank)
    if not by_caption:
        raise CannotEvaluate(
            f"attribute_tokens needs captions whose spans contain words of attributes; {bench.data.name} has none."
        )
    prompt = own_prompt(bench.method.prompts, "caption")
    tokens = token_likelihoods(bench, [Ask((row,), prompt, text) for row, text in by_caption])
    words = [word for of, named in zip(tokens, by_caption.values(), strict=True) for word in _words(of, named)]
    named = [word for word in words if word.kind != REST]
    rest = [word for word in words if word.kind == REST]
    measures = [_accuracy("accuracy", named)]
    for kind in sorted({word.kind for word in named}):
        measures.append(_accuracy(f"accuracy_{kind}", [word for word in named if word.kind == kind]))
    measures += [_accuracy(f"accuracy_{REST}", rest), _nats("nats", named), _nats(f"nats_{REST}", rest)]
    kinds, hits = np.array([word.kind for word in words]), np.array([word.hit for word in words], np.float64)
    nats = np.array([word.nats for word in words])
    table = {
        "key": [bench.samples[word.row].key for word in words],
        "kind": kinds.tolist(),
        "word": [word.text for word in words],
        "accuracy": np.where(kinds != REST, hits, np.nan),
        **{f"accuracy_{kind}": np.where(kinds == kind, hits, np.nan) for kind in sorted(set(kinds))},
        "nats": np.where(kinds != REST, nats, np.nan),
        f"nats_{REST}": np.where(kinds == REST, nats, np.nan),
    }
    return Result(measures, table, how(caption=prompt))


def _words(tokens: Tokens, named: Sequence[Blank]) -> Iterator[Word]:
    """The words that the blanks of a caption name, then the tokens of the rest; a word that was cut off is a miss."""
    row, text = named[0].row, named[0].text
    taken: set[int] = set()
    for blank in named:
        own = [place for place, token in enumerate(tokens) if max(token[0], blank.start) < min(token[1], blank.end)]
        taken |= set(own)
        hit = bool(own) and tokens[own[-1]][1] >= blank.end and all(tokens[place][3] for place in own)
        yield Word(row, blank.name, blank.word, hit, -sum(tokens[place][2] for place in own) if own else math.nan)
    for place, (start, end, chance, first) in enumerate(tokens):
        if place not in taken and start < end:
            yield Word(row, REST, text[start:end], first, -chance)


def _accuracy(metric: str, words: Sequence[Word]) -> Measure:
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for word in words:
        kinds[word.kind][word.text] += 1
    usual = sum(of.most_common(1)[0][1] for of in kinds.values())
    estimate = statistics.mean([word.hit for word in words], clusters=[word.row for word in words])
    return Measure(metric, estimate, usual / len(words) if words else math.nan)


def _nats(metric: str, words: Sequence[Word]) -> Measure:
    told = [word for word in words if math.isfinite(word.nats)]
    return Measure(metric, statistics.mean([word.nats for word in told], clusters=[word.row for word in told]))
