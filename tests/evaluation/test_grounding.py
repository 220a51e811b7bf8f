from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_fakes import MemoryData
from fusion_fakes import Places, numbered

from diptych.batch import Features
from diptych.evaluation.embed import CannotEvaluate
from diptych.evaluation.probe import at_place
from diptych.evaluation.tasks import evaluate

LEFT, RIGHT = [0.0, 0.0, 0.3, 1.0], [0.7, 0.0, 1.0, 1.0]
STRIPS = np.array([[i / 6, 0.0, (i + 1) / 6, 1.0] for i in range(6)])
TEXT = "red star and two balls"


def strips(number: int, padding: int = 0, **more) -> dict:
    """Six regions side by side, and some that are none."""
    regions = numbered(number, 6 + padding)
    regions[6:, 0] = -1
    return {"regions": regions, "region_boxes": np.concatenate([STRIPS, np.zeros((padding, 4))]), **more}


def judged(task: str, table, *records, method=None, **how):
    return {row.metric: row for row in evaluate(method or Places(table), MemoryData(records), [task], **how)}


def test_grounding_by_hand(tmp_path) -> None:
    boxes = STRIPS[[0, 4, 5]]
    spans = [(0, 8, 0), (13, 22, 1), (13, 22, 2)]  # "two balls" are the last two strips
    first = strips(0, text=TEXT, boxes=boxes, spans=spans, expressions=[("the star", 0), ("a ball", 1)])
    table = {
        (0, "red star"): [5, 6, 4, 3, 2, 1],  # second
        (0, "two balls"): [0, 0, 0, 0, 0, 9],  # any of the two will do
        (0, "the star"): [9, 0, 0, 0, 0, 0],
        (0, "a ball"): [6, 5, 4, 3, 1, 2],  # last of six
    }
    rows = judged("grounding", table, first, out=tmp_path)
    assert {name: row.value for name, row in rows.items()} == {
        "phrase_r1": 0.5,
        "phrase_r5": 1.0,
        "expression_r1": 0.5,
        "expression_r5": 0.5,
    }
    # one of six is right for the star, two of six for the balls: 1/6 and 1/3; of the first five 5/6 and 1
    assert rows["phrase_r1"].chance == pytest.approx((1 / 6 + 1 / 3) / 2)
    assert rows["phrase_r5"].chance == pytest.approx((5 / 6 + 1) / 2)
    assert (tmp_path / "pictures" / "grounding.png").stat().st_size > 1000


def wide(number: int) -> dict:
    """Eight regions, the first of which is the place of `b`: other samples of its batch have padding."""
    boxes = np.concatenate([STRIPS, [LEFT, RIGHT]])
    named = {"text": "b", "boxes": STRIPS[:1], "spans": [(0, 1, 0)]}
    return {"regions": numbered(number, 8), "region_boxes": boxes, **named}


def test_ties_lose_and_padding_is_no_box() -> None:
    first = strips(0, 2, text="a", boxes=STRIPS[:1], spans=[(0, 1, 0)])
    scores = {(1, "b"): [9, 0, 0, 0, 0, 0, 0, 0]}
    assert judged("grounding", scores, first, wide(1))["phrase_r1"].value == 0.5  # all scores of the first are equal
    rows = judged("grounding", {(0, "a"): [1, 0, 0, 0, 0, 0, 9, 9], **scores}, first, wide(1))
    assert rows["phrase_r1"].value == 1
    # one of six for the first; LEFT overlaps a strip by 5/9: two of eight
    assert rows["phrase_r1"].chance == pytest.approx((1 / 6 + 2 / 8) / 2)


def test_a_box_that_no_region_overlaps_by_half_is_missed() -> None:
    half, third = [0.0, 0.0, 1 / 6, 0.5], [0.0, 0.0, 1 / 6, 0.49]
    few = {"regions": numbered(0, 2), "region_boxes": STRIPS[:2]}
    found = {**few, "text": "a b", "boxes": np.array([half, third]), "spans": [(0, 1, 0), (2, 3, 1)]}
    rows = judged("grounding", {(0, "a"): [1, 0], (0, "b"): [1, 0]}, found)
    assert {name: row.value for name, row in rows.items()} == {"phrase_r1": 0.5}


class Short(Places):
    """Reads three words."""

    def tokenize(self, texts: list[str]):
        batch = super().tokenize(texts)
        return type(batch)({name: value[:, :3] for name, value in batch.items()})

    def pairs(self, image: Features, text: Features):
        words = [self.names[int(row)] for row in text.pooled[:, 0]]
        return list(zip(image.pooled[:, 0].long().tolist(), words, strict=True))


