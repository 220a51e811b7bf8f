"""Scores are the method's own similarities; the best share, or those above a threshold, stay."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from curation_helpers import Colours, contents, field, sample, write
from torch import nn

from diptych.curation.blocks import parts_of
from diptych.curation.embed import Embedder
from diptych.curation.run import curate
from diptych.curation.score import Score, Scores, ScoreTask, threshold

# mean colour (3, 4, 0) has the cosines 0.6, 0.8 and 0 with red, green and blue
SAMPLES = {
    "green": sample(field((150, 200, 0)), "a green field"),
    "red": sample(field((150, 200, 0)), "a red field"),
    "blue": sample(field((150, 200, 0)), "a blue field"),
    "both": sample(field((150, 200, 0)), "a blue field", "a red field"),
    "pure": sample(field((0, 0, 90)), "blue"),
}


def scored(tmp_path, out="out", directions=False, **asked):
    path = tmp_path / "in"
    source = str(path) if path.exists() else write(path, SAMPLES)
    task = ScoreTask(Score(**asked), Scores(Embedder(Colours(directions))))
    return curate(task, parts_of([source]), tmp_path / out)


def test_scores_are_those_of_the_method(tmp_path):
    scored(tmp_path)
    table = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    assert dict(zip(table["key"], np.round(table["score"], 5).tolist(), strict=True)) == {
        "green": 0.8,
        "red": 0.6,
        "blue": 0.0,
        "both": 0.6,
        "pure": 1.0,
    }
    assert np.round(table["scores"][3], 5).tolist() == [0.0, 0.6]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "curation.json",
        "dropped.parquet",
        "scores.parquet",
    ]


def test_where_the_directions_differ_their_mean_counts(tmp_path):
    scored(tmp_path, directions=True)
    table = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    assert np.round(table["score"], 5).tolist() == [0.6, 0.45, 0.0, 0.45, 0.75]


@pytest.mark.parametrize(
    ("asked", "stays"),
    [
        ({"at_least": 0.7}, ["green", "pure"]),
        ({"keep": 0.2}, ["pure"]),
        ({"keep": 0.6}, ["green", "red", "pure"]),  # of equal scores the first
        ({"keep": 1.0}, list(SAMPLES)),
    ],
)
def test_a_threshold_or_a_share(tmp_path, asked, stays):
    outcome = scored(tmp_path, **asked)
    assert list(contents(tmp_path / "out")) == stays
    assert sum(outcome.reasons.values()) == 5 - len(stays)


def test_the_score_is_written_into_the_json_where_that_is_wanted(tmp_path):
    scored(tmp_path, into_json=True)
    there = contents(tmp_path / "out")
    assert list(there) == list(SAMPLES)
    assert json.loads(there["both"]["json"]) == {
        "score": pytest.approx(0.6, abs=1e-6),
        "texts": ["a blue field", "a red field"],
    }
    assert {name: members["png"] for name, members in there.items()} == {n: m["png"] for n, m in SAMPLES.items()}


def test_another_threshold_measures_nothing_again(tmp_path, monkeypatch):
    scored(tmp_path)

    def never(look, block):
        raise AssertionError("measured again")

    monkeypatch.setattr("diptych.curation.measure.measure", never)
    scored(tmp_path, at_least=0.7)
    assert list(contents(tmp_path / "out")) == ["green", "pure"]
    with pytest.raises(AssertionError, match="measured again"):
        scored(tmp_path, out="other")


def test_the_lowest_score_that_stays():
    scores = np.array([0.9, 0.5, 0.5, 0.1])
    assert threshold(scores, Score(keep=0.5)) == 0.5
    assert threshold(scores, Score(keep=0.01)) == 0.9
    assert threshold(scores, Score(at_least=0.3)) == 0.3
    assert threshold(scores, Score()) == -np.inf


def test_options_that_do_not_fit_together():
    with pytest.raises(ValueError, match="one of them"):
        Score(keep=0.3, at_least=0.2)
    with pytest.raises(ValueError, match="at most 1"):
        Score(keep=30)


def test_a_method_that_cannot_score_is_told():
    class Mute(nn.Module):
        card = replace(Colours.card, id="mute")

    with pytest.raises(ValueError, match="mute cannot be used here: nothing in it embeds pictures or embeds texts"):
        Embedder(Mute())


def test_what_was_measured_depends_on_the_weights():
    one, other = Colours(), Colours()
    assert Embedder(one).identity == Embedder(other).identity
    other.named[0, 1] = 1e-6
    assert Embedder(one).identity != Embedder(other).identity
