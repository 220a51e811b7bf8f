from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from diptych.views.captions import SIGMA, CiderD, bleu, bleu_counts, rouge_l, words

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "caption_metrics.json").read_text())
SAMPLES = REFERENCE["samples"]
PAIRS = [(sample["candidate"], sample["references"]) for sample in SAMPLES]


def test_words() -> None:
    said = "The dog's T-shirt isn’t red; it's 2 m_long... (really)"
    assert words(said) == ["the", "dog", "'s", "t-shirt", "is", "n't", "red", "it", "'s", "2", "m", "long", "really"]
    assert words(" .. ") == []


def test_cider_d_equals_the_official_code() -> None:
    cider = CiderD([references for _, references in PAIRS])
    assert [cider(*pair) for pair in PAIRS] == pytest.approx([sample["cider_d"] for sample in SAMPLES], abs=1e-12)


def test_bleu_and_rouge_equal_the_official_code() -> None:
    totals = np.sum([bleu_counts(*pair) for pair in PAIRS], axis=0)
    assert bleu(totals).tolist() == pytest.approx(REFERENCE["bleu"], abs=1e-9)
    assert [rouge_l(*pair) for pair in PAIRS] == pytest.approx([sample["rouge_l"] for sample in SAMPLES], abs=1e-12)


def test_cider_d_by_hand() -> None:
    cider = CiderD([["red star"], ["red ball"], ["red ball here"]])
    rare, some = math.log(3), math.log(3 / 2)
    # red is in all and counts nothing; star is in one, ball in two, as "red ball" is
    assert cider("red star", ["red star"]) == pytest.approx(10 * 2 / 4)  # single words and pairs agree, no longer runs
    # against "red ball here": ball of ball and here; "red ball" of "red ball" and "ball here"; one word shorter
    alike = 2 * some / math.hypot(some, rare)
    assert cider("red ball", ["red ball here"]) == pytest.approx(10 * alike / 4 * math.exp(-1 / (2 * SIGMA**2)))
    assert cider("red red red", ["red star"]) == 0
    assert cider("", ["red star"]) == 0


def test_repeating_a_rare_word_does_not_pay() -> None:
    cider = CiderD([["one star"], ["two balls"]])
    assert cider("star star star", ["one star"]) < cider("a star", ["one star"])


def test_bleu_by_hand() -> None:
    counts = bleu_counts("the the the", ["the cat", "the the dog sat"])
    assert counts.tolist() == [2, 1, 0, 0, 3, 2, 1, 0, 3, 2]  # two equally close lengths: the shorter
    assert bleu(counts).tolist() == pytest.approx([2 / 3, (2 / 3 * 1 / 2) ** 0.5, 0, 0])
    shorter = bleu_counts("a cat", ["a cat sat"])
    assert bleu(shorter)[0] == pytest.approx(math.exp(1 - 3 / 2))
    assert bleu(np.stack([counts, shorter])).shape == (2, 4)
    assert bleu(bleu_counts("", ["a cat"])).tolist() == [0, 0, 0, 0]


def test_rouge_by_hand() -> None:
    # "a c d" within "a b c d e": precision 1, recall 3/5, and F with beta 1.2
    assert rouge_l("a c d", ["a b c d e"]) == pytest.approx((1 + 1.44) * 0.6 / (0.6 + 1.44))
    assert rouge_l("d c a", ["a b c d e"]) == pytest.approx((1 + 1.44) * (1 / 3) * 0.2 / (0.2 + 1.44 / 3))
    assert rouge_l("x", ["a"]) == rouge_l("", ["a"]) == 0
