"""The drift of a bundle, with a device's report of it as one more stage of the chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.attack_checks import AttackVerdict
from deploy.core.errors import InputError
from deploy.device.bundle_reading import Bundle
from deploy.device.outcome_reading import Outcome, read_outcomes
from deploy.device.report import read_report
from deploy.device.suite import Suite
from eval.measure.drift.attribution import StageOutcome, outcome_of, stage_facts, steps_between
from eval.measure.drift.chain import DeviceInputs, Stage
from eval.measure.drift.drift_record import DriftModel, DriftPatch, DriftRecord
from eval.measure.evaluation_record import ImagesFacts
from training.run_folder import RunFolder

DEVICE = "device"
"""The stage behind ``engine``, where a device's report is given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceReport:
    """A device's report of the bundle."""

    outcomes: Mapping[str, Outcome]
    facts: dict[str, Any]

    @classmethod
    def read(cls, path: Path | None, bundle: Bundle, engine: str) -> DeviceReport | None:
        """The report at ``path``, of this bundle in ``engine``; None for None.

        Raises:
            InputError: it is damaged, is not a report, or is of another bundle or engine.
        """
        if path is None:
            return None
        raw, found = read_report(path), read_outcomes(path)
        if raw["bundle"]["manifest_sha256"] != bundle.manifest_sha256:
            raise InputError(
                f"{path} is the report of another bundle "
                f"({str(raw['bundle']['manifest_sha256'])[:16]}) than {bundle.path.name} "
                f"({bundle.manifest_sha256[:16]}); validate this one on the device"
            )
        ran = raw["engine"]["model"]
        if ran != engine:
            raise InputError(
                f"{path} is of the model for {ran}, not for {engine}; compare with --engine {ran}"
            )
        return cls(
            outcomes={one.patch: one for one in found},
            facts={"host": raw["host"], "engine": raw["engine"], "date": raw["date"]},
        )

    def of(self, name: str) -> Outcome:
        """The outcome of the patch with this name; InputError where the report has none."""
        if name not in self.outcomes:
            raise InputError(f"the device's report has no patch {name!r}")
        return self.outcomes[name]

    def stage(self, told: Outcome) -> StageOutcome:
        """An outcome as the chain's last stage."""
        engine = self.facts["engine"] or {}
        return StageOutcome(
            name=DEVICE,
            how=f"the exported file in {engine.get('name', 'its engine')}, on the device",
            clean=None,
            patched=None,
            clean_correct=told.clean_correct,
            patched_correct=told.patched_correct,
            eligible=told.eligible,
            success=told.success,
        )


def entries_of(indices: NDArray[np.int64], told: Outcome) -> NDArray[np.int64]:
    """The entries of the device's images among those of the patch set."""
    order = np.argsort(indices, kind="stable")
    place = np.searchsorted(indices, told.indices, sorter=order)
    entries = order[np.minimum(place, len(indices) - 1)]
    if (indices[entries] != told.indices).any():
        raise InputError(f"the device's report is of images that {told.patch} is not for")
    return np.asarray(entries, np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleDrift:
    """The result for a bundle: a record for each patch of its suite, in that order."""

    found: tuple[DriftRecord, ...]
    suite: Suite
    device_inputs: DeviceInputs | None
    attacks: AttackVerdict


def outcomes_at(
    suite: Suite,
    stages: Sequence[Stage],
    number: int,
    which: NDArray[np.int64] | None = None,
) -> list[StageOutcome]:
    """The outcome of one patch at each stage.

    Args:
        number: of the patch.
        which: int64 K, entries of the patch's images to use; None takes all.

    Raises:
        NothingToEvaluate: no image counts at a stage.
    """
    patch = suite.patches[number]
    chosen = np.arange(len(patch.rows)) if which is None else which
    rows = patch.rows[chosen]
    return [
        outcome_of(
            stage.name,
            stage.how,
            clean=stage.clean[rows],
            patched=stage.patched[number][chosen],
            labels=suite.labels[rows],
            target=patch.facts.target,
            inputs_changed=None
            if stage.clean_changed is None or stage.patched_changed is None
            else int(stage.clean_changed[rows].sum() + stage.patched_changed[number][chosen].sum()),
        )
        for stage in stages
    ]


def attribute(
    suite: Suite,
    stages: Sequence[Stage],
    number: int,
    bundle: Bundle,
    run: RunFolder,
    engine: str,
    report: DeviceReport | None = None,
) -> DriftRecord:
    """The record of one patch; with a report, over the images that the device ran."""
    patch, manifest = suite.patches[number], bundle.manifest
    which = np.arange(len(patch.rows))
    told = None if report is None else report.of(patch.facts.name)
    if told is not None:
        which = entries_of(patch.patch_set.image_indices, told)
    outcomes = outcomes_at(suite, stages, number, which)
    if told is not None and report is not None:
        outcomes.append(report.stage(told))
    rows = patch.rows[which]
    steps = steps_between(outcomes, suite.indices[rows], suite.labels[rows])
    facts = [stage_facts(one) for one in outcomes]
    changed = stages[1].clean[rows] != suite.lab_clean[rows]
    changed_patched = stages[1].patched[number][which] != patch.lab[which]
    model = manifest.models[engine]
    return DriftRecord(
        model=DriftModel(
            network=run.network_name,
            defense=run.defense,
            bit_width=manifest.bit_width,
            checkpoint_sha256=run.checkpoint_sha256,
            file_sha256=manifest.files[model.file].sha256,
            engine=engine,
            bundle=bundle.path.name,
            manifest_sha256=bundle.manifest_sha256,
        ),
        patch=DriftPatch(
            name=patch.facts.name,
            attack=patch.facts.attack,
            kind=patch.facts.kind,
            target=patch.facts.target,
            size_px=list(patch.patch_set.size_px),
            pasted_sha256=patch.facts.pasted_sha256,
        ),
        images=ImagesFacts(
            name=str(manifest.images["name"]),
            split=str(manifest.images["split"]),
            digest=str(manifest.images["digest"]),
            n=len(rows),
            classes=list(manifest.classes),
        ),
        lab_changed=int(changed.sum() + changed_patched.sum()),
        device=None if report is None else report.facts,
        stages=facts,
        drift_points=100.0 * (facts[-1]["asr"]["value"] - facts[0]["asr"]["value"]),
        steps=steps,
    )
