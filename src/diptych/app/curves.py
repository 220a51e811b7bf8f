"""Small charts as inline SVG: lines over samples, and intervals on a common scale.

They take their colours from the page (`--s0`, `--s1`, ... `--ink`, `--faint`), so that they follow its light or dark
dress, and need no script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 380.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 12.0, 34.0
_COLOURS = 8


@dataclass(frozen=True)
class Line:
    """A named series; `colour` is the index of its run, so that a run keeps its colour over all charts."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dots: bool = False


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
    x_ticks, y_ticks = ticks(min(0.0, *xs), max(xs)), ticks(0.0 if percent else min(ys), max(ys))
    across = _scale(min(0.0, *xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    up = _scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    box, said = f"0 0 {_WIDTH:g} {_HEIGHT:g}", escape(_spoken(lines))
    parts = [f'<svg class="chart" viewBox="{box}" role="img" aria-label="{said}">']
    for tick in y_ticks:
        y = up(tick)
        parts.append(f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6:g}" y="{y + 3.5:.1f}" text-anchor="end">{_label(tick, percent)}</text>')
    for tick in x_ticks:
        if tick <= max(xs) * 1.001:
            where = f'x="{across(tick):.1f}" y="{_HEIGHT - _BOTTOM + 15:g}"'
            parts.append(f'<text {where} text-anchor="middle">{_label(tick)}</text>')
    parts.append(
        f'<text x="{_WIDTH - _RIGHT:g}" y="{_HEIGHT - 4:g}" text-anchor="end" class="axis">{escape(x_label)}</text>'
    )
    if math.isfinite(chance):
        y = up(chance)
        parts.append(f'<line class="chance" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts += [_path(line, across, up) for line in lines]
    return "".join(parts) + "</svg>"


def interval(value: float, low: float, high: float, chance: float, colour: int = 0, top: float = 1.0) -> str:
    """One figure on the scale 0 to `top`: a dot, its interval as a bar, chance as a tick."""
    across = _scale(0.0, top or 1.0, 4.0, 196.0)
    parts = ['<svg class="interval" viewBox="0 0 200 16" aria-hidden="true">']
    parts.append('<line class="grid" x1="4" x2="196" y1="8" y2="8"/>')
    if math.isfinite(chance):
        parts.append(f'<line class="chance" x1="{across(chance):.1f}" x2="{across(chance):.1f}" y1="2" y2="14"/>')
    paint = f"var(--s{colour % _COLOURS})"
    if math.isfinite(low) and math.isfinite(high):
        parts.append(
            f'<line x1="{across(low):.1f}" x2="{across(high):.1f}" y1="8" y2="8" stroke="{paint}" '
            'stroke-width="6" stroke-linecap="round" opacity=".35"/>'
        )
    parts.append(f'<circle cx="{across(value):.1f}" cy="8" r="4" fill="{paint}"/></svg>')
    return "".join(parts)


def legend(names: Sequence[str], dashed: str = "") -> str:
    """A list of the runs in their colours, and of what the dashed line is."""
    items = [f'<li><i class="dot s{index % _COLOURS}"></i>{escape(name)}</li>' for index, name in enumerate(names)]
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


def _path(line: Line, across: _Scale, up: _Scale) -> str:
    paint = f"var(--s{line.colour % _COLOURS})"
    points = [(across(x), up(y)) for x, y in zip(line.x, line.y, strict=True)]
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    drawn = f'<polyline points="{where}" fill="none" stroke="{paint}" stroke-width="2" stroke-linejoin="round"/>'
    if line.dots:
        for (x, y), value, at in zip(points, line.y, line.x, strict=True):
            said = escape(f"{line.name}: {value:.3g} after {at:,.0f}")
            drawn += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{paint}"><title>{said}</title></circle>'
    return drawn


def _finite(line: Line) -> Line:
    pairs = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return Line(line.name, [x for x, _ in pairs], [y for _, y in pairs], line.colour, line.dots)


class _Scale:
    """A linear map from values to the page."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.span = low, (high - low) or 1.0
        self.start, self.length = start, end - start

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / self.span * self.length


def _scale(low: float, high: float, start: float, end: float) -> _Scale:
    return _Scale(low, high, start, end)


def _label(value: float, percent: bool = False) -> str:
    if percent:
        return f"{100 * value:g} %"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def _spoken(lines: Sequence[Line]) -> str:
    ends = [f"{line.name} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines if line.y]
    return "; ".join(ends)
