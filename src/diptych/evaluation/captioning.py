"""Captions that a method writes, against those that people wrote."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diptych.card import Generates
from diptych.evaluation import statistics
from diptych.evaluation.embed import Bench, CannotEvaluate
from diptych.evaluation.generation import caption_prompt
from diptych.evaluation.measures import Column, Measure, Result
from diptych.evaluation.statistics import Estimate
from diptych.views.captions import ORDERS, CiderD, bleu, bleu_counts, rouge_l


def captioning(bench: Bench) -> Result:
    """CIDEr-D in [0, 10], BLEU-1 to BLEU-4 and ROUGE-L in [0, 1] (`views.captions`); BLEU is of the set as a whole.

    Chance is what the same captions score for other pictures of the set: what is true of many pictures counts there.
    cider_d_blind, of methods that can write without seeing anything: what they write then, as the caption of each.

    Raises:
        CannotEvaluate: fewer than two samples have captions.
    """
    rows = [row for row, captions in enumerate(bench.captions) if captions]
    if len(rows) < 2:
        raise CannotEvaluate(f"captioning needs at least two samples with captions; {bench.data.name} has {len(rows)}.")
    written = [caption for caption, own in zip(bench.written, bench.captions, strict=True) if own]
    references = [bench.captions[row] for row in rows]
    cider = CiderD(references)
    elsewhere = [*written[len(rows) // 2 :], *written[: len(rows) // 2]]
    (by_sample, runs), (by_chance, chance_runs) = (_scores(of, references, cider) for of in (written, elsewhere))
    low, high = statistics.bootstrap(lambda counts: bleu(counts @ runs), len(rows))
    values, floor = bleu(runs.sum(0)), bleu(chance_runs.sum(0))
    measures = [
        Measure(name, estimate, float(chance))
        for name, estimate, chance in zip(
            ("cider_d", "rouge_l"), statistics.means(by_sample), by_chance.mean(0), strict=True
        )
    ]
    measures += [
        Measure(
            f"bleu_{order + 1}",
            Estimate(float(values[order]), float(low[order]), float(high[order]), len(rows)),
            float(floor[order]),
        )
        for order in range(ORDERS)
    ]
    keys = [bench.samples[row].key for row in rows]
    columns: dict[str, Column] = {
        "key": keys,
        "caption": written,
        "reference": [captions[0] for captions in references],
        "cider_d": by_sample[:, 0],
        "rouge_l": by_sample[:, 1],
    }
    if isinstance(bench.method, Generates):
        (unseen,) = bench.method.respond(None, [bench.method.prompts["caption"]])
        blind = np.array([cider(unseen, people) for people in references])
        measures.insert(1, Measure("cider_d_blind", statistics.mean(blind), measures[0].chance))
        columns["cider_d_blind"] = blind
    return Result(measures, columns, caption_prompt(bench))


def _scores(
    written: Sequence[str], references: Sequence[Sequence[str]], cider: CiderD
) -> tuple[np.ndarray, np.ndarray]:
    """CIDEr-D and ROUGE-L (n, 2) of each caption, and what BLEU sums (n, 10)."""
    pairs = list(zip(written, references, strict=True))
    by_sample = np.array([(cider(caption, people), rouge_l(caption, people)) for caption, people in pairs])
    return by_sample, np.stack([bleu_counts(caption, people) for caption, people in pairs])
