"""The self-contained HTML page of a scaling study: curves on logarithmic axes, what they predict, how to repeat it.

Like the page of a run it loads nothing from anywhere and runs no script; everything that comes from data is escaped.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from diptych import __version__
from diptych.app import curves, pages, wording
from diptych.app.laws import AHEAD, Law, Prediction, number, short

if TYPE_CHECKING:
    from diptych.app.scale import Scaling

_WIDTH, _HEIGHT = 480.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 50.0, 28.0, 36.0
_NARROW = 6.0  # ratio of an axis' ends below which ones, twos and fives are too few ticks
_CARDS = 3


def write(scaling: Scaling, folder: Path) -> None:
    """Writes `index.html` into the study's folder."""
    (folder / "index.html").write_text(page(scaling, folder), encoding="utf-8")


def page(scaling: Scaling, folder: Path) -> str:
    """The page as text."""
    study = scaling.study
    columns, lines = table(scaling)
    return pages.render(
        "scale.html.j2",
        title=f"How {scaling.title} scales with {'samples seen' if study.over == 'samples' else study.unit}",
        lede=_lede(scaling),
        unit=study.unit,
        cards=list(_cards(scaling))[:_CARDS],
        charts=[
            {
                "title": law.title,
                "svg": pages.safe(chart(law, study.unit)),
                "sentence": _with_power(law.sentence(study.unit)),
                "notes": law.notes,
            }
            for law in scaling.laws
        ],
        columns=columns,
        lines=lines,
        laws=[_law(law) for law in scaling.laws],
        command=command(scaling, folder),
        settings=_settings(scaling),
        footer=f"diptych {__version__} · {str(scaling.machine.get('started', ''))[:10]} · {pages.relative(folder)}",
    )


def table(scaling: Scaling) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of what was measured: a line a budget with the means over the seeds, then the predictions."""
    unit, laws = scaling.study.unit, scaling.laws
    lines = []
    for budget in scaling.budgets:
        cells = [number(mean(law.at(budget.x)), law.share) for law in laws]
        lines.append([short(budget.x), wording.duration(budget.seconds), *cells])
    for index, times in enumerate(AHEAD):
        ahead = [law.predictions[index] for law in laws]
        cells = [law.told(one) for law, one in zip(laws, ahead, strict=True)]
        lines += [[f"{short(ahead[0].x)} ({times} ×)", "predicted", *cells]] if ahead else []
    return [unit, "a run takes", *(law.title for law in laws)], lines


def command(scaling: Scaling, folder: Path) -> str:
    """The command line that makes the same study again, in lines for a terminal."""
    study = scaling.study
    budgets = ",".join(f"{x:.15g}" for x in study.budgets)
    lines = [f"diptych scale {shlex.quote(study.method)} --out {shlex.quote(pages.relative(folder))}"]
    lines.append(f"--over {study.over} --budgets {budgets} --seeds {study.seeds}")
    for flag in ("data", "val", "task", "metric", "set"):
        values = getattr(study, {"task": "tasks", "metric": "metrics", "set": "settings"}.get(flag, flag))
        lines += [" ".join(f"--{flag} {shlex.quote(value)}" for value in values)] if values else []
    return " \\\n    ".join(lines)


# ------------------------------------------------------------------------------------------------------------ words


def _lede(scaling: Scaling) -> str:
    study = scaling.study
    first, last = (short(scaling.budgets[end].x) for end in (0, -1))
    seeds = f"{study.seeds} seeds" if study.seeds > 1 else "one seed"
    fixed = f", each for {scaling.budgets[0].samples:,} samples seen" if study.over == "pictures" else ""
    return (
        f"{len(scaling.budgets)} budgets from {first} to {last} {study.unit}{fixed}, {seeds} each, trained on "
        f"{wording.joined(study.data)}. Every run is a training of its own, with its own schedule of the learning rate."
    )


def _cards(scaling: Scaling) -> Iterator[dict[str, str]]:
    """What the last prediction says of each share."""
    for law in scaling.laws:
        if law.share:
            last = law.predictions[-1]
            low, high = number(last.low, True).removesuffix(" %"), number(last.high, True)
            yield {
                "name": law.title,
                "value": number(last.value, True),
                "meaning": f"predicted for {AHEAD[last.times]} the {scaling.study.unit} ({short(last.x)}); the largest "
                f"budget that was run gave {number(mean(law.at(law.budgets[-1])), True)}",
                "interval": f"95 % of such runs are expected in {_kept(f'{low} – {high}')}"
                if high
                else "these runs do not say how sure that is",
            }


def _kept(text: str) -> str:
    """Text that is not broken over two lines."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _with_power(sentence: str) -> Any:
    """A sentence with its exponent raised."""
    return pages.safe(re.sub(r"\^(-?[\d.]+)", r"<sup>\1</sup>", escape(sentence)))


