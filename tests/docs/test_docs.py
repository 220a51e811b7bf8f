"""The docs site: built without a warning, complete, loading nothing from elsewhere, its tutorials run as they stand."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest

from diptych import methods
from diptych.app.main import COMMANDS
from diptych.batch import FIELDS
from diptych.evaluation.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
NOT_RUN = "not run here"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site. `--strict` makes every warning an error: a dead link, a page that is not there, a docstring
    that names a parameter which the function lacks.
    """
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages():
    """The hook of the site."""
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "tools" / "docs_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(page: Path) -> str:
    """What a page says, without its marks."""
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))


# -- the site ----------------------------------------------------------------------------------------------------------


def test_every_method_has_a_page_with_its_paper_options_and_code(site) -> None:
    overview = (site / "methods" / "index.html").read_text(encoding="utf-8")
    for card in methods.cards():
        page = site / "methods" / f"{card.id}.html"
        text = text_of(page)
        assert f'href="{card.id}.html"' in overview
        assert f"https://arxiv.org/abs/{card.arxiv}" in page.read_text(encoding="utf-8")
        assert all(f"--{name.replace('_', '-')}" in text for name in methods.config_class(card.id).__dataclass_fields__)
        assert f"class {methods.method_class(card.id).__name__}(" in text
        assert all(f"--preset {name}" in text for name in methods.presets(card.id))


def test_every_command_field_and_task_is_told(site) -> None:
    commands = text_of(site / "reference" / "command-line.html")
    assert all(f"diptych {name}" in commands for name in COMMANDS)
    assert "--max-broken" in commands  # a field of a dataclass inside the options of `pack`
    assert all(name in text_of(site / "reference" / "fields.html") for name in FIELDS)
    assert all(name in text_of(site / "reference" / "evaluation.html") for name in TASKS)


def test_the_reference_has_what_is_public(site) -> None:
    for page, names in {
        "python": ("diptych.app.api.train", "diptych.app.api.evaluate", "diptych.app.api.load"),
        "results": ("diptych.results.Row",),
        "methods": ("diptych.card.Card", "diptych.card.ScoresPairs", "diptych.models.dual_encoder.DualEncoder"),
        "objectives": ("diptych.objectives.contrastive.info_nce", "diptych.objectives.late_interaction.filip_loss"),
        "data": ("diptych.data.pack.pack", "diptych.app.sources.open_source"),
        "world": ("diptych.world.Knobs", "diptych.world.open_world"),
    }.items():
        html = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
        assert [name for name in names if f'id="{name}"' not in html] == []


