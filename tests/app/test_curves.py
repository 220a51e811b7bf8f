"""The small charts."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, strategies as st

from diptych.app.curves import Line, chart, interval, legend, smooth, ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_cover_the_range_evenly(low, span):
    found = ticks(low, low + span)
    assert found[0] <= low + span * 1e-6
    assert found[-1] >= low + span - span * 1e-6
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert all(math.isclose(step, steps[0], rel_tol=1e-4, abs_tol=1e-9) for step in steps)
    assert 2 <= len(found) <= 9


def test_ticks_are_round():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0, 60_000) == [0, 20_000, 40_000, 60_000]
    assert len(ticks(3, 3)) >= 2


def test_smoothing_keeps_a_constant_and_starts_at_the_first_value():
    assert smooth([2.0, 2.0, 2.0], 5) == pytest.approx([2.0, 2.0, 2.0])
    assert smooth([4.0, 0.0], 3)[0] == pytest.approx(4.0)
    assert 0 < smooth([4.0, 0.0], 3)[1] < 4


def points(svg: str) -> list[list[float]]:
    found = re.search(r'points="([^"]*)"', svg)
    return [[float(value) for value in pair.split(",")] for pair in found[1].split()]


def test_a_line_runs_from_left_to_right_and_up_where_values_rise():
    (x0, y0), (x1, y1) = points(chart([Line("run", [0, 100], [0.0, 1.0])], x_label="samples"))
    assert x1 > x0
    assert y1 < y0  # SVG counts downwards


def test_points_that_are_no_numbers_are_left_out():
    svg = chart([Line("run", [0, 50, 100], [0.1, math.nan, 0.3])], x_label="samples")
    assert len(points(svg)) == 2
    assert "nan" not in svg
    assert chart([Line("run", [1], [math.nan])], x_label="samples") == ""


def test_charts_are_well_formed_whatever_the_names():
    evil = '"><script>alert(1)</script>&'
    svg = chart([Line(evil, [0, 1], [0, 1], dots=True)], x_label=evil, percent=True, chance=0.1)
    ElementTree.fromstring(svg)
    assert "<script" not in svg + legend([evil], evil)


def test_an_interval_shows_value_bar_and_chance_in_proportion():
    svg = interval(0.5, 0.25, 0.75, 0.0, top=1.0)
    ElementTree.fromstring(svg)
    dot = float(re.search(r'cx="([\d.]+)"', svg)[1])
    bar = re.search(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="8" y2="8" stroke="var', svg)
    assert dot == pytest.approx((float(bar[1]) + float(bar[2])) / 2)
    assert "opacity" not in interval(0.5, math.nan, math.nan, math.nan)
    assert "chance" not in interval(0.5, math.nan, math.nan, math.nan)
