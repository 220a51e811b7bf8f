"""Statements about two pictures (NLVR2, Suhr et al., 2019): is it true?"""

from __future__ import annotations

import numpy as np
import torch

from diptych.batch import Sample
from diptych.evaluation import statistics
from diptych.evaluation.embed import PAIRS, Bench, CannotEvaluate, blocks, moved, trimmed
from diptych.evaluation.measures import Column, Measure, Result
from diptych.training import watchdog


def statements(bench: Bench) -> Result:
    """accuracy: share of samples whose statement is judged right. consistency: share of groups that are right in all.

    A group is the samples with the same `group`, or, where they have none, with the same statement. Chance is a coin's.
    Samples of one group are resampled together.

    Raises:
        CannotEvaluate: no sample has a statement that is true or false.
    """
    found = [(row, one.text, _truth(one)) for row, one in enumerate(bench.samples) if one.get("text", "").strip()]
    asked = [(row, text, truth) for row, text, truth in found if truth is not None]
    if not asked:
        raise CannotEvaluate(
            f"statements needs a text and a category, true or false; no sample of {bench.data.name} has."
        )
    rows = [row for row, _, _ in asked]
    log_odds = judged(bench, rows, [text for _, text, _ in asked])
    right = np.array([odds > 0 if truth else odds <= 0 for odds, (_, _, truth) in zip(log_odds, asked, strict=True)])
    names = [str(bench.samples[row].get("group") or text) for row, text, _ in asked]
    _, first, group, sizes = np.unique(names, return_index=True, return_inverse=True, return_counts=True)
    consistent = np.full(len(asked), np.nan)
    consistent[first] = np.bincount(group, weights=right) == sizes
    measures = [
        Measure("accuracy", statistics.mean(right, clusters=group), 0.5),
        Measure("consistency", statistics.mean(consistent[first]), float(np.mean(0.5**sizes))),
    ]
    columns: dict[str, Column] = {
        "key": [bench.samples[row].key for row in rows],
        "text": [text for _, text, _ in asked],
        "truth": [truth for _, _, truth in asked],
        "log_odds": log_odds,
        "group": names,
    }
    return Result(measures, {**columns, "accuracy": right.astype(np.int64), "consistency": consistent})


def judged(bench: Bench, rows: list[int], texts: list[str]) -> np.ndarray:
    """Log-odds (n,) that each statement is true of the two sides of its sample; each statement is encoded once."""
    first, second = bench.encoded_sides
    statement, found = bench.encoded_texts(texts), []
    for some in blocks(len(rows), PAIRS):
        own = torch.tensor(rows[some])
        sides = (moved(side.take(own), bench.device) for side in (first, second))
        text = moved(trimmed(statement.take(some)), bench.device)
        found.append(bench.method.judge(*sides, text).float().cpu().numpy())
        watchdog.now()
    return np.concatenate(found)


def _truth(sample: Sample) -> bool | None:
    """Whether the statement is true; None where the sample does not say."""
    said = str(sample.get("category") or "").lower()
    return said == "true" if said in ("true", "false") else None
