"""Values in an order, as a line on a sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from diptych.evaluation.canvas import INK, MARGIN, MUTED, RIGHT, RULE, SMALL, Canvas, Style, heading_height

_WIDTH, _HEIGHT = 900, 380
_TICKS, _LABELS = 5, 20
_DOT = 5


def line_chart(values: Sequence[float], across: str, title: str, subtitle: str) -> Canvas:
    """Values that count from 1, over an axis from 0 (or the lowest below it); `across` says what is counted.

    Values that are not finite leave a gap.
    """
    small = Style(SMALL, MUTED)
    top = heading_height(_WIDTH, title, subtitle)
    sheet = Canvas(_WIDTH, top + _HEIGHT + 2 * small.height + MARGIN)
    sheet.heading(title, subtitle)
    finite = [value for value in values if math.isfinite(value)] or [1.0]
    low, high = min(0.0, *finite), max(0.0, *finite)
    span = high - low or 1.0
    ticks = [low + span * tick / _TICKS for tick in range(_TICKS + 1)]
    left = MARGIN + round(max(small.width(f"{tick:.3g}") for tick in ticks)) + 14
    step = (_WIDTH - MARGIN - left) / max(1, len(values))

    def place(index: int, value: float) -> tuple[float, float]:
        return left + (index + 0.5) * step, top + _HEIGHT * (1 - (value - low) / span)

    for tick in ticks:
        y = place(0, tick)[1]
        sheet.draw.line((left, y, _WIDTH - MARGIN, y), fill=RULE, width=1)
        sheet.line(left - 10, y - small.height / 2, f"{tick:.3g}", small, "right")
    points = [place(index, value) if math.isfinite(value) else None for index, value in enumerate(values)]
    for before, after in pairwise(points):
        if before and after:
            sheet.draw.line((*before, *after), fill=RIGHT, width=3)
    for index, point in enumerate(points):
        if point:
            x, y = point
            sheet.draw.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), fill=RIGHT)
        if index % math.ceil(len(values) / _LABELS) == 0:
            sheet.line(place(index, 0)[0], top + _HEIGHT + 8, str(index + 1), Style(SMALL, INK), "centre")
    sheet.line((left + _WIDTH - MARGIN) / 2, top + _HEIGHT + 8 + small.height, across, small, "centre")
    return sheet