class Loads(HTMLParser):
    """Collects what a browser fetches for a page without being asked."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        named = dict(attributes)
        wanted = {"link": "href", "object": "data", "use": "href", "image": "href"}.get(tag, "src")
        if named.get(wanted):
            self.found.append(named[wanted])


def foreign(html: str) -> list[str]:
    """The addresses of other hosts from which a page loads something."""
    page = Loads()
    page.feed(html)
    styles = re.findall(r"(?:url\(|@import\s)\s*[\"']?([^\"')\s]+)", html)
    return [url for url in page.found + styles if re.match(r"(?:https?:)?//", url)]


def test_what_a_page_loads_is_seen() -> None:
    html = '<script src="https://a/x.js"></script><img src="b.png"><link href="//c/x.css"><a href="https://d">d</a>'
    assert foreign(html + "<style>@import 'https://e/x.css'; p { background: url(f.png) }</style>") == [
        "https://a/x.js",
        "//c/x.css",
        "https://e/x.css",
    ]


def test_nothing_is_loaded_from_elsewhere(site) -> None:
    files = [*site.rglob("*.html"), *site.rglob("*.css"), *site.rglob("*.svg")]
    assert len(files) > 20
    found = {str(path.relative_to(site)): foreign(path.read_text(encoding="utf-8")) for path in files}
    assert {page: urls for page, urls in found.items() if urls} == {}


def test_no_path_of_the_machine_that_built_it_is_shown(site) -> None:
    assert [path.name for path in site.rglob("*.html") if str(ROOT) in path.read_text(encoding="utf-8")] == []


# -- the pages that are made -------------------------------------------------------------------------------------------


def test_a_measured_claim_is_told_with_its_figures(pages, tmp_path, monkeypatch) -> None:
    where = {"data": "world/val", "task": "pointing", "metric": "phrase"}
    score = {**where, "chance": 0.1, "low": 0.2, "high": 0.4}
    card = methods.card("filip")
    found = {
        "verdict": "not confirmed",
        "summary": "not confirmed: phrase points at its object: filip 30.0 %, clip 25.0 %",
        "claim": json.loads(json.dumps(asdict(card.claims["pointing"]))),
        "differences": [{**where, "label": "filip", "against": "clip", "value": 0.05, "low": -0.01, "high": 0.11}],
        "comparison": {
            "contestants": [{"label": "filip"}, {"label": "clip"}],
            "seeds": [0, 1, 2],
            "scores": [
                {**score, "label": "clip", "value": 0.25, "low": None, "high": None},
                {**score, "label": "filip", "value": 0.3},
                {**score, "label": "filip", "metric": "median_rank", "value": 7.0, "chance": 50.0},
                {**score, "label": "filip", "data": "world/gallery", "value": 0.35},
            ],
            "costs": [{"label": "filip", "samples": 30_000, "seconds": 200.0, "parameters": 1_234_567}],
        },
    }
    (tmp_path / "filip").mkdir()
    (tmp_path / "filip" / "pointing.json").write_text(json.dumps(found))
    monkeypatch.setattr(pages, "CLAIMS", tmp_path)
    told = pages.measured(card)
    assert '<div class="verdict no"' in told
    assert "Not confirmed: phrase points at its object: filip 30.0 %" in told
    assert "has changed" not in told
    mine, theirs = (line for line in told.splitlines() if "<svg" in line)
    assert mine.startswith("| filip | 30.0 % (20.0 to 40.0) |")
    assert theirs.startswith("| clip | 25.0 % |")
    assert theirs.endswith("| +5.0 (-1.0 to +11.0) |")
    title = "phrase points at its object"
    assert f"| world/val | pointing | {title} | 10.0 % | 30.0 % (20.0 to 40.0) | 25.0 % |" in told
    assert f"| world/gallery | pointing | {title} | 10.0 % | 35.0 % (20.0 to 40.0) |  |" in told
    assert "median" not in told  # a rank is no share
    assert "| filip | 30,000 | 3 min 20 s | 1,234,567 |" in told
    assert "| [FILIP](filip.md) |" in pages.overview()
    assert "| not confirmed |" in pages.overview()
    (tmp_path / "filip" / "pointing.json").write_text(json.dumps({**found, "claim": {"metric": "another"}}))
    assert "The card has changed since" in pages.measured(card)


def test_a_card_without_a_claim_or_a_result_says_so(pages, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pages, "CLAIMS", tmp_path)
    assert pages.measured(methods.card("clip")) == "Its card claims nothing."
    assert "has not been measured yet" in pages.measured(methods.card("filip"))


def test_pages_that_no_command_has_written_are_not_in_the_menu(pages, tmp_path) -> None:
    (tmp_path / "status.md").write_text("# Status")

    class Config:
        docs_dir = str(tmp_path)
        nav = [{"Methods": ["methods/index.md"]}, {"Measured": ["status.md", "plan.md"]}, {"Other": ["gone.md"]}]  # noqa: RUF012

    menu = pages.on_config(Config()).nav
    assert menu[1:] == [{"Measured": ["status.md"]}]
    assert {"CLIP": "methods/clip.md"} in menu[0]["Methods"][1]["Contrastive"]


# -- the tutorials -----------------------------------------------------------------------------------------------------


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(language, title, code) of the blocks of a page that are to be run."""
    fences = re.findall(r'^```(bash|python)(?: title="([^"]*)")?\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    return [block for block in fences if not (block[1] or "").startswith(NOT_RUN)]


def script(page: str) -> str:
    """A page as one shell script: what has a title is written to that file, the rest is run in order."""
    lines = ["set -euo pipefail"]
    for language, title, code in blocks(page):
        if title:
            lines += [f"mkdir -p $(dirname {title})", f"cat > {title} <<'END_OF_BLOCK'\n{code}END_OF_BLOCK"]
        elif language == "python":
            lines.append(f"python - <<'END_OF_BLOCK'\n{code}END_OF_BLOCK")
        else:
            lines.append(code)
    return "\n".join(lines) + "\n"


def follow(tutorial: str, folder: Path, **environment: str) -> str:
    """Does what a tutorial says, in a fresh folder; returns what was printed."""
    (folder / "tutorial.sh").write_text(script((TUTORIALS / f"{tutorial}.md").read_text(encoding="utf-8")))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "tutorial.sh"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def test_a_page_becomes_a_script() -> None:
    page = '# A\n```bash\nls\n```\n```bash title="not run here"\nrm\n```\n```text\nno\n```\n```python\nx = 1\n```\n'
    assert script(page) == "set -euo pipefail\nls\n\npython - <<'END_OF_BLOCK'\nx = 1\nEND_OF_BLOCK\n"
    assert "cat > a/b.py" in script('```python title="a/b.py"\nx = 1\n```\n')


@pytest.mark.slow
def test_own_pictures(tmp_path) -> None:
    told = follow("own-pictures", tmp_path)
    assert "240 whole samples" in told
    assert "'a playing card':" in told
    assert (tmp_path / "my_pictures-sheet.png").is_file()
    assert (tmp_path / "runs" / "clip" / "index.html").is_file()
    assert (tmp_path / "runs" / "both" / "comparison.json").is_file()
    assert (tmp_path / "mine" / "open_clip_model.safetensors").is_file()


def test_new_method(tmp_path) -> None:
    """In a copy of the library, as it adds a file and a line."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    told = follow("new-method", tmp_path, PYTHONPATH=str(tmp_path / "src"))
    assert "eight of eight learned by heart" in told
    assert (tmp_path / "runs" / "hardclip" / "index.html").is_file()


def test_the_new_method_has_60_lines() -> None:
    page = (TUTORIALS / "new-method.md").read_text(encoding="utf-8")
    assert page.startswith("# A new method in 60 lines")
    code = next(code for _, title, code in blocks(page) if title.endswith("hardclip.py"))
    assert len([line for line in code.splitlines() if line.strip()]) <= 60
    assert max(map(len, code.splitlines())) <= 120


@pytest.mark.slow
def test_several_gpus(tmp_path) -> None:
    assert "largest difference" in follow("several-gpus", tmp_path)
    figures = json.loads((tmp_path / "runs" / "stopped" / "results.json").read_text())
    assert {row["task"] for row in figures} == {"retrieval"}
