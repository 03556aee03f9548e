"""Many lines at many places stay at their places."""

from __future__ import annotations

import re

import pytest

from eval.measure.analyses.means import Mean
from eval.report.line_chart import Axis, Point, baseline, drawn_series, line_chart


@pytest.mark.parametrize(("places", "lines"), [(2, 2), (9, 7)])
def test_the_points_of_a_place_are_nearer_to_it_than_to_the_next(places: int, lines: int) -> None:
    spoken = {i: f"layer {i} " for i in range(places)}
    axis = Axis(name="layer", words={i: str(i) for i in range(places)}, spoken=spoken)
    share = Mean(n=9, value=0.5, low=0.4, high=0.6)
    points = [Point(x=i, share=share, mark="†") for i in range(places)]
    series = [drawn_series(i, f"line {i}", points) for i in range(lines - 1)]
    series.append(baseline("floor", points))
    chart = line_chart("t", "d", axis, series, about="a")
    drawn = [
        [float(x) for x in re.findall(r"[ML]([0-9.]+) [0-9.]+", path)]
        for path in re.findall(r'<path d="([^"]*)" fill="none"', chart)
        if " L" in path
    ]
    assert len(drawn) == lines
    for line in drawn:
        for i, x in enumerate(line):
            assert abs(x - axis.place(i)) < 0.31 * axis.step
    assert "floor: layer 0 50.0%† (40.0–60.0)" in chart
