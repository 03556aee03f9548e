"""The main table of the page."""

from __future__ import annotations

from deploy.core.attack_checks import MARK
from eval.measure.proofs import Proofs
from eval.report.html import Html, join, tag
from eval.report.numbers import MISSING, interval, latency, percent, points, size, size_ratio
from eval.report.proofs import proof_lines
from eval.report.rows import Cell, ResultTable, Row
from eval.report.scrolled_table import scrolled_table
from eval.report.summary import above_floor

_TERMS = {
    "Attack success rate (ASR)": (
        "of the images that this model on this engine gets right without the patch (and, for a "
        "patch with a target class, that are not of that class): the share whose prediction the "
        "patch changes, or turns into the target. Lower is better for the model."
    ),
    "Interval": "95%, after Wilson; n is the number of images behind the rate.",
    "Noise": "the same with random pixels of the same size and place: what any patch does.",
    "Overlaps noise": (
        "the intervals of patch and noise overlap: these images do not show that the patch does "
        "more than random pixels."
    ),
    "Drift": (
        "ASR in this engine minus ASR of the fake-quantized network in PyTorch, on the same images."
    ),
    MARK: (
        "a check of the attacks on this network tripped: the rate is a lower bound of what an "
        "attacker can do. Which one is told under “Attack checks”."
    ),
    "Bits": (
        "bit-width of weights and activations of the hidden layers: b-bit codes, int8 arithmetic. "
        "“Float” is the network without quantization."
    ),
    "Not comparable": (
        "the hardened network has lost more than 2 points of clean accuracy against the plain one; "
        "its ASR is shown, but does not count for the defense."
    ),
}


def result_section(table: ResultTable, proofs: Proofs) -> Html:
    """One table of results, in a region that scrolls by keyboard where it is too wide."""
    engines = list(dict.fromkeys(_engine(row) for row in table.rows))
    ways = list(dict.fromkeys(_timed(row) for row in table.rows if row.latency is not None))
    caption = f"{table.images_name}, {table.split} split, {table.n:,} images."
    if len(engines) == 1:
        caption += f" Engine: {engines[0]}."
    if len(ways) == 1:
        caption += f" Latency: median and 95th percentile, {ways[0]}."
    columns = [
        tag("th", column.title, tag("small", column.detail), scope="col")
        for column in table.columns
    ]
    head = tag(
        "tr",
        tag("th", "Network", scope="col"),
        tag("th", "Bits", scope="col", class_="number"),
        tag("th", "Engine", scope="col") if len(engines) > 1 else "",
        tag("th", "Clean accuracy", scope="col", class_="number"),
        columns,
        tag("th", "File", scope="col", class_="number"),
        tag("th", "Latency", scope="col", class_="number"),
        tag("th", "Certificate, parity", scope="col"),
    )
    body = []
    previous = None
    for row in table.rows:
        cells = [
            tag("th", row.label, _marks(row), scope="row"),
            tag("td", row.bits_label, class_="number"),
            tag("td", _engine(row)) if len(engines) > 1 else "",
            _clean(row),
            [_cell(row.cells.get(column.key)) for column in table.columns],
            _file(row),
            _latency(row, say_how=len(ways) > 1),
            tag("td", proof_lines(proofs, row.model)),
        ]
        classes = ["first"] if row.label != previous else []
        classes += ["aside"] if row.comparability == "not comparable" else []
        body.append(tag("tr", cells, class_=" ".join(classes) or None))
        previous = row.label
    return scrolled_table(
        head,
        body,
        about=f"Results on {table.images_name}, {table.split} split",
        caption=caption,
        frame="scroll wide",
    )


def _engine(row: Row) -> str:
    return f"{row.model['engine']} {row.model['engine_version']}"


def _timed(row: Row) -> str:
    facts = row.latency
    assert facts is not None
    threads = "1 thread" if facts["threads"] == 1 else f"{facts['threads']} threads"
    return f"batch {facts['batch_size']} on {threads}"


def _marks(row: Row) -> Html:
    if row.comparability == "not comparable":
        return tag("small", tag("span", "not comparable", class_="tag bad"))
    if row.comparability == "no baseline":
        return tag("small", tag("span", "no plain row beside it", class_="tag warn"))
    return Html("")


def _clean(row: Row) -> Html:
    under = row.points_under_plain
    return tag(
        "td",
        percent(row.clean["value"]),
        tag("small", f"{interval(row.clean)} · n {row.clean['n']:,}"),
        tag("small", f"{points(-under)} points to plain") if under is not None else "",
        class_="number",
    )


def _cell(cell: Cell | None) -> Html:
    if cell is None:
        return tag("td", MISSING, class_="asr")
    value = cell.asr["value"]
    return tag(
        "td",
        tag("strong", percent(value), cell.mark),
        "" if above_floor(cell) else join(" ", tag("span", "overlaps noise", class_="tag")),
        tag("span", class_="bar", style=f"--share:{100 * value:.1f}%", aria_hidden="true"),
        tag("small", f"{interval(cell.asr)} · n {cell.asr['n']:,}"),
        tag("small", f"noise {percent(cell.floor['value'])} ({interval(cell.floor)})"),
        ""
        if cell.drift_points is None
        else tag("small", f"drift {points(cell.drift_points)} points"),
        class_="asr",
    )


def _file(row: Row) -> Html:
    return tag(
        "td",
        size(row.model["file_size_bytes"]),
        tag("small", f"{size_ratio(row.size_ratio)} of float") if row.size_ratio else "",
        class_="number",
    )


def _latency(row: Row, *, say_how: bool) -> Html:
    facts = row.latency
    if facts is None:
        return tag("td", MISSING, class_="number")
    return tag(
        "td",
        latency(facts),
        tag("small", f"p95 {facts['p95_ms']:.2f} ms"),
        tag("small", _timed(row)) if say_how else "",
        class_="number",
    )


def reading_aid() -> Html:
    """The words of the table, for those who meet them first."""
    terms = [join(tag("dt", name), tag("dd", text)) for name, text in _TERMS.items()]
    return join(tag("h3", "How to read the table"), tag("dl", terms, class_="facts"))
