"""The first page of the results: one table, one plot, ten sentences; and the README's part of it.

Every figure is of a record, by :mod:`eval.report.network_figures`; no sentence has one typed in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from benchmarks.results_topics import BENCHMARKS, TOPICS
from deploy.core.attack_checks import MARK, NOT_CHECKED
from deploy.core.bit_widths import bits_label, bits_words
from deploy.core.errors import InputError
from deploy.core.files import read_json
from deploy.core.records import require_clean
from deploy.core.table import Table
from eval.report.line_chart import Chart, Point, Series, baseline, bit_width_axis, drawn_series
from eval.report.network_figures import (
    Achieved,
    NetworkFigures,
    certified_heading,
    figures_from_records,
    worst,
)
from eval.report.words import MISSING, defense_name, rate, size
from eval.stages.zoo import records_below

NETWORK, SMALL = "resnet20", "resnet8"
"""The network of the table, and the one on which more has been measured."""
SPEED = "speed-resnet20.json"
PLOT = "first.svg"
"""In docs/results/."""

PLAIN_QAT, QADTR, RIVAL = defense_name("qat"), defense_name("qadtr"), "rival"
"""The three kinds of rows."""

PATCHES_PX = (5, 8)
"""Sides of the patches whose certificates the table has."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One network of the comparison: its defense in words, and its figures by bit-width."""

    label: str
    figures: Mapping[int, NetworkFigures]

    def worst_of(self, what: str, among: Collection[str] | None = None) -> dict[int, Achieved]:
        """The worst attack of a kind (a field of the figures) at each bit-width that has one."""
        found = {bits: worst(getattr(f, what), among) for bits, f in self.figures.items()}
        return {bits: one for bits, one in found.items() if one is not None}

    @property
    def resisting(self) -> tuple[float, float]:
        """What it lets win at its worst bit-width, adaptive before transferred; 2 is unknown."""
        known, brought = (
            max((one.asr["value"] for one in self.worst_of(what).values()), default=2.0)
            for what in ("adaptive", "transferred")
        )
        return known, brought

    def span(self, what: str, among: Collection[str] | None = None) -> str:
        """The least and the largest rate over the bit-widths: "8.1% (…) to 9.1% (…)"."""
        found = self.worst_of(what, among)
        if not found:
            return MISSING
        ordered = sorted(found, key=lambda bits: found[bits].asr["value"])
        ends = dict.fromkeys([ordered[0], ordered[-1]])
        return " to ".join(self.figures[bits].rate(found[bits]) for bits in ends)

    def most(self, what: str, among: Collection[str] | None = None) -> str:
        """The largest of these."""
        return self.span(what, among).rpartition(" to ")[2]


@dataclass(frozen=True, kw_only=True)
class Results:
    """What the first page is made of.

    Attributes:
        networks: of the table, by :data:`PLAIN_QAT`, :data:`QADTR` and, where there is one,
            :data:`RIVAL`.
        small: the same of the smaller networks.
        every: the figures of all networks of all records.
        speed: the record of the benchmark.
    """

    networks: Mapping[str, Trained]
    small: Mapping[str, Trained]
    every: Sequence[NetworkFigures]
    speed: Mapping[str, Any]

    @property
    def patches(self) -> set[str]:
        """The transferred patches that every network of the table was tried under."""
        return shared_patches(self.networks.values())

    @property
    def bit_widths(self) -> list[int]:
        """Those of the table, widest first."""
        return sorted({b for one in self.networks.values() for b in one.figures}, reverse=True)


def shared_patches(networks: Iterable[Trained]) -> set[str]:
    """Keys of the transferred patches that every network was tried under, at every bit-width."""
    tried = [set(figures.transferred) for one in networks for figures in one.figures.values()]
    return set.intersection(*tried)


def results_of(folder: Path) -> Results:
    """What the records in results/ say.

    Raises:
        InputError: a record is damaged or of a dirty tree, or plain QAT or QADT-R has none.
    """
    every = figures_from_records(records_below(folder))
    path = folder / BENCHMARKS / SPEED
    speed = cast(Mapping[str, Any], read_json(path))
    require_clean(speed["provenance"], path)
    networks, small = (_compared(every, name) for name in (NETWORK, SMALL))
    for kind in (PLAIN_QAT, QADTR):
        for name, there in ((NETWORK, networks), (SMALL, small)):
            if kind not in there:
                raise InputError(f"{folder} has no evaluation of a {name} trained by {kind}")
    return Results(networks=networks, small=small, every=every, speed=speed)


