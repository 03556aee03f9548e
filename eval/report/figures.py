"""The page's charts as files for a paper: SVG and PDF, drawn by matplotlib."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deploy.core.files import write_atomic
from eval.report.curves import charts_of
from eval.report.line_chart import Chart, Series
from eval.report.rows import ResultTable

_SIZE_INCHES = (3.4, 2.5)
"""A column of a paper of two columns."""

_COLOURS = ("#0b62b8", "#c2410c", "#0f766e", "#8b2fa0", "#7a6200", "#9d174d")
_MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "cross": "x"}

_ABOUT: Any = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Metadata of each form: without the date, the same records give the same bytes."""

_STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # text stays text; conferences refuse Type 3 fonts
    "svg.fonttype": "none",
    "svg.hashsalt": "qadtr",  # the same records give the same bytes
}


def write_figures(tables: Sequence[ResultTable], folder: Path) -> list[Path]:
    """Draw each chart of the tables to NAME.svg and NAME.pdf in ``folder``; return the paths.

    Raises:
        ModuleNotFoundError: matplotlib is not installed (the extra ``figures``).
        InputError: the folder is not writable.
    """
    written = []
    for name, chart in _named(tables):
        for ending in _ABOUT:
            path = folder / f"{name}.{ending}"
            write_atomic(path, chart_bytes(chart, ending))
            written.append(path)
    return written


def chart_bytes(
    chart: Chart, ending: str, *, size_inches: tuple[float, float] = _SIZE_INCHES
) -> bytes:
    """A chart as the bytes of an SVG or PDF file; the same chart gives the same bytes.

    Args:
        chart: what is drawn.
        ending: "svg" or "pdf".
        size_inches: width and height.

    Raises:
        ModuleNotFoundError: as :func:`write_figures`.
    """
    # Not pyplot: no display and no state of a process is asked for.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # They log each glyph of an embedded font, and that a cache of fonts was made.
    for library in ("fontTools", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    out = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size_inches, layout="constrained")
        _draw(figure, chart)
        figure.savefig(out, format=ending, metadata=_ABOUT[ending])
    return out.getvalue()


def _named(tables: Sequence[ResultTable]) -> Iterator[tuple[str, Chart]]:
    """Each chart with a name of its own."""
    taken: dict[str, int] = {}
    for table in tables:
        for chart in charts_of(table):
            words = f"{table.images_name} {table.split} {chart.title}".replace("×", "x")
            name = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
            taken[name] = taken.get(name, 0) + 1
            yield (name if taken[name] == 1 else f"{name}-{taken[name]}"), chart


def _draw(figure: Any, chart: Chart) -> None:
    axes = figure.add_subplot()
    places = {value: i for i, value in enumerate(chart.axis.words)}
    for index, series in enumerate(chart.series):
        apart = 0.04 * (index - (len(chart.series) - 1) / 2)
        _draw_series(axes, series, index, places, apart)
    axes.set_xticks(list(places.values()), list(chart.axis.words.values()))
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_ylim(0, 100)
    axes.set_xlabel(chart.axis.name)
    axes.set_ylabel("attack success rate (%)")
    axes.set_title(chart.title, fontsize=8)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    figure.legend(loc="outside lower center", ncols=1, fontsize=6, frameon=False)
    if chart.note:
        figure.text(0.01, 0.005, chart.note, fontsize=4.5)


def _draw_series(
    axes: Any, series: Series, index: int, places: dict[int, int], apart: float
) -> None:
    points = sorted(series.points, key=lambda point: places[point.x])
    x = [places[point.x] + apart for point in points]
    y = [100 * point.share["value"] for point in points]
    below = [100 * (point.share["value"] - point.share["low"]) for point in points]
    above = [100 * (point.share["high"] - point.share["value"]) for point in points]
    axes.errorbar(
        x,
        y,
        # A bound may miss its rate by rounding alone.
        yerr=[[max(0.0, value) for value in side] for side in (below, above)],
        label=series.name,
        color="#7a828c" if series.dashed else _COLOURS[index % len(_COLOURS)],
        linestyle="--" if series.dashed else "-",
        linewidth=1,
        marker=_MARKERS[series.marker],
        markersize=3.5,
        capsize=2,
        elinewidth=0.7,
    )
    for place, value, point in zip(x, y, points, strict=True):
        if point.mark:
            axes.annotate(point.mark, (place, value), (2, 2), textcoords="offset points")
