"""`diptych bench NAME`: ours against a peer, measured on this machine in one run."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.app import options
from diptych.config import nearest

if TYPE_CHECKING:
    from diptych.app.bench.measure import Result


@dataclass(frozen=True)
class Options:
    """Measure time and memory against a peer, or write the page of what was measured: `diptych bench --page FILE`."""

    out: Path = Path("benchmarks/results")
    """folder that gets NAME.json (NAME-cuda.json on a GPU)"""
    page: Path | None = None
    """also write the page of all results in that folder, with its plot beside it: docs/speed.md"""
    json: bool = False
    """print the figures as JSON"""


def run(args: Sequence[str]) -> int:
    """Measures, writes the figures, and prints them with what was aimed at."""
    from diptych.app import bench

    if not args or args[0].startswith("-"):
        return _nameless(args)
    name, args = args[0], args[1:]
    if name not in bench.NAMES:
        print(f"diptych: {nearest(name, bench.NAMES, 'benchmark')}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"diptych.app.bench.{name}")
    groups: list[Any] = [
        ("run", Options, field(default_factory=Options)),
        ("bench", module.Options, field(default_factory=module.Options)),
    ]
    about = f"{bench.NAMES[name][:1].upper()}{bench.NAMES[name][1:]}."
    chosen: Any = options.parse(make_dataclass("Bench", groups, frozen=True), args, f"bench {name}", about)
    _measure(name, module.cases(chosen.bench), chosen)
    return 0


def _nameless(args: Sequence[str]) -> int:
    """The page alone, or which benchmarks there are."""
    from diptych.app import bench, terminal

    about = f"{Options.__doc__} Benchmarks: {', '.join(bench.NAMES)}; `diptych bench NAME --help` tells their options."
    chosen = options.parse(Options, args, "bench", about)
    if chosen.page:
        _write_page(chosen)
        return 0
    for name, what in bench.NAMES.items():
        terminal.say(f"  {name:<18} {what}")
    print("diptych: name the benchmark: diptych bench NAME", file=sys.stderr)
    return 2


def _measure(name: str, cases: Sequence[Any], chosen: Any) -> None:
    from diptych.app import terminal
    from diptych.app.bench import page
    from diptych.app.bench.measure import measure

    device, results = getattr(chosen.bench, "device", "cpu"), []
    for case in cases:
        results.append(measure(case, device))
        if not chosen.run.json:
            show(results[-1])
    written = page.write_results(name, results, chosen.run.out, device, changed(chosen.bench))
    if chosen.run.json:
        print(written.read_text(encoding="utf-8"), end="")
    if chosen.run.page:
        _write_page(chosen.run)
    if not chosen.run.json:
        terminal.say(f"Figures: {written}")


def _write_page(chosen: Options) -> None:
    from diptych.app.bench import page

    assert chosen.page is not None
    page.write(chosen.out, chosen.page)


def changed(chosen: Any) -> str:
    """The options that are not the defaults, as they are typed: `--batch 4096 --tile 512`."""
    usual = type(chosen)()
    found = {one.name.replace("_", "-"): getattr(chosen, one.name) for one in fields(chosen)}
    differing = {name: value for name, value in found.items() if value != getattr(usual, name.replace("-", "_"))}
    return " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in differing.items())


def show(result: Result) -> None:
    """A table of the forms, and a line for each aim."""
    from diptych.app import terminal
    from diptych.app.bench import page

    told = page.plain(result)
    columns = ["", "a step", "a second", "memory beside inputs", "share of the limit"]
    rows = [page.cells(name, form, told) for name, form in told["forms"].items()]
    terminal.table(columns, rows, right=columns[1:], title=result.title)
    for outcome in told["outcomes"]:
        value, spread, bound = page.told(outcome)
        said = "reached" if outcome["reached"] else "NOT reached"
        terminal.say(f"  {page.what(outcome['aim'])}: {value}{spread}, {bound}: {said}")
    if result.limit:
        terminal.say(f"  The limit: {result.limit}.")
