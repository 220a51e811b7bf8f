"""`diptych annotate --reference`: chances of the words of captions, by a small reference of its own."""

import json

import numpy as np
import pytest
import torch

from diptych import methods
from diptych.app.main import main
from diptych.curation.captions import with_record
from diptych.curation.chances import Reader
from diptych.data.dataset import ShardedData
from diptych.data.decode import BrokenSample
from diptych.data.fields import decode_sample
from diptych.data.shards import ShardWriter, write_dataset_json

pytest.importorskip("transformers")
CAPTIONS = {"one": ["a red star"], "two": ["a blue disc", "a disc that is blue"], "none": []}


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("reference")
    config = {"width": 16, "layers": 1, "heads": 2, "image": "patches", "image_size": 16, "tasks": ("reference",)}
    methods.build("prior", config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def source(tmp_path) -> str:
    with ShardWriter(tmp_path / "in", "train") as writer:
        for key, texts in CAPTIONS.items():
            writer.add(key, with_record({"png": key.encode()}, {"texts": texts, "note": key}))
    write_dataset_json(tmp_path / "in", {"name": "in", "licence": "CC0-1.0", "has": ["image", "text", "texts"]})
    return str(tmp_path / "in")


def annotate(source, reference, out, *more) -> int:
    return main(["annotate", source, "--reference", reference, "--out", str(out), "--device", "cpu", *more])


def test_every_caption_gets_the_chances_of_its_tokens(source, reference, tmp_path, capsys) -> None:
    assert annotate(source, reference, tmp_path / "out") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1 samples went: broken" in told
    assert "diptych train prior --tasks pretrain" in told
    data = ShardedData(tmp_path / "out", "train")
    assert {data.key(number) for number in range(len(data))} == {"one", "two"}
    assert "chances" in data.has
    method = methods.method_class("prior").from_pretrained(reference)
    for number in range(len(data)):
        sample = data.read(number, ("texts", "chances"))
        expected = method.text_chances(sample.texts)
        assert sample.chances["by"] == Reader(method, "").digest
        for (ids, chances), own_ids, own in zip(
            expected, sample.chances["ids"], sample.chances["chances"], strict=True
        ):
            assert own_ids.tolist() == ids
            np.testing.assert_allclose(own, chances, atol=1e-6)
            assert own.dtype == np.float32
        assert data.raw(number)["png"] == data.key(number).encode()
        assert json.loads(data.raw(number)["json"])["note"] == data.key(number)


def test_another_model_has_another_digest_and_replaces_what_was_there(source, reference, tmp_path) -> None:
    annotate(source, reference, tmp_path / "first")
    torch.manual_seed(1)
    config = {"width": 16, "layers": 1, "heads": 2, "image": "patches", "image_size": 16, "tasks": ("reference",)}
    methods.build("prior", config).save_pretrained(tmp_path / "other")
    annotate(str(tmp_path / "first"), str(tmp_path / "other"), tmp_path / "second")
    first, second = (
        ShardedData(tmp_path / name, "train").read(0, ("chances",)).chances for name in ("first", "second")
    )
    assert first["by"] != second["by"]
    assert first["ids"][0].tolist() == second["ids"][0].tolist()
    assert (first["chances"][0] != second["chances"][0]).any()
    assert [done["task"] for done in ShardedData(tmp_path / "second", "train").info["curated"]] == ["chances"] * 2


def test_one_model_is_needed(source, reference, tmp_path, capsys) -> None:
    assert annotate(source, reference, tmp_path / "out", "--regions", "some/detector") == 1
    assert main(["annotate", source, "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("needs one model: --regions DETECTOR or --reference RUN") == 2


def test_what_reads_no_texts_is_no_reference() -> None:
    with pytest.raises(ValueError, match="clip is no reference"):
        Reader(methods.build("clip", {"image_layers": 1, "text_layers": 1}), "")


@pytest.mark.parametrize(
    ("chances", "reason"),
    [
        ([], "chances is not an object"),
        ({"by": "x", "ids": [[1]], "chances": [[0.5, 0.5]]}, "chances are not as many as tokens"),
        ({"by": "x", "ids": [1], "chances": [0.5]}, "chances are not as many as tokens"),
        ({"by": "x", "ids": [[1]], "chances": [[2.0]]}, r"not in \[0, 1\]"),
        ({"by": "x", "ids": [[-1]], "chances": [[0.5]]}, "below 0"),
        ({"by": "x", "ids": [["1"]], "chances": [[0.5]]}, "whole numbers"),
        ({"ids": [[1]], "chances": [[0.5]]}, "NoneType instead of text"),
        ({"by": "x", "ids": [[1]]}, "chances are not as many as tokens"),
    ],
)
def test_chances_of_strangers_are_checked(chances, reason: str) -> None:
    with pytest.raises(BrokenSample, match=reason):
        decode_sample("x", with_record({}, {"chances": chances}), ("chances",))