@pytest.mark.parametrize("task", ["grounding", "word_regions"])
def test_words_that_were_cut_off_are_missed(task) -> None:
    sample = strips(0, text="red star and ball", boxes=STRIPS[:1], spans=[(0, 3, 0), (13, 17, 0)])
    scores = [1.0, 0, 0, 0, 0, 0]
    table = {(0, "red"): scores, (0, "ball"): scores, (0, ""): scores}
    rows = judged(task, {}, sample, method=Short(table))
    assert next(iter(rows.values())).value == 0.5


def test_word_regions_by_hand() -> None:
    table = {
        (0, "red"): [3, 2, 0, 0, 0, 0],
        (0, "star"): [0, 2, 0, 0, 0, 0],  # summed: the second
        (0, "balls"): [0, 0, 0, 0, 4, 4],  # a tie of a right and a wrong one
    }
    boxes = STRIPS[[1, 4]]
    sample = strips(0, 2, text=TEXT, boxes=boxes, spans=[(0, 8, 0), (17, 22, 1)])
    rows = judged("word_regions", {**table, (1, "b"): [0, 0, 0, 0, 0, 0, 1, 1]}, sample, wide(1))
    assert rows["accuracy"].value == pytest.approx((1 + 0.5 + 0.5) / 3)  # of the tie in the last, LEFT is right
    assert rows["accuracy"].chance == pytest.approx((1 / 6 + 1 / 6 + 2 / 8) / 3)
    assert rows["accuracy"].n == 3


def test_without_boxes_for_tokens_or_words_there_is_nothing_to_ask() -> None:
    sample = {"text": "a", "boxes": STRIPS[:1], "spans": [(0, 1, 0)], "regions": numbered(0)}
    method = Places({})
    method.card = type(method).__mro__[1].card  # sees regions, without their boxes
    with pytest.raises(CannotEvaluate, match="those of fused have no boxes"):
        judged("word_regions", {}, sample, method=method)
    for task in ("word_regions", "grounding"):
        with pytest.raises(CannotEvaluate, match=f"{task} needs .* no sample of memory has both"):
            judged(task, {}, strips(0, text="a", boxes=STRIPS[:1], spans=[]))


def objects(n: int, kinds: list[str], seed: int) -> MemoryData:
    """Three objects a picture, each with a region whose feature tells the kind, in any order."""
    rng, records = np.random.default_rng(seed), []
    for number in range(n):
        chosen = rng.integers(0, len(kinds), 3)
        features = rng.normal(0, 0.05, (3, len(kinds)))
        features[np.arange(3), chosen] += 1
        order = rng.permutation(3)
        regions = np.concatenate([np.full((3, 1), number), np.zeros((3, 1)), features[order]], axis=1)
        boxes = STRIPS[:3]
        records.append(
            {
                "regions": regions.astype(np.float32),
                "region_boxes": boxes[order],
                "boxes": boxes,
                "attributes": [{"category": kinds[kind]} for kind in chosen],
                "text": "three things",
            }
        )
    return MemoryData(records)


def test_a_probe_reads_the_token_of_each_object() -> None:
    kinds = ["star", "ball", "tree"]
    train, val = objects(30, kinds, 0), objects(20, kinds, 1)
    rows = {row.metric: row for row in evaluate(Places({}), val, ["token_probe"], train_data=train)}
    assert (rows["top1"].value, rows["top1"].n, rows["top1"].chance) == (1, 60, pytest.approx(1 / 3))
    for record in train.records:  # each region now tells of a neighbour
        record["region_boxes"] = np.roll(record["region_boxes"], 1, axis=0)
    moved = {row.metric: row for row in evaluate(Places({}), val, ["token_probe"], train_data=train)}
    assert moved["top1"].value < 0.7
    with pytest.raises(CannotEvaluate, match="at least two categories"):
        evaluate(Places({}), val, ["token_probe"], train_data=objects(5, ["star"], 0))


def test_tokens_at_a_place() -> None:
    boxes = torch.tensor(np.stack([[LEFT, RIGHT, [0.0, 0.0, 0.3, 0.9]]]), dtype=torch.float32)
    regions = Features(torch.zeros(1, 3, 2), torch.zeros(1, 2), torch.tensor([[True, True, True]]), boxes)
    assert at_place(regions, 3, LEFT).tolist() == [True, False, True]
    assert at_place(regions, 3, [0.6, 0.0, 0.8, 0.2]).tolist() == [False, True, False]  # the best, if none by half
    grid = regions._replace(boxes=None)
    assert at_place(grid, 4, [0.0, 0.0, 1.0, 0.5]).tolist() == [True, True, False, False]
    with pytest.raises(CannotEvaluate, match="a square grid; there are 5"):
        at_place(grid, 5, LEFT)
