"""Workers on Ray measure what this process would: the same bytes with one, with two, and after being killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from curation_helpers import Colours, encoded, files, sample, write
from shard_helpers import drawing

from diptych.curation.blocks import parts_of
from diptych.curation.dedup import Dedup, DedupTask, Prints
from diptych.curation.embed import Embedder
from diptych.curation.on_ray import on_ray
from diptych.curation.run import curate


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"diptych\[ray\]"):
        on_ray(2)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Ninety drawings, of which ten are copied, in several shards."""
    samples = {f"s{n:03d}": sample(encoded(drawing(n % 80)), f"a red drawing {n}") for n in range(90)}
    samples["cut"] = sample(b"\x89PNG", "b")
    return write(tmp_path_factory.mktemp("ray") / "in", samples, shard=200_000)


@pytest.mark.slow
def test_two_workers_write_what_one_and_none_write(source, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr("diptych.curation.blocks.SIZE", 8)
    here = os.path.dirname(__file__)  # workers import the method of these tests
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    task = DedupTask(Dedup(by="both", threshold=0.99), Prints(Embedder(Colours(), texts=False)))
    written = []
    for workers in (0, 1, 2):
        out = tmp_path / str(workers) / "out"
        spread = {"spread": on_ray(workers)} if workers else {}
        assert curate(task, parts_of([source]), out, **spread).reasons["broken"] == 1
        written.append(files(out))
    assert written[0] == written[1] == written[2]
    assert len(written[0]) == 5  # a shard with its index, and what is told of it


@pytest.mark.slow
def test_a_killed_command_goes_on_with_another_number_of_workers(source, tmp_path):
    pytest.importorskip("ray")
    script = (
        "import sys; from diptych.curation import blocks; blocks.SIZE = 4; from diptych.app.main import main;"
        "sys.exit(main(sys.argv[1:]))"
    )

    def start(out, workers):
        command = [sys.executable, "-c", script, "curate", "dedup", source, "--out", str(out), "--workers", workers]
        return subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    out = tmp_path / "out"
    running = start(out, "2")
    while running.poll() is None and not list((tmp_path / ".out.curation").glob("*.arrow")):
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    there = len(list((tmp_path / ".out.curation").glob("*.arrow")))
    assert there > 0
    assert not out.exists()
    told, noise = start(out, "1").communicate()
    assert json.loads(told)["dropped"] == {"exact copy": 10, "broken": 1}
    assert "ray" not in noise.lower()
    assert start(tmp_path / "unbroken" / "out", "0").wait() == 0
    ours, unbroken = (files(folder) for folder in (out, tmp_path / "unbroken" / "out"))
    assert {name: data for name, data in ours.items() if name != "report.html"} == {
        name: data for name, data in unbroken.items() if name != "report.html"
    }  # the page tells the command
