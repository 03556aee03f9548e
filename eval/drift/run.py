"""The stage "drift": a bundle, the run that it came from, and where the ASR moved between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.attack_checks import AttackVerdict
from deploy.core.errors import InputError
from deploy.core.files import read_json
from deploy.core.outcomes import unpack_bits
from deploy.core.records import write_record
from deploy.device.bundle_reading import Bundle
from deploy.device.comparison import Outcome, read_outcomes
from deploy.device.report import FORMAT
from deploy.device.suite import Suite, check_preprocessing, read_suite
from deploy.engine import open_engine
from eval.checks.record import verdict_of_run
from eval.drift.attribution import StageOutcome, outcome_of, stage_facts, steps_between
from eval.drift.chain import (
    DeviceInputs,
    Stage,
    read_float_patches,
    run_chain,
)
from eval.drift.record import KIND, DriftModel, DriftPatch, DriftRecord
from eval.evaluation_record import ImagesFacts
from export.reference import IntegerReference
from training.progress import Progress
from training.run_folder import RunFolder

DEVICE = "device"
"""The stage behind ``engine``, where a device's report is given."""


@dataclass(frozen=True, kw_only=True)
class DriftSettings:
    """How to attribute.

    Attributes:
        engine: which of the bundle's models to run here, and in what.
        threads: of the engine.
        float_patches: npz of the patches before rounding.
        device_inputs: npz of the bytes that the device fed its engine.
        device_report: ``report.json`` of a device, of this very bundle.
        public_key: PEM of the key that must have signed the bundle; None asks for none.
    """

    engine: str = "onnxruntime"
    threads: int = 1
    float_patches: Path | None = None
    device_inputs: Path | None = None
    device_report: Path | None = None
    public_key: Path | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Attribution:
    """One record, and the images that its flips are of.

    Attributes:
        record: as it was written.
        number: of the patch in the suite.
    """

    record: DriftRecord
    number: int


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleDrift:
    """What was found of a bundle.

    Attributes:
        found: one for each patch.
        suite: the bundle's images and patches.
        device_inputs: what the device fed, where it was told.
        attacks: what the checks of the attacks on this network found.
    """

    found: tuple[Attribution, ...]
    suite: Suite
    device_inputs: DeviceInputs | None
    attacks: AttackVerdict


def drift_of_bundle(
    path: Path,
    run: RunFolder,
    settings: DriftSettings,
    provenance: Mapping[str, Any],
    *,
    progress: bool = True,
) -> BundleDrift:
    """Split a bundle's drift into steps; one record for each patch, in the run's ``records``.

    Args:
        path: the bundle.
        run: whose checkpoint the bundle's model was exported from.
        settings: how.
        provenance: from ``deploy.core.records.provenance``.
        progress: show a bar, or log lines where there is no terminal.

    Raises:
        InputError: the bundle is damaged or of another checkpoint, a given file is of other images
            or of another bundle, or the bundle has no model for the engine.
        NothingToEvaluate: no image counts at a stage, which the message names.
        EngineUnavailable: the engine is not here.
    """
    with Bundle(path, public_key=settings.public_key) as bundle:
        check_preprocessing(bundle)
        _check_checkpoint(bundle, run)
        models = bundle.manifest.models
        if settings.engine not in models:
            raise InputError(
                f"the bundle has no model for {settings.engine}; it has some for "
                f"{', '.join(models)}"
            )
        suite = read_suite(bundle)
        report = _Report.read(settings.device_report, bundle)
        floats = (
            {}
            if settings.float_patches is None
            else read_float_patches(settings.float_patches, suite)
        )
        device_inputs = (
            None
            if settings.device_inputs is None
            else DeviceInputs.read(settings.device_inputs, suite)
        )
        facts = models[settings.engine]
        file = bundle.file(facts.file)
        with (
            open_engine(settings.engine, file, threads=settings.threads) as engine,
            Progress("drift", 5, shown=progress) as bar,
        ):
            stages = run_chain(
                suite,
                network=run.load_network(),
                bits=bundle.manifest.bit_width,
                reference=IntegerReference(file),
                engine=engine,
                engine_name=engine.name,
                float_patches=floats,
                device_inputs=device_inputs,
                advance=lambda stage: bar.advance(note=stage),
            )
        found = []
        for number in range(len(suite.patches)):
            record = attribute(suite, stages, number, bundle, run, settings.engine, report)
            write_record(run.records, KIND, record, provenance)
            found.append(Attribution(record=record, number=number))
        return BundleDrift(
            found=tuple(found),
            suite=suite,
            device_inputs=device_inputs,
            attacks=verdict_of_run(run, bundle.manifest.bit_width) or AttackVerdict(),
        )


