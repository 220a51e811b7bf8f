from __future__ import annotations

import numpy as np

from diptych.batch import Sample
from diptych.views.grounding import grounded, named_boxes, prompt

BOXES = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.2, 0.2, 0.2, 0.9]], np.float32)
TEXT = "a red dog and a cat"
OFFSETS = [(0, 0), (0, 1), (2, 5), (6, 9), (10, 13), (14, 15), (16, 19), (0, 0)]


def test_tokens_within_a_span_name_its_box() -> None:
    sample = Sample("a", {"boxes": BOXES, "text": TEXT, "spans": [(16, 19, 1), (2, 9, 0), (0, 1, 0), (6, 9, 2)]})
    text, spans = grounded(sample, (), None)
    assert text == TEXT
    seen = named_boxes(sample, spans, OFFSETS, 4)
    assert seen["boxes"][:2].tolist() == BOXES[[1, 0]].tolist()
    assert seen["phrase_tokens"][0].nonzero().flatten().tolist() == [6]
    assert seen["phrase_tokens"][1].nonzero().flatten().tolist() == [1, 2, 3]
    assert seen["box_mask"].tolist() == [True, True, False, False]  # the third has no width, and there is no fourth


def test_a_phrase_that_was_cut_off_names_nothing() -> None:
    sample = Sample("a", {"boxes": BOXES})
    seen = named_boxes(sample, [(16, 19, 0)], OFFSETS[:5], 1)
    assert seen["box_mask"].tolist() == [False]


def test_a_prompt_has_each_name_once_and_some_that_are_not_there() -> None:
    text, spans = prompt(["cat", "dog", "cat"], ["bird"])
    assert text == "cat. dog. bird"
    assert [text[start:end] for start, end, _ in spans] == ["cat", "dog", "cat"]
    assert [box for _, _, box in spans] == [0, 1, 2]
    sample = Sample("a", {"boxes": BOXES, "phrases": ["cat", "dog", "cat"]})
    assert grounded(sample, ["dog", "bird"], None)[0] == "cat. dog. bird"
    names = [f"n{index}" for index in range(200)]
    asked = grounded(sample, names, np.random.default_rng(0))[0].split(". ")
    assert len(asked) == 2 + 85
    assert asked != grounded(sample, names, np.random.default_rng(1))[0].split(". ")
