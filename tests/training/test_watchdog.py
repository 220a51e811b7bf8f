"""A run in which nothing moves ends by itself, says where it hung, and leaves nobody behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HANGING = Path(__file__).parent / "hanging.py"


def run(out: Path, patience: float, how: str, *more: str, count: int = 1) -> subprocess.CompletedProcess[str]:
    """A run that would last for ever without the watchdog."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    return subprocess.run(
        [sys.executable, *several, str(HANGING), str(out), str(patience), how, *more],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def living(out: Path) -> list[str]:
    """Processes that still have to do with a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] * (str(out) in path.read_text())
        except OSError:  # it has just ended
            continue
    return found


def stacks(out: Path, rank: int = 0) -> str:
    return (out / f"stacks-{rank}.txt").read_text()


def test_a_data_worker_that_hangs_is_named_with_its_samples_and_stack(tmp_path) -> None:
    done = run(tmp_path, 4, "reading", "1")
    assert done.returncode == 1, done.stderr
    assert "diptych: the run hangs: nothing has moved for 4 seconds (--patience)" in done.stderr
    assert "waiting for data, of which data workers" in done.stderr
    assert "toy-7" in done.stderr.split("must read the samples")[1]
    assert stacks(tmp_path).count("in for_ever") == 1  # in the worker, not in the main process
    assert "in read" in stacks(tmp_path).split("data worker ")[1]
    assert not living(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "phase"), [("reading", "waiting for data, of which this process must read"), ("evaluating",) * 2]
)
def test_one_process_says_where_it_hangs(how, phase, tmp_path) -> None:
    done = run(tmp_path, 3, how)
    assert done.returncode == 1, done.stderr
    assert f"seconds (--patience) while it was {phase}" in done.stderr
    assert "in for_ever" in stacks(tmp_path)


@pytest.mark.slow
def test_a_save_that_hangs_is_named(tmp_path) -> None:
    done = run(tmp_path, 3, "saving")
    assert done.returncode == 1, done.stderr
    assert "while it was saving." in done.stderr


@pytest.mark.slow
def test_where_the_lock_of_python_is_held_a_timer_ends_the_run(tmp_path) -> None:
    done = run(tmp_path, 1, "locked")
    assert done.returncode == 1, done.stderr
    assert "Timeout" in stacks(tmp_path)
    assert "in loss" in stacks(tmp_path)


def test_the_process_that_hangs_ends_both(tmp_path) -> None:
    done = run(tmp_path, 4, "step", count=2)
    assert done.returncode
    assert done.stderr.count("diptych: the run hangs") == 1
    assert "process 0, 1 was in step 3" in done.stderr
    assert "in for_ever" in stacks(tmp_path, 1)
    assert "in for_ever" not in stacks(tmp_path, 0)
    assert not living(tmp_path)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other(tmp_path) -> None:
    done = run(tmp_path, 5, "killed", count=2)
    assert done.returncode
    assert "SIGKILL" in done.stderr or "Signal 9" in done.stderr
    assert not living(tmp_path)


@pytest.mark.slow
def test_a_process_that_fails_ends_the_other_and_says_why(tmp_path) -> None:
    done = run(tmp_path, 5, "failed", count=2)
    assert done.returncode
    assert "this is the message of process 1." in done.stderr
    assert "the run hangs" not in done.stderr
    assert not living(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_an_evaluation_that_moves_may_take_longer_than_the_patience(count, tmp_path) -> None:
    done = run(tmp_path, 3, "slow", count=count)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished") == count
    assert not list(tmp_path.glob("stacks-*"))
