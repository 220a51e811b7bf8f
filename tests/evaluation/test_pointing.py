from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_fakes import MemoryData, TokenMethod

from diptych.evaluation.embed import Bench, CannotEvaluate, judging
from diptych.evaluation.pointing import covered, heat_maps, overlapping, pointing, queries

LEFT_TOP, RIGHT_TOP, LEFT_BOTTOM = [0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], [0.0, 0.5, 0.5, 1.0]
COLOURS = {"red": [1.0, 0, 0, 0], "green": [0, 1.0, 0, 0], "blue": [0, 0, 1.0, 0]}
PATCHES = torch.eye(4)  # top left is red, top right green, bottom left blue, bottom right neither


def measured(method, samples):
    with judging(method, "cpu"):
        return pointing(
            Bench(method, MemoryData(samples), ("text", "boxes", "spans", "attributes", "scene"), keep_tokens=True)
        )


def values(result) -> dict[str, float]:
    return {measure.metric: measure.estimate.value for measure in result.measures}


def sample(text: str, spans, boxes, **more):
    return {"text": text, "spans": spans, "boxes": np.array(boxes), **more}


def test_words_that_find_their_place() -> None:
    # red is named for its own box and green for the box of blue: one of two
    one = sample("a red and green", [(2, 5, 0), (10, 15, 1)], [LEFT_TOP, LEFT_BOTTOM])
    result = measured(TokenMethod(PATCHES[None], COLOURS), [one])
    assert result.samples["phrase"].tolist() == [1.0, 0.0]
    assert result.samples["text"] == ["red", "green"]
    assert values(result) == {"phrase": 0.5, "phrase_alone": 0.5}
    assert [measure.chance for measure in result.measures] == [0.25, 0.25]


def test_the_heat_of_a_phrase_is_the_mean_over_its_tokens() -> None:
    method = TokenMethod(PATCHES[None], COLOURS)
    data = MemoryData([sample("red green red", [(0, 13, 0), (4, 9, 0), (0, 1, 0)], [LEFT_TOP])])
    with judging(method, "cpu"):
        bench = Bench(method, data, ("text", "boxes", "spans"), keep_tokens=True)
        whole, middle, part = heat_maps(bench, queries(bench))
    assert whole == pytest.approx(np.array([[2 / 3, 1 / 3], [0, 0]]))
    assert middle == pytest.approx(np.array([[0, 1], [0, 0]]))
    assert part == pytest.approx(np.array([[1, 0], [0, 0]]))  # a token that is only partly inside counts


def test_a_phrase_alone_is_a_text_of_its_own() -> None:
    """In the caption a word may borrow from its neighbours; alone it cannot."""

    class Borrowing(TokenMethod):
        def embed_text(self, batch):
            found = super().embed_text(batch)
            return found._replace(tokens=found.tokens.mean(1, keepdim=True).expand_as(found.tokens))

    one = sample("green green red", [(12, 15, 0)], [LEFT_TOP])
    result = measured(Borrowing(PATCHES[None], COLOURS), [one])
    assert values(result) == {"phrase": 0.0, "phrase_alone": 1.0}


def test_the_noun_within_the_phrase() -> None:
    # the phrase is torn between its words, the noun is not
    words = {**COLOURS, "star": [0, 0, 1.0, 0], "big": [0, 2.0, 0, 0]}
    text, spans = "big star and green", [(0, 8, 0), (13, 18, 1)]
    told = sample(text, spans, [LEFT_BOTTOM, RIGHT_TOP], attributes=[{"category": "star"}, {"category": "ring"}])
    result = measured(TokenMethod(PATCHES[None], words), [told])
    assert values(result) == {"phrase": 0.5, "word": 1.0, "phrase_alone": 0.5}
    assert result.samples["word"][0] == 1.0
    assert np.isnan(result.samples["word"][1])  # the second phrase does not contain its category
    scene = sample(text, spans, [LEFT_BOTTOM, RIGHT_TOP], scene={"objects": [{"shape": "star"}, {"shape": "green"}]})
    assert values(measured(TokenMethod(PATCHES[None], words), [scene]))["word"] == 1.0


def test_a_flat_map_scores_chance_and_a_broken_one_nothing() -> None:
    boxes = [LEFT_TOP, [0.0, 0.0, 1.0, 0.5]]
    one = sample("red green", [(0, 3, 0), (4, 9, 1)], boxes)
    flat = measured(TokenMethod(torch.ones(1, 4, 4), COLOURS), [one])
    assert values(flat)["phrase"] == pytest.approx((0.25 + 0.5) / 2)
    assert flat.measures[0].chance == pytest.approx((0.25 + 0.5) / 2)
    broken = measured(TokenMethod(torch.full((1, 4, 4), torch.nan), COLOURS), [one])
    assert values(broken)["phrase"] == 0


def test_a_phrase_beyond_the_last_token_is_a_miss() -> None:
    class Short(TokenMethod):
        def tokenize(self, texts):
            return super().tokenize([text.split()[0] for text in texts])

    one = sample("red green", [(0, 3, 0), (4, 9, 1)], [LEFT_TOP, RIGHT_TOP])
    result = measured(Short(PATCHES[None], COLOURS), [one])
    assert result.samples["phrase"].tolist() == [1.0, 0.0]
    assert result.measures[0].estimate.n == 2


def test_boxes_on_the_grid() -> None:
    assert covered(LEFT_TOP, (2, 2)).tolist() == [[True, False], [False, False]]
    assert covered([0.3, 0.1, 0.9, 0.9], (1, 4)).tolist() == [[False, True, True, True]]
    tiny = covered([0.6, 0.8, 0.65, 0.85], (2, 2))  # holds no centre: the position on which its own centre falls
    assert tiny.tolist() == [[False, False], [False, True]]
    assert covered([1.0, 1.0, 1.0, 1.0], (2, 2)).tolist() == [[False, False], [False, True]]


def test_tokens_that_overlap_a_span() -> None:
    offsets = [(0, 0), (0, 3), (4, 9), (9, 10), (0, 0)]
    assert overlapping(offsets, 0, 3) == [1]
    assert overlapping(offsets, 2, 5) == [1, 2]
    assert overlapping(offsets, 3, 4) == []
    assert overlapping(offsets, 0, 10) == [1, 2, 3]


def test_spans_of_one_picture_are_no_independent_samples() -> None:
    method = TokenMethod(PATCHES[None].repeat(40, 1, 1), COLOURS)
    right = [sample("red red red", [(0, 3, 0), (4, 7, 0), (8, 11, 0)], [LEFT_TOP]) for _ in range(20)]
    wrong = [sample("red red red", [(0, 3, 0), (4, 7, 0), (8, 11, 0)], [RIGHT_TOP]) for _ in range(20)]
    estimate = measured(method, right + wrong).measures[0].estimate
    assert estimate.n == 120
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * (0.25 / 40) ** 0.5, rel=0.1)


def test_without_spans_it_says_so() -> None:
    with pytest.raises(CannotEvaluate, match="spans and boxes"):
        measured(TokenMethod(PATCHES[None], COLOURS), [sample("red", [(0, 3, 5)], [LEFT_TOP])])
