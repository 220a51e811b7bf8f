from __future__ import annotations

import logging
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_fakes import MemoryData
from PIL import Image
from scipy.linalg import sqrtm
from torch import nn

from diptych.batch import Batch, Features
from diptych.card import Card
from diptych.evaluation import mir as module
from diptych.evaluation.frechet import frechet, official_fast
from diptych.evaluation.mir import layer_distance, rate, text_centric, without_outliers
from diptych.evaluation.tasks import CannotEvaluate, evaluate

OFFICIAL = np.load(Path(__file__).parents[1] / "reference" / "mir_official.npz")
LAYERS, WIDTH, SEEN = 3, 4, 6


def cloud(size: int, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    """Vectors of lengths that have no outliers."""
    vectors = torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return vectors / vectors.norm(dim=1, keepdim=True) * torch.linspace(0.8, 1.2, size)[:, None]


@pytest.mark.shows("F", "mir")
def test_equal_clouds_are_not_apart() -> None:
    some = cloud(50)
    assert frechet(some, some) == pytest.approx(0, abs=1e-12)
    assert frechet(some[:3], some[:3]) == pytest.approx(0, abs=1e-12)  # of low rank


@pytest.mark.shows("F", "mir")
def test_round_clouds_by_hand() -> None:
    """Covariances a^2 I and b^2 I: |dmu|^2 + d (a - b)^2."""
    corners = torch.tensor(list(product((-1.0, 1.0), repeat=WIDTH)))  # covariance 16/15 I
    first, second = 2 * corners, 0.5 * corners + torch.arange(4.0)
    assert frechet(first, second) == pytest.approx(14 + 4 * 1.5**2 * 16 / 15)


def test_the_root_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5)), 2 * rng.normal(size=(40, 5)) + 1
    one, other = (np.cov(each.T) for each in (first, second))
    apart = np.sum((first.mean(0) - second.mean(0)) ** 2)
    expected = apart + np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert frechet(*map(torch.from_numpy, (first, second))) == pytest.approx(expected, rel=1e-9)
    assert official_fast(*map(torch.from_numpy, (first, second))) == pytest.approx(
        apart + np.trace(one + other - 2 * one @ other)
    )


@pytest.mark.shows("P", "mir")
def test_figures_of_the_official_functions() -> None:
    corners = torch.tensor([[0.0, 0], [2, 0], [0, 2], [2, 2]])
    shifted = torch.tensor([[1.0, 1], [5, 1], [1, 5], [5, 5]])
    assert frechet(corners, shifted) == pytest.approx(10.666667, abs=1e-6)
    assert official_fast(corners, shifted) == pytest.approx(-7.111113, abs=3e-6)
    a, b = (torch.from_numpy(OFFICIAL[name]) for name in ("a", "b"))
    found = [frechet(a, b), official_fast(a, b), official_fast(a, a)]
    assert found == pytest.approx(OFFICIAL["sheet"].tolist(), rel=5e-6)  # theirs are in single precision


@pytest.mark.shows("P", "mir")
def test_layers_with_outliers_as_the_official_code_measures_them() -> None:
    layers = [tuple(torch.from_numpy(OFFICIAL[name][layer]) for name in ("visual", "text")) for layer in range(LAYERS)]
    for layer, states in enumerate(layers):
        for name, scaled in zip(("visual", "text"), text_centric(*states), strict=True):
            torch.testing.assert_close(without_outliers(scaled), torch.from_numpy(OFFICIAL[f"{name}_filtered"][layer]))
    distances = [layer_distance(*states) for states in layers]
    assert distances == pytest.approx(OFFICIAL["accurate"].tolist(), rel=1e-6)
    assert rate(distances) == pytest.approx(float(OFFICIAL["mir"]), abs=1e-6)
    fast = [layer_distance(*states, distance=official_fast) for states in layers]
    assert fast == pytest.approx(OFFICIAL["fast"].tolist(), rel=1e-6)


@pytest.mark.shows("F", "mir")
def test_common_scale_and_rotation_do_not_count_but_the_scale_of_vision_does() -> None:
    visual, text = 2 * cloud(80, seed=1) + 1, cloud(60, seed=2)
    base = layer_distance(visual, text)
    turn = torch.linalg.qr(cloud(WIDTH, seed=3))[0]
    assert layer_distance(30 * visual, 30 * text) == pytest.approx(base, rel=1e-6)
    assert layer_distance(visual @ turn, text @ turn) == pytest.approx(base, rel=1e-5)
    assert layer_distance(10 * visual, text) > 10 * base
    assert layer_distance(10 * visual, 10 * text) == pytest.approx(base, rel=1e-6)


