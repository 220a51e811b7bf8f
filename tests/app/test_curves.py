"""The small charts."""

import itertools
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, strategies as st

from diptych.app.curves import Line, Point, chart, interval, legend, log_ticks, mean_line, scatter, smooth, ticks


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


def test_a_faint_line_is_thinner_and_not_told_to_screen_readers():
    line = Line("run", [0, 1], [0.0, 1.0])
    alone, both = (chart(lines, x_label="samples") for lines in ([line], [line, replace(line, faint=True)]))
    assert both.count("<polyline") == 2
    assert both.count('opacity=".35"') == 1
    assert re.search('aria-label="[^"]*"', both)[0] == re.search('aria-label="[^"]*"', alone)[0]


def test_the_mean_line_lies_between_its_lines_where_all_of_them_are():
    lines = [Line("a", [0, 10, 20], [0.0, 1.0, 2.0]), Line("b", [5, 15], [2.0, 4.0])]
    mean = mean_line("both", lines, colour=3)
    assert list(mean.x) == [10]
    assert list(mean.y) == [pytest.approx((1.0 + 3.0) / 2)]
    assert mean.colour == 3
    assert mean_line("none", [Line("a", [], [])]).x == []
    assert mean_line("one", lines[:1]).y == [0.0, 1.0, 2.0]


def circles(svg: str) -> list[tuple[float, float]]:
    found = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="5"', svg)
    return [(float(x), float(y)) for x, y in found]


def test_a_scatter_puts_dear_to_the_right_and_good_at_the_top():
    svg = scatter([Point("a", 10, 0.2, 0.1, 0.3), Point("b", 20, 0.4, 0.3, 0.5, 1, (0.38, 0.42))], x_label="seconds")
    ElementTree.fromstring(svg)
    (x0, y0), (x1, y1) = circles(svg)
    assert x1 > x0
    assert y1 < y0
    assert svg.count('class="seed"') == 2
    assert "40.0 %" in svg


def test_costs_far_apart_stand_on_a_logarithmic_axis():
    narrow, wide = (
        [circles(scatter([Point("p", x, 0.5) for x in xs], x_label=""))] for xs in ((1, 2, 4), (1, 10, 100))
    )
    steps = [b[0] - a[0] for a, b in itertools.pairwise(wide[0])]
    assert steps[0] == pytest.approx(steps[1], abs=0.2)  # equal factors are equal steps
    steps = [b[0] - a[0] for a, b in itertools.pairwise(narrow[0])]
    assert steps[1] == pytest.approx(2 * steps[0], abs=0.2)


def test_a_scatter_leaves_out_what_is_not_known():
    points = [Point("a", math.nan, 0.2), Point("b", 0.0, 0.2), Point("c", 3.0, math.nan)]
    assert scatter(points, x_label="x") == ""
    svg = scatter([*points, Point('"><script>', 3.0, 0.5)], x_label="<b>")
    ElementTree.fromstring(svg)
    assert len(circles(svg)) == 1
    assert "nan" not in svg


def test_logarithmic_ticks_are_round_and_few():
    assert log_ticks(0.9, 11) == [1, 2, 5, 10]
    assert log_ticks(0.5, 5000) == [1, 10, 100, 1000]


def test_the_seeds_of_an_interval_lie_on_its_scale():
    svg = interval(0.5, 0.4, 0.6, 0.0, top=1.0, seeds=(0.0, 0.5, math.nan))
    found = [float(x) for x in re.findall(r'class="seed" cx="([\d.]+)"', svg)]
    assert found == [4.0, 100.0]


def test_an_interval_around_zero_has_its_tick_in_the_middle():
    svg = interval(0.1, 0.05, 0.15, 0.0, top=0.2, bottom=-0.2)
    assert 'class="chance" x1="100.0"' in svg
    assert 'cx="148.0"' in svg
