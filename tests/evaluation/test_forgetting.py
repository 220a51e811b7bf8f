"""Retrieval over several tasks, what is forgotten of it, and retrieval by category: by hand."""

import numpy as np
import pytest
import torch
from evaluation_fakes import MemoryData, TableMethod

from diptych.card import EmbedsPairs
from diptych.data.dataset import Subset
from diptych.data.mixture import Mixture, parts_of
from diptych.evaluation.embed import Bench, CannotEvaluate
from diptych.evaluation.forgetting import WAYS, forgotten, hits, looked_at, matrix, tasks_retrieval
from diptych.evaluation.multimodal import average_precision
from diptych.evaluation.tasks import evaluate, obstacles

ANGLES = {"a": 0, "b": 20, "c": 90, "d": 110}
"""Captions by their direction in degrees; `a` and `b` are of the first task."""


def direction(degrees: float) -> list[float]:
    return [float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))]


def two_tasks() -> Mixture:
    parts = [
        MemoryData([{"text": t, "texts": [t]} for t in texts], name=name) for name, texts in (("x", "ab"), ("y", "cd"))
    ]
    return Mixture([(part, 1.0) for part in parts])


def bench(pictures) -> Bench:
    """Pictures of a, b, c, d at these angles. In each part the numbers of pictures begin at 0, so that parts differ by
    where they lie in the table: the picture's number is that within its part."""
    data = two_tasks()
    for part, offset in zip(data.parts, (0, 2), strict=True):
        read = part.read
        part.read = lambda index, fields, read=read, offset=offset: moved(read(index, fields), index + offset)
    captions = {text: direction(angle) for text, angle in ANGLES.items()}
    return Bench(TableMethod([direction(angle) for angle in pictures], captions).eval(), data, ["text", "texts"])


def moved(sample, number):
    if "image" in sample:
        sample["image"].info["number"] = number
    return sample


def r1(values) -> list:
    return values[:, [0, 3]].tolist()


def test_parts_of_mixtures_and_of_some_of_their_samples() -> None:
    data = two_tasks()
    assert parts_of(data)[0] == ("x", "y")
    assert parts_of(data)[1].tolist() == [0, 0, 1, 1]
    assert parts_of(Subset(data, [3, 0]))[1].tolist() == [1, 0]
    assert (parts_of(data.parts[0])[0], parts_of(data.parts[0])[1].tolist()) == (("x",), [0, 0])


def test_hits_among_some_and_among_all() -> None:
    judge = bench([0, 20, 90, 25])  # the picture of d lies beside b: 5 degrees from it
    # caption d (110) is nearest to the picture of c (20 degrees away), picture d (25) to caption b
    assert r1(hits(judge, np.arange(4))[0]) == [[1, 1], [1, 1], [1, 1], [0, 0]]
    alone, chances = hits(judge, np.array([2, 3]))  # picture d is 65 from c and 85 from d; caption d: 20 from c's
    assert r1(alone) == [[1, 1], [0, 0]]
    assert alone[:, [1, 2, 4, 5]].min() == 1  # of two candidates the first five are all
    assert chances[:2].tolist() == [0.5, 1.0]


def test_several_captions_of_a_picture_count_once() -> None:
    data = MemoryData([{"text": "a", "texts": ["a", "c"]}, {"text": "b", "texts": ["b"]}])
    captions = {text: direction(angle) for text, angle in ANGLES.items()}
    found, _ = hits(Bench(TableMethod([direction(0), direction(60)], captions).eval(), data, ["texts"]), np.arange(2))
    # a: its picture is first; c (90) is nearer to the other picture (60): half of its captions find it. b (20): 0 first
    assert r1(found) == [[1, 0.5], [0, 0]]


def test_retrieval_over_tasks_by_hand() -> None:
    found = {one.metric: one for one in tasks_retrieval(bench([0, 20, 90, 25])).measures}
    assert {name: one.estimate.value for name, one in found.items()} == {
        "r1": 0.75,
        "r_mean": pytest.approx((0.75 + 1 + 1) / 3),
        "task1_r1": 1.0,
        "task2_r1": 0.5,
    }
    assert found["r1"].chance == 0.25
    assert found["task2_r1"].estimate.n == 2


