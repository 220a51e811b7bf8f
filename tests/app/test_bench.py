"""`diptych bench`: what is measured, what is told of it, and the page."""

import importlib
import json
import math
import os
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest
import torch

from diptych.app import bench
from diptych.app.bench import measure as measuring, page
from diptych.app.bench.measure import Aim, Case, Form, Limit, Result, measure
from diptych.app.commands.bench import changed
from diptych.app.main import main

ROOT = Path(__file__).resolve().parents[2]
MEGABYTES = 64


class Clock:
    """A clock that only steps move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def steps(self, *seconds: float):
        """Makes a step that takes these seconds in turn."""
        times = cycle(seconds)

        def step() -> None:
            self.now += next(times)

        return step


def measured(aims, ours=(1.0, 2.0, 3.0), theirs=(2.0,), limit=None, memory=(lambda: 50, lambda: 200)) -> Result:
    """A case of two forms on a clock of its own; a form's first step warms up and counts for nothing."""
    clock = Clock()
    forms = {
        "ours": Form(lambda: clock.steps(99.0, *ours), memory[0]),
        "theirs": Form(lambda: clock.steps(*theirs), memory[1]),
    }
    case = Case("A case", forms, aims, "pairs", 10, repeats=len(ours), limit=limit)
    return measure(case, clock=clock)


