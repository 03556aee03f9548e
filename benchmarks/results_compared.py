"""The networks that the first page of the results compares, from all records in results/."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from benchmarks.results_lineage import Lineage, lineages
from benchmarks.results_topics import BENCHMARKS
from deploy.core.errors import InputError
from deploy.core.records import require_clean
from deploy.core.share import Share
from deploy.core.strict_json import read_json
from eval.report.names import apart_in_seed, training_key
from eval.report.network_figures import (
    Achieved,
    NetworkFigures,
    figures_from_records,
    shared_patches,
    worst,
)
from eval.report.words import MISSING, defense_name, percent
from eval.stages.zoo import records_below

NETWORK, SMALL = "resnet20", "resnet8"
"""The network of the table, and the one on which more has been measured."""
SPEED = "speed-resnet20.json"
PATCHES_PX = (5, 8)
"""Sides of the patches whose certificates are shown."""
ATTACKED_PX = 8
"""Side of the patches of the table's attacks, one of :data:`PATCHES_PX`."""

PLAIN_QAT, QADTR = defense_name("qat"), defense_name("qadtr")
SQUARES = f"{QADTR}, grey squares"
RIVAL = "rival"
"""The kinds of rows; the third is trained on images with grey squares, for certificates."""
_LEAST = {
    PLAIN_QAT: attrgetter("inaccurate"),
    QADTR: attrgetter("resisting"),
    SQUARES: attrgetter("proven"),
    RIVAL: attrgetter("resisting"),
}
"""What the network of each kind is chosen by: it has the least of it."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One network of the comparison.

    Attributes:
        label: its defense in words.
        figures: by bit-width.
        better: the networks of the same training with other seeds, for all of which it stands.
    """

    label: str
    figures: Mapping[int, NetworkFigures]
    better: tuple[Trained, ...] = ()

    @property
    def model(self) -> Mapping[str, Any]:
        """What its records say of it; that of any bit-width."""
        return next(iter(self.figures.values())).model

    @property
    def seed(self) -> int | None:
        """The seed of its training, None where its records do not say."""
        run = self.model.get("run")
        return run["seed"] if run else None

    @property
    def inner_steps(self) -> int:
        """Steps of each patch in its training before it is shown; 0 where its config names none."""
        return int(_config(self.model).get("defense", {}).get("inner_steps", 0))

    def worst_of(self, what: str, among: Collection[str] | None = None) -> dict[int, Achieved]:
        """The worst attack of a kind (a field of the figures) at each bit-width that has one."""
        found = {bits: worst(getattr(f, what), among) for bits, f in self.figures.items()}
        return {bits: one for bits, one in found.items() if one is not None}

    @property
    def resisting(self) -> tuple[float, float]:
        """What it lets win at its worst bit-width, adaptive before transferred; 2 where a bit-width
        is unknown: a network that was tried at some of them is not ahead of those tried at all."""
        known, brought = (
            max(found[bits].asr["value"] if bits in found else 2.0 for bits in self.figures)
            for found in (self.worst_of("adaptive"), self.worst_of("transferred"))
        )
        return known, brought

    @property
    def inaccurate(self) -> tuple[bool, float]:
        """Whether an attack by one who has the network is missing at a bit-width, and the images
        that it has wrong without a patch, the mean of its bit-widths."""
        clean = [0.0 if f.clean is None else f.clean["value"] for f in self.figures.values()]
        return len(self.worst_of("adaptive")) < len(self.figures), 1.0 - fmean(clean)

    @property
    def proven(self) -> float:
        """What masked inference leaves to any attack of the table at its worst bit-width; 2 is
        unknown."""
        bounds = [figures.bound(ATTACKED_PX) for figures in self.figures.values()]
        return max(2.0 if one is None else one["value"] for one in bounds)

    def floors(self, among: Collection[str]) -> dict[int, Share]:
        """What random pixels achieve in the place of the worst of these transferred patches."""
        found = self.worst_of("transferred", among)
        return {bits: one.floor for bits, one in found.items() if one.floor is not None}

    def span(self, what: str, among: Collection[str] | None = None) -> str:
        """The least and the largest rate over the bit-widths: "8.1% to 9.1%"."""
        rates = self._rates(what, among)
        return " to ".join(dict.fromkeys([rates[0], rates[-1]])) if rates else MISSING

    def most(self, what: str, among: Collection[str] | None = None) -> str:
        """The largest of these."""
        rates = self._rates(what, among)
        return rates[-1] if rates else MISSING

    def _rates(self, what: str, among: Collection[str] | None) -> list[str]:
        """In words, the least first; with their intervals where no table beside has them."""
        found = self.worst_of(what, among)
        ordered = sorted(found, key=lambda bits: found[bits].asr["value"])
        if self.model["network"] != NETWORK:
            return [self.figures[bits].rate(found[bits]) for bits in ordered]
        return [
            f"{percent(found[bits].asr['value'])}{self.figures[bits].checks.mark}"
            for bits in ordered
        ]


