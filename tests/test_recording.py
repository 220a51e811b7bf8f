"""`--record` keeps what marked tests came to, and only that."""

import json
from functools import partial
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
FIRST = """
import pytest

@pytest.mark.shows("F", "filip", "clip")
@pytest.mark.shows("P", "filip")
def test_good():
    pass

@pytest.mark.shows("T")
@pytest.mark.parametrize("id", ["filip", "clip"])
def test_of_each(id):
    assert id == "filip"

def test_of_none():
    pass
"""
SECOND = """
import pytest

pytestmark = pytest.mark.shows("E", "siglip")

@pytest.fixture
def broken():
    raise OSError

def test_set_up(broken):
    pass

def test_left_out():
    pytest.skip()

@pytest.mark.shows("F", "siglip")
def test_left_to_others():
    pass
"""


@pytest.fixture
def run(pytester):
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers =\n    shows: of which system the test shows what\n    slow: takes long")
    pytester.makepyfile(test_first=FIRST, test_second=SECOND)
    return partial(pytester.runpytest_inprocess, "-p", "no:hypothesispytest")  # slow to import


def recorded(pytester) -> dict:
    path = pytester.path / "results" / "tests.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def outcomes(pytester) -> dict[str, str]:
    return {name.partition("::")[2]: entry["outcome"] for name, entry in recorded(pytester).items()}


def test_marked_tests_are_kept_in_order_with_columns_and_ids(run, pytester):
    run("--record")
    assert recorded(pytester) == {
        "test_first.py::test_good": {"shows": {"F": ["clip", "filip"], "P": ["filip"]}, "outcome": "passed"},
        "test_first.py::test_of_each[clip]": {"shows": {"T": ["clip"]}, "outcome": "failed"},
        "test_first.py::test_of_each[filip]": {"shows": {"T": ["filip"]}, "outcome": "passed"},
        "test_second.py::test_left_out": {"shows": {"E": ["siglip"]}, "outcome": "skipped"},
        "test_second.py::test_left_to_others": {"shows": {"F": ["siglip"], "E": ["siglip"]}, "outcome": "passed"},
        "test_second.py::test_set_up": {"shows": {"E": ["siglip"]}, "outcome": "failed"},
    }
    assert list(recorded(pytester)) == sorted(recorded(pytester))
    before = (pytester.path / "results" / "tests.json").read_bytes()
    run("--record")
    assert (pytester.path / "results" / "tests.json").read_bytes() == before


def test_nothing_is_kept_unless_asked_for(run, pytester):
    run()
    assert not (pytester.path / "results").exists()


def test_what_did_not_run_stays_and_what_is_gone_goes(run, pytester):
    run("--record")
    both = outcomes(pytester)
    pytester.makepyfile(test_first=FIRST.replace('id == "filip"', "id").replace("test_good", "test_better"))
    run("--record", "test_second.py")
    assert outcomes(pytester) == both  # the other file was not looked at
    run("--record", "test_first.py::test_of_each")
    assert outcomes(pytester) == {**both, "test_of_each[clip]": "passed"}  # nor all of this one
    run("--record", "-k", "better")
    gone = {name: outcome for name, outcome in both.items() if name != "test_good"}
    assert outcomes(pytester) == {**gone, "test_of_each[clip]": "passed", "test_better": "passed"}
    (pytester.path / "test_second.py").unlink()
    run("--record", ".")
    assert set(outcomes(pytester)) == {"test_better", "test_of_each[clip]", "test_of_each[filip]"}


def test_marks_are_read_anew_even_where_the_test_did_not_run(run, pytester):
    run("--record")
    pytester.makepyfile(test_first=FIRST.replace('shows("P", "filip")', 'shows("L", "filip")'))
    run("--record", "-k", "of_each")
    assert recorded(pytester)["test_first.py::test_good"]["shows"] == {"F": ["clip", "filip"], "L": ["filip"]}


def test_a_run_that_was_cut_short_by_an_error_records_nothing(run, pytester):
    pytester.makepyfile(test_third="import nothing_of_this_name")
    run("--record")
    assert recorded(pytester) == {}


def test_several_processes_record_the_same(run, pytester):
    run("--record")
    alone = recorded(pytester)
    (pytester.path / "results" / "tests.json").unlink()
    run("--record", "-n", "2")
    assert recorded(pytester) == alone


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ('shows("X", "filip")', "tests show one of R, F"),
        ('shows("C", "filip")', "except C"),
        ("shows", "tests show one of"),
        ('shows("F", "flip")', "name a system"),
        ('shows("F")', "or have a parameter `id`"),
    ],
)
def test_a_mark_that_says_nothing_is_an_error(mark, said, run, pytester):
    pytester.makepyfile(test_first=f"import pytest\n\n@pytest.mark.{mark}\ndef test_it():\n    pass\n")
    result = run("test_first.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str()
