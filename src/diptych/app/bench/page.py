"""Where benchmarks leave their figures (NAME.json), and the page that is made of nothing but these files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.app import bench, curves, runs, wording

if TYPE_CHECKING:
    from diptych.app.bench.measure import Result

PAGE, PLOT = Path("docs", "speed.md"), "speed.svg"
_HEAD = """# Speed and memory

Each benchmark sets ours against a peer, or against the plain form of the same computation, in one run on one machine:
times are taken in turn, and a ratio is the median over the turns, with the smallest and the largest. Memory is what the
tensors of a step take beside its inputs, in a process of its own. The machine's limit is what the named work would take
at the rate that this machine reaches in a large matrix product or copy. `diptych bench NAME` measures on yours."""


def write_results(name: str, results: Sequence[Result], folder: Path, device: str, changed: str = "") -> Path:
    """Writes the figures of a benchmark.

    Args:
        name: the benchmark.
        results: one a case.
        folder: gets NAME.json, or NAME-cuda.json.
        device: where it ran.
        changed: the options that were not the defaults, as they are typed.

    Returns:
        The file.
    """
    from diptych.app.bench.measure import machine

    told = {
        "command": f"diptych bench {name} {changed}".strip(),
        "about": bench.NAMES[name],
        "machine": machine(device),
        "versions": runs.versions(),
        "commit": runs.commit(),
        "results": [plain(result) for result in results],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{'-cuda' * device.startswith('cuda')}.json"
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path


def write(folder: Path, page: Path) -> None:
    """Writes the page of all results in `folder`, and its plot beside it.

    Raises:
        FileNotFoundError: there are none.
    """
    for path, text in texts(folder, page).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def texts(folder: Path, page: Path) -> dict[Path, str]:
    """What the page and its plot must hold.

    Raises:
        FileNotFoundError: there are no results.
    """
    order = list(bench.NAMES)
    files = sorted(folder.glob("*.json"), key=lambda path: (order.index(path.stem.removesuffix("-cuda")), path.stem))
    if not files:
        raise FileNotFoundError(f"{folder} holds no results: `diptych bench NAME` measures some.")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    parts = [_HEAD, f"![Figures against their aims]({PLOT})", *map(_section, found)]
    made = f"Made by `diptych bench --page {page.as_posix()}` from `{folder.as_posix()}/`. Do not edit it."
    return {page: "\n\n".join([*parts, made]) + "\n", page.with_name(PLOT): plot(found)}


def _section(found: Mapping[str, Any]) -> str:
    """A benchmark: what was aimed at and what came of it, what each form took, and where."""
    aims, forms = [], []
    for result in found["results"]:
        aims += [(result["title"], *_aim(outcome)) for outcome in result["outcomes"]]
        forms += [(result["title"], *cells(name, form, result)) for name, form in result["forms"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return "\n\n".join(
        [
            f"## {found['about'][:1].upper()}{found['about'][1:]}",
            *([_table(("", "figure", "is", "aim", ""), aims)] if aims else []),
            _table(("", "form", "a step", "a second", "memory", "share of the limit"), forms),
            *dict.fromkeys(f"The limit: {result['limit']}." for result in found["results"] if result["limit"]),
            f"`{found['command']}` on {found['machine']['device']}; {versions}; commit {found['commit']}.",
        ]
    )


def _aim(outcome: Mapping[str, Any]) -> tuple[str, ...]:
    value, spread, bound = told(outcome)
    return what(outcome["aim"]), value + spread, bound, "reached" if outcome["reached"] else "**NOT reached**"


# -- words -------------------------------------------------------------------------------------------------------------


def what(aim: Mapping[str, Any]) -> str:
    """`memory of tiled / plain`, `share of the limit of ours`."""
    figure = "share of the limit" if aim["of"] == "share" else aim["of"]
    return f"{figure} of {aim['form']}" + (f" / {aim['peer']}" if aim["peer"] else "")


def told(outcome: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a figure is, its spread over the turns, and what was aimed at: `0.78`, ` (0.75 to 0.81)`, `at most 1.2`."""
    aim = outcome["aim"]

    def one(value: float | None) -> str:
        if value is None:
            return "not measured"
        if aim["peer"]:
            return f"{value:.3g}"
        named = {"time": seconds, "memory": wording.size, "share": "{:.0%}".format, "speed": "{:,.4g} a second".format}
        return named[aim["of"]](value)

    spread = f" ({one(outcome['low'])} to {one(outcome['high'])})" if outcome["low"] != outcome["high"] else ""
    bound = f"at most {one(aim['at_most'])}" if aim["at_most"] is not None else f"at least {one(aim['at_least'])}"
    return one(outcome["value"]), spread, bound


