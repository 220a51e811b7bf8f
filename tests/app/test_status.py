"""The matrix of systems and columns: from what was recorded to the pages that show it."""

import ast
import importlib.util
import json
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from diptych import methods
from diptych.app import status, status_page
from diptych.app.main import main
from diptych.app.status import COLUMNS, State
from diptych.card import Claim

ROOT = Path(__file__).resolve().parents[2]
SHEETS = ROOT.parent / "shared" / "systems"

RECORDED = {
    "tests/a.py::test_by_hand[1]": {"shows": {"F": ["svco"]}, "outcome": "passed"},
    "tests/a.py::test_by_hand[2]": {"shows": {"F": ["svco"]}, "outcome": "passed"},
    "tests/a.py::test_limit": {"shows": {"F": ["svco", "clip"], "R": ["svco"]}, "outcome": "passed"},
    "tests/b.py::test_reference": {"shows": {"P": ["svco"], "F": ["clip"]}, "outcome": "failed"},
    "tests/b.py::test_towers[a]": {"shows": {"L": ["svco"]}, "outcome": "skipped"},
    "tests/b.py::test_towers[b]": {"shows": {"L": ["svco"]}, "outcome": "passed"},
    "tests/b.py::test_on_a_gpu": {"shows": {"T": ["svco"]}, "outcome": "skipped"},
}
CLAIMS = {
    "svco": [{"name": "words", "verdict": "not confirmed", "summary": "not confirmed: 0.1 points, from -0.3 to 0.5."}],
    "mir": [{"name": "rank", "verdict": "confirmed", "summary": "confirmed: 2 points, from 1 to 3."}],
}


@pytest.fixture(scope="module")
def matrix() -> status.Matrix:
    return status.matrix(RECORDED, CLAIMS)


