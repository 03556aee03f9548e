"""The first page of the results: table, plot and sentences; and the README's part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.results_compared import (
    ATTACKED_PX,
    NETWORK,
    PATCHES_PX,
    SQUARES,
    Results,
    title,
)
from benchmarks.results_sentences import (
    adaptive_sentence,
    certified_sentence,
    sentences,
    transferred_sentence,
)
from benchmarks.results_topics import TOPICS
from deploy.core.attack_checks import MARK
from deploy.core.bit_widths import bits_label
from deploy.core.share import Share
from deploy.core.table import Table
from eval.measure.evaluation_record import made_on_it
from eval.report.line_chart import Chart, Point, Series, baseline, bit_width_axis, drawn_series
from eval.report.network_figures import ATTACKED, NetworkFigures, certified_heading, worst
from eval.report.words import MISSING, percent, rate
from training.config import DataSettings, DistillationSettings
from training.defenses import config_of_run, resolved

PLOT = "first.svg"
"""In docs/results/."""


def first_table(results: Results) -> Table:
    """A row for each bit-width and network; with grey squares, one more for masked inference."""
    certified = [certified_heading(px) for px in PATCHES_PX]
    columns = ("clean", *ATTACKED, *certified, "size", "latency")
    rows = [
        (bits, label, cells)
        for bits in results.bit_widths
        for kind, one in results.networks.items()
        if (figures := one.figures.get(bits)) is not None
        for label, cells in (
            (one.label, _once(figures, results)),
            *([(f"{one.label}, masked", _masked(figures))] if kind == SQUARES else []),
        )
        if cells
    ]
    return Table(
        columns=("bits", "network", *columns),
        rows=[
            [bits_label(bits), label, *(cells.get(column, MISSING) for column in columns)]
            for bits, label, cells in rows
        ],
    )


def _once(figures: NetworkFigures, results: Results) -> dict[str, str]:
    """The cells of a network that is evaluated once."""
    found = results.timed.get(figures.bit_width)
    return {
        **figures.cells(results.patches),
        "latency": MISSING if found is None else _latency(found),
    }


def _masked(figures: NetworkFigures) -> dict[str, str]:
    """The cells of masked inference: the bound of its certificates stands for every attack with
    one patch, beside the worst of those that were tried. Empty where it was not certified against
    the table's."""
    bound, of = figures.bound(ATTACKED_PX), figures.certified.get(ATTACKED_PX)
    if of is None or bound is None:
        return {}
    own = figures.cells()
    tried: dict[str, list[Share]] = {what: [] for what in ATTACKED}
    for attack in of.get("attacks", []):
        own_weights = made_on_it(attack["patch"], of["model"]["checkpoint_sha256"])
        tried["white-box" if own_weights else "transferred"].append(attack["asr"])
    return {
        "clean": rate(of["masked"]),
        **{what: _tried_and_bound(shares, bound) for what, shares in tried.items()},
        **{heading: own[heading] for px in figures.certified if (heading := certified_heading(px))},
        "size": own["size"],
        "latency": f"{of['mean_passes']:.0f} passes",
    }


def _tried_and_bound(tried: Sequence[Share], bound: Share) -> str:
    if not tried:
        return f"≤ {rate(bound)}"
    most = max(tried, key=lambda share: share["value"])
    return f"{rate(most)}, ≤ {percent(bound['value'])}"


def missing_notes(results: Results) -> str:
    """What a dash of the table means, in one line; nothing where there is none."""
    table = first_table(results)
    lacking: dict[str, dict[str, None]] = {}
    for row in table.rows:
        for heading, cell in zip(table.columns, row, strict=True):
            if cell == MISSING:
                lacking.setdefault(str(row[1]), {})[str(heading)] = None
    where = "; ".join(f"{name}: {', '.join(of)}" for name, of in lacking.items())
    return f"{MISSING}: not measured yet ({where})." if lacking else ""


def _latency(found: Mapping[str, Any]) -> str:
    """Of one image on one thread, and how many times faster than the float file."""
    over = found["over"]["float"]
    quartiles = f"{over['lower_quartile']:.2f}–{over['upper_quartile']:.2f}"
    return f"{1000 / found['images_per_s']:.2f} ms, ×{over['median']:.2f} ({quartiles})"


def first_chart(results: Results) -> Chart:
    """Attack success over bit-width, of each network and kind of attack, and the noise."""
    series: list[Series] = []
    for one in results.networks.values():
        for what, among in (("transferred", results.patches), ("adaptive", None)):
            if found := one.worst_of(what, among):
                marked = {
                    bits: Point(x=bits, share=a.asr, mark=one.figures[bits].checks.mark)
                    for bits, a in found.items()
                }
                name = f"{one.label}, {what}"
                series.append(drawn_series(len(series), name, list(marked.values())))
    floors = [one.floors(results.patches) for one in results.networks.values()]
    noise = [
        Point(x=bits, share=max(there, key=lambda share: share["value"]))
        for bits in results.bit_widths
        if (there := [found[bits] for found in floors if bits in found])
    ]
    return Chart(
        title=f"{title(NETWORK)} on CIFAR-10",
        detail="",
        axis=bit_width_axis(results.bit_widths),
        series=(*series, baseline("random pixels (highest of the networks)", noise)),
        about="Attack success rate over bit-width",
        note=f"{MARK}: a lower bound" if any(p.mark for s in series for p in s.points) else "",
    )


