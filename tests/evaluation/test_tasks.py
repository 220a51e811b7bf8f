from __future__ import annotations

import json
import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_fakes import ImagesOnly, MemoryData, TableMethod, TokenMethod
from PIL import Image
from torch import nn

from diptych import results
from diptych.batch import MissingField
from diptych.card import Card
from diptych.evaluation.embed import Bench, CannotEvaluate, joined, judging
from diptych.evaluation.tasks import TASKS, How, evaluate, limited, obstacles
from diptych.evaluation.zero_shot import TEMPLATES

N = 12
WORDS = ["red", "green", "blue"]


def everything(n: int = N) -> MemoryData:
    """Samples with all fields that tasks ask for: a colour in a corner of the picture."""
    corners = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], [0.0, 0.5, 0.5, 1.0]]
    samples = []
    for i in range(n):
        word = WORDS[i % 3]
        text = f"{word} number{i}"
        samples.append(
            {
                "image": Image.new("RGB", (16, 16), word),
                "text": text,
                "texts": [text, word],
                "category": word,
                "boxes": np.array([corners[i % 3]]),
                "spans": [(0, len(word), 0)],
                "attributes": [{"category": word}],
                "negatives": [f"{other} number{i}" for other in WORDS if other != word],
                "scene": {"group": i // 3},
            }
        )
    return MemoryData(samples, classes=WORDS)


def method_for(n: int = N) -> TokenMethod:
    """Sees the colour in its corner, and reads it."""
    patches = torch.zeros(n, 4, 4)
    for i in range(n):
        patches[i, i % 3, i % 3] = 1.0
    return TokenMethod(patches, {word: torch.eye(4)[place].tolist() for place, word in enumerate(WORDS)})


def test_no_name_means_every_task_that_can_run() -> None:
    data = everything()
    rows = evaluate(method_for(), data, run="r", seed=3, train_data=data)
    pairs = ["retrieval", "multimodal_retrieval", "hard_gallery", "foils"]
    by_features = [*pairs, "zero_shot", "knn", "linear_probe", "pointing", "gap"]
    assert list(dict.fromkeys(row.task for row in rows)) == by_features
    assert {(row.method, row.run, row.data, row.seed) for row in rows} == {("table", "r", "memory/val", 3)}
    figures = {(row.task, row.metric): row for row in rows}
    assert figures["foils", "accuracy"].value == 1
    assert figures["zero_shot", "top1"].value == 1
    assert figures["pointing", "phrase"].value == 1
    assert figures["pointing", "word"].value == 1
    assert figures["hard_gallery", "text_to_image_r1"].value == 1
    assert all(row.low <= row.value <= row.high and row.n > 0 for row in rows)
    assert all(0 < row.chance < row.n for row in rows if row.task != "gap")
    json.loads(results.to_json(rows))


def test_every_picture_and_text_is_embedded_once_for_all_tasks() -> None:
    data, method = everything(), method_for()
    seen: list[str] = []
    tokenize = method.tokenize
    method.tokenize = lambda texts: (seen.extend(texts), tokenize(texts))[1]
    evaluate(method, data)
    assert method.embedded_images == N
    assert data.reads["image"] == N
    probe = ["a"]  # by which the bench finds out whether tokens are compared; here pointing settles it
    assert sorted(seen) == sorted(set(seen))
    assert set(seen) - set(probe) == {
        *(text for record in data.records for text in (*record["texts"], *record["negatives"])),
        *(template.format(word) for template in TEMPLATES for word in WORDS),
    }


def test_only_what_is_asked_for_is_read() -> None:
    data = everything()
    evaluate(method_for(), data, ["zero_shot"])
    assert set(data.reads) == {"image", "category"}


def test_what_a_picture_method_can_do() -> None:
    data = everything()
    eyes = ImagesOnly(torch.eye(3).repeat(4, 1))
    rows = evaluate(eyes, data, train_data=data)
    assert {row.task for row in rows} == {"knn", "linear_probe"}
    assert {row.value for row in rows if row.metric == "top1"} == {1.0}


def test_what_cannot_run_is_logged_when_nobody_asked_for_it(caplog) -> None:
    data = MemoryData([{"text": "a"}, {"text": "b"}])
    method = TableMethod(torch.eye(2))
    with caplog.at_level(logging.INFO, "diptych.evaluation"):
        rows = evaluate(method, data)
    assert {row.task for row in rows} == {"retrieval", "gap"}
    told = "\n".join(caplog.messages)
    for name in set(TASKS) - {"retrieval", "gap"}:
        assert f"task {name} " in told


def test_what_only_the_samples_tell_is_logged_too(caplog) -> None:
    data = MemoryData([{"text": "a", "scene": {}}, {"text": "b", "scene": {}}])
    with caplog.at_level(logging.INFO, "diptych.evaluation"):
        rows = evaluate(TableMethod(torch.eye(2)), data)
    assert "hard_gallery" not in {row.task for row in rows}
    assert any("hard_gallery needs samples that come in groups" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("task", "method", "sample", "sentence"),
    [
        ("pointing", TableMethod(torch.eye(1)), {"text": "a"}, "method table does not implement Grounds"),
        (
            "retrieval",
            ImagesOnly(torch.eye(1)),
            {"text": "a"},
            "method eyes does not implement EmbedsTexts, ScoresPairs",
        ),
        (
            "foils",
            TableMethod(torch.eye(1)),
            {"text": "a"},
            "task foils needs negatives, which data set memory does not",
        ),
        ("zero_shot", TableMethod(torch.eye(1)), {"text": "a"}, "task zero_shot needs category"),
        ("knn", TableMethod(torch.eye(1)), {"category": "a"}, r"none was given \(train_data\)"),
        ("hard_gallery", TableMethod(torch.eye(1)), {"text": "a", "scene": {}}, "come in groups"),
    ],
)
def test_asking_for_what_cannot_run_says_what_is_missing(task, method, sample, sentence) -> None:
    with pytest.raises(CannotEvaluate, match=sentence) as caught:
        evaluate(method, MemoryData([sample]), [task])
    assert "\n" not in str(caught.value)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'zero_shot'"):
        evaluate(TableMethod(torch.eye(1)), MemoryData([{"text": "a"}]), ["zeroshot"])


def test_a_method_whose_views_need_more_than_the_data_has() -> None:
    method = TableMethod(torch.eye(1))
    method.card = Card(id="boxy", title="", year=2026, arxiv="", family="fusion", needs=("image", "text", "regions"))
    with pytest.raises(MissingField, match="method boxy needs regions"):
        evaluate(method, MemoryData([{"text": "a"}]))


def test_obstacles_are_sentences() -> None:
    found = obstacles(TableMethod(torch.eye(1)), MemoryData([{"text": "a"}]))
    assert set(found) == set(TASKS) - {"retrieval", "gap"}
    assert all(sentence.endswith(".") for sentence in found.values())


def test_files_beside_the_figures(tmp_path) -> None:
    rows = evaluate(method_for(), everything(), out=tmp_path)
    for task in {row.task for row in rows}:
        table = pq.read_table(tmp_path / "samples" / f"{task}.parquet").to_pydict()
        assert len(table["key"]) > 0
        for row in rows:
            if row.task == task and row.metric in table and "median" not in row.metric:
                column = [value for value in table[row.metric] if value is not None]
                assert row.value == pytest.approx(np.mean(column)), (task, row.metric)
                assert row.n == len(column)
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == ["confusion.png", "image_to_text.png", "pointing.png", "text_to_image.png", "words.png"]


def test_modes_and_gradients_are_as_before() -> None:
    method = method_for()
    method.frozen = nn.Dropout().eval()
    method.train()
    method.frozen.eval()
    evaluate(method, everything(), ["retrieval"])
    assert method.training
    assert method.dropout.training
    assert not method.frozen.training
    assert torch.is_grad_enabled()


def test_a_broken_sample_is_left_out_and_said(caplog) -> None:
    data = everything(60)
    data.records[4] = {**data.records[4], "image": None}
    with caplog.at_level(logging.WARNING, "diptych.evaluation"):
        rows = evaluate(method_for(60), data, ["foils"])
    assert rows[0].n == 59
    assert "1 samples of memory could not be read" in caplog.text


def test_a_sample_that_lacks_a_note_keeps_the_others() -> None:
    data = everything()
    data.records[4] = {**data.records[4], "negatives": None}
    rows = {(row.task, row.metric): row for row in evaluate(method_for(), data, ["foils", "pointing"])}
    assert rows["foils", "accuracy"].n == N - 1
    assert rows["pointing", "phrase"].n == N


def test_a_set_without_captions_is_classified() -> None:
    data = MemoryData([{"category": word} for word in WORDS], classes=WORDS)
    rows = evaluate(method_for(3), data, ["zero_shot"])
    assert rows[0].value == 1


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_batch_size_changes_nothing(batch) -> None:
    assert evaluate(method_for(), everything(), how=How(batch=batch)) == evaluate(
        method_for(), everything(), how=How(batch=7)
    )


def test_workers_change_nothing() -> None:
    tasks = ["retrieval", "pointing"]
    assert evaluate(method_for(), everything(), tasks, how=How(workers=1)) == evaluate(
        method_for(), everything(), tasks
    )


def test_limit_takes_runs_of_neighbours_spread_over_the_set() -> None:
    data = MemoryData([{"text": "a"}] * 1000)
    some = limited(data, 40)
    assert [some.key(i) for i in (0, 15, 16, 32, 39)] == ["s00000", "s00015", "s00336", "s00672", "s00679"]
    assert len(some) == 40
    assert limited(data, None) is data
    assert limited(data, 1000) is data
    assert len(limited(data, 999)) == 999
    with pytest.raises(ValueError, match="limit is 0"):
        limited(data, 0)
    rows = evaluate(method_for(48), everything(48), ["foils"], how=How(limit=16))
    assert rows[0].n == 16


def test_texts_of_different_lengths_are_kept_apart_by_their_masks() -> None:
    method = method_for()
    with judging(method, "cpu"):
        bench = Bench(method, everything(), ("text",), batch=1, keep_tokens=True)
        late = bench.texts(["red", "red green blue"])
        again = bench.texts(["red green blue", "red", "red"])
    assert late.mask.tolist() == [[True, True, False, False], [True, True, True, True]]
    assert torch.equal(again.tokens, late.tokens[[1, 0, 0]])
    assert not joined([late.take(slice(0, 1)), again]).mask[0, 2:].any()
