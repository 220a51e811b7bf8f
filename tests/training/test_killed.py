"""Runs that were killed with SIGKILL again and again equal one that was not; see `killed.py`."""

import sys

import pytest
from killed import CASES, prove

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the processes of Linux")


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_a_few_times(workers, tmp_path) -> None:
    assert prove("toy", tmp_path, kills=5, workers=workers).total() == 5


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("case", CASES)
def test_killed_thirty_times(case, workers, tmp_path) -> None:
    landed = prove(case, tmp_path, kills=30, workers=workers)
    assert landed.total() == 30
    for where in ("step", "write", "evaluation"):
        assert any(where in place for place in landed), landed