def _law(law: Law) -> dict[str, str]:
    alpha, floor = law.alpha, law.floor
    known = math.isfinite(alpha.low)
    return {
        "title": law.title,
        "alpha": f"{alpha.value:.3f}" + (f" [{alpha.low:.3f}, {alpha.high:.3f}]" if known else ""),
        "floor": law.told(floor) if math.isfinite(floor.low) else "not fitted",
        "explained": "" if math.isnan(law.explained) else f"{law.explained:.3f}",
        "chance": number(law.chance, law.share),
        "n": f"{law.n:,}",
    }


def _settings(scaling: Scaling) -> list[tuple[str, str]]:
    """Every option with its value, and where it ran."""
    told = {**scaling.config, **scaling.recipe, **scaling.machine}
    told["versions"] = [f"{name} {version}" for name, version in scaling.machine.get("versions", {}).items()]
    for decided in ("samples", "seed"):  # by the budget and by the study
        told.pop(decided, None)
    return [(k, " ".join(map(str, v)) or "none" if isinstance(v, list | tuple) else str(v)) for k, v in told.items()]


# ------------------------------------------------------------------------------------------------------------ chart


def chart(law: Law, unit: str) -> str:
    """The error over the budget as SVG, both axes logarithmic: runs, curve, its interval, and what it predicts."""
    xs = [x for x, *_ in law.line]
    errors = [law.error(point.value) for point in law.points]
    fitted = [value for _, value, _, _ in law.line]
    bottom, top = _ends([*errors, *fitted], law)
    across = _axis(xs[0] / 1.12, xs[-1] * 1.12, _LEFT, _WIDTH - _RIGHT)
    up = _axis(bottom, top, _HEIGHT - _BOTTOM, _TOP)
    said = escape(f"{law.title}: error from {fitted[0]:.3g} at {short(xs[0])} to {fitted[-1]:.3g} at {short(xs[-1])}")
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{said}">']
    parts += [_grid(tick, up(tick), law) for tick in _ticks(bottom, top)]
    for tick in curves.log_ticks(xs[0], xs[-1]):
        where = f'x="{across(tick):.1f}" y="{_HEIGHT - _BOTTOM + 16:g}"'
        parts.append(f'<text {where} text-anchor="middle">{short(tick)}</text>')
    where = f'x="{_WIDTH - _RIGHT:g}" y="{_HEIGHT - 4:g}"'
    parts.append(f'<text {where} text-anchor="end" class="axis">{escape(unit)}</text>')
    for side, start, said in (("start", _LEFT - 44, "error"), ("end", _WIDTH - 6, "share")) if law.share else ():
        parts.append(f'<text x="{start:g}" y="12" text-anchor="{side}" class="axis">{said}</text>')
    parts += [_band(law, across, up, bottom, top), *_curve(law, across, up, bottom, top)]
    parts += [_predicted(law, one, across, up, bottom, top) for one in law.predictions]
    for point in law.points:
        y = up(min(top, max(bottom, law.error(point.value))))
        name = escape(f"{point.run}: {number(point.value, law.share)} at {short(point.x)}")
        parts.append(
            f'<circle cx="{across(point.x):.1f}" cy="{y:.1f}" r="4" fill="var(--s0)" fill-opacity=".75"'
            f"><title>{name}</title></circle>"
        )
    return "".join(parts) + "</svg>"


