"""The record of the checks of one network at one bit-width, and what tables print of it.

Everything that prints an attack success rate gets the verdicts from
:func:`attack_checks_from_records`, prints :meth:`AttackChecks.mark` next to the figure, and
:meth:`AttackChecks.words` below the table: a rate whose attack failed a check is only a lower bound
of what an attacker can do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from deploy.core.attack_checks import MARK, NOT_CHECKED, AttackVerdict
from deploy.core.records import read_records, records_so_far
from eval.measure.evaluation_record import ImagesFacts, ModelFacts
from training.record_types import Sha256, payloads
from training.validated import AtLeast1

if TYPE_CHECKING:
    from training.run_folder import RunFolder

KIND = "attack-checks"

Status = Literal["passed", "tripped", "undecided", "not run"]
Flags = NDArray[np.bool_]

ALWAYS = 0.95
"""An attack that wins on this share cannot be asked to be much weaker than another."""


class CheckedModel(TypedDict):
    """What was checked."""

    network: str
    defense: str
    bit_width: AtLeast1
    """32 is float."""
    checkpoint_sha256: Sha256 | None
    planted: str | None
    """Name of the fake defense that was put around the network on purpose; null for none."""


class CheckResult(TypedDict):
    """One check; ``name`` is a key of ``eval.measure.checks.catalogue.CATALOGUE``."""

    name: str
    status: Status
    """``undecided``: too few images to tell; ``not run``: what it needs was not given."""
    measured: str
    """In words, with its figures."""
    figures: dict[str, Any]
    """The same as numbers: shares with n and interval, or plain values."""


def status(*, tripped: bool, passed: bool) -> Status:
    """The verdict; undecided where there are too few images for either."""
    if tripped:
        return "tripped"
    return "passed" if passed else "undecided"


def result(name: str, verdict: Status, measured: str, **figures: Any) -> CheckResult:
    """One check's part of the record; ``figures`` are JSON values."""
    return CheckResult(name=name, status=verdict, measured=measured, figures=figures)


def percent(flags: Flags) -> str:
    """The share of flags that are set, such as "12.5%"."""
    return f"{100 * flags.mean():.1f}%"


class ChecksRecord(TypedDict):
    """The payload of a record of kind ``attack-checks``."""

    key: Sha256
    """Digest of everything the result depends on; checks with the same key are not run again."""
    model: CheckedModel
    images: ImagesFacts
    checked_images: AtLeast1
    """How many of the images the attacks of the checks were run on."""
    attack: dict[str, Any]
    """All settings of the attacks, and under ``source`` and ``undefended`` the SHA-256 of the
    checkpoints of the two other networks; null where there was none."""
    checks: list[CheckResult]


@dataclass(frozen=True, kw_only=True)
class AttackChecks:
    """The checks of each network at each bit-width; each check is from the record with the most
    images that ran it, and among equals from the newest."""

    by_model: Mapping[tuple[str | None, int], ChecksRecord]
    """By checkpoint (SHA-256) and bit-width; the engine that a model runs on does not matter."""
    planted: Sequence[ChecksRecord] = ()
    """Checks of planted fakes, oldest first: they say something about the checks alone."""

    def of(self, model: ModelFacts) -> ChecksRecord | None:
        """The checks of a model; None where there are none."""
        return self.by_model.get((model["checkpoint_sha256"], model["bit_width"]))

    def tripped(self, model: ModelFacts) -> tuple[str, ...]:
        """Names of the checks that tripped."""
        return self.tripped_at(model["checkpoint_sha256"], model["bit_width"])

    def tripped_at(self, checkpoint_sha256: str | None, *bit_widths: int) -> tuple[str, ...]:
        """Names of the checks of a network that tripped at any of several bit-widths."""
        found = [self.by_model.get((checkpoint_sha256, bits)) for bits in bit_widths]
        names = [name for record in found if record is not None for name in tripped(record)]
        return tuple(dict.fromkeys(names))

    def mark(self, model: ModelFacts) -> str:
        """The mark next to each ASR of the model: empty unless a check tripped."""
        return MARK if self.tripped(model) else ""

    def mark_at(self, checkpoint_sha256: str | None, *bit_widths: int) -> str:
        """The mark next to a rate over several bit-widths."""
        return MARK if self.tripped_at(checkpoint_sha256, *bit_widths) else ""

    def words(self, model: ModelFacts) -> str:
        """The verdict in a few words; "not checked" where no check was run."""
        record = self.of(model)
        return NOT_CHECKED if record is None else verdict(record)

    def verdict_at(self, checkpoint_sha256: str | None, bit_width: int) -> AttackVerdict | None:
        """The verdict as a bundle carries it; None where no check was run."""
        record = self.by_model.get((checkpoint_sha256, bit_width))
        if record is None:
            return None
        return AttackVerdict(tripped=tripped(record), words=verdict(record))


