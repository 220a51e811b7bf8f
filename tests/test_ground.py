"""The ground floor: fields, samples, batches, configuration, results."""

import copy
import json
import math
from dataclasses import dataclass

import pytest
import torch

from diptych import results
from diptych.batch import FIELDS, Batch, Features, Gather, MissingField, Sample, Terms, missing, require
from diptych.config import from_dict, nearest, to_dict
from diptych.recipe import Recipe


def test_sample_answers_by_attribute_and_by_key() -> None:
    sample = Sample("k", {"text": "a cat"})
    assert sample.text == sample["text"] == "a cat"
    assert sample.key == "k"
    assert "text" in sample
    with pytest.raises(AttributeError, match="sample 'k' has no 'image'; it has text"):
        _ = sample.image
    with pytest.raises(MissingField, match="has no 'image'"):
        _ = sample["image"]
    assert copy.deepcopy(sample).text == "a cat"


def test_require_is_one_sentence_with_remedy() -> None:
    require({"image", "text"}, ["image"], who="clip", source="mine")
    with pytest.raises(MissingField) as error:
        require({"image", "text"}, ["image", "boxes"], who="fiber", source="mine")
    message = str(error.value)
    assert message.startswith("fiber needs boxes, which mine does not have (it has image, text): ")
    assert FIELDS["boxes"].remedy in message
    assert missing({"a"}, ["b", "a", "c"]) == ["b", "c"]


def test_batch_moves_tensors_and_keeps_the_rest() -> None:
    batch = Batch({"image": torch.zeros(2, 3), "names": ["a", "b"]}, ["x", "y"])
    moved = batch.to("meta")
    assert moved.image.device.type == "meta"
    assert moved.names == ["a", "b"]
    assert moved.sample_keys == ("x", "y")
    assert batch.size == 2


def test_terms_add_up_and_watch_does_not() -> None:
    terms = Terms(a=torch.tensor(1.0), b=torch.tensor(2.5), watch={"tau": 0.07})
    assert terms.total.item() == 3.5
    assert terms.watch == {"tau": 0.07}


def test_features_take_rows() -> None:
    features = Features(torch.arange(6).reshape(3, 2, 1), torch.arange(3).reshape(3, 1), torch.ones(3, 2).bool())
    taken = features.take(torch.tensor([2, 0]))
    assert taken.pooled.flatten().tolist() == [2, 0]
    assert taken.tokens[0].flatten().tolist() == [4, 5]


def test_one_process_gathers_itself() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert Gather()(x) is x
    assert (Gather.rank, Gather.world) == (0, 1)


def test_config_round_trip_and_nearest_name() -> None:
    @dataclass(frozen=True)
    class Config:
        width: int = 3
        crop: tuple[float, float] = (0.5, 1.0)
        pairs: tuple[tuple[str, float], ...] = (("a", 1.0),)

    config = Config(width=5)
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    assert from_dict(Recipe, to_dict(Recipe(lr=0.5))) == Recipe(lr=0.5)
    with pytest.raises(ValueError, match="did you mean 'width'"):
        from_dict(Config, {"widht": 1})
    assert nearest("zzz", ["a", "b"], "method") == "there is no method 'zzz'; there are: a, b."


def test_results_round_trip_through_json_and_parquet(tmp_path) -> None:
    import pyarrow.parquet as pq

    rows = [
        results.Row("clip", "r", "d", "retrieval", "R@1", 0.5, 0.4, 0.6, 100, 0.01, 1),
        results.Row("clip", "r", "d", "gap", "distance", 0.25),
    ]
    results.write(rows, tmp_path)
    again = results.from_json((tmp_path / "results.json").read_text())
    assert again[0] == rows[0]
    assert again[1].value == 0.25
    assert math.isnan(again[1].low)
    assert json.loads((tmp_path / "results.json").read_text())[1]["low"] is None
    table = pq.read_table(tmp_path / "results.parquet")
    assert tuple(table.column_names) == results.COLUMNS
    assert table.column("metric").to_pylist() == ["R@1", "distance"]
