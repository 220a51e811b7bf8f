"""Base-to-new by hand, and the sentences of the usual data sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_fakes import MemoryData, TableMethod

from diptych.evaluation.base_to_new import harmonic_mean, harmonic_values
from diptych.evaluation.embed import CannotEvaluate
from diptych.evaluation.tasks import evaluate
from diptych.evaluation.templates import TEMPLATES, template_of

CLASSES = ["ant", "bee", "cat", "dog", "elk"]  # the first three are base
UNITS = torch.eye(5).tolist()


def method(images) -> TableMethod:
    """Texts are axes: a picture scores for each class what it has there."""
    made = TableMethod(images, dict(zip(CLASSES, UNITS, strict=True)))
    made.prompts = ("{}",)
    return made


def test_pictures_are_classified_within_their_half() -> None:
    truth = ["ant", "bee", "cat", "dog", "elk"]
    # bee looks most like elk, which is of the other half; cat like ant; dog like ant; elk like dog
    images = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 2], [2, 0, 1, 0, 0], [2, 0, 0, 1, 0], [0, 0, 0, 2, 1]]
    data = MemoryData([{"category": name} for name in truth], classes=CLASSES)
    rows = {row.metric: row for row in evaluate(method(images), data, ["base_to_new"])}
    assert {name: row.value for name, row in rows.items()} == {
        "base": pytest.approx(2 / 3),
        "new": pytest.approx(1 / 2),
        "harmonic_mean": pytest.approx(harmonic_mean(2 / 3, 1 / 2)),
    }
    assert [row.chance for row in rows.values()] == pytest.approx([1 / 3, 1 / 2, 0.4])
    assert [row.n for row in rows.values()] == [3, 2, 5]


@pytest.mark.shows("F", "maple")
def test_the_harmonic_mean() -> None:
    assert harmonic_mean(82.28, 75.14) == pytest.approx(78.55, abs=0.005)
    assert harmonic_mean(0, 0.5) == harmonic_mean(0.5, 0) == harmonic_mean(0, 0) == 0


@pytest.mark.parametrize(("base", "new"), [(30, 10), (40, 20), (0, 5), (0, 0), (17, 0)])
def test_values_of_pictures_have_the_harmonic_mean_as_theirs(base: int, new: int) -> None:
    right, is_new = np.repeat([1.0, 0, 1, 0], [base, 40 - base, new, 20 - new]), np.repeat([False, True], [40, 20])
    assert harmonic_values(right, is_new).mean() == pytest.approx(harmonic_mean(base / 40, new / 20))


def test_values_move_as_the_harmonic_mean_does() -> None:
    """One more picture right moves their mean by the derivative; both agree to first order."""
    right, is_new = np.repeat([1.0, 0, 1, 0], [3000, 1000, 1000, 1000]), np.repeat([False, True], [4000, 2000])
    values, more = harmonic_values(right, is_new), right.copy()
    more[3000] = 1
    gained = values[0] - values[3000]  # of a right base picture over a wrong one
    change = harmonic_values(more, is_new).mean() - values.mean()
    assert gained / len(right) == pytest.approx(change, rel=1e-3)


@pytest.mark.parametrize(
    ("truth", "classes"),
    [(["ant", "bee"], CLASSES), (["dog"], CLASSES), (["ant", "bee", "cat"], ["ant", "bee", "cat"])],
)
def test_a_half_without_pictures_or_choice_is_said(truth, classes) -> None:
    data = MemoryData([{"category": name} for name in truth], classes=classes)
    with pytest.raises(CannotEvaluate, match="two classes and a picture in either half"):
        evaluate(method(UNITS[: len(truth)]), data, ["base_to_new"])


def test_nobody_is_asked_who_was_not_named() -> None:
    data = MemoryData([{"category": name} for name in CLASSES], classes=CLASSES)
    assert "base_to_new" not in {row.task for row in evaluate(method(UNITS), data)}


def test_usual_data_sets_bring_their_sentence() -> None:
    assert len(TEMPLATES) == 11 + 4
    assert all(template.count("{}") == 1 for template in TEMPLATES.values())
    assert template_of("Oxford_Pets") == template_of("OxfordPets") == ("a photo of a {}, a type of pet.",)
    assert template_of("my pictures") == ()
    names = ["banded", "dotted"]
    table = TableMethod([[1.0, 0], [0, 1]], {"banded texture.": [1, 0], "dotted texture.": [0, 1]})
    data = MemoryData([{"category": name} for name in names], classes=names, name="DTD")
    found = {row.metric: row.value for row in evaluate(table, data, ["zero_shot"])}
    assert found["top1"] == 1.0