Axis = Callable[[float], float]


def _axis(low: float, high: float, start: float, end: float) -> Axis:
    """A logarithmic map from values to the page."""
    return lambda value: start + math.log(value / low) / math.log(high / low) * (end - start)


def _ends(values: Sequence[float], law: Law) -> tuple[float, float]:
    """The ends of the errors that are shown: wide intervals are cut off, lest they flatten the rest."""
    low, high = min(values), max(values)
    room = max(1.1, (high / low) ** 0.35)
    bounds = [bound for _, _, *both in law.line for bound in both if math.isfinite(bound) and bound > 0]
    low, high = max(low / room, min([low, *bounds]) / 1.03), min(high * room, max([high, *bounds]) * 1.03)
    return (low, min(high, 1.02)) if law.share else (low, high)


def _ticks(low: float, high: float) -> list[float]:
    found = curves.log_ticks(low, high) if high > _NARROW * low else curves.ticks(low, high, about=7)
    return [tick for tick in found if low <= tick <= high]


def _grid(tick: float, y: float, law: Law) -> str:
    """A line across, with the error on the left and, of a share, the share on the right."""
    drawn = f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
    error, share = (f"{100 * tick:g} %", f"{100 * (1 - tick):.3g} %") if law.share else (f"{tick:g}", "")
    for side, x, label in (("end", _LEFT - 6, error), ("start", _WIDTH - _RIGHT + 6, share)):
        drawn += f'<text x="{x:g}" y="{y + 3.5:.1f}" text-anchor="{side}">{label}</text>' if label else ""
    return drawn


def _band(law: Law, across: Axis, up: Axis, bottom: float, top: float) -> str:
    """The 95 % interval of the curve, cut off at the ends of the axis."""
    shown = [(x, low, high) for x, _, low, high in law.line if math.isfinite(low) and math.isfinite(high)]
    if not shown:
        return ""
    cut = [(across(x), up(min(top, max(bottom, low))), up(min(top, max(bottom, high)))) for x, low, high in shown]
    corners = [f"{x:.1f},{y:.1f}" for x, _, y in cut] + [f"{x:.1f},{y:.1f}" for x, y, _ in reversed(cut)]
    return f'<polygon points="{" ".join(corners)}" fill="var(--s0)" opacity=".14"/>'


def _curve(law: Law, across: Axis, up: Axis, bottom: float, top: float) -> Iterator[str]:
    """The fitted line, dashed where it is an extrapolation."""
    largest = law.budgets[-1]
    shown = [(x, y) for x, y, _, _ in law.line if bottom <= y <= top]
    known = [pair for pair in shown if pair[0] <= largest * (1 + 1e-9)]
    for pairs, dashes in ((known, ""), (shown[max(0, len(known) - 1) :], ' stroke-dasharray="5 4"')):
        where = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in pairs)
        yield f'<polyline points="{where}" fill="none" stroke="var(--s0)" stroke-width="2"{dashes}/>'


def _predicted(law: Law, one: Prediction, across: Axis, up: Axis, bottom: float, top: float) -> str:
    """A prediction as a ring with the bounds of single runs, and its value beside it."""
    x, error = across(one.x), law.error(one.value)
    if not bottom <= error <= top:
        return ""
    y, drawn = up(error), ""
    if math.isfinite(one.low):
        ends = (up(min(top, max(bottom, law.error(bound)))) for bound in (one.low, one.high))
        drawn = '<line x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}" stroke="var(--s0)"/>'.format(x, *ends)
    said = escape(f"{one.times} × the largest budget: {law.told(one)}")
    return (
        f'{drawn}<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="var(--paper)" stroke="var(--s0)" stroke-width="2">'
        f'<title>{said}</title></circle><text x="{x - 8:.1f}" y="{y + 14:.1f}" text-anchor="end" class="axis">'
        f"{escape(number(one.value, law.share))}</text>"
    )
