"""Rasterized lines go through their points, stay in their area, and have no gaps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kgpt_tui.runs.braille_plot import DOTS, polyline

AREA = (3, 2, 10, 5)
points = st.lists(
    st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=30, unique=True
)
inside = st.tuples(st.floats(3, 12.99), st.floats(2, 6.99))


def dots(cells):
    """The coordinates of the dots that are set."""
    return {
        (2 * column + x, 4 * row + y)
        for row, column in zip(*np.nonzero(cells), strict=True)
        for y in range(4)
        for x in range(2)
        if cells[row, column] & DOTS[y, x]
    }


@given(points)
def test_lines_are_clipped_to_the_area(line):
    xs, ys = np.array(line).T
    assert polyline(xs, ys, AREA).shape == (5, 10)


@given(inside, inside)
def test_a_line_inside_touches_its_ends_without_a_gap(start, end):
    xs, ys = np.array([start, end]).T
    found = dots(polyline(xs, ys, AREA))
    for x, y in (start, end):
        assert any(abs(2 * (x - 3) - a) <= 1.01 and abs(4 * (y - 2) - b) <= 1.01 for a, b in found)
    reached, waiting = set(), [min(found)]
    while waiting:
        x, y = waiting.pop()
        if (x, y) in found - reached:
            reached.add((x, y))
            waiting += [(x + a, y + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    assert reached == found


def test_a_long_line_through_the_area_is_drawn():
    found = dots(polyline(np.array([-1e6, 1e6]), np.array([4.5, 4.5]), AREA))
    assert {x for x, _ in found} == set(range(20)) and {y for _, y in found} == {10}


def test_a_line_outside_the_area_is_not_drawn():
    assert not polyline(np.array([-5.0, 50.0]), np.array([9.0, 9.0]), AREA).any()
