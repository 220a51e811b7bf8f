"""Addresses and paths that data name themselves: in dataset.json, in run.json, behind links."""

import json
import os

import fsspec
import pytest
from hostile_helpers import ask, everything
from shard_helpers import picture, write_set

from diptych.app import runs
from diptych.data.dataset import ShardedData
from diptych.data.files import RemoteFiles, open_files
from diptych.data.shards import read_dataset_json

INFO = {
    "method": "clip",
    "config": {},
    "recipe": {"batch": 8, "seed": 0},
    "data": {"data": ["starter"], "val": []},
    "started": "2026-01-01",
}


@pytest.fixture
def run(tmp_path):
    """The folder of a run that goes on."""
    folder = tmp_path / "run"
    (folder / "pictures").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(INFO))
    return folder


@pytest.mark.parametrize(
    "url",
    [
        "simplecache::http://169.254.169.254/x",
        "filecache::memory://x",
        "zip://a::http://127.0.0.1/x.zip",
        "reference::memory://x.json",
        "reference://x",
        "memory://x::file:///etc",
    ],
)
def test_addresses_that_lead_to_others_are_refused(url):
    with pytest.raises(ValueError, match="leads to other addresses"):
        open_files(url)


@pytest.mark.parametrize("url", ["pipe:touch owned; cat://x", "nothing://x", "://", "\x1b://x"])
def test_addresses_of_no_kind(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ask("pack", url, tmp_path / "out").sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"splits": {"../../private": {"shards": 1}}}, "no plain name"),
        ({"splits": {"train": {"shards": 10**12}}}, "no plain number"),
        ({"splits": {"train": {"shards": -1}}}, "no plain number"),
        ({"splits": {"train": {"shards": "1"}}}, "no plain number"),
        ({"name": "a\x1b]0;owned\x07"}, "printable"),
        ({"name": "a\n# heading"}, "printable"),
        ({"name": "\ud800"}, "printable"),
        ({"classes": [1]}, "not a list of strings"),
        ([], "not an object"),
    ],
)
def test_descriptions_that_lie(tmp_path, told, reason):
    write_set(tmp_path, 2)
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=reason):
        read_dataset_json(tmp_path)
    assert reason in ask("pack", tmp_path, tmp_path / "out").sentence


def test_a_server_that_ignores_what_is_asked(monkeypatch):
    fsspec.filesystem("memory").pipe_file("/ranges/a.tar", b"x" * 1000)
    files = RemoteFiles("memory://ranges")
    monkeypatch.setattr(type(files._files()), "cat_file", lambda self, path, start=None, end=None: b"x" * 1000)
    with pytest.raises(OSError, match="sends whole files"):
        files.read("a.tar", 0, 10)
    monkeypatch.setattr(type(files._files()), "info", lambda self, path: {"size": None})
    with pytest.raises(OSError, match="does not say its size"):
        files.size("a.tar")


@pytest.mark.parametrize("name", ["dataset.json", "train-00000.index.parquet"])
def test_pipes_beside_shards_are_not_waited_for(tmp_path, name):
    write_set(tmp_path / "set", 3)
    (tmp_path / "set" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "set" / name)
    assert "3 whole samples" in ask("inspect", tmp_path / "set", "--sheet", tmp_path / "s.png", seconds=20).well


def test_links_to_shards_are_followed(tmp_path):
    """The cache of the model hub consists of links."""
    write_set(tmp_path / "store", 3)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train-00000.tar").symlink_to(tmp_path / "store" / "train-00000.tar")
    assert len(ShardedData(tmp_path / "set")) == 3


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("[]", "all of it"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (INFO | {"method": 5}, "look at method"),
        (INFO | {"recipe": {}}, "look at recipe.batch"),
        (INFO | {"recipe": {"batch": True, "seed": 0}}, "look at recipe.batch"),
        (INFO | {"data": {"data": "starter", "val": []}}, "look at data.data"),
        (INFO | {"data": {"data": [5], "val": []}}, "look at data.data[0]"),
        (INFO | {"finished": {"steps": "many"}}, "look at finished.steps"),
        (INFO | {"finished": [1]}, "look at finished"),
    ],
)
def test_runs_that_are_none(run, told, reason):
    (run / "run.json").write_text(told if isinstance(told, str) else json.dumps(told))
    assert reason in ask("report", run, "--out", run.parent / "page.html").sentence
    assert not (run.parent / "page.html").exists()


@pytest.mark.parametrize("rows", ["{}", "[5]", '[{"method": []}]', '[{"metric": 5}]', "[" * 99_999, '[{"evil": 1}]'])
def test_results_that_are_none(run, rows):
    (run / "results.json").write_text(rows)
    assert "holds no rows of results" in ask("report", run, "--out", run.parent / "page.html").sentence


def test_addresses_in_a_run_are_not_opened_unasked(run):
    address = "http://169.254.169.254/latest"
    (run / "run.json").write_text(json.dumps(INFO | {"data": {"data": [address], "val": []}}))
    assert "not opened unasked" in ask("evaluate", run).sentence


def test_pictures_that_a_run_only_links_to_stay_out_of_its_page(run):
    private = run.parent / "private.png"
    private.write_bytes(picture())
    (run / "pictures" / "words.png").symlink_to(private)
    os.mkfifo(run / "pictures" / "pointing.png")
    (run / "pictures" / "confusion.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    ask("report", run, "--out", run.parent / "page.html", seconds=30).well  # noqa: B018
    assert "data:image" not in (run.parent / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("place", ["evaluations", "evaluations/starter-val", "evaluations/starter-val/results.json"])
def test_nothing_is_written_through_links(run, place):
    (run.parent / "elsewhere").mkdir()
    (run / place).parent.mkdir(parents=True, exist_ok=True)
    (run / place).symlink_to(run.parent / "elsewhere")
    before = everything(run.parent)
    with pytest.raises(runs.DamagedRun, match="is a link"):
        runs.inside(run, run / "evaluations" / "starter-val")
    assert everything(run.parent) == before
