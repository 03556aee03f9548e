"""What the records say of each network at each bit-width, gathered in one place.

Records of several stages, folders and dates name the network that they are of by the SHA-256 of its
checkpoint. Here they meet: the model zoo and the first table of the results are made of these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.core.attack_checks import NOT_CHECKED, AttackVerdict
from deploy.core.bit_widths import bits_label
from deploy.core.double_masking import asr_at_most
from deploy.core.share import Share
from eval.measure.adaptive.adaptive_record import KIND as ADAPTIVE
from eval.measure.adaptive.adaptive_record import AdaptiveRecord, adaptive_from_records
from eval.measure.certification_record import KIND as CERTIFICATION
from eval.measure.certification_record import CertificationRecord, certifications_from_records
from eval.measure.checks.checks_record import KIND as CHECKS
from eval.measure.checks.checks_record import AttackChecks, attack_checks_from_records
from eval.measure.evaluation_record import KIND as EVALUATION
from eval.measure.evaluation_record import EvaluationRecord, ImagesFacts
from eval.report.attacks import adaptive_asr, adaptive_attacks
from eval.report.misfits import refuses_misfits
from eval.report.rows import tables_from_records
from eval.report.words import MISSING, PLAIN, model_name, rate, size
from training.record_types import payloads

TORCH = "torch"
"""The engine of records of the fake-quantized network: what ships is another."""

_KINDS = (EVALUATION, ADAPTIVE, CERTIFICATION, CHECKS)


ATTACKED = ("transferred", "white-box", "adaptive")
"""Headings of the cells of :meth:`NetworkFigures.cells` that are attack success rates."""


@dataclass(frozen=True, kw_only=True)
class Achieved:
    """What one attack achieved.

    Attributes:
        asr: its success rate.
        patch: in words, what was pasted where.
        floor: the same of random pixels in its place; None where they were not tried.
        steps: of an adaptive attack, of each of its stages; None for others.
    """

    asr: Share
    patch: str
    floor: Share | None = None
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkFigures:
    """One network at one bit-width on the images of one split.

    Attributes:
        model: network, defense, checkpoint_sha256 and run, as the newest record has them.
        images: name, split and digest of the images.
        clean: clean accuracy, from the record over the most images; None where not measured.
        transferred: by patch, what patches made on other networks achieved in the engine.
        whitebox: by attack, the same of patches made on these very weights, at any bit-width.
        adaptive: by size and place, what an attacker achieved who knows network and defense, with
            the settings and seed that win most; in the engine where it was asked, else on the
            fake-quantized network.
        certified: double masking in the engine, by the side of the patch in pixels.
        size_bytes: of the model file.
        checks: whether the attacks on the network can be believed.
    """

    model: Mapping[str, Any]
    bit_width: int
    images: ImagesFacts
    clean: Share | None
    transferred: Mapping[str, Achieved]
    whitebox: Mapping[str, Achieved]
    adaptive: Mapping[str, Achieved]
    certified: Mapping[int, CertificationRecord]
    size_bytes: int | None
    checks: AttackVerdict

    @property
    def kind(self) -> str:
        """Network and defense, such as "resnet8 QADT-R"."""
        return model_name(self.model["network"], self.model["defense"])

    def cells(self, patches: Collection[str] | None = None) -> dict[str, str]:
        """The figures as cells of a table, by heading; a rate is that of the worst attack.

        Args:
            patches: keys of the transferred patches that count, so that networks are compared under
                the same; None takes all.
        """
        return {
            "bits": bits_label(self.bit_width),
            "clean": rate(self.clean),
            "transferred": self.rate(worst(self.transferred, patches)),
            "white-box": self.rate(worst(self.whitebox)),
            "adaptive": self._adaptive(),
            **{certified_heading(px): rate(of["certified"]) for px, of in self.certified.items()},
            "size": size(self.size_bytes),
        }

    def _adaptive(self) -> str:
        """The worst adaptive attack's rate, how long it was, and whether nobody checked it."""
        found = worst(self.adaptive)
        if found is None:
            return MISSING
        unchecked = [NOT_CHECKED] if self.checks.words == NOT_CHECKED else []
        return ", ".join([self.rate(found), f"{found.steps} steps", *unchecked])

    def bound(self, patch_px: int) -> Share | None:
        """What no attack with one square patch of that side wins more than, against masked
        inference; None where it is not certified, or has no image right."""
        of = self.certified.get(patch_px)
        return None if of is None else asr_at_most(of["masked"], of["certified"])

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values; what was not measured is null."""
        found = {
            "transferred": worst(self.transferred),
            "whitebox": worst(self.whitebox),
            "adaptive": worst(self.adaptive),
        }
        return {
            "bits": self.bit_width,
            "data": self.images["name"],
            "split": self.images["split"],
            "clean": self.clean,
            **{name: None if one is None else _as_json(one) for name, one in found.items()},
            "certified": [
                {
                    "patch_px": px,
                    **of["certified"],
                    "masked_inference": of["masked"],
                    "asr_at_most": self.bound(px),
                    "mean_passes": of["mean_passes"],
                }
                for px, of in sorted(self.certified.items())
            ],
            "file_bytes": self.size_bytes,
            "attack_checks": self.checks.as_record(),
        }

    def rate(self, achieved: Achieved | None) -> str:
        """A rate with its interval, and with the mark of its network's checks."""
        return MISSING if achieved is None else rate(achieved.asr, self.checks.mark)


def _as_json(one: Achieved) -> dict[str, Any]:
    steps = {} if one.steps is None else {"steps": one.steps}
    return {**one.asr, "patch": one.patch, **steps}


