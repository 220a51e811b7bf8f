"""Pages, cards and terminals that show what strangers wrote: it is shown, and never obeyed."""

import json
import shlex
from html.parser import HTMLParser

import pytest
from hostile_helpers import ask

from diptych.app import model_card, report, runs, terminal
from diptych.app.curves import Line, chart, legend
from diptych.results import Row, to_json
from diptych.text import one_line, visible

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>\x1b]0;owned\x07\u202e\ud800|`[a](javascript:x)"
SAID = EVIL.encode("utf-8", "replace").decode()  # what a file can hold


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))


@pytest.fixture
def run(tmp_path):
    """A finished run in whose files every string is evil."""
    one = {"name": SAID, "split": SAID, "samples": 5, "licence": SAID}
    finished = {"steps": 4, "seconds": 1.5, "samples_per_second": 3.5, "parameters": 9, "trained_parameters": 9}
    info = {
        "method": "clip",
        "config": {SAID: SAID},
        "recipe": {"batch": 8, "seed": 0, SAID: SAID},
        "changed": {"lr 1; touch owned #": SAID, SAID: True, "batch": [SAID]},
        "data": {"data": [SAID], "val": [SAID]},
        "versions": {SAID: SAID},
        "started": SAID,
        "finished": {**finished, "device": SAID, "train": [one], "val": [one]},
    }
    folder = tmp_path / "run<b>"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(info))
    rows = [Row("clip", SAID, SAID, SAID, name, 0.5, 0.4, 0.6, 5, 0.1) for name in (SAID, "top1", "text_to_image_r1")]
    (folder / "results.json").write_text(to_json(rows), encoding="utf-8")
    (folder / "quarantine.json").write_text(json.dumps({SAID: SAID}))
    record = {"step": 1, "samples": 8, "loss": 1.0, "rows": json.loads(to_json(rows))}
    (folder / "log.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def test_a_page_runs_nothing_and_loads_nothing(run):
    page = run.parent / "page.html"
    ask("report", run, run, "--out", page, "--title", SAID).well  # noqa: B018
    text = page.read_text(encoding="utf-8")
    seen = Tags(text).seen
    assert not {tag for tag, _ in seen} & {"script", "iframe", "object", "embed", "form", "img", "link", "b"} - {"b"}
    assert not [name for _, attributes in seen for name in attributes if name.startswith("on")]
    assert not [value for _, attributes in seen for value in attributes.values() if "javascript" in str(value)]
    assert "default-src 'none'" in text
    assert "&lt;script&gt;" in text


def test_the_command_that_a_page_suggests_is_one_command(run):
    words = shlex.split(report.command(runs.read(run)))
    assert words[:2] == ["diptych", "train"]
    assert ";" not in {word for word in words if word != SAID}
    assert "--lr 1; touch owned #" in words


def test_a_card_holds_no_markup_of_strangers(run):
    text = model_card.card(runs.read(run))
    head, _, body = text.partition("\n# ")
    assert head.count("---") == 2
    fences = [line for line in body.splitlines() if line.startswith("```")]
    assert len(fences) == 4
    prose = [part for number, part in enumerate(body.split("\n```")) if number % 2 == 0]
    assert not [part for part in prose if "<script" in part or "](javascript" in part]
    assert "\x1b" not in text.split("```")[0]


def test_charts_escape_their_labels():
    svg = chart([Line(EVIL, [0, 1], [1.0, 2.0], 0)], x_label=EVIL) + legend([EVIL], dashed=EVIL)
    assert not {tag for tag, _ in Tags(svg).seen} & {"script", "img"}


def test_terminals_are_shown_what_they_must_not_obey(capsys):
    terminal.say(EVIL)
    terminal.table([EVIL], [[EVIL]], title=EVIL)
    terminal.results([Row("m", EVIL, EVIL, EVIL, EVIL, 0.5), Row("m", "b", "b", "b", "b", 0.5)], title=EVIL)
    out = capsys.readouterr().out
    assert not [c for c in out if not c.isprintable() and c != "\n"]
    assert "\\x1b]0;owned\\x07" in out


def test_text_is_left_as_it_is_where_it_is_plain():
    for text in ("a cat", "café — 語\u00a0x", "two\nlines", "العربية"):
        assert visible(text) == text
    assert visible("\x9b2J\ud800\u200b") == "\\x9b2J\\ud800\\u200b"
    assert one_line(" a \n b ") == "a b"
    assert len(one_line("x" * 1000)) == 240