def cells(name: str, form: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[str, ...]:
    """What a form took: its name, a step, units a second, memory, share of the limit."""
    share, size = form["share"], form["bytes"]
    return (
        name,
        seconds(form["seconds"]),
        f"{result['units'] / form['seconds']:,.4g} {result['unit']}",
        "" if size is None else wording.size(size),
        "" if share is None else f"{share:.0%}",
    )


def seconds(value: float) -> str:
    """`0.95 s`, `12.3 ms`."""
    return f"{value:.3g} s" if value >= 0.1 else f"{1e3 * value:.3g} ms"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(result: Result) -> dict[str, Any]:
    """A result as JSON has it: NaN and infinity are null, and each outcome says whether it reached its aim."""
    made: dict[str, Any] = _finite(dataclasses.asdict(result))
    for outcome, plain in zip(result.outcomes, made["outcomes"], strict=True):
        plain["reached"] = outcome.reached
    return made


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- the plot ----------------------------------------------------------------------------------------------------------

_ROW, _LABELS, _BAR, _FIGURES = 26, 610, 380, 210  # heights and widths of the plot


def plot(found: Sequence[Mapping[str, Any]]) -> str:
    """Every figure over its aim, on a logarithmic axis on which left of 1 is better, as SVG."""
    outcomes = [
        (result["title"], outcome, _excess(outcome, "value"))
        for benchmark in found
        for result in benchmark["results"]
        for outcome in result["outcomes"]
    ]
    known = [excess for _, _, excess in outcomes if excess] + [0.5, 2.0]
    left, right = math.log(min(known) / 1.3), math.log(max(known) * 1.3)
    width, height = _LABELS + _BAR + _FIGURES, _ROW * (len(outcomes) + 2)

    def across(value: float) -> float:
        return round(_LABELS + _BAR * (math.log(value) - left) / (right - left), 1)

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="13" fill="#7a8290" role="img" aria-label="Figures against their aims">'
    ]
    for tick in curves.log_ticks(math.exp(left), math.exp(right)):
        drawn.append(f'<path d="M{across(tick)} {_ROW}V{height - _ROW}" stroke="#7a8290" opacity=".25"/>')
        drawn.append(f'<text x="{across(tick)}" y="{height - 8}" text-anchor="middle">{tick:g}</text>')
    drawn.append(f'<path d="M{across(1)} {_ROW}V{height - _ROW}" stroke="#7a8290" stroke-width="2"/>')
    drawn.append(f'<text x="{across(1)}" y="17" text-anchor="middle">← better · figure / aim · worse →</text>')
    for index, (title, outcome, excess) in enumerate(outcomes):
        y = _ROW * (index + 1.5)
        value, _, bound = told(outcome)
        label = escape(f"{title}: {what(outcome['aim'])}")
        drawn.append(f'<text x="{_LABELS - 12}" y="{y + 4}" text-anchor="end">{label}</text>')
        drawn.append(f'<text x="{_LABELS + _BAR + 12}" y="{y + 4}">{escape(f"{value}, {bound}")}</text>')
        if excess:
            low, high = (across(_excess(outcome, end) or excess) for end in ("low", "high"))
            paint = "#1f9d6b" if outcome["reached"] else "#d1495b"
            drawn.append(f'<path d="M{low} {y}H{high}" stroke="{paint}" stroke-width="5" opacity=".35"/>')
            drawn.append(f'<circle cx="{across(excess)}" cy="{y}" r="5.5" fill="{paint}"/>')
    return "\n".join([*drawn, "</svg>"]) + "\n"


def _excess(outcome: Mapping[str, Any], which: str) -> float | None:
    """A figure over its aim, or the aim over it where more is better: 1 is just reached, less is better."""
    aim, value = outcome["aim"], outcome[which]
    if not value:
        return None
    return float(value / aim["at_most"] if aim["at_most"] is not None else aim["at_least"] / value)
