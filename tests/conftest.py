"""Tests that show something of a system say so, and `--record` keeps what they came to for `diptych status`.

@pytest.mark.shows("F", "filip")      # what this test shows of FILIP is column F
@pytest.mark.shows("T")               # ... of the method that the parameter `id` names
"""

import json
import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # processes that compute beside each other take a core each, or all are slow
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from diptych.app import status  # imports torch, which reads that variable

pytest_plugins = ["pytester"]


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true", help=f"keep what the marked tests came to in {status.TESTS}")


def pytest_configure(config):
    config.pluginmanager.register(Recorder(config))


def shows(item) -> dict[str, list[str]]:
    """Column -> ids, from the marks of a test."""
    found: dict[str, set] = {}
    for mark in item.iter_markers("shows"):
        column, *ids = mark.args or [""]
        ids = ids or [item.callspec.params.get("id") if hasattr(item, "callspec") else None]
        if column not in set(status.COLUMNS) - {status.CLAIM}:
            raise pytest.UsageError(f"{item.nodeid}: tests show one of {', '.join(status.COLUMNS)} except C.")
        if not set(ids) <= set(status.known()):
            raise pytest.UsageError(f"{item.nodeid}: name a system or method in `shows`, or have a parameter `id`.")
        found.setdefault(column, set()).update(ids)
    return {column: sorted(found[column]) for column in status.COLUMNS if column in found}


class Recorder:
    """Notes what marked tests came to. With several processes each hands on what it collected to the first."""

    def __init__(self, config) -> None:
        self.config = config
        self.marked: dict[str, dict[str, list[str]]] = {}
        self.outcomes: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)  # before tests are left out by name or mark
    def pytest_collection_modifyitems(self, items):
        self.marked = {item.nodeid: shown for item in items if (shown := shows(item))}

    def pytest_runtest_logreport(self, report):
        if (report.when == "call" or not report.passed) and self.outcomes.get(report.nodeid) != "failed":
            self.outcomes[report.nodeid] = report.outcome

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        self.marked.update(node.workeroutput["marked"])

    def pytest_sessionfinish(self, exitstatus):
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["marked"] = self.marked
        elif self.config.getoption("--record") and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            self.write(self.config.rootpath / status.TESTS)

    def write(self, path: Path) -> None:
        """What ran now in place of what it came to before; what was not asked for stays, what is gone goes."""
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        outcomes = {name: entry["outcome"] for name, entry in before.items()} | self.outcomes
        now = {
            name: {"shows": self.marked[name], "outcome": outcomes[name]} for name in self.marked if name in outcomes
        }
        kept = {name: entry for name, entry in before.items() if name not in self.marked and not self.asked_for(name)}
        lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted((kept | now).items())]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    def asked_for(self, name: str) -> bool:
        """Whether the file of a test was collected as a whole."""
        file = self.config.rootpath / name.partition("::")[0]
        whole = [arg for arg in self.config.args if "::" not in arg]
        return any(file.is_relative_to((self.config.invocation_params.dir / arg).resolve()) for arg in whole)
