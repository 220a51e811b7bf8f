"""Captions are filtered one by one, pictures by their header; what stays of a sample is what a reader finds."""

import json
import time

import numpy as np
import pytest
from curation_helpers import contents, field, sample, write

from diptych.curation import languages
from diptych.curation.blocks import parts_of
from diptych.curation.captions import with_captions
from diptych.curation.filters import Filter, FilterTask, Seen, found_in, limits, words_in
from diptych.curation.run import curate
from diptych.data.dataset import ShardedData
from diptych.data.fields import decode_sample

RED = (255, 0, 0)


def filtered(tmp_path, samples, **asked):
    """The outcome, and what lies in the new shards."""
    task = FilterTask(Filter(**asked), Seen(tuple(Filter(**asked).codes)))
    outcome = curate(task, parts_of([write(tmp_path / "in", samples)]), tmp_path / "out")
    return outcome, contents(tmp_path / "out") if outcome.written else {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3:60", (3, 60)), ("3:", (3, None)), (":0.5", (None, 0.5)), ("", (None, None)), ("2:2", (2, 2))],
)
def test_ranges(text, expected):
    assert limits(text, "words") == expected


@pytest.mark.parametrize("text", ["3", ":", "a:b", "-1:3", "1:2:3"])
def test_what_is_no_range_is_told(text):
    with pytest.raises(ValueError, match="LOW:HIGH"):
        Filter(words=text)


def test_a_range_that_leaves_nothing_is_told():
    with pytest.raises(ValueError, match="first number is the larger"):
        Filter(size="9:3")


def test_words():
    assert words_in("A dog's  tail, 2 cats — под_деревом") == 8
    assert words_in("...") == 0


def test_samples_go_by_their_captions(tmp_path):
    samples = {
        "one": sample(field(RED), "dog"),
        "three": sample(field(RED), "a brown dog"),
        "five": sample(field(RED), "a brown dog at home"),
        "none": sample(field(RED)),
    }
    outcome, there = filtered(tmp_path, samples, words="2:4")
    assert list(there) == ["three"]
    assert outcome.reasons == {
        "no caption left: too few words": 1,
        "no caption left: too many words": 1,
        "no caption": 1,
    }
    assert outcome.verdicts.figure[[0, 2]].tolist() == [1, 5]


def test_characters_and_patterns(tmp_path):
    samples = {name: sample(field(RED), name) for name in ("short", "buy this now", "a fine dog", "a FINE cat")}
    assert list(filtered(tmp_path / "1", samples, characters="6:10")[1]) == ["a fine dog", "a FINE cat"]
    assert list(filtered(tmp_path / "2", samples, texts_not="(?i)buy|fine")[1]) == ["short"]
    assert list(filtered(tmp_path / "3", samples, texts_match="fine|buy")[1]) == ["buy this now", "a fine dog"]


def test_captions_are_taken_out_one_by_one(tmp_path):
    whole = sample(field(RED), "a brown dog", "a dog at home", category="dog")
    partly = sample(
        field(RED), "dog", "a brown dog", "x", "a dog at home", category="dog", spans=[[0, 3, 0]], boxes=[[0, 0, 1, 1]]
    )
    outcome, there = filtered(tmp_path, {"whole": whole, "partly": partly}, words="2:")
    assert there["whole"] == whole
    assert there["partly"]["png"] == partly["png"]
    assert there["partly"]["txt"] == b"a brown dog"
    record = json.loads(there["partly"]["json"])
    assert record == {"boxes": [[0, 0, 1, 1]], "category": "dog", "texts": ["a brown dog", "a dog at home"]}
    assert [lost.text for lost in outcome.verdicts.captions] == ["dog", "x"]
    assert outcome.findings.told == ["Of samples that stay, 2 captions were taken out: 2 too few words."]
    sample_read = ShardedData(tmp_path / "out").read(1, ("text", "texts"))
    assert (sample_read.text, sample_read.texts) == ("a brown dog", ["a brown dog", "a dog at home"])


@pytest.mark.parametrize(
    "members",
    [
        {"txt": b"one", "json": json.dumps({"texts": ["one", "two two"], "n": 1}).encode()},
        {"json": json.dumps({"caption": "one", "texts": ["one", "two two"]}).encode()},
        {"json": json.dumps({"texts": ["one", "two two"]}).encode()},
    ],
)
def test_what_is_read_after_taking_out_is_what_was_kept(members):
    for kept in (["two two"], ["one"]):
        changed = with_captions(members, kept)
        assert decode_sample("k", changed, ("texts",)).texts == kept
        assert decode_sample("k", changed, ("text",)).text == kept[0]


def test_pictures_go_by_size_and_shape(tmp_path):
    sizes = {"small": (10, 40), "fits": (20, 40), "large": (20, 61), "narrow": (20, 50)}
    samples = {name: sample(field(RED, size), "a dog") for name, size in sizes.items()}
    samples["none"] = sample(b"", "a dog")
    outcome, there = filtered(tmp_path, samples, size="20:60", aspect=":2")
    assert list(there) == ["fits"]
    reasons = dict(zip(outcome.facts.table["key"].to_pylist(), outcome.verdicts.reason, strict=True))
    assert reasons == {
        "small": "picture too small",
        "fits": "",
        "large": "picture too large",
        "narrow": "picture too long and narrow",
        "none": "no picture",
    }


def test_a_pattern_takes_no_longer_than_the_text_is_long():
    """The textbook case: `(a+)+$` on forty letters takes a backtracking matcher hours."""
    start = time.process_time()
    assert found_in(["a" * 4000 + "b"], "^(a+)+$") == [False]
    assert time.process_time() - start < 5


def test_a_pattern_that_cannot_be_understood_is_told():
    with pytest.raises(ValueError, match=r"\(\?=dog\)"):
        found_in(["a dog"], "(?=dog)")


def test_languages(tmp_path, monkeypatch):
    monkeypatch.setattr(languages, "COMMON", ("en", "de", "fr", "ja"))  # all of them take seconds to load
    texts = {
        "en": "A brown dog is sleeping under the tree",
        "de": "Ein brauner Hund schläft unter dem Baum",
        "fr": "Une vieille maison près de la rivière",
        "ja": "木の下で寝ている茶色の犬",
    }
    samples = {code: sample(field(RED), text) for code, text in texts.items()}
    samples["both"] = sample(field(RED), texts["fr"], texts["en"])
    outcome, there = filtered(tmp_path, samples, languages="en, DE")
    assert list(there) == ["en", "de", "both"]
    assert outcome.reasons == {"no caption left: another language": 2}
    assert there["both"]["txt"].decode() == texts["en"]
    assert np.isclose(sum(languages.probabilities(texts["en"], languages.COMMON)), 1)


def test_an_unknown_language_is_told():
    with pytest.raises(ValueError, match="did you mean"):
        Seen(("enn",))