def line(matrix: status.Matrix, id: str) -> status.Line:
    return next(line for line in matrix.lines if line.system.id == id)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what was recorded and a README."""
    (tmp_path / "results" / "claims").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "results" / "tests.json").write_text(json.dumps(RECORDED))
    for id, claims in CLAIMS.items():
        (tmp_path / "results" / "claims" / id).mkdir()
        for claim in claims:
            (tmp_path / "results" / "claims" / id / f"{claim['name']}.json").write_text(json.dumps(claim))
    (tmp_path / "README.md").write_text("# Here\n\n<!-- status -->\nold\n<!-- /status -->\n\nend\n")
    return tmp_path


def test_a_cell_is_what_its_tests_came_to(matrix):
    states = {column: cell.state for column, cell in line(matrix, "svco").cells.items()}
    assert states == {
        "R": State.SHOWN,
        "F": State.SHOWN,
        "P": State.FAILED,
        "T": State.EMPTY,  # nothing ran
        "E": State.EMPTY,
        "C": State.FAILED,
        "L": State.PARTLY,
    }
    assert line(matrix, "clip").cells["F"].state is State.FAILED  # one test of two failed
    assert line(matrix, "mir").cells["C"].state is State.SHOWN


@pytest.mark.parametrize(
    ("measured", "state"),
    [
        ({"one": "same", "two": "same"}, State.SHOWN),
        ({"one": "same"}, State.PARTLY),  # the other was not measured
        ({"one": "same", "two": "other"}, State.PARTLY),
        ({"one": "same", "two": "worse"}, State.FAILED),
    ],
)
def test_claims_count_while_the_card_says_what_was_measured(measured, state, monkeypatch):
    id = next(iter(methods.IDS))
    claim = Claim("pointing/word", ("world",), ("world",), "clip", "samples=1k")
    card = replace(methods.card(id), claims={"one": claim, "two": claim})
    monkeypatch.setattr(status.methods, "card", lambda id: card)
    now = json.loads(json.dumps(asdict(claim)))
    told = [
        {
            "name": name,
            "verdict": "not confirmed" if kind == "worse" else "confirmed",
            "summary": "so it is",
            "claim": {**now, "seeds": 9} if kind == "other" else now,
        }
        for name, kind in measured.items()
    ]
    cell = line(status.matrix({}, {id: told}), id).cells["C"]
    assert cell.state is state
    shown = " ".join(status_page.shown_by(cell))
    assert ("changed since" in shown) == ("other" in measured.values())
    assert ("`two`: not measured yet" in shown) == ("two" not in measured)


def test_cases_of_a_test_are_counted_together(matrix):
    assert line(matrix, "svco").cells["F"].tests == (
        status.Shown("tests/a.py", "test_by_hand", passed=2),
        status.Shown("tests/a.py", "test_limit", passed=1),
    )


def test_every_system_has_a_row_and_those_without_code_are_empty(matrix):
    assert len(matrix.systems) == 52
    assert {line.system.id for line in matrix.peers} == set(methods.IDS) - {line.system.id for line in matrix.systems}
    assert {line.system.id for line in matrix.with_code} == {"svco", "mir"} | (
        set(methods.IDS) - {line.system.id for line in matrix.peers}
    )
    assert all(cell.state is State.EMPTY for cell in line(matrix, "povid").cells.values())
    assert all(tuple(line.cells) == tuple(COLUMNS) for line in matrix.lines)


def test_the_page_has_every_system_once_and_says_what_shows_a_cell(matrix):
    page = status_page.page(matrix)
    rows = re.findall(r"^\| \[?([^|\]]+?)(?:\]\(#.*\))? \| \[\d{4}\]", page, re.M)
    assert sorted(rows) == sorted(line.system.name for line in matrix.lines)
    assert "| [S-VCO](#s-vco) | [2025](https://arxiv.org/abs/2502.13928) | ● | ● | ✗ |  |  | ✗ | ◐ |" in page
    assert "\n| POVID | [2024](https://arxiv.org/abs/2402.11411) |  |  |  |  |  |  |  |\n" in page
    assert "- `tests/a.py`: by hand (2 cases); limit\n" in page
    assert "- `tests/b.py`: reference (1 failed)\n" in page
    assert "- `tests/b.py`: towers (2 cases, 1 skipped)\n" in page
    assert "- `words`: not confirmed: 0.1 points, from -0.3 to 0.5.\n" in page
    assert "Nothing yet: trains, evaluated.\n\n### " in page
    assert f"Full cells: 3 of {52 * 7}." in page


def test_readmes_block_has_what_has_code_and_counts_the_rest(matrix):
    block = status_page.block(matrix)
    names = re.findall(r"^\| \[(.+?)\]", block, re.M)
    assert names == [line.system.name for line in (*matrix.with_code, *matrix.peers)]
    assert f"With code so far: {len(matrix.with_code)} of 52" in " ".join(block.split())
    assert max(len(line) for line in block.splitlines() if not line.startswith("|")) <= 120


def test_the_block_goes_between_its_marks_again_and_again():
    readme = "a\n<!-- status -->\nold\n<!-- /status -->\nb\n"
    once = status_page.with_block(readme, "\nnew\n\n")
    assert once == "a\n<!-- status -->\n\nnew\n\n<!-- /status -->\nb\n"
    assert status_page.with_block(once, "\nnew\n\n") == once
    for broken in ("a", "<!-- status -->", "<!-- /status --><!-- status -->", readme + readme):
        with pytest.raises(ValueError, match="once each"):
            status_page.with_block(broken, "new")


def test_the_command_writes_what_the_pages_must_hold(checkout, matrix, capsys):
    assert main(["status", "--root", str(checkout), "--write"]) == 0
    assert (checkout / "docs" / "status.md").read_text(encoding="utf-8") == status_page.page(matrix)
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    assert readme == f"# Here\n\n<!-- status -->\n{status_page.block(matrix)}<!-- /status -->\n\nend\n"


def test_the_command_prints_all_or_one(checkout, capsys):
    assert main(["status", "--root", str(checkout)]) == 0
    assert all(system.id in capsys.readouterr().out for system in status.systems()[:1])
    assert main(["status", "svco", "--root", str(checkout)]) == 0
    shown = capsys.readouterr().out
    assert "by hand (2 cases)" in shown
    assert "0.1 points" in shown
    assert main(["status", "svco", "--root", str(checkout), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["cells"]["L"]["state"] == "partly"
    assert told["cells"]["C"]["claims"][0]["verdict"] == "not confirmed"
    assert main(["status", "--root", str(checkout), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 52 + len(status.peers())


def test_what_cannot_be_read_is_said_in_one_sentence(checkout, tmp_path, capsys):
    assert main(["status", "svc0", "--root", str(checkout)]) == 1
    assert "'svco'" in capsys.readouterr().err
    (checkout / "results" / "claims" / "mir" / "rank.json").write_text('{"verdict": "yes", "summary": "so"}')
    assert main(["status", "--root", str(checkout)]) == 1
    assert "'confirmed' or 'not confirmed'" in capsys.readouterr().err
    assert main(["status", "--root", str(tmp_path / "nowhere")]) == 1
    assert "--record" in capsys.readouterr().err


def test_the_pages_are_up_to_date():
    """After new results or a new method: `diptych status --write`."""
    for path, text in status_page.texts(status.read(ROOT), ROOT).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run `diptych status --write`"


def test_what_was_recorded_is_still_there():
    """After a test was renamed or removed: `pytest FILE --record`, then `diptych status --write`."""
    recorded = json.loads((ROOT / status.TESTS).read_text(encoding="utf-8"))
    named = {name.partition("[")[0] for name in recorded}
    for file in {name.partition("::")[0] for name in named}:
        nodes = ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        there = {f"{file}::{node.name}" for node in nodes if isinstance(node, ast.FunctionDef)}
        assert {name for name in named if name.startswith(f"{file}::")} <= there


# ---- the list of systems


def tool():
    spec = importlib.util.spec_from_file_location("build_systems", ROOT / "tools" / "build_systems.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not SHEETS.is_dir(), reason="the sheets do not lie beside this checkout")
def test_the_list_is_that_of_the_sheets():
    assert [status.System(**system) for system in tool().systems(SHEETS)] == list(status.systems())


def test_the_list_is_made_from_headings_and_families(tmp_path):
    (tmp_path / "README.md").write_text(
        "# All\n\n| family | systems |\n|---|---|\n| one kind (of two) | b (on x, y), a |\n| other | c |\n\n| x | y |\n"
    )
    (tmp_path / "a.md").write_text("# A: All (or none) of it (2021, ICLR 2022), with B\nimages; arXiv 2101.00001;\n")
    (tmp_path / "b.md").write_text("# B (2019)\narXiv 1901.00002 (unsure), arXiv 1901.00003\n")
    (tmp_path / "c.md").write_text("# C: D (2020)\nno number\n")
    with pytest.raises(ValueError, match=r"c\.md must begin"):
        tool().systems(tmp_path)
    (tmp_path / "c.md").write_text("# C: D (2020)\narXiv 2001.00004\n")
    assert tool().systems(tmp_path) == [
        {"id": "b", "title": "B", "year": 2019, "arxiv": "1901.00002", "family": "one kind"},
        {"id": "a", "title": "A: All (or none) of it", "year": 2021, "arxiv": "2101.00001", "family": "one kind"},
        {"id": "c", "title": "C: D", "year": 2020, "arxiv": "2001.00004", "family": "other"},
    ]
    (tmp_path / "d.md").write_text("# D (2020)\narXiv 2001.00005\n")
    with pytest.raises(ValueError, match="differ in d"):
        tool().systems(tmp_path)


def test_ids_are_told_apart():
    ids = status.known()
    assert len(ids) == len(set(ids))
    assert set(methods.IDS) <= set(ids)
    assert {field.name for field in fields(status.System)} == {"id", "title", "year", "family", "arxiv"}
