"""The stage "drift": a bundle, the run that it came from, and where the ASR moved between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.core.attack_checks import AttackVerdict
from deploy.core.errors import InputError
from deploy.core.records import write_record
from deploy.device.bundle_reading import Bundle
from deploy.device.suite import check_preprocessing, read_suite
from deploy.engine import open_engine, target_of
from eval.measure.checks.checks_record import verdict_of_run
from eval.measure.drift.bundle_drift import BundleDrift, DeviceReport, attribute
from eval.measure.drift.chain import DeviceInputs, read_float_patches, run_chain
from eval.measure.drift.drift_record import KIND
from export.reference import reference_of
from training.progress import Progress
from training.run_folder import RunFolder
from training.validated import AtLeast1, validated


@validated()
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
    threads: AtLeast1 = 1
    float_patches: Path | None = None
    device_inputs: Path | None = None
    device_report: Path | None = None
    public_key: Path | None = None


def drift_of_bundle(
    path: Path,
    run: RunFolder,
    settings: DriftSettings,
    provenance: Mapping[str, Any],
) -> BundleDrift:
    """Split a bundle's drift into steps; one record for each patch, in the run's ``records``.

    Args:
        run: whose checkpoint the bundle's model was exported from.

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
                f"the bundle has no model for {settings.engine}; it has models for "
                f"{', '.join(models)}"
            )
        suite = read_suite(bundle)
        report = DeviceReport.read(settings.device_report, bundle, settings.engine)
        floats, device_inputs = {}, None
        if settings.float_patches is not None:
            floats = read_float_patches(settings.float_patches, suite)
        if settings.device_inputs is not None:
            device_inputs = DeviceInputs.read(settings.device_inputs, suite)
        facts = models[settings.engine]
        file = bundle.file(facts.file)
        with (
            open_engine(settings.engine, file, threads=settings.threads) as engine,
            Progress("drift", 5) as bar,
        ):
            chain = run_chain(
                suite,
                network=run.load_network(),
                bits=bundle.manifest.bit_width,
                reference=reference_of(target_of(settings.engine))(file),
                engine=engine,
                float_patches=floats,
                device_inputs=device_inputs,
            )
            stages = []
            for stage in chain:
                stages.append(stage)
                bar.advance(note=stage.name)
        found = []
        for number in range(len(suite.patches)):
            record = attribute(suite, stages, number, bundle, run, settings.engine, report)
            write_record(run.records, KIND, record, provenance)
            found.append(record)
        return BundleDrift(
            found=tuple(found),
            suite=suite,
            device_inputs=device_inputs,
            attacks=verdict_of_run(run, bundle.manifest.bit_width) or AttackVerdict(),
        )


def _check_checkpoint(bundle: Bundle, run: RunFolder) -> None:
    named = bundle.manifest.raw["provenance"].get("checkpoint_sha256")
    if named != run.checkpoint_sha256:
        raise InputError(
            f"{bundle.path.name} was made from the checkpoint {str(named)[:16]}, but {run.path} "
            f"has {run.checkpoint_sha256[:16]}; give the run that the bundle was made from"
        )