def tripped(record: ChecksRecord) -> tuple[str, ...]:
    """Names of the checks that tripped."""
    return _named(record, "tripped")


def verdict(record: ChecksRecord) -> str:
    """ "12 passed", and the checks that tripped, were undecided or were not run."""
    parts = []
    shown: tuple[Status, ...] = ("tripped", "undecided", "not run")
    for status in shown:
        names = _named(record, status)
        if names:
            parts.append(f"{status.upper() if status == 'tripped' else status}: {', '.join(names)}")
    passed = len(_named(record, "passed"))
    return "; ".join([*parts, f"{passed} passed"])


def attack_checks_from_records(records: Iterable[Mapping[str, Any]]) -> AttackChecks:
    """The verdicts among ``records`` (oldest first); records of other kinds are ignored.

    Raises:
        InputError: a checks record does not match the schema.
    """
    found: dict[tuple[str | None, int], list[ChecksRecord]] = {}
    planted: list[ChecksRecord] = []
    for checked in payloads(records, KIND, ChecksRecord):
        model = checked["model"]
        if model["planted"] is not None:
            planted.append(checked)
            continue
        found.setdefault((model["checkpoint_sha256"], model["bit_width"]), []).append(checked)
    combined = {key: _combined(of_model) for key, of_model in found.items()}
    return AttackChecks(by_model=combined, planted=tuple(planted))


def _combined(records: Sequence[ChecksRecord]) -> ChecksRecord:
    """One record from all of a model's (oldest first): each check from the record of most images.

    A later record of few images must not hide the result of many, and a record that did not run a
    check gives no result for it. A check from a record other than the one that contributes the most
    checks states its own images and steps.
    """
    chosen: dict[str, tuple[ChecksRecord, CheckResult]] = {}
    for record in sorted(records, key=lambda one: one["checked_images"]):
        for check in record["checks"]:
            if check["name"] not in chosen or check["status"] != "not run":
                chosen[check["name"]] = (record, check)
    counts = Counter(id(record) for record, _ in chosen.values())
    most = max((record for record, _ in chosen.values()), key=lambda one: counts[id(one)])
    checks = [
        check if record is most or check["status"] == "not run" else _with_its_budget(record, check)
        for record, check in chosen.values()
    ]
    return {**most, "checks": checks}


def _with_its_budget(record: ChecksRecord, check: CheckResult) -> CheckResult:
    budget = f"{record['checked_images']} images, {record['attack']['steps']} steps"
    return {**check, "measured": f"{check['measured']} ({budget})"}


def verdict_beside(folder: Path, model: Mapping[str, Any]) -> AttackVerdict:
    """The verdict on a model from the checks among the records of a folder; not checked if none.

    Raises:
        InputError: a record is damaged, or does not match the schema.
    """
    found = attack_checks_from_records(read_records(folder, KIND))
    return found.verdict_at(model["checkpoint_sha256"], model["bit_width"]) or AttackVerdict()


def verdict_of_run(run: RunFolder, bit_width: int) -> AttackVerdict | None:
    """The verdict on a run's network; None where no check was run.

    Raises:
        InputError: a record is damaged, or does not match the schema.
    """
    found = attack_checks_from_records(records_so_far(run.records, KIND))
    return found.verdict_at(run.checkpoint_sha256, bit_width)


def _named(record: ChecksRecord, status: Status) -> tuple[str, ...]:
    return tuple(check["name"] for check in record["checks"] if check["status"] == status)