@pytest.mark.shows("F", "mir")
def test_an_outlier_becomes_the_median_row() -> None:
    rows = torch.stack([0.01 * torch.arange(100), torch.ones(100), torch.ones(100)], 1)
    rows[7] = 1000
    found = without_outliers(rows)
    assert found[7].tolist() == pytest.approx([0.5, 1, 1])
    others = torch.arange(100) != 7
    assert torch.equal(found[others], rows[others])


def test_the_base_of_the_logarithm() -> None:
    assert rate([60, 40]) == pytest.approx(2)
    assert rate([60, 40], math.e) == pytest.approx(math.log(100))
    assert math.isnan(rate([1, -3]))  # as the fast mode may come to


class Layered(nn.Module):
    """Hidden states that are written down: visual tokens `apart` from words, more so in later layers."""

    card = Card(id="layered", title="Layered", year=2026, arxiv="", family="generative")
    config = None

    def __init__(self, apart: float = 1.0) -> None:
        super().__init__()
        self.apart = apart

    def views(self, sample, rng):
        return {"number": torch.tensor(sample.image.info["number"])}

    def loss(self, batch, step):
        raise NotImplementedError

    def stages(self, recipe):
        return []

    def encode_image(self, batch: Batch) -> Features:
        tokens = torch.stack([cloud(SEEN, seed=100 + int(number)) for number in batch.number])
        return Features(tokens, tokens.mean(1), torch.ones(tokens.shape[:2], dtype=torch.bool))

    def hidden_states(self, image, texts):
        """One token that counts for nothing, what is seen, and a token a letter."""
        longest = 1 + SEEN + max(map(len, texts))
        states = torch.full((len(texts), longest, WIDTH), 1e6)
        visual, text = (torch.zeros(len(texts), longest, dtype=torch.bool) for _ in range(2))
        for row, words in enumerate(texts):
            end = 1 + SEEN + len(words)
            states[row, 1 : 1 + SEEN] = image.tokens[row].float()
            states[row, 1 + SEEN : end] = cloud(len(words), seed=len(words)).float()
            visual[row, 1 : 1 + SEEN], text[row, 1 + SEEN : end] = True, True
        return [states + layer * self.apart * visual[..., None] for layer in range(1, 1 + LAYERS)], visual, text


def data(size: int = 12) -> MemoryData:
    return MemoryData([{"text": "word" * (3 + index % 4)} for index in range(size)])


def test_the_task_by_hand(tmp_path) -> None:
    rows = evaluate(Layered(), data(), ["mir"], out=tmp_path)
    method = Layered()
    image = method.encode_image(Batch({"number": torch.arange(12)}))
    states, visual, text = method.hidden_states(image, ["word" * (3 + index % 4) for index in range(12)])
    expected = [layer_distance(state[visual], state[text]) for state in states]
    assert [row.metric for row in rows] == ["mir", "official"]
    assert rows[0].value == pytest.approx(math.log10(sum(expected)))
    assert rows[0].low < rows[0].value < rows[0].high
    assert rows[1].value == pytest.approx(
        math.log10(sum(layer_distance(state[visual], state[text], official_fast) for state in states))
    )
    with Image.open(tmp_path / "pictures" / "mir.png") as picture:
        assert picture.width == 900
    assert evaluate(Layered(2.0), data(), ["mir"])[0].value > rows[0].high


def test_few_layers_at_a_time_change_nothing(monkeypatch) -> None:
    whole = evaluate(Layered(), data(), ["mir"])
    monkeypatch.setattr(module, "HELD", 1)
    assert evaluate(Layered(), data(), ["mir"]) == whole


def test_few_tokens_are_warned_of_and_too_few_samples_refused(caplog) -> None:
    with caplog.at_level(logging.WARNING, "diptych.evaluation"):
        evaluate(Layered(), data(), ["mir"])
        assert "mir rests on" not in caplog.text
        evaluate(Layered(), data(5), ["mir"])
        assert "mir rests on 30 visual tokens for 4 dimensions" in caplog.text
    with pytest.raises(CannotEvaluate, match="at least 5 samples"):
        evaluate(Layered(), data(4), ["mir"])