def _compared(every: Sequence[NetworkFigures], network: str) -> dict[str, Trained]:
    """Of plain QAT, QADT-R and all rivals the network that resists most, where patches of another
    network were tried on it."""
    of_checkpoint: dict[str, dict[int, NetworkFigures]] = {}
    for one in every:
        if one.model["network"] == network and one.transferred:
            of_checkpoint.setdefault(one.model["checkpoint_sha256"], {})[one.bit_width] = one
    found: dict[str, Trained] = {}
    for figures in of_checkpoint.values():
        model = next(iter(figures.values())).model
        trained = Trained(label=defense_name(model["defense"]), figures=figures)
        kind = trained.label if trained.label in (PLAIN_QAT, QADTR) else RIVAL
        if kind == PLAIN_QAT and _masked(model):
            continue  # grey squares make it another row than plain QAT
        if kind not in found or trained.resisting < found[kind].resisting:
            found[kind] = trained
    return {kind: found[kind] for kind in (PLAIN_QAT, QADTR, RIVAL) if kind in found}


def _masked(model: Mapping[str, Any]) -> bool:
    """Whether its training showed grey squares; records of before there were any do not say."""
    run = model.get("run") or {"config": {}}
    return bool(run["config"].get("data", {}).get("masks", 0.0))


# ---------------------------------------------------------------------- table and plot


def first_table(results: Results) -> Table:
    """A row for each bit-width and network."""
    certified = [certified_heading(px) for px in PATCHES_PX]
    columns = ("clean", "transferred", "white-box", "adaptive", *certified, "size")
    return Table(
        columns=("bits", "network", *columns, "latency"),
        rows=[
            [
                bits_label(bits),
                one.label,
                *(
                    one.figures[bits].cells(results.patches).get(column, MISSING)
                    for column in columns
                ),
                _latency(results.speed, bits),
            ]
            for bits in results.bit_widths
            for one in results.networks.values()
            if bits in one.figures
        ],
    )


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


def _latency(speed: Mapping[str, Any], bits: int) -> str:
    """Of one image on one thread, and how many times faster than the float file."""
    found = _timed(speed).get(bits)
    if found is None:
        return MISSING
    over = found["over"]["float"]
    quartiles = f"{over['lower_quartile']:.2f}–{over['upper_quartile']:.2f}"
    return f"{1000 / found['images_per_s']:.2f} ms, ×{over['median']:.2f} ({quartiles})"