def outcomes_at(
    suite: Suite,
    stages: Sequence[Stage],
    number: int,
    which: NDArray[np.int64] | None = None,
) -> list[StageOutcome]:
    """What one patch did at each stage.

    Args:
        suite: of the chain.
        stages: from ``run_chain``.
        number: of the patch.
        which: int64 K, entries of the patch's images to look at; None takes all.

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
    report: _Report | None = None,
) -> DriftRecord:
    """The record of one patch; with a report, over the images that the device ran."""
    patch, manifest = suite.patches[number], bundle.manifest
    which = np.arange(len(patch.rows))
    told = None if report is None else report.of(patch.facts.name)
    if told is not None:
        which = _entries(patch.patch_set.image_indices, told)
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
            size_px=list(patch.patch_set.mask.shape),
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Report:
    """A device's report of the bundle."""

    outcomes: Mapping[str, Outcome]
    patched_correct: Mapping[str, NDArray[np.bool_]]
    facts: dict[str, Any]

    @classmethod
    def read(cls, path: Path | None, bundle: Bundle) -> _Report | None:
        if path is None:
            return None
        raw = read_json(path)
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise InputError(f"{path} is no report.json of the validator")
        found = read_outcomes(path)  # checked against its schema there
        if raw["bundle"]["manifest_sha256"] != bundle.manifest_sha256:
            raise InputError(
                f"{path} is the report of another bundle "
                f"({str(raw['bundle']['manifest_sha256'])[:16]}) than {bundle.path.name} "
                f"({bundle.manifest_sha256[:16]}); validate this one on the device"
            )
        correct = {
            one["name"]: unpack_bits(one["outcomes"]["patched_correct"], one["outcomes"]["n"])
            for one in raw["patches"]
        }
        return cls(
            outcomes={one.patch: one for one in found},
            patched_correct=correct,
            facts={"host": raw["host"], "engine": raw["engine"], "date": raw["date"]},
        )

    def of(self, name: str) -> Outcome:
        if name not in self.outcomes:
            raise InputError(f"the device's report has no patch {name!r}")
        return self.outcomes[name]

    def stage(self, told: Outcome) -> StageOutcome:
        engine = self.facts["engine"] or {}
        return StageOutcome(
            name=DEVICE,
            how=f"the exported file in {engine.get('name', 'its engine')}, on the device",
            clean=None,
            patched=None,
            clean_correct=told.clean_correct,
            patched_correct=self.patched_correct[told.patch],
            eligible=told.eligible,
            success=told.success,
        )


def _entries(indices: NDArray[np.int64], told: Outcome) -> NDArray[np.int64]:
    """Where the device's images are among those of the patch set."""
    order = np.argsort(indices, kind="stable")
    place = np.searchsorted(indices, told.indices, sorter=order)
    entries = order[np.minimum(place, len(indices) - 1)]
    if (indices[entries] != told.indices).any():
        raise InputError(f"the device's report is of images that {told.patch} is not for")
    return np.asarray(entries, np.int64)


def _check_checkpoint(bundle: Bundle, run: RunFolder) -> None:
    named = bundle.manifest.raw["provenance"].get("checkpoint_sha256")
    if named != run.checkpoint_sha256:
        raise InputError(
            f"{bundle.path.name} was made from the checkpoint {str(named)[:16]}, {run.path} has "
            f"{run.checkpoint_sha256[:16]}; name the run that the bundle was made from"
        )