def test_forgetting_by_hand() -> None:
    after1, after2 = looked_at(bench([0, 20, 60, 25])), looked_at(bench([100, 20, 90, 110]))
    assert after1["among1/image_to_text_r1"].tolist()[:2] == [1, 1]
    assert np.isnan(after1["among1/image_to_text_r1"][2:]).all()
    result = forgotten([after1, after2])
    value = {one.metric: one.estimate.value for one in result.measures}
    # picture a went from 0 to 100 degrees: it found a, and now finds c or d; caption a finds b's picture now
    assert value["r1"] == value["task1_r1"] == value["image_to_text_r1"] == value["text_to_image_r1"] == 0.5
    assert value["r_mean"] == pytest.approx(0.5 / 3)  # all four candidates are among the first five
    assert value["after1_r1"] == 1.0
    assert value["after2_r1"] == 0.75
    # among the first task alone picture a (100) is nearer to b (80 away) than to a, and caption a to b's picture
    assert value["backward_transfer"] == pytest.approx(-0.5 / 3)
    assert "task2_r1" not in value
    assert np.isnan(result.samples["r1"][2:]).all()
    assert np.nanmean(result.samples["r1"]) == value["r1"]
    assert matrix([after1, after2]).tolist() == [[1.0, 0.5], [0.5, 1.0]]  # before, c finds itself and d does not


def test_after_the_first_task_nothing_is_forgotten_yet() -> None:
    history = [looked_at(bench([0, 20, 90, 110]))]
    value = {one.metric: one.estimate.value for one in forgotten(history).measures}
    assert value == {"after1_r1": 1.0, "after1_r_mean": 1.0}
    assert forgotten([*history, *history]).measures[0].estimate.value == 0.0
    assert sum(name.startswith("among") for name in history[0]) == 2 * len(WAYS)


def test_one_data_set_has_no_tasks() -> None:
    method = TableMethod([direction(0)] * 2)
    data = two_tasks().parts[0]
    assert "is one data set; join some as in A + B." in obstacles(method, data)["tasks_retrieval"]
    with pytest.raises(CannotEvaluate, match="two different captions"):
        hits(bench([0, 20, 90, 110]), np.array([1]))


@pytest.mark.parametrize(
    ("found", "depth", "value"),
    [
        ("1100", 1, 1.0),
        ("0111", 4, (1 / 2 + 2 / 3 + 3 / 4) / 3),
        ("0101", 2, 1 / 2),  # two right answers: only two places count
        ("0001", 3, 0.0),
        ("1011", 10, (1 + 2 / 3 + 3 / 4) / 3),  # the list is shorter than the depth
    ],
)
def test_average_precision_by_hand(found, depth, value) -> None:
    assert average_precision(np.array([[one == "1" for one in found]]), np.array([depth])) == pytest.approx(value)


class Fused(TableMethod):
    """One vector a pair: that of the text."""

    def encode_image(self, batch):
        return self.embed_image(batch)

    encode_text = TableMethod.embed_text

    def embed_pair(self, image, text):
        return text.pooled


def by_category(method=TableMethod, **split) -> dict[str, float]:
    """Two of p at 0 and 20 degrees, two of q at 90 and 30, one alone: pictures all alike."""
    records = [
        {"text": t, "texts": [t], "category": c}
        for t, c in (("a", "p"), ("b", "p"), ("c", "q"), ("e", "q"), ("d", "r"))
    ]
    captions = {text: direction(angle) for text, angle in (ANGLES | {"e": 30}).items()}
    data = MemoryData(records, classes=("p", "q", "r"))
    rows = evaluate(method([direction(45)] * 5, captions), data, ("multimodal_retrieval",), **split)
    return {row.metric: row.value for row in rows}


def test_others_of_a_category_are_found_by_hand() -> None:
    # a: b, e, ... -> right first. b: e (10 away) before a (20). c: d (20), e (60): wrong first. e: b, a, c: wrong
    assert isinstance(Fused([[0.0, 1.0]]), EmbedsPairs)
    assert by_category(Fused) == {"map1": 0.25, "map5": 0.25, "map10": 0.25}  # one right answer each: one place counts
    assert by_category() == by_category(Fused)  # the sum with pictures that are all alike has the same order


def test_a_query_set_asks_its_gallery() -> None:
    records = [{"text": t, "texts": [t], "category": c} for t, c in (("a", "p"), ("c", "q"))]
    captions = {text: direction(angle) for text, angle in ANGLES.items()}
    query = MemoryData(records, classes=("p", "q"), split="query")
    gallery = MemoryData(records[::-1], classes=("p", "q"), split="gallery")
    rows = evaluate(Fused([direction(0)] * 2, captions), query, ("multimodal_retrieval",), train_data=gallery)
    assert [row.value for row in rows] == [1.0, 1.0, 1.0]  # each finds its twin, which no query set holds
    assert torch.equal(torch.tensor([row.n for row in rows]), torch.tensor([2, 2, 2]))


def test_without_a_shared_category_nothing_is_asked() -> None:
    records = [{"text": t, "texts": [t], "category": t} for t in "ab"]
    with pytest.raises(CannotEvaluate, match="no two samples of memory share a category"):
        evaluate(TableMethod([direction(0)] * 2), MemoryData(records, classes=("a", "b")), ("multimodal_retrieval",))