def _timed(speed: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    return {
        row["bits"]: row
        for row in speed["rows"]
        if (row["batch"], row["threads"], row["tune"]) == (1, 1, "any")
    }


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
    noise = [
        Point(x=bits, share=max(floors, key=lambda share: share["value"]))
        for bits in results.bit_widths
        if (floors := [f for one in results.networks.values() if (f := _floor(one, bits, results))])
    ]
    return Chart(
        title=f"{_title(NETWORK)} on CIFAR-10, 8×8 px patches",
        detail="",
        axis=bit_width_axis(results.bit_widths),
        series=(*series, baseline("random pixels (highest of the networks)", noise)),
        about="Attack success rate over bit-width",
        note=f"{MARK}: a lower bound" if any(p.mark for s in series for p in s.points) else "",
    )


def _floor(one: Trained, bits: int, results: Results) -> Any:
    found = one.worst_of("transferred", results.patches).get(bits)
    return None if found is None else found.floor


def _title(network: str) -> str:
    return network.replace("resnet", "ResNet-")


# ---------------------------------------------------------------------- sentences


def sentences(results: Results) -> list[str]:
    """Ten, each from figures of records."""
    plain, ours = results.networks[PLAIN_QAT], results.networks[QADTR]
    return [
        _clean(plain, ours),
        transferred_sentence(results),
        _noise(ours, results),
        adaptive_sentence(results),
        _small(results),
        _checks(results),
        certified_sentence(results),
        _rival(results),
        _sizes(ours),
        _speed(results.speed),
    ]


def _clean(plain: Trained, ours: Trained) -> str:
    lost = [
        100 * (figures.clean["value"] - other.clean["value"])
        for bits, figures in plain.figures.items()
        if (other := ours.figures.get(bits)) and figures.clean and other.clean
    ]
    return f"QADT-R has at most {max(lost):.1f} points less clean accuracy than plain QAT."


def transferred_sentence(results: Results) -> str:
    """What patches brought from another network achieve."""
    plain, ours = results.networks[PLAIN_QAT], results.networks[QADTR]
    return (
        f"Patches made on a network that neither has seen win on {plain.span(*_brought(results))} "
        f"of plain QAT's images and on {ours.span(*_brought(results))} of QADT-R's."
    )


def _brought(results: Results) -> tuple[str, set[str]]:
    return "transferred", results.patches


def _noise(ours: Trained, results: Results) -> str:
    floors = [f for bits in ours.figures if (f := _floor(ours, bits, results))]
    most = max(floors, key=lambda share: share["value"])
    return f"Random pixels in the place of those patches win on up to {rate(most)} of QADT-R's."


def adaptive_sentence(results: Results) -> str:
    """What an attacker achieves who has the networks of the table."""
    plain, ours = results.networks[PLAIN_QAT], results.networks[QADTR]
    if plain.worst_of("adaptive") and ours.worst_of("adaptive"):
        return (
            f"An attacker who has the network and knows its defense wins on "
            f"{plain.span('adaptive')} of plain QAT's images and on {ours.span('adaptive')} of "
            "QADT-R's."
        )
    return f"No {_title(NETWORK)} has been attacked by one who has the network yet."


def _small(results: Results) -> str:
    plain, ours = results.small[PLAIN_QAT], results.small[QADTR]
    return (
        f"On {_title(SMALL)} that attacker wins on {ours.span('adaptive')} of QADT-R's images and "
        f"on {plain.span('adaptive')} of plain QAT's: what resists patches that are brought need "
        "not resist one who has the network."
    )


def _checks(results: Results) -> str:
    rows = [figures for one in results.networks.values() for figures in one.figures.values()]
    checked = [figures for figures in rows if figures.checks.words != NOT_CHECKED]
    tripped = [figures for figures in checked if figures.checks.tripped]
    said = f"a check of the attacks tripped on {len(tripped)}" if checked else "on none"
    where = f"on {len(checked)} of its rows, and {said}" if checked else "on no row"
    return (
        f"Whether the attacks of the table can be believed was checked {where}; {MARK} marks a "
        "rate as a lower bound."
    )


def certified_sentence(results: Results) -> str:
    """The best certificates of the network at its widest integer bit-width."""
    best: dict[int, NetworkFigures] = {}
    for one in results.every:
        for px, share in one.certified.items() if one.model["network"] == NETWORK else ():
            if px not in best or share["value"] > best[px].certified[px]["value"]:
                best[px] = one
    said = " and ".join(
        f"{rate(best[px].certified[px])} of the images against {px}×{px} px "
        f"({bits_words(best[px].bit_width)})"
        for px in PATCHES_PX
        if px in best
    )
    squares = any(_masked(one.model) for one in best.values())
    how = " whose training showed grey squares" if squares else ""
    return (
        f"With masked inference a {_title(NETWORK)}{how} is right, whatever one square patch "
        f"shows, on {said}."
    )


def _rival(results: Results) -> str:
    there = results.networks if RIVAL in results.networks else results.small
    if RIVAL not in there:
        return "No rival has been attacked by one who has the network yet."
    rival, ours = there[RIVAL], there[QADTR]
    shared = shared_patches([rival, ours])
    where = f"on {_title(NETWORK if there is results.networks else SMALL)}"
    if there is not results.networks:
        where = f"no rival was trained on {_title(NETWORK)} yet; {where}"
    brought, ours_brought = (one.most("transferred", shared) for one in (rival, ours))
    known, ours_known = (one.most("adaptive") for one in (rival, ours))
    return (
        f"{where[0].upper()}{where[1:]} transferred patches win on up to {brought} of the images "
        f"of {rival.label}, the strongest rival, and on {ours_brought} of QADT-R's, an attacker "
        f"who has the network on up to {known} and {ours_known}."
    )


def _sizes(ours: Trained) -> str:
    sized = {b: f.size_bytes for b, f in ours.figures.items() if f.size_bytes is not None}
    said = ", ".join(f"{size(n)} at {bits_words(bits)}" for bits, n in sized.items())
    return f"The model file has {said}."


def _speed(speed: Mapping[str, Any]) -> str:
    found = _timed(speed).values()
    ms = sorted(1000 / row["images_per_s"] for row in found)
    over = sorted(row["over"]["float"]["median"] for row in found)
    cpu = speed["provenance"]["host"]["cpu_model"]
    return (
        f"An image takes {ms[0]:.2f} to {ms[-1]:.2f} ms on one thread of an {cpu}, {over[0]:.1f} "
        f"to {over[-1]:.1f} times faster than in float: fewer bits make files smaller, not quicker."
    )


# ---------------------------------------------------------------------- pages


def first_page(results: Results) -> str:
    """docs/results.md."""
    topics = [f"- [{topic.title}](results/{topic.name}.md): {topic.about}" for topic in TOPICS]
    what = _tried(results)
    parts = [
        "# Results",
        (
            f"{_title(NETWORK)} on CIFAR-10 in ONNX Runtime's integer kernels, test images. Made "
            "by `python -m benchmarks.results_page` from the records in `results/`."
        ),
        first_table(results).markdown(),
        (
            f"All with 95% intervals. {_counts(results)} {_trainings(results)} Transferred: the "
            f"worst patch of a network that none of them has seen{what['transferred']}. White-box: "
            f"the worst made on the network's own weights{what['whitebox']}. Adaptive: by one who "
            f"knows network and defense{what['adaptive']} ([checks](checks.md)). Certified: right "
            "by masked inference, whatever one square patch of that side shows "
            "([certificates](certify.md)). Latency: one image on one thread, and how many times "
            f"faster than the float file, with quartiles. {missing_notes(results)}".rstrip()
        ),
        f"![Attack success over bit-width](results/{PLOT})",
        "\n".join(f"- {one}" for one in sentences(results)),
        "## By topic",
        "\n".join(topics),
    ]
    return "\n\n".join(parts) + "\n"


def _counts(results: Results) -> str:
    """How many images are behind the columns."""
    rows = [figures for one in results.networks.values() for figures in one.figures.values()]
    found = {
        "clean": [f.clean["n"] for f in rows if f.clean is not None],
        "transferred": [
            one.asr["n"] for f in rows if (one := worst(f.transferred, results.patches))
        ],
        "adaptive": [one.asr["n"] for f in rows if (one := worst(f.adaptive))],
        "certified": [share["n"] for f in rows for share in f.certified.values()],
    }
    said = [
        f"{name} {' to '.join(f'{n:,}' for n in dict.fromkeys([min(counts), max(counts)]))}"
        for name, counts in found.items()
        if counts
    ]
    return f"n: {', '.join(said)}."


def _tried(results: Results) -> dict[str, str]:
    """The patches behind each column of rates, in words: " (A, B)"."""
    found: dict[str, str] = {}
    for what in ("transferred", "whitebox", "adaptive"):
        names = {
            achieved.patch.partition(", per-image")[0].partition(" px, ")[0]
            for one in results.networks.values()
            for figures in one.figures.values()
            for key, achieved in getattr(figures, what).items()
            if what != "transferred" or key in results.patches
        }
        found[what] = f" ({', '.join(f'{name} px' for name in sorted(names))})" if names else ""
    return found


def _trainings(results: Results) -> str:
    """Seed and length of each network's training, as its records say."""
    said = []
    for one in results.networks.values():
        runs = [f.model["run"] for f in one.figures.values() if f.model.get("run")]
        if runs:
            epochs = runs[0]["config"]["training"]["epochs"]
            said.append(f"{one.label} with seed {runs[0]['seed']} over {epochs:g} epochs")
    return f"Trained once each: {', '.join(said)}." if said else ""


def readme_part(results: Results) -> str:
    """What the README says was found: the table and three sentences."""
    parts = [
        (
            f"{_title(NETWORK)} on CIFAR-10 in ONNX Runtime's integer kernels, with 95% intervals "
            f"({MISSING}: not measured yet; [what the columns mean, and all results]"
            "(docs/results.md)):"
        ),
        first_table(results).markdown(),
        " ".join(
            [transferred_sentence(results), adaptive_sentence(results), certified_sentence(results)]
        ),
    ]
    return "\n\n".join(parts)