def first_page(results: Results) -> str:
    """docs/results.md."""
    topics = [f"- [{topic.title}](results/{topic.name}.md): {topic.about}" for topic in TOPICS]
    parts = [
        "# Results",
        (
            f"{title(NETWORK)} on a JPEG copy of CIFAR-10 in ONNX Runtime's integer kernels, test "
            "images, with 95% intervals. Made by `python -m benchmarks.results_page` from the "
            "records in `results/`."
        ),
        first_table(results).markdown(),
        missing_notes(results),
        "\n".join(f"- {one}" for one in sentences(results)),
        f"![Attack success over bit-width](results/{PLOT})",
        "## By topic",
        "\n".join(topics),
        "## The columns and the trainings",
        columns_table(results).markdown(),
        (
            "More of [the attacks](attacks.md), [their checks](checks.md) and "
            "[certificates](certify.md)."
        ),
        trainings_table(results).markdown(),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def columns_table(results: Results) -> Table:
    """What each column of the first table is, and over how many images."""
    size = f"{ATTACKED_PX}×{ATTACKED_PX}"
    tried, counts = _tried(results), _counts(results)
    meanings = {
        "clean": "accuracy without a patch",
        "transferred": (
            f"ASR of the worst patch of a network that none of them has seen{tried['transferred']}"
        ),
        "white-box": (
            "ASR of the worst patch made on the network's own weights, at whatever bit-width"
            f"{tried['whitebox']}"
        ),
        "adaptive": (
            f"ASR of an attacker who has the network and knows its defense{tried['adaptive']}. "
            "Few steps a stage win too little where a network resists: compare rows of as many"
        ),
        "certified": "right by masked inference, whatever one square patch of that side shows",
        "masked": (
            f"a row: the same network by masked inference. No attack with one {size} patch beats "
            "the rate after ≤, whatever it knows; before it, what the patches that were tried won"
        ),
        "latency": (
            "of one image on one thread, and how many times faster than the float file, with "
            "quartiles"
        ),
    }
    return Table(
        columns=("column", "what it is", "n"),
        rows=[[name, text, counts.get(name, "")] for name, text in meanings.items()],
    )


def _counts(results: Results) -> dict[str, str]:
    """The number of images of the columns."""
    rows = results.rows
    found = {
        "clean": [f.clean["n"] for f in rows if f.clean is not None],
        "transferred": [
            one.asr["n"] for f in rows if (one := worst(f.transferred, results.patches))
        ],
        "white-box": [one.asr["n"] for f in rows if (one := worst(f.whitebox))],
        "adaptive": [one.asr["n"] for f in rows if (one := worst(f.adaptive))],
        "certified": [one["certified"]["n"] for f in rows for one in f.certified.values()],
    }
    return {
        name: " to ".join(f"{n:,}" for n in dict.fromkeys([min(counts), max(counts)]))
        for name, counts in found.items()
        if counts
    }


def _tried(results: Results) -> dict[str, str]:
    """The patches behind each column of rates, in words: " (A, B)"."""
    found: dict[str, str] = {}
    for what in ("transferred", "whitebox", "adaptive"):
        names = {
            achieved.patch.partition(", per-image")[0].partition(" px, ")[0]
            for figures in results.rows
            for key, achieved in getattr(figures, what).items()
            if what != "transferred" or key in results.patches
        }
        found[what] = f" ({', '.join(f'{name} px' for name in sorted(names))})" if names else ""
    return found


def trainings_table(results: Results) -> Table:
    """The trainings behind each network, and the changed settings and the seed of the last one."""
    rows = []
    for one in results.networks.values():
        if one.seed is not None:
            changed = ", ".join(_changed(one.model["run"]["config"]))
            lineage = str(results.lineage(one)) or MISSING
            rows.append([one.label, lineage, changed or MISSING, str(one.seed)])
    columns = ("network", "trained, each from the one before", "settings of the last", "seed")
    return Table(columns=columns, rows=rows)


def _changed(config: Mapping[str, Any]) -> list[str]:
    """Settings of the defense, the grey squares and the distillation that are not the defaults."""
    whole = config_of_run(config, "a record's config")
    plain = replace(
        whole,
        data=DataSettings(kind=whole.data.kind, size=whole.data.size, augment=whole.data.augment),
        defense={"name": whole.defense["name"]},
        distillation=DistillationSettings(),
    )
    now, default = (one.as_dict() for one in (whole, resolved(plain)))
    return [
        f"{table}.{key}={value:g}" if isinstance(value, float) else f"{table}.{key}={value}"
        for table in ("data", "defense", "distillation")
        for key, value in now[table].items()
        if value != default[table][key]
    ]


def readme_part(results: Results) -> str:
    """What the README says was found: the table and three sentences."""
    dash = f"{MISSING}: not measured yet; " if missing_notes(results) else ""
    parts = [
        (
            f"{title(NETWORK)} on CIFAR-10 in ONNX Runtime's integer kernels, with 95% intervals, "
            f"one seed each ({dash}[what the columns mean, how each was trained, and all "
            "results](docs/results.md))."
        ),
        first_table(results).markdown(),
        " ".join(
            [transferred_sentence(results), adaptive_sentence(results), certified_sentence(results)]
        ),
    ]
    return "\n\n".join(parts)