def certified_heading(patch_px: int) -> str:
    """The heading of the column of certified accuracy against patches of a size."""
    return f"certified {patch_px}×{patch_px}"


def worst(
    achieved: Mapping[str, Achieved], among: Collection[str] | None = None
) -> Achieved | None:
    """The attack that achieved most, of all or of those named; None where there is none."""
    found = [one for key, one in achieved.items() if among is None or key in among]
    return max(found, key=lambda one: one.asr["value"], default=None)


def shared_patches(figures: Iterable[NetworkFigures]) -> set[str]:
    """Keys of the transferred patches that all were tried under; empty where there are none."""
    tried = [set(one.transferred) for one in figures]
    return set.intersection(*tried) if tried else set()


@refuses_misfits
def figures_from_records(
    records: Iterable[Mapping[str, Any]], *, split: str = "test"
) -> list[NetworkFigures]:
    """The figures of every network among ``records`` (oldest first), its widest bit-width first.

    Evaluations and certificates of the fake-quantized network are passed over: another one ships.

    A newer record replaces an older one of the same network, bit-width, attack (with its settings
    and seed) and images. Records of other kinds than evaluation, adaptive, certification and
    attack-checks are passed over, and so are figures of other splits.

    Raises:
        InputError: a record is not as its schema says.
    """
    of_network: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record["kind"] in _KINDS and (checkpoint := checkpoint_of(record)) is not None:
            of_network.setdefault(checkpoint, []).append(record)
    found = [one for own in of_network.values() for one in _of_network(own, split)]
    return sorted(found, key=_order)


def checkpoint_of(record: Mapping[str, Any]) -> str | None:
    """SHA-256 of the checkpoint of the network that a record is of; None where it names none."""
    model = record["payload"].get("model")
    return model.get("checkpoint_sha256") if isinstance(model, Mapping) else None


def _order(figures: NetworkFigures) -> tuple[object, ...]:
    """Plain networks first; not by run, which older records do not name."""
    model = figures.model
    network = (model["network"], model["defense"] not in PLAIN, model["defense"])
    return (*network, model["checkpoint_sha256"], figures.images["digest"], -figures.bit_width)


def _of_network(own: Sequence[Mapping[str, Any]], split: str) -> list[NetworkFigures]:
    """The figures of one network, from its own records."""
    checks = attack_checks_from_records(own)
    parts: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for record in own:
        payload = record["payload"]
        model, images = payload["model"], payload["images"]
        shipped = record["kind"] in (CERTIFICATION, EVALUATION) and model["engine"] != TORCH
        known = record["kind"] == ADAPTIVE and payload["law"] == "fixed"
        if (shipped or known) and images["split"] == split:
            bits = model["bit_widths"][0] if known else model["bit_width"]
            parts.setdefault((images["digest"], bits), []).append(record)
    return [_at(bits, part, checks) for (_, bits), part in parts.items()]


def _at(bits: int, part: Sequence[Mapping[str, Any]], checks: AttackChecks) -> NetworkFigures:
    """The figures of one network at one bit-width on the same images."""
    evaluations = payloads(part, EVALUATION, EvaluationRecord)
    certifications = certifications_from_records(part)
    adaptive = adaptive_from_records(part)
    newest = part[-1]["payload"]
    clean = [one["clean_accuracy"] for one in (*adaptive, *evaluations)]
    files = [one["model"]["file_size_bytes"] for one in (*certifications, *evaluations)]
    brought: dict[bool, dict[str, Achieved]] = {False: {}, True: {}}
    for table in tables_from_records(part) if evaluations else ():
        for column in table.columns:
            cells = [row.cells[column.key] for row in table.rows if column.key in row.cells]
            most = max(cells, key=lambda cell: cell.asr["value"])
            # The adaptive attack's patches have a record of their own.
            if column.facts["attack"] != ADAPTIVE:
                patch = f"{column.title} px, {column.detail}"
                achieved = Achieved(asr=most.asr, patch=patch, floor=most.floor)
                brought[most.whitebox][column.key] = achieved
    checkpoint = newest["model"]["checkpoint_sha256"]
    return NetworkFigures(
        model=newest["model"],
        bit_width=bits,
        images=newest["images"],
        clean=max(
            [*(one["clean"] for one in certifications), *clean],
            key=lambda share: share["n"],
            default=None,
        ),
        transferred=brought[False],
        whitebox=brought[True],
        adaptive=_known(adaptive),
        certified=_certified(certifications),
        size_bytes=next((one for one in reversed(files) if one is not None), None),
        checks=checks.verdict_at(checkpoint, bits) or AttackVerdict(),
    )


def _known(records: Sequence[AdaptiveRecord]) -> dict[str, Achieved]:
    """What the adaptive attacks achieved, by size and place: of several the one that wins most."""
    found: dict[str, Achieved] = {}
    for record in sorted(adaptive_attacks(records), key=lambda one: adaptive_asr(one)["value"]):
        patch, engine = record["patch"], record["on_engine"]
        key = f"{patch['size_px']}×{patch['size_px']} px, placed {patch['placement']}"
        where = "fake-quantized" if engine is None else engine["engine"]
        asr = adaptive_asr(record)
        found[key] = Achieved(
            asr=asr,
            patch=f"{key}, {patch['kind']}, {where}",
            steps=record["settings"]["steps"],
        )
    return found


def _certified(records: Sequence[CertificationRecord]) -> dict[int, CertificationRecord]:
    """By the side of the patch, small first; of several the one over the most images."""
    ordered = sorted(records, key=lambda one: (one["patch_px"], one["certified"]["n"]))
    return {one["patch_px"]: one for one in ordered}
