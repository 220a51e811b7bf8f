"""`diptych curate`: the command line, the page, and a trained run as the scorer."""

import json
import re

import pytest
from app_helpers import FLAGS, png, write_shards

from diptych.app.histogram import histogram
from diptych.app.main import main
from diptych.data.dataset import ShardedData
from diptych.data.shards import ShardWriter


@pytest.fixture
def source(tmp_path):
    """Four pictures, of which one is a copy and one has a caption that is no markup."""
    with ShardWriter(tmp_path / "in", "train") as writer:
        for key, colour, text in (
            ("one", (200, 30, 30), "a red field"),
            ("two", (30, 180, 40), "a <b>green</b> field"),
            ("copy", (200, 30, 30), "a red"),
            ("three", (40, 60, 220), "blue"),
        ):
            writer.add(key, {"png": png(colour), "txt": text.encode()})
    return str(tmp_path / "in")


def keys(folder):
    data = ShardedData(folder, "train")
    return [data.key(number) for number in range(len(data))]


def test_dedup(source, tmp_path, capsys):
    assert main(["curate", "dedup", source, "--out", str(tmp_path / "out"), "--workers", "0"]) == 0
    assert keys(tmp_path / "out") == ["one", "two", "three"]
    told = capsys.readouterr().out
    assert re.search(r"exact copy +1 +25\.0%", told)
    assert re.search(r"kept +3 +75\.0%", told)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/webp") == 2  # the copy beside the one that stays
    assert f"diptych curate dedup {source} --workers 0 --out" in page
    assert "<h2>Exact copies</h2>" in page
    assert "<script" not in page


def test_filter_as_json(source, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert (
        main(["curate", "filter", source, "--out", out, "--words", "2:", "--dry-run", "--workers", "0", "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["dropped"] == {"no caption left: too few words": 1}
    assert (told["read"], told["kept"], told["written"]) == ({"train": 4}, {"train": 3}, {})
    assert told["settings"]["words"] == "2:"
    assert "No shards were written" in (tmp_path / "out" / "report.html").read_text()


def test_what_comes_from_data_is_escaped(source, tmp_path):
    assert main(["curate", "filter", source, "--out", str(tmp_path / "out"), "--words", ":2", "--workers", "0"]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "a &lt;b&gt;green&lt;/b&gt; field" in page
    assert "<b>green</b>" not in page


@pytest.mark.parametrize("method", ["clip", "filip"])
def test_score_by_a_trained_run(method, tmp_path, capsys):
    data = str(write_shards(tmp_path / "data"))
    recipe = ["--samples", "16", "--batch", "8", "--workers", "0", "--task", "gap"]
    assert main(["train", method, "--data", data, "--out", str(tmp_path / "run"), *FLAGS, *recipe]) == 0
    asked = ["curate", "score", data, "--run", str(tmp_path / "run"), "--workers", "0", "--json"]
    capsys.readouterr()
    assert main([*asked, "--keep", "0.25", "--out", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(told["kept"].values()) == 15  # of 60
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"scores.parquet", "report.html", "dataset.json"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["score", "SRC", "--out", "OUT"], "needs a trained model"),
        (["dedup", "SRC", "--out", "OUT", "--by", "both"], "needs a trained model"),
        (["dedup", "SRC/none", "--out", "OUT"], "neither a name nor a folder"),
        (["filter", "SRC", "--out", "SRC", "--words", "3:"], "is not empty"),
        (["filter", "SRC", "--out", "OUT", "--texts-not", "(", "--workers", "0"], "RE2"),
        (["filter", "SRC", "--out", "OUT", "--split", "val"], "there is no split 'val'; there are train"),
    ],
)
def test_mistakes_are_told_in_one_sentence(args, said, source, tmp_path, capsys):
    paths = [arg.replace("SRC", source).replace("OUT", str(tmp_path / "out")) for arg in args]
    assert main(["curate", *paths]) == 1
    shown = capsys.readouterr().err.strip()
    assert said in shown
    assert len(shown.splitlines()) == 1


def test_an_unknown_kind_and_an_option_of_another_kind_are_told(source, tmp_path, capsys):
    assert main(["curate", "dedupe", source, "--out", "x"]) == 2
    assert "did you mean 'dedup'" in capsys.readouterr().err
    assert main(["curate", "dedup", source, "--out", "x", "--words", "3:"]) == 2
    assert main(["curate", "filter", source, "--out", "x", "--words", "3"]) == 2
    assert "is not a range" in capsys.readouterr().err
    assert main(["curate", "dedup", "--help"]) == 0
    assert "--threshold" in capsys.readouterr().out


def test_bars_beyond_a_threshold_have_the_other_colour():
    drawn = histogram([0, 1, 2, 3], [4, 2, 8], label="score", low=1.0, high=2.0)
    assert re.findall(r'height="([\d.]+)" fill="var\(--s(\d)\)"', drawn) == [
        ("79.0", "1"),
        ("39.5", "0"),
        ("158.0", "1"),
    ]
    assert drawn.count('class="chance"') == 2