@dataclass(frozen=True, kw_only=True)
class Results:
    """What the first page is made of.

    Attributes:
        networks: of the table, by :data:`PLAIN_QAT`, :data:`QADTR` and, where there is one,
            :data:`SQUARES` and :data:`RIVAL`.
        small: the same of the smaller networks.
        every: the figures of all networks of all records.
        speed: the record of the benchmark.
        lineages: how the networks were trained, by the digest of the weights.
    """

    networks: Mapping[str, Trained]
    small: Mapping[str, Trained]
    every: Sequence[NetworkFigures]
    speed: Mapping[str, Any]
    lineages: Mapping[str, Lineage]

    def lineage(self, of: Trained) -> Lineage:
        """How a network was trained; empty where results/ does not hold its weights."""
        return self.lineages.get(of.model["checkpoint_sha256"], Lineage())

    @property
    def patches(self) -> set[str]:
        """The transferred patches that every network of the table was tried under."""
        return shared_patches(self.rows)

    @property
    def rows(self) -> list[NetworkFigures]:
        """The figures of the table: of every network at every bit-width."""
        return figures_of(self.networks.values())

    @property
    def timed(self) -> dict[int, Mapping[str, Any]]:
        """Of the benchmark, by bit-width: one image on one thread."""
        return {
            row["bits"]: row
            for row in self.speed["rows"]
            if (row["batch"], row["threads"], row["tune"]) == (1, 1, "any")
        }

    @property
    def bit_widths(self) -> list[int]:
        """Those of the table, widest first."""
        return sorted({figures.bit_width for figures in self.rows}, reverse=True)


def figures_of(networks: Iterable[Trained]) -> list[NetworkFigures]:
    """The figures of all these networks at every bit-width."""
    return [figures for one in networks for figures in one.figures.values()]


def results_of(folder: Path) -> Results:
    """What the records in results/ say.

    Raises:
        InputError: a record is damaged or of a dirty tree, or plain QAT or QADT-R has none.
    """
    every = figures_from_records(records_below(folder))
    path = folder / BENCHMARKS / SPEED
    speed = cast(Mapping[str, Any], read_json(path))
    require_clean(speed["provenance"], path)
    networks, small = (compared(every, name) for name in (NETWORK, SMALL))
    for kind in (PLAIN_QAT, QADTR):
        for name, there in ((NETWORK, networks), (SMALL, small)):
            if kind not in there:
                raise InputError(f"{folder} has no evaluation of a {name} trained by {kind}")
    if not shared_patches(figures_of(networks.values())):
        networks.pop(RIVAL, None)  # nothing to compare all of them by
    return Results(
        networks=networks, small=small, every=every, speed=speed, lineages=lineages(folder)
    )


def compared(every: Sequence[NetworkFigures], network: str) -> dict[str, Trained]:
    """Of QADT-R and of all rivals the network that resists most, of QADT-R with grey squares the
    one of which most is proven, and of plain QAT, which resists nothing, the one of the highest
    clean accuracy that was attacked: what a defense costs is told beside the best without it. Of
    networks that differ in their seed alone, the worst by that measure stands for all.

    Compared are those that were tried under patches of other networks, on the images that most of
    them were tried on: all under some that this QADT-R was tried under too, at its bit-widths.
    """
    of = [one for one in every if one.model["network"] == network and one.transferred]
    digests = Counter(one.images["digest"] for one in of)
    of_checkpoint: dict[str, dict[int, NetworkFigures]] = {}
    for one in of:
        if one.images["digest"] == digests.most_common(1)[0][0]:
            of_checkpoint.setdefault(one.model["checkpoint_sha256"], {})[one.bit_width] = one
    candidates: dict[str, list[Trained]] = {kind: [] for kind in _LEAST}
    for figures in of_checkpoint.values():
        model = next(iter(figures.values())).model
        squares = any(was_masked(one.model) for one in figures.values())
        label = f"{defense_name(model['defense'])}{', grey squares' if squares else ''}"
        kind = label if label in candidates else RIVAL
        if kind != RIVAL or not squares:  # no rival, and not plain, with grey squares
            candidates[kind].append(Trained(label=label, figures=figures))
    for kind, those in candidates.items():
        candidates[kind] = [_worst(seeds, _LEAST[kind]) for seeds in _by_training(those)]
    candidates[QADTR] = ours = sorted(candidates[QADTR], key=_LEAST[QADTR])[:1]
    found: dict[str, Trained] = {}
    for kind, those in candidates.items():
        fit = [
            one
            for one in those
            if shared_patches(figures_of([one, *ours]))
            and all(one.figures.keys() >= qadtr.figures.keys() for qadtr in ours)
        ]
        if fit:
            found[kind] = min(fit, key=_LEAST[kind])
    return found


def _by_training(networks: Iterable[Trained]) -> list[list[Trained]]:
    """Networks that differ in their seed alone, together; others, and those whose records do not
    say, each alone."""
    found: dict[str, list[Trained]] = {}
    for one in networks:
        known = one.seed is not None
        key = training_key(_config(one.model)) if known else one.model["checkpoint_sha256"]
        found.setdefault(key, []).append(one)
    return [
        part
        for those in found.values()
        for part in (
            [those]
            if len(those) == 1 or apart_in_seed(one.model for one in those)
            else [[one] for one in those]
        )
    ]


def _worst(seeds: Sequence[Trained], least: Callable[[Trained], Any]) -> Trained:
    """The network with the most of what its kind is chosen by the least of."""
    worst_first = sorted(seeds, key=least, reverse=True)
    return replace(worst_first[0], better=tuple(worst_first[1:]))


def was_masked(model: Mapping[str, Any]) -> bool:
    """Whether its training showed grey squares; records of before there were any do not say."""
    return bool(_config(model).get("data", {}).get("masks", 0.0))


def _config(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of a model's training, empty where its records do not say."""
    run: Mapping[str, Any] = model.get("run") or {"config": {}}
    config: Mapping[str, Any] = run["config"]
    return config


def title(network: str) -> str:
    """The name of a network by its key in a config, such as "ResNet-20"."""
    return network.replace("resnet", "ResNet-")
