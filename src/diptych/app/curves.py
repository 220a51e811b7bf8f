"""Small charts as inline SVG: lines over samples, points with intervals, and intervals on a common scale.

They take their colours from the page (`--s0`, `--s1`, ... `--ink`, `--faint`), so that they follow its light or dark
dress, and need no script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

_WIDTH, _HEIGHT = 380.0, 230.0
_NARROW = 290.0  # of charts that stand three in a row
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 12.0, 34.0
COLOURS = 8  # of report.css; the ninth has that of the first
_WIDE = 8  # times the smallest cost: a linear axis would crowd the others together


@dataclass(frozen=True)
class Line:
    """A named series; `colour` is the index of its run, so that a run keeps its colour over all charts."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dots: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Point:
    """A named value `y` with its interval at `x`, and the values of single seeds that it is the mean of."""

    name: str
    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    colour: int = 0
    seeds: Sequence[float] = ()


def chart(lines: Sequence[Line], *, x_label: str, percent: bool = False, chance: float = math.nan) -> str:
    """Lines over a common axis.

    Args:
        lines: the series; points that are not finite are left out.
        x_label: what the horizontal axis counts.
        percent: y is a share and is labelled in per cent.
        chance: a dashed level, what guessing would give.
    """
    lines = [_finite(line) for line in lines]
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y] + ([chance] if math.isfinite(chance) else [])
    if not xs:
        return ""
    y_ticks = ticks(0.0 if percent else min(ys), max(ys))
    left, right = min(0.0, *xs), max(xs)
    across = _Scale(left, right, _LEFT, _WIDTH - _RIGHT)
    up = _Scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_opened(_spoken(lines), _WIDTH), _rows(y_ticks, up, _WIDTH - _RIGHT, percent)]
    x_ticks = [tick for tick in ticks(left, right) if tick <= right * 1.001]
    parts.append(_columns(x_ticks, across, _WIDTH - _RIGHT, x_label))
    if math.isfinite(chance):
        y = up(chance)
        parts.append(f'<line class="chance" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts += [_path(line, across, up) for line in lines]
    return "".join(parts) + "</svg>"


def scatter(points: Sequence[Point], *, x_label: str) -> str:
    """Shares against a cost, each with its interval; the cost on a logarithmic axis where it spans more than 1 to 8.

    Args:
        points: what is shown; those without a positive, finite `x` or a finite `y` are left out.
        x_label: what the horizontal axis counts.
    """
    points = [point for point in points if 0 < point.x < math.inf and math.isfinite(point.y)]
    if not points:
        return ""
    xs = [point.x for point in points]
    ys = [y for point in points for y in (point.y, point.low, point.high, *point.seeds) if math.isfinite(y)]
    wide = max(xs) > _WIDE * min(xs)
    left, right = (min(xs) / 1.5, max(xs) * 1.5) if wide else (0.0, max(xs) * 1.12)
    across = _Scale(left, right, _LEFT, _NARROW - _RIGHT, log=wide)
    y_ticks = ticks(min(ys), max(ys))
    up = _Scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    x_ticks = [tick for tick in (log_ticks(left, right) if wide else ticks(left, right)) if left <= tick <= right]
    spoken = "; ".join(f"{point.name}: {point.y:.3g} at {point.x:.3g}" for point in points)
    parts = [_opened(spoken, _NARROW), _rows(y_ticks, up, _NARROW - _RIGHT, percent=True)]
    parts.append(_columns(x_ticks, across, _NARROW - _RIGHT, x_label))
    parts += [_point(point, across(point.x), up) for point in points]
    return "".join(parts) + "</svg>"


def interval(
    value: float,
    low: float,
    high: float,
    chance: float,
    colour: int = 0,
    top: float = 1.0,
    bottom: float = 0.0,
    seeds: Sequence[float] = (),
) -> str:
    """One figure on the scale `bottom` to `top`: a dot, its interval as a bar, chance as a tick, seeds as fine ones."""
    across = _Scale(bottom, top or 1.0, 4.0, 196.0)
    parts = ['<svg class="interval" viewBox="0 0 200 16" aria-hidden="true">']
    parts.append('<line class="grid" x1="4" x2="196" y1="8" y2="8"/>')
    if math.isfinite(chance):
        parts.append(f'<line class="chance" x1="{across(chance):.1f}" x2="{across(chance):.1f}" y1="2" y2="14"/>')
    paint = f"var(--s{colour % COLOURS})"
    if math.isfinite(low) and math.isfinite(high):
        parts.append(
            f'<line x1="{across(low):.1f}" x2="{across(high):.1f}" y1="8" y2="8" stroke="{paint}" '
            'stroke-width="6" stroke-linecap="round" opacity=".35"/>'
        )
    parts.append(f'<circle cx="{across(value):.1f}" cy="8" r="4" fill="{paint}"/>')
    there = [across(seed) for seed in seeds if math.isfinite(seed)]
    parts += [f'<circle class="seed" cx="{x:.1f}" cy="14" r="1.6"/>' for x in there]
    return "".join(parts) + "</svg>"


def legend(names: Sequence[str], dashed: str = "") -> str:
    """A list of the runs in their colours, and of what the dashed line is."""
    items = [f'<li><i class="dot s{index % COLOURS}"></i>{escape(name)}</li>' for index, name in enumerate(names)]
    items += [f'<li><i class="dash"></i>{escape(dashed)}</li>'] if dashed else []
    return f'<ul class="legend">{"".join(items)}</ul>'


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Exponential mean over about `window` values, without the pull towards the first one."""
    decay, mean, weight, out = math.exp(-1.0 / max(window, 1)), 0.0, 0.0, []
    for value in values:
        mean = decay * mean + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        out.append(mean / weight)
    return out


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `about` of them."""
    if high <= low:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Ones, twos and fives of the powers of ten between `low` and `high`; the powers alone where that is enough."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [tick for tick in found if low <= tick <= high]
    ones = [10.0**power for power in powers if low <= 10.0**power <= high]
    return ones if len(ones) > 3 else inside


def mean_line(name: str, lines: Sequence[Line], colour: int = 0, dots: bool = False) -> Line:
    """The mean of several lines at the points of the first where all of them are there; straight between points."""
    import numpy as np

    lines = [line for line in lines if line.x]
    if not lines:
        return Line(name, [], [], colour, dots)
    start, end = max(line.x[0] for line in lines), min(line.x[-1] for line in lines)
    at = [x for x in lines[0].x if start <= x <= end]
    return Line(name, at, np.mean([np.interp(at, line.x, line.y) for line in lines], axis=0).tolist(), colour, dots)


def _opened(spoken: str, width: float) -> str:
    return f'<svg class="chart" viewBox="0 0 {width:g} {_HEIGHT:g}" role="img" aria-label="{escape(spoken)}">'


def _rows(y_ticks: Sequence[float], up: _Scale, right: float, percent: bool) -> str:
    """Horizontal lines with their labels."""
    drawn = ""
    for tick in y_ticks:
        y = up(tick)
        drawn += f'<line class="grid" x1="{_LEFT:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        drawn += f'<text x="{_LEFT - 6:g}" y="{y + 3.5:.1f}" text-anchor="end">{_label(tick, percent)}</text>'
    return drawn


def _columns(x_ticks: Sequence[float], across: _Scale, right: float, x_label: str) -> str:
    """The labels of the horizontal axis."""
    drawn = ""
    for tick in x_ticks:
        where = f'x="{across(tick):.1f}" y="{_HEIGHT - _BOTTOM + 15:g}"'
        drawn += f'<text {where} text-anchor="middle">{_label(tick)}</text>'
    where = f'x="{right:g}" y="{_HEIGHT - 4:g}"'
    return f'{drawn}<text {where} text-anchor="end" class="axis">{escape(x_label)}</text>'


def _point(point: Point, x: float, up: _Scale) -> str:
    paint = f"var(--s{point.colour % COLOURS})"
    drawn = ""
    if math.isfinite(point.low) and math.isfinite(point.high):
        drawn += (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{up(point.low):.1f}" y2="{up(point.high):.1f}" stroke="{paint}" '
            'stroke-width="7" stroke-linecap="round" opacity=".35"/>'
        )
    for seed in point.seeds:
        drawn += f'<circle class="seed" cx="{x + 10:.1f}" cy="{up(seed):.1f}" r="1.8"/>' if math.isfinite(seed) else ""
    said = escape(f"{point.name}: {100 * point.y:.1f} %")
    return f'{drawn}<circle cx="{x:.1f}" cy="{up(point.y):.1f}" r="5" fill="{paint}"><title>{said}</title></circle>'


def _path(line: Line, across: _Scale, up: _Scale) -> str:
    paint = f"var(--s{line.colour % COLOURS})"
    points = [(across(x), up(y)) for x, y in zip(line.x, line.y, strict=True)]
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    width = 'stroke-width="1" opacity=".35"' if line.faint else 'stroke-width="2"'
    drawn = f'<polyline points="{where}" fill="none" stroke="{paint}" {width} stroke-linejoin="round"/>'
    if line.dots:
        for (x, y), value, at in zip(points, line.y, line.x, strict=True):
            said = escape(f"{line.name}: {value:.3g} after {at:,.0f}")
            drawn += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{paint}"><title>{said}</title></circle>'
    return drawn


def _finite(line: Line) -> Line:
    pairs = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return replace(line, x=[x for x, _ in pairs], y=[y for _, y in pairs])


class _Scale:
    """A linear or a logarithmic map from values to the page."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False) -> None:
        self.place = math.log10 if log else float
        self.low, self.span = self.place(low), (self.place(high) - self.place(low)) or 1.0
        self.start, self.length = start, end - start

    def __call__(self, value: float) -> float:
        return self.start + (self.place(value) - self.low) / self.span * self.length


def _label(value: float, percent: bool = False) -> str:
    if percent:
        return f"{100 * value:g} %"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def _spoken(lines: Sequence[Line]) -> str:
    ends = [f"{line.name} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines if line.y and not line.faint]
    return "; ".join(ends)
