from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from evaluation_fakes import MemoryData
from fusion_fakes import FusedMethod, TwoWays, numbered

from diptych.batch import Batch, Features, Sample
from diptych.card import Card
from diptych.evaluation import pairs as by_pairs
from diptych.evaluation.contrasts import pair_foils, pair_hard_gallery
from diptych.evaluation.embed import Bench, CannotEvaluate, judging
from diptych.evaluation.pairs import pair_retrieval, ranks_among
from diptych.evaluation.retrieval import rank_of_best_positive
from diptych.evaluation.tasks import How, evaluate


def things(n: int, **more) -> MemoryData:
    """Sample i says `thing i`, followed by up to two other words."""
    records = [{"regions": numbered(i), "text": " ".join(["thing", str(i), "a", "b"][: 2 + i % 3])} for i in range(n)]
    return MemoryData([{**record, **{name: of[i] for name, of in more.items()}} for i, record in enumerate(records)])


def number_of(text: str) -> int:
    return int(text.split()[1]) if " " in text else -1


def values(result) -> dict[str, float]:
    return {measure.metric: measure.estimate.value for measure in result.measures}


def measured(task, method, data, *notes: str, rerank: int | None = None):
    with judging(method, "cpu"):
        bench = Bench(method, data, ("text", *notes))
        bench.rerank = rerank
        return task(bench)


def test_a_method_that_knows_its_pairs_finds_them_all() -> None:
    method, data = FusedMethod(lambda number, text: float(number == number_of(text))), things(24)
    result = measured(pair_retrieval, method, data)
    assert values(result) == {
        f"{direction}_{figure}": 1
        for direction in ("image_to_text", "text_to_image")
        for figure in ("r1", "r5", "r10", "median_rank")
    }
    assert (method.encoded_images, len(method.encoded_texts), method.fused) == (24, 24, 24 * 24)
    assert set(data.reads) == {"regions", "text"}  # a picture is there, and is not read


def test_ranks_by_hand() -> None:
    # log-odds of sample i (row) and text j (column), as in the test of two towers
    table = [[0.5, 0.9, 0.1], [0.2, 0.3, 0.7], [0.8, 0.4, 0.6]]
    method = FusedMethod(lambda number, text: table[number][number_of(text)])
    result = measured(pair_retrieval, method, things(3))
    assert result.samples["image_to_text_median_rank"][:3] == [2, 2, 2]
    assert result.samples["text_to_image_median_rank"][3:] == [2, 3, 2]


@pytest.mark.parametrize("seed", [0, 1])
def test_ranks_equal_those_of_the_tiles_of_a_matrix(seed) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (23, 31)).astype(np.float32)  # few values: many ties
    pairs = np.unique(np.stack([rng.integers(0, 23, 40), rng.integers(0, 31, 40)], axis=1), axis=0)
    right = np.zeros(scores.shape, bool)
    right[pairs[:, 0], pairs[:, 1]] = True

    def similarity(image: Features, text: Features):
        rows, columns = image.pooled[:, 0].long(), text.pooled[:, 0].long()
        return (torch.from_numpy(scores)[rows][:, columns],) * 2

    sides = [Features(torch.zeros(n, 0, 1), torch.arange(n)[:, None], torch.zeros(n, 0).bool()) for n in (23, 31)]
    expected = rank_of_best_positive(similarity, *sides, pairs)
    found = ranks_among(scores, right, np.zeros(23, int)), ranks_among(scores.T, right.T, np.zeros(31, int))
    assert [one.tolist() for one in found] == [one.tolist() for one in expected]


def test_ties_lose_and_what_is_not_a_number_ranks_last() -> None:
    right, none = np.eye(3, dtype=bool), np.zeros(3, int)
    assert ranks_among(np.ones((3, 3)), right, none).tolist() == [3, 3, 3]
    scores = np.eye(3)
    scores[0, 0], scores[1, 2] = np.nan, np.nan
    assert ranks_among(scores, right, none).tolist() == [3, 2, 1]


def test_reranking_orders_the_candidates_and_leaves_the_others_where_they_were() -> None:
    """Two towers rank the right one as far off as |i - j| says; fusion is right. Of 12 the nearest 3 are candidates."""
    shift = {0: 0, 5: 5}  # caption 0 is the nearest to its picture, caption 5 stands 6th

    def near(number: int, text: str) -> float:
        wanted = number_of(text)
        return -float(abs(number - wanted) if number != wanted else shift.get(wanted, 1) + 0.5)

    method = TwoWays(lambda number, text: float(number == number_of(text)), near)
    result = measured(pair_retrieval, method, things(12), rerank=3)
    assert result.samples["image_to_text_median_rank"][0] == 1
    # picture 5 has 4 and 6 at 1, 3 and 7 at 2, up to 0 and 10 at 5; its own at 5.5 stands behind these ten
    assert result.samples["image_to_text_median_rank"][5] == 11
    assert result.samples["image_to_text_median_rank"][6] == 1  # its own at 1.5 stands third, fusion puts it first
    assert values(result)["rerank_depth"] == 3
    assert method.fused <= 2 * 3 * 12
    assert "rerank_depth" not in values(measured(pair_retrieval, method, things(12)))


