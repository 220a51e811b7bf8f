"""The page and the model card."""

import dataclasses
import json
import math
import re
import shlex
from html.parser import HTMLParser

import pytest
from app_helpers import RECIPE, tiny
from PIL import Image

from diptych import results
from diptych.app import model_card, report, runs, wording
from diptych.app.commands import train
from diptych.app.options import parse
from diptych.evaluation.tasks import TASKS
from diptych.results import Row

EVIL = '<img src=x onerror="alert(1)">'


def made(folder, method="clip", value=0.4, data="colours", **config):
    """A finished run as it lies on disk, with invented figures."""
    info = runs.describe(method, tiny(method, **config), RECIPE, {"data": ["my data"], "val": []}, ())
    told = {"name": data, "split": "train", "samples": 40, "licence": "CC0-1.0"}
    info["finished"] = {
        "steps": 8,
        "seconds": 75.0,
        "paused": {"saving": 0.25, "evaluating": 3.0},
        "skipped": 3,
        "samples_per_second": 640.0,
        "parameters": 12_345,
        "trained_parameters": 12_345,
        "device": "CPU, 2 threads",
        "train": [told],
        "val": [{**told, "split": "val", "samples": 20}],
    }
    runs.write(folder, info)
    row = Row(
        method, folder.name, f"{data}/val", "retrieval", "text_to_image_r1", value, value - 0.1, value + 0.1, 20, 0.05
    )
    rank = Row(method, folder.name, f"{data}/val", "retrieval", "text_to_image_median_rank", 3.0, 2.0, 4.0, 20, 10.0)
    results.write([row, rank], folder)
    log = [{"step": n, "samples": 8 * n, "loss": 2 / n} for n in range(1, 9)]
    log.append({"step": 8, "samples": 64, "rows": json.loads(results.to_json([row]))})
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    (folder / "quarantine.json").write_text(json.dumps({EVIL: "its picture is cut short"}))
    (folder / "pictures").mkdir()
    Image.new("RGB", (2000, 500), (200, 10, 10)).save(folder / "pictures" / "text_to_image.png")
    return runs.read(folder)


class Tags(HTMLParser):
    """Collects tags, and complains of those that are not closed in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tags(page):
    found = Tags()
    found.feed(page)
    assert found.open == []
    return found.seen


@pytest.fixture
def two(tmp_path):
    return [made(tmp_path / "one", "clip", 0.4), made(tmp_path / "two", "filip", 0.6)]


def test_the_page_loads_nothing_and_runs_nothing(two):
    page = report.page(two)
    seen = tags(page)
    names = {tag for tag, _ in seen}
    assert not names & {"script", "link", "iframe", "object", "embed", "form"}
    for _, attributes in seen:
        assert not {name for name in attributes if name.startswith("on")}
        for name in ("src", "href", "poster", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"url\(|@import", page)


def test_the_page_shows_figures_curves_pictures_and_cost(two):
    page = report.page(two)
    assert "CLIP and FILIP on colours" in page
    assert "40.0 %" in page
    assert "30.0 – 50.0 %" in page
    assert "60.0 %" in page
    assert "5.0 %" in page  # chance
    assert page.count('<svg class="chart"') == 2
    assert page.count("data:image/webp") == 2
    assert "12,345" in page
    assert "1 min 15 s" in page
    assert "0.25 s" in page
    assert "3 steps were skipped" in page


def test_what_comes_from_data_is_escaped(tmp_path):
    page = report.page([made(tmp_path / "evil", data=EVIL)])
    assert EVIL not in page
    assert "&lt;img src=x" in page
    tags(page)


def test_a_run_on_its_way_has_a_page_too(tmp_path):
    runs.claim(tmp_path / "new", runs.describe("clip", tiny("clip"), RECIPE, {"data": ["starter"], "val": []}, ()))
    page = report.page([runs.read(tmp_path / "new")])
    tags(page)
    assert "not finished" in page


def test_a_figure_that_one_run_lacks_leaves_its_cell_empty(two):
    lacking = dataclasses.replace(two[1], rows=two[1].rows[1:])
    tags(report.page([two[0], lacking]))


def test_the_command_on_the_page_trains_the_same_run(two):
    words = shlex.split(report.command(two[1]))
    assert words[:3] == ["diptych", "train", "filip"]
    chosen = parse(train.options_of("filip", train.preset_of("filip", None)), words[3:], "train filip")
    assert chosen.method == tiny("filip")
    assert chosen.recipe == RECIPE
    assert chosen.run.data == ("my data",)


def test_pictures_are_made_small_enough(two):
    inlined = report._inlined(two[0].pictures[0])
    assert (inlined["width"], inlined["height"]) == (1600, 400)


def test_the_card_tells_data_budget_figures_and_use(two):
    text = model_card.card(two[0])
    assert "CC0-1.0" in text
    assert "| colours/val | retrieval | caption → picture, R@1 | 40.0 % | 30.0 – 50.0 % | 5.0 % | 20 |" in text
    assert "diptych.load(" in text
    assert "8 steps of 8 samples" in text
    assert report.command(two[0]) in text


@pytest.mark.parametrize(("method", "use"), [("limber", "diptych.caption("), ("uniter", "diptych.evaluate(")])
def test_the_card_of_a_method_without_vectors_of_texts_shows_what_it_can_do(tmp_path, method, use):
    run = made(tmp_path / "run")
    text = model_card.card(dataclasses.replace(run, info={**run.info, "method": method}))
    assert use in text
    assert "embed_text" not in text


def test_the_head_of_the_card_holds_whatever_the_licence_says(tmp_path):
    import yaml

    run = made(tmp_path / "run")
    run.info["finished"]["train"][0]["licence"] = 'my: "own\n---\ntags: [x]'
    head = model_card.card(run).split("\n---\n")[0].removeprefix("---\n")
    told = yaml.safe_load(head)
    assert told["library_name"] == "diptych"
    assert told["license_name"].endswith("tags: [x]")
    assert "clip" in told["tags"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(48, "48 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (180_000, "2 days 2 h")],
)
def test_durations(seconds, said):
    assert wording.duration(seconds) == said


def test_figures_are_shares_only_where_chance_is_one():
    row = Row("m", "r", "d", "t", "x", 0.25, chance=0.1)
    assert wording.figure(row, row.value) == "25.0 %"
    assert wording.figure(dataclasses.replace(row, chance=math.nan), 0.25) == "0.25"
    assert wording.figure(dataclasses.replace(row, chance=250.0, value=1.0), 1.0) == "1"
    assert wording.figure(row, math.nan) == ""
    assert wording.interval(row) == ""


def test_metrics_have_names():
    assert wording.metric_title("text_to_image_r5") == "caption → picture, R@5"
    assert wording.metric_title("image_to_text_median_rank") == "picture → caption, median rank"
    assert wording.metric_title("never_heard_of") == "never heard of"
    assert all(wording.task_title(name) != name.replace("_", " ").capitalize() for name in set(TASKS) - {"retrieval"})
    assert wording.metric_title("accuracy_yes_no") == "right choice, yes no"
    assert wording.metric_title("phrase_r1") == "phrase, first box right"
    assert wording.metric_title("expression_r5") == "expression, R@5"
    assert wording.metric_title("bleu_4") == "BLEU-4"
