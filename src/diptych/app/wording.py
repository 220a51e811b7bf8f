"""Names and numbers of figures as people read them, on the terminal and on the page."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from diptych.results import Row

_TASKS = {
    "retrieval": "Retrieval: find the caption of a picture, and the picture of a caption",
    "tasks_retrieval": "Retrieval over several tasks together",
    "multimodal_retrieval": "Pictures with their captions find others of their category",
    "forgetting": "What was forgotten while later tasks were learned",
    "pair_retrieval": "Retrieval by fusing each pair",
    "hard_gallery": "Retrieval among look-alikes",
    "pair_hard_gallery": "Retrieval among look-alikes by fusing each pair",
    "foils": "The true caption against almost right ones",
    "pair_foils": "The true caption against almost right ones, each fused with the picture",
    "zero_shot": "Classification by the names of the classes alone",
    "base_to_new": "Classification among classes that were learned, and among new ones",
    "knn": "Classification by the nearest training pictures",
    "linear_probe": "Linear classifier on frozen features",
    "pointing": "Pointing: does a word light up its place in the picture",
    "vqa": "Answers to questions",
    "video_qa": "Answers to questions about clips",
    "vqa_shots": "Answers after a few solved questions",
    "multiple_choice": "The right one of several answers",
    "yes_no": "Is it there? (POPE)",
    "masked_words": "Words of the caption that are masked",
    "statements": "Statements about two pictures: true or false",
    "grounding": "Grounding: the box that words name",
    "word_regions": "Words and the regions that they belong to",
    "token_probe": "Linear classifier of objects on fused tokens",
    "captioning": "Captions against those of people",
    "hallucination": "What captions speak of and is not there (CHAIR)",
    "attribute_tokens": "Words of the caption that only the picture fixes",
    "naming": "The likeliest of all names",
    "picture_use": "What the picture is worth to a caption",
    "gap": "Distance between the modalities",
    "mir": "Distance of the modalities inside a language model",
}
_METRICS = {
    "r1": "R@1, both directions",
    "r_mean": "mean of R@1, R@5 and R@10, both directions",
    "backward_transfer": "change of earlier tasks among themselves (below 0: forgotten)",
    "top1": "right class first",
    "top5": "right class among the first 5",
    "mean_per_class": "right class first, mean over classes",
    "base": "right among the classes that were learned",
    "new": "right among new classes",
    "harmonic_mean": "harmonic mean of both",
    "accuracy": "right choice",
    "consistency": "all samples of a group right",
    "cider_d": "CIDEr-D",
    "cider_d_blind": "CIDEr-D without a picture",
    "rouge_l": "ROUGE-L",
    "exact": "the usual answer, to the letter",
    "balanced": "right choice, mean over types",
    "answered": "answered at all",
    "chair_i": "mentions of what is not there (smaller is better)",
    "chair_s": "captions with such a mention (smaller is better)",
    "mentions": "objects that a caption speaks of",
    "nats": "nats a word (smaller is better)",
    "nats_rest": "nats a token of the rest",
    "perplexity": "perplexity with its picture (smaller is better)",
    "perplexity_blind": "perplexity with no picture",
    "perplexity_wrong": "perplexity with a wrong picture",
    "gain": "nats a token saved against no picture",
    "gain_over_wrong": "nats a token saved against a wrong picture",
    "own_first": "likelier with its own picture",
    "rerank_depth": "candidates of a query that were fused with it",
    "pairwise": "true caption before a false one, pair by pair",
    "phrase": "phrase points at its object",
    "word": "word points at its object",
    "phrase_alone": "phrase without its sentence points at its object",
    "gap": "gap between means",
    "alignment": "distance of true pairs (smaller is closer)",
    "image_uniformity": "spread of pictures (smaller is wider)",
    "text_uniformity": "spread of captions (smaller is wider)",
}
HEADLINES = (
    "text_to_image_r1",
    "top1",
    "image_to_text_r1",
    "accuracy",
    "phrase",
    "phrase_r1",
    "expression_r1",
    "own_first",
)
"""The metrics that say most, in this order."""
_CHOICES = {
    "vqa": "questions are answered right",
    "statements": "statements are judged right",
    "word_regions": "phrases belong to the region of their object",
    "video_qa": "questions are answered right",
    "attribute_tokens": "words of attributes are foreseen",
    "naming": "names are the likeliest in their place",
}
_SCALES = (
    "cider_d",
    "cider_d_blind",
    "chair_i",
    "chair_s",
    "mentions",
    "gain",
    "gain_over_wrong",
)  # no shares, or the smaller the better
_SIDES = {"image_to_text": ("picture", "caption"), "text_to_image": ("caption", "picture")}


def task_title(task: str) -> str:
    """`retrieval` -> a line that says what is asked."""
    return _TASKS.get(task, task.replace("_", " ").capitalize())


def metric_title(metric: str) -> str:
    """`text_to_image_r5` -> `caption → picture, R@5`; an unknown metric keeps its name."""
    found = re.fullmatch(r"(image_to_text|text_to_image)_(?:r(\d+)|median_rank)", metric)
    if not found and (of_type := re.fullmatch(r"accuracy_(.+)", metric)):
        return f"right choice, {of_type[1].replace('_', ' ')}"
    if not found and (boxes := re.fullmatch(r"(phrase|expression)_r(\d+)", metric)):
        return f"{boxes[1]}, " + ("first box right" if boxes[2] == "1" else f"R@{boxes[2]}")
    if not found and (one := re.fullmatch(r"(task|after)(\d+)_(r1|r_mean)", metric)):
        return f"{_METRICS[one[3]]}, {'after task' if one[1] == 'after' else 'task'} {one[2]}"
    if not found and (ap := re.fullmatch(r"map(\d+)", metric)):
        return f"mAP@{ap[1]}"
    if not found and (order := re.fullmatch(r"bleu_(\d)", metric)):
        return f"BLEU-{order[1]}"
    if not found:
        return _METRICS.get(metric, metric.replace("_", " "))
    asked, answer = _SIDES[found[1]]
    return f"{asked} → {answer}, " + (f"R@{found[2]}" if found[2] else "median rank")


def headline(row: Row) -> str:
    """What a figure means, to follow its value: `of 420 captions find their own picture first`."""
    meaning = {
        "text_to_image_r1": f"of {row.n:,} captions find their own picture first",
        "image_to_text_r1": f"of {row.n:,} pictures find their own caption first",
        "top1": f"of {row.n:,} pictures get their right class first",
        "accuracy": f"of {row.n:,} {_CHOICES.get(row.task, 'captions score above all their false ones')}",
        "own_first": f"of {row.n:,} captions are likelier with their own picture than with another",
        "phrase": f"of {row.n:,} phrases point at their object",
        "phrase_r1": f"of {row.n:,} phrases find their box first",
        "expression_r1": f"of {row.n:,} expressions find their box first",
    }
    return meaning.get(row.metric, f"{metric_title(row.metric)}, of {row.n:,}")


def is_share(row: Row) -> bool:
    """Whether a figure is a share, for which larger is better: its chance level and its value lie in [0, 1]."""
    return 0 <= row.chance <= 1 and 0 <= row.value <= 1 and row.metric not in _SCALES


def figure(row: Row, value: float) -> str:
    """A value of `row`: shares in per cent, other figures with three digits, nothing for NaN."""
    if math.isnan(value):
        return ""
    return f"{100 * value:.1f} %" if is_share(row) else f"{value:.3g}"


def interval(row: Row) -> str:
    """The 95 % interval as `low – high`, empty where there is none."""
    if math.isnan(row.low) or math.isnan(row.high):
        return ""
    return f"{figure(row, row.low).removesuffix(' %')} – {figure(row, row.high)}"


def duration(seconds: float) -> str:
    """`48 s`, `3 min 20 s`, `2 h 5 min`, `12 days 3 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400:,} days {whole % 86400 // 3600} h"


def size(number: float) -> str:
    """Bytes as people read them: `940 kB`, `8.4 MB`, `1.2 GB`."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= unit:
            return f"{number / unit:,.1f} {name}"
    return f"{number / 1e3:,.0f} kB"


def count(number: float) -> str:
    """`940`, `12,300`, `4.1 M`, `1.2 G`; nothing for NaN."""
    if math.isnan(number):
        return ""
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:,.0f}"


def joined(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def data(sets: Sequence[Mapping[str, Any]]) -> str:
    """`2,431 samples of starter and 4,321 samples of openclipart`."""
    return joined([f"{one['samples']:,} samples of {one['name']}" for one in sets])