def test_reranking_of_everything_is_exact() -> None:
    table = np.random.default_rng(0).normal(size=(14, 14))
    method = TwoWays(lambda number, text: float(table[number, number_of(text)]), lambda number, text: float(number))
    everything, exact = (measured(pair_retrieval, method, things(14), rerank=depth) for depth in (14, 0))
    assert everything.samples == exact.samples


def test_many_pairs_are_reranked_unasked_and_the_log_says_so(monkeypatch, caplog) -> None:
    monkeypatch.setattr(by_pairs, "AFFORDED", 143)
    monkeypatch.setattr(by_pairs, "RERANKED", 4)
    method = TwoWays(lambda number, text: float(number == number_of(text)), lambda number, text: 0.0)
    with caplog.at_level(logging.INFO, "diptych.evaluation"):
        rows = evaluate(method, things(12), ["pair_retrieval"])
    assert [row.value for row in rows if row.metric == "rerank_depth"] == [4]
    assert any("the 4 candidates of each query" in line for line in caplog.messages)
    with caplog.at_level(logging.INFO, "diptych.evaluation"):
        evaluate(FusedMethod(), things(12), ["pair_retrieval"])  # has no other way to compare
    assert any("all 144 pairs are fused" in line for line in caplog.messages)
    with caplog.at_level(logging.INFO, "diptych.evaluation"):
        assert not evaluate(FusedMethod(), things(12))
    assert any("would fuse 144 pairs: ask for it by name" in line for line in caplog.messages)


def test_a_depth_without_two_towers_is_refused() -> None:
    with pytest.raises(CannotEvaluate, match="fused has no similarity to choose candidates by"):
        evaluate(FusedMethod(), things(4), ["pair_retrieval"], how=How(rerank=2))


def test_both_ways_stand_side_by_side_and_samples_are_encoded_once_for_each() -> None:
    def knows(number: int, text: str) -> float:
        return float(number == number_of(text))

    data = things(12, negatives=[[f"thing {i + 1}"] for i in range(12)], scene=[{"group": i // 4} for i in range(12)])
    method = TwoWays(knows, lambda number, text: -knows(number, text))
    rows = {(row.task, row.metric): row for row in evaluate(method, data)}
    for task, value in (("", 0), ("pair_", 1)):
        assert rows[f"{task}retrieval", "text_to_image_r1"].value == value
        assert rows[f"{task}hard_gallery", "text_to_image_r1"].value == value
        assert rows[f"{task}foils", "accuracy"].value == value
        assert rows[f"{task}foils", "pairwise"].value == value
    assert (method.embedded, method.encoded_images) == (12, 12)
    assert sorted(method.encoded_texts) == sorted(set(method.encoded_texts))
    assert data.reads["regions"] == 12


def test_foils_and_look_alikes_by_hand() -> None:
    data = things(4, negatives=[["thing 8", "thing 9"], ["thing 8"], ["thing 9"], []], scene=[{"group": 0}] * 4)
    order = {0: 5.0, 1: 3.0, 2: 3.0, 3: 0.0, 8: 3.0, 9: 4.0}  # whichever picture: text 0 first, then 9, then 1, 2, 8
    method = FusedMethod(lambda number, text: order[number_of(text)])
    found = measured(pair_foils, method, data, "negatives")
    assert values(found) == pytest.approx({"accuracy": 1 / 3, "pairwise": (1 + 0 + 0) / 3})
    alike = measured(pair_hard_gallery, method, data, "scene")
    assert values(alike) == pytest.approx({"image_to_text_r1": 1 / 4, "text_to_image_r1": 0})


class Watches(FusedMethod):
    """Sees two frames of a clip: how bright they are."""

    card = Card(id="watches", title="Watches", year=2026, arxiv="", family="fusion", needs=("video", "text"))

    def views(self, sample: Sample, rng: np.random.Generator | None):
        return {"video": torch.stack([torch.tensor(sample.video[at].getpixel((0, 0))) for at in (0, -1)])}

    def encode_image(self, batch: Batch) -> Features:
        return super().encode_image(Batch({"regions": batch.video.float()}))


def test_videos_are_found_by_their_texts(tmp_path) -> None:
    from PIL import Image

    clips = [[Image.new("RGB", (8, 8), (i, i, i)) for _ in range(5)] for i in range(12)]
    data = MemoryData([{"video": clip, "text": f"clip {i}"} for i, clip in enumerate(clips)])
    method = Watches(lambda number, text: float(number == number_of(text)))
    rows = {row.metric: row for row in evaluate(method, data, ["pair_retrieval"], out=tmp_path)}
    assert rows["text_to_image_r1"].value == 1
    assert rows["text_to_image_median_rank"].value == 1
    assert rows["text_to_image_median_rank"].chance == 6
    assert "image" not in data.reads  # pictures are there too, and frames are what is shown
    assert (tmp_path / "pictures" / "pair_text_to_image.png").stat().st_size > 1000