def hold() -> list[torch.Tensor]:
    """Inputs of 32 MB, and a step that takes 64 MB beside them; making them takes more for a moment."""
    inputs = torch.ones(4 * MEGABYTES * 2**18)[: MEGABYTES // 2 * 2**18].clone()

    def step() -> torch.Tensor:
        return torch.cat([inputs, inputs])

    return step


# -- measuring ---------------------------------------------------------------------------------------------------------


def test_ratios_are_taken_within_a_turn() -> None:
    result = measured([Aim("time", "ours", "theirs", 1.2), Aim("speed", "ours", "theirs", at_least=1.5)])
    time, speed = result.outcomes
    assert (time.value, time.low, time.high) == (1.0, 0.5, 1.5)  # of 1/2, 2/2 and 3/2, not of the medians
    assert (speed.value, speed.low, speed.high) == (1.0, pytest.approx(2 / 3), 2.0)
    assert (time.reached, speed.reached) == (True, False)
    assert result.forms["ours"].seconds == 2.0


def test_memory_by_a_function_of_the_form_is_compared() -> None:
    result = measured([Aim("memory", "ours", "theirs", 1 / 5), Aim("memory", "ours", at_most=50)])
    assert [outcome.value for outcome in result.outcomes] == [0.25, 50]
    assert [outcome.reached for outcome in result.outcomes] == [False, True]


def test_figures_without_a_peer_are_as_they_are() -> None:
    aims = [Aim("time", "ours", at_most=2.0), Aim("speed", "ours", at_least=6.0), Aim("share", "ours", at_least=0.7)]
    result = measured(aims, ours=(1.0, 2.0, 2.0), limit=Limit("a sleep", lambda: 0.5))
    assert [outcome.value for outcome in result.outcomes] == [2.0, 5.0, 0.25]
    assert [outcome.reached for outcome in result.outcomes] == [True, False, False]
    assert result.forms["theirs"].share == 0.25


def test_what_was_not_measured_is_not_reached() -> None:
    aims = [Aim("memory", "ours", "theirs", 9.0), Aim("share", "ours", at_least=0.0)]
    result = measured(aims, memory=(False, False))
    assert [outcome.reached for outcome in result.outcomes] == [False, False]
    assert math.isnan(result.forms["ours"].bytes)


def test_the_limit_of_each_turn_is_measured_in_that_turn() -> None:
    limits = iter((0.5, 1.0, 3.0))
    result = measured([Aim("share", "ours")], limit=Limit("", lambda: next(limits)))
    assert (result.outcomes[0].low, result.outcomes[0].high) == (0.5, 1.0)  # 0.5/1, 1/2, 3/3


def test_memory_is_what_a_step_takes_beside_its_inputs() -> None:
    alone = measured([], memory=(partial(measuring._bytes, Form(hold), "cpu"), False)).forms["ours"].bytes
    assert MEGABYTES * 2**20 <= alone < (MEGABYTES + 8) * 2**20


def sign(page: Path):
    """A step that writes down in which process it is, and how many it has been."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        with page.open("a") as file:
            file.write(f"{os.getpid()} {count}\n")

    return step


def test_forms_apart_live_in_processes_of_their_own(tmp_path) -> None:
    forms = {name: Form(partial(sign, tmp_path / name), memory=False) for name in ("ours", "theirs")}
    result = measure(Case("A case", forms, [Aim("time", "ours", "theirs")], repeats=2, apart=True))
    lines = [(tmp_path / name).read_text().splitlines() for name in forms]
    owners = [{line.split()[0] for line in own} for own in lines]
    assert [[line.split()[1] for line in own] for own in lines] == [["1", "2", "3"]] * 2  # one to warm up
    assert [len(own) for own in owners] == [1, 1]
    assert len({*owners[0], *owners[1], str(os.getpid())}) == 3
    assert all(form.seconds > 0 for form in result.forms.values())


def test_rates_are_operations_and_bytes_a_second(monkeypatch) -> None:
    monkeypatch.setattr(measuring, "timed", lambda step, device: 0.25)
    assert measuring.matrix_rate(size=8) == 2 * 8**3 / 0.25
    assert measuring.copy_rate(megabytes=2) == 2 * 2 * 2**20 / 0.25


# -- the page ----------------------------------------------------------------------------------------------------------


def written(folder: Path) -> dict[str, str]:
    """The page and the plot of a result of three aims: one reached, one missed, one not measured."""
    aims = [
        Aim("time", "ours", "theirs", 1.2),
        Aim("speed", "ours", "theirs", at_least=1.5),
        Aim("share", "ours", at_least=0.5),
    ]
    page.write_results("info_nce", [measured(aims)], folder / "results", "cpu", "--batch 8")
    page.write(folder / "results", folder / "docs" / "speed.md")
    return {path.name: path.read_text(encoding="utf-8") for path in (folder / "docs").iterdir()}


def test_a_missed_aim_stays_missed(tmp_path) -> None:
    text = written(tmp_path)["speed.md"]
    assert "| A case | time of ours / theirs | 1 (0.5 to 1.5) | at most 1.2 | reached |" in text
    assert "| A case | speed of ours / theirs | 1 (0.667 to 2) | at least 1.5 | **NOT reached** |" in text
    assert "| A case | share of the limit of ours | not measured | at least 50% | **NOT reached** |" in text


def test_the_page_tells_forms_command_machine_and_versions(tmp_path) -> None:
    text = written(tmp_path)["speed.md"]
    assert "| A case | ours | 2 s | 5 pairs | 0 kB |  |" in text
    assert "`diptych bench info_nce --batch 8` on " in text
    assert f"torch {torch.__version__}" in text
    told = json.loads((tmp_path / "results" / "info_nce.json").read_text())
    assert told["commit"] in text
    assert told["machine"]["device"] in text


def test_the_plot_shows_each_figure_over_its_aim(tmp_path) -> None:
    plot = written(tmp_path)["speed.svg"]
    assert plot.count("<circle") == 2  # the third was not measured
    assert plot.count("#1f9d6b") == plot.count("#d1495b") == 2  # a dot and a bar, reached and missed
    assert "A case: speed of ours / theirs" in plot


@pytest.mark.parametrize(
    ("aim", "value", "excess"),
    [
        ({"at_most": 1.2, "at_least": 0.0}, 0.6, 0.5),
        ({"at_most": None, "at_least": 1.5}, 3.0, 0.5),
        ({"at_most": None, "at_least": 1.5}, 1.0, 1.5),
        ({"at_most": 1.2, "at_least": 0.0}, None, None),
    ],
)
def test_left_of_one_is_better_whatever_is_aimed_at(aim, value, excess) -> None:
    assert page._excess({"aim": aim, "value": value}, "value") == excess


def test_a_folder_without_results_says_so(tmp_path, capsys) -> None:
    assert main(["bench", "--out", str(tmp_path), "--page", str(tmp_path / "speed.md")]) == 1
    assert "holds no results" in capsys.readouterr().err


def test_the_page_is_that_of_the_results(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    for path, text in page.texts(Path("benchmarks", "results"), page.PAGE).items():
        assert path.read_text(encoding="utf-8") == text, f"diptych bench --page {page.PAGE}"


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bench.NAMES)
def test_aims_name_forms_that_are_there(name) -> None:
    module = importlib.import_module(f"diptych.app.bench.{name}")
    for case in module.cases(module.Options()):
        assert case.aims, case.title
        assert {side for aim in case.aims for side in (aim.form, aim.peer) if side} <= set(case.forms)
        assert next(iter(case.forms)) == case.aims[0].form  # ours comes first


@pytest.fixture
def quick(monkeypatch) -> None:
    """Neither processes of their own nor large products, which take seconds."""
    monkeypatch.setattr(measuring, "_bytes", lambda form, device: 3e6)
    monkeypatch.setattr(measuring, "_usual", lambda step, device: 1e-3)


SMALL = {
    "info_nce": ["--batch", "32", "--width", "4", "--tile", "8"],
    "late_interaction": ["--batch", "6", "--patches", "5", "--words", "4", "--width", "4", "--tile", "2"],
    "depth_maps": ["--batch", "2", "--points", "8", "--views", "6", "--size", "16", "--radius", "0.2"],
    "packing": ["--batch", "4", "--longest", "24", "--width", "16", "--layers", "1"],
    "grad_cache": ["--batch", "8", "--part", "4", "--tile", "4"],
    "saving": ["--layers", "1", "--width", "24"],
    "retrieval": ["--items", "40", "--width", "4", "--side", "16"],
}


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_and_prints_what_it_writes(name, tmp_path, capsys, quick) -> None:
    assert main(["bench", name, *SMALL[name], "--repeats", "2", "--out", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / f"{name}.json").read_text())
    assert " ".join(SMALL[name]) in told["command"]
    assert all(form["seconds"] > 0 for result in told["results"] for form in result["forms"].values())


def test_the_terminal_shows_forms_and_aims(tmp_path, capsys, quick) -> None:
    name = "late_interaction"
    assert main(["bench", name, *SMALL[name], "--repeats", "2", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "memory of tiled / plain: 1, at most 0.1: NOT reached" in shown
    assert "3.0 MB" in shown


def test_an_unknown_benchmark_names_the_nearest(capsys) -> None:
    assert main(["bench", "infonce"]) == 2
    assert "'info_nce'" in capsys.readouterr().err


def test_without_a_name_the_benchmarks_are_listed(capsys) -> None:
    assert main(["bench"]) == 2
    shown = capsys.readouterr().out
    assert all(name in shown for name in bench.NAMES)


def test_changed_options_are_told_as_they_are_typed() -> None:
    from diptych.app.bench.info_nce import Options

    assert changed(Options()) == ""
    assert changed(Options(batch=8, repeats=1)) == "--batch 8 --repeats 1"
