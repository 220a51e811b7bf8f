"""How much a model that writes uses what it sees: captions with their own picture, with none, and with a wrong one."""

from __future__ import annotations

import numpy as np

from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate
from diptych.evaluation.generation import Ask, Floats, how, likelihoods, own_prompt
from diptych.evaluation.measures import Column, Measure, Result
from diptych.evaluation.statistics import Estimate

_FIGURES = ("perplexity", "perplexity_blind", "perplexity_wrong", "gain", "gain_over_wrong")


def picture_use(bench: Bench) -> Result:
    """Perplexity of the first caption of each sample.

    perplexity: exp of the mean, over all tokens, of minus the log probability, with the own picture before the caption;
    perplexity_blind with none, perplexity_wrong with that of another sample, half the set away. gain and
    gain_over_wrong: how many nats a token the own picture saves against none and against a wrong one; a model that
    looks at nothing gains 0 over a wrong picture. own_first: the share of captions that are likelier with their own
    picture than with the wrong one; ties count half.

    Raises:
        CannotEvaluate: fewer than two samples have captions, or a caption has no chance at all.
    """
    rows = [row for row, captions in enumerate(bench.captions) if captions]
    if len(rows) < 2:
        raise CannotEvaluate(
            f"picture_use needs at least two samples with captions; {bench.data.name} has {len(rows)}."
        )
    prompt = own_prompt(bench.method.prompts, "caption")
    captions = [bench.captions[row][0] for row in rows]
    half = len(rows) // 2
    seen: list[list[tuple[int, ...]]] = [
        [(row,) for row in rows],
        [() for _ in rows],
        [(row,) for row in (*rows[half:], *rows[:half])],
    ]
    asks = [Ask(of, prompt, caption) for some in seen for of, caption in zip(some, captions, strict=True)]
    chances, tokens = (values.reshape(3, -1) for values in likelihoods(bench, asks))
    if not np.isfinite(chances).all():
        raise CannotEvaluate(f"picture_use cannot run: {bench.method.card.id} gives likelihoods that are no numbers.")
    sums = np.stack([*-chances, tokens[0]], axis=1)  # (n, 4)
    low, high = statistics.bootstrap(lambda counts: _figures(counts @ sums), len(rows))
    values = _figures(sums.sum(0))
    measures = [
        Measure(name, Estimate(float(values[i]), float(low[i]), float(high[i]), len(rows)), 0.0 if i > 2 else np.nan)
        for i, name in enumerate(_FIGURES)
    ]
    first = (np.sign(chances[0] - chances[2]) + 1) / 2
    measures.append(Measure("own_first", statistics.mean(first), 0.5))
    each = -chances / tokens[0]
    table: dict[str, Column] = {
        "key": [bench.samples[row].key for row in rows],
        "question": captions,
        "answer": [f"nats a token: own {own:.2f}, none {blind:.2f}, wrong {wrong:.2f}" for own, blind, wrong in each.T],
        "truth": [""] * len(rows),
        "nats": each[0],
        "nats_blind": each[1],
        "nats_wrong": each[2],
        "tokens": tokens[0],
        "own_first": first,
        "right": first,
    }
    return Result(measures, table, how(caption=prompt))


def _figures(sums: Floats) -> Floats:
    """Sums (..., 4) of nats with the own, no and a wrong picture, and of tokens -> (..., 5) `_FIGURES`."""
    own, blind, wrong, tokens = np.moveaxis(sums, -1, 0)
    own, blind, wrong = own / tokens, blind / tokens, wrong / tokens
    return np.stack([np.exp(own), np.exp(blind), np.exp(wrong), blind - own, wrong - own], axis=-1)
