"""Histograms as inline SVG, in the colours of the page: what stays, what goes, and the threshold between them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from diptych.app import curves

_WIDTH, _HEIGHT = 460.0, 210.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 14.0, 20.0, 32.0


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    label: str,
    low: float | None = None,
    high: float | None = None,
) -> str:
    """Bars over their steps.

    Args:
        edges: K + 1 ends of the steps, rising.
        counts: K numbers of values.
        label: what the values are.
        low: values below go: bars below are in the second colour, and a dashed line marks the place.
        high: values above go.
    """
    ticks = [tick for tick in curves.ticks(0.0, float(max(counts, default=0) or 1), 4) if tick == round(tick)]
    step = (_WIDTH - _LEFT - _RIGHT) / (edges[-1] - edges[0])
    tall = (_HEIGHT - _TOP - _BOTTOM) / ticks[-1]
    floor = _HEIGHT - _BOTTOM

    def across(value: float) -> float:
        return _LEFT + (value - edges[0]) * step

    spoken = escape(f"{label}: {sum(counts):,} values from {edges[0]:.4g} to {edges[-1]:.4g}", quote=True)
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{spoken}">']
    for tick in ticks:
        y = floor - tick * tall
        parts.append(f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6:g}" y="{y + 3.5:.1f}" text-anchor="end">{tick:,.0f}</text>')
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        middle = (left + right) / 2
        goes = (low is not None and middle < low) or (high is not None and middle > high)
        x, wide = across(left) + 0.5, max(0.8, (right - left) * step - 1)
        told = escape(f"{left:.4g} to {right:.4g}: {count:,}")
        parts.append(
            f'<rect x="{x:.1f}" y="{floor - count * tall:.1f}" width="{wide:.1f}" height="{count * tall:.1f}" '
            f'fill="var(--s{int(goes)})"><title>{told}</title></rect>'
        )
    for tick in curves.ticks(edges[0], edges[-1]):
        if edges[0] <= tick <= edges[-1]:
            parts.append(f'<text x="{across(tick):.1f}" y="{floor + 15:g}" text-anchor="middle">{tick:g}</text>')
    parts += [_mark(across(value), value) for value in (low, high) if value is not None]
    where = f'x="{_WIDTH - _RIGHT:g}" y="{_HEIGHT - 3:g}"'
    return "".join(parts) + f'<text {where} text-anchor="end" class="axis">{escape(label)}</text></svg>'


def _mark(x: float, value: float) -> str:
    """A dashed line where what stays begins or ends."""
    side, shift = ("end", -5) if x > _WIDTH - 80 else ("start", 5)
    line = f'<line class="chance" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 8:g}" y2="{_HEIGHT - _BOTTOM:g}"/>'
    return line + f'<text x="{x + shift:.1f}" y="{_TOP - 8:g}" text-anchor="{side}">{value:.4g}</text>'
