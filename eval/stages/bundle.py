"""The stage "bundle": an exported model of a run, with patches and images, to one file.

What the lab knows of the model is measured here and put beside it: golden codes and logits of the
integer reference, the engine's profile as certificate, and what the fake-quantized network predicts
for every image with and without every patch. Of an adopted file there is neither: the golden logits
and the predictions are those of the lab's engine, within the tolerance that its sidecar states.
"""

from __future__ import annotations

import hashlib
import logging
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import write_bundle
from deploy.bundle_contents import BundleContents, BundleModel, BundlePatch, Thresholds
from deploy.core.engine_protocol import Certified
from deploy.core.errors import EngineUnavailable, InputError, UsageError
from deploy.core.host import host_facts
from deploy.core.model_contents import ADOPTED, LITERT, target_of
from deploy.core.model_engine import run_all
from deploy.core.patch_set import PatchSet
from deploy.device.evidence import LEAST_SHARE
from deploy.device.golden import check_logits, logits_bytes
from deploy.device.machine_proof import machine_entry
from deploy.device.manifest import ModelFacts
from deploy.device.onnxruntime_engine import onnxruntime_version
from deploy.device.profile_check import RanKinds, profiled_run
from deploy.machine_proof import DeviceReports
from eval.measure.checks.checks_record import verdict_of_run
from eval.measure.patch_images import images_of_patches, patch_files_in, patch_sets_of
from eval.measure.subject import Subject, subjects_of
from export.origin import recorded_budget, require_origin
from export.reference import IntegerReference, reference_of
from training.data import Images
from training.data.subset import chosen_indices
from training.prediction import predict
from training.quantizers import FLOAT
from training.run_folder import RunFolder
from training.validated import AtLeast0, AtLeast1, validated

logger = logging.getLogger(__name__)

ENGINE = "onnxruntime"
PROFILED_IMAGES = 8
BATCH_IMAGES = 64


@validated(UsageError)
class BundleSettings:
    """How to bundle.

    Attributes:
        bits: bit-width of the exported model; not 32, which is the float network, unless it is an
            adopted one. None: the only one that there is.
        thresholds: of the gate.
        engines: further engines whose exported files go along, each with its budget.
        gated: names of the patch sets that decide; None gates all.
        images: how many of the patches' images go along, drawn evenly; None takes all.
        golden_images: images, at most, whose codes and logits go along.
        split: of the images, where a patch set does not tell (a supplied patch).
        floor_seed: of the noise patches.
        as_folder: a folder in place of one file.
        signing_key: PEM file of an Ed25519 private key.
        device_reports: ``report.json`` files of devices that gave this model's very logits.
    """

    bits: int | None
    thresholds: Thresholds
    engines: tuple[str, ...] = ()
    gated: tuple[str, ...] | None = None
    images: AtLeast1 | None = None
    golden_images: AtLeast1 = 8
    split: str = "test"
    floor_seed: AtLeast0 = 0
    as_folder: bool = False
    signing_key: Path | None = None
    device_reports: tuple[Path, ...] = ()


def bundle_run(
    run: RunFolder,
    patches: Sequence[Path | PatchSet],
    data: Images | None,
    out: Path,
    settings: BundleSettings,
    provenance: Mapping[str, Any],
) -> str:
    """Write a bundle and return the SHA-256 of its manifest.

    The images are those that the patch sets are for, all together, or ``settings.images`` of them.

    Args:
        patches: npz files, folders of them, or patch sets.

    Raises:
        EngineUnavailable: there is no further engine of that name.
        InputError: a model is not exported or from another checkpoint, a patch file is damaged or
            for other images, two patch sets have one name, an engine does not give its reference's
            logits, or a device report is of another bundle or of a device with other logits.
        NothingToEvaluate: there is no patch file.
        UsageError: 32 bits, or a gated patch that is not there.
    """
    bits = _bits(run, settings.bits)
    (subject,) = subjects_of(run, ENGINE, [bits])
    model = subject.model_file
    require_origin(model, run.checkpoint_sha256)
    patch_sets = _patch_sets(patches)
    gated = _gated(patch_sets, settings.gated)
    split = images_of_patches([run], patch_sets, data, settings.split)
    indices = np.unique(np.concatenate([one.image_indices for one in patch_sets]))
    if indices[-1] >= len(split):
        raise InputError(
            f"a patch is for image {indices[-1]}, but the split has {len(split)} images"
        )
    if settings.images is not None:
        indices = indices[chosen_indices(len(indices), min(settings.images, len(indices)))]
        patch_sets = [one.on_images(indices) for one in patch_sets]
    images = split.images[indices]
    for one, on in zip(patch_sets, gated, strict=True):
        if on and len(one.image_indices) < LEAST_SHARE * len(images):
            logger.warning(
                "%s covers %d of the bundle's %d images, and the gate stays undecided below "
                "%.0f%%; make it for more of them, or name the patch sets to gate with --gate",
                one.name,
                len(one.image_indices),
                len(images),
                100 * LEAST_SHARE,
            )
    count = min(settings.golden_images, len(images))
    golden = images[np.linspace(0, len(images) - 1, count).astype(np.int64)]
    lab = (_adopted_lab if run.adopted else _network_lab)(run, subject, golden)
    contents = BundleContents(
        name=f"{run.path.resolve().name}, {run.network_name}",
        bit_width=bits,
        classes=run.classes,
        models={
            ENGINE: replace(
                lab.model(profiled_run(model, images[:PROFILED_IMAGES])),
                device_reports=_device_reports(
                    settings.device_reports, subject, images, len(golden)
                ),
            ),
            **{
                engine: _further_model(run, bits, engine, golden)
                for engine in dict.fromkeys(settings.engines)
                if engine != ENGINE
            },
        },
        images=images,
        labels=split.labels[indices],
        indices=indices,
        images_about=split.about,
        golden_inputs=golden,
        golden_logits=lab.logits,
        golden_codes=lab.codes,
        golden_engine=lab.golden_engine,
        lab_engine=lab.name,
        lab_clean=lab.predict(images),
        patches=[
            BundlePatch(patch_set=one, lab=_patched(lab, one, images, indices), gated=on)
            for one, on in zip(patch_sets, gated, strict=True)
        ],
        thresholds=settings.thresholds,
        random_floor_seed=settings.floor_seed,
        attack_checks=verdict_of_run(run, bits),
        provenance={**provenance, "checkpoint_sha256": run.checkpoint_sha256},
    )
    return write_bundle(
        out, contents, signing_key=settings.signing_key, as_folder=settings.as_folder
    )


def _bits(run: RunFolder, wanted: int | None) -> int:
    if wanted is None:
        there = [bits for bits in run.exported() if bits != FLOAT or run.adopted]
        if len(there) != 1:
            raise UsageError(
                f"--bits is needed: {run.path} has models at {', '.join(map(str, there)) or 'no'} "
                "bits"
            )
        return there[0]
    if wanted == FLOAT and not run.adopted:
        raise UsageError(
            "a bundle holds an integer model, and 32 bits is the float baseline; give "
            "another --bits"
        )
    return wanted


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lab:
    """What the lab holds the device to.

    Attributes:
        name: what predicts.
        predict: classes, int64 N, of images uint8 N×C×H×W.
        logits: float32 G×classes, of the golden images; ``codes`` likewise, by tensor.
        golden_engine: that gave the logits; None: the numpy reference.
        model: the bundle's model with a profile.
    """

    name: str
    predict: Callable[[NDArray[np.uint8]], NDArray[np.int64]]
    logits: NDArray[np.float32]
    codes: Mapping[str, NDArray[np.uint8]]
    golden_engine: str | None
    model: Callable[[RanKinds], BundleModel]


def _certificate(kinds: Mapping[str, Any]) -> dict[str, Any]:
    return {"engine": "onnxruntime-cpu", "machine": host_facts().machine, **kinds}


def _network_lab(run: RunFolder, subject: Subject, golden: NDArray[np.uint8]) -> _Lab:
    """The integer reference's codes and logits, the fake-quantized network's predictions."""
    reference = IntegerReference(subject.model_file)
    logits = reference.run(golden)
    _require_equal(run, subject, golden, logits)
    network = run.load_network()
    return _Lab(
        name="fake-quantized network",
        predict=lambda images: predict(network, images, subject.bit_width),
        logits=logits,
        codes=reference.codes(golden),
        golden_engine=None,
        model=lambda ran: BundleModel(
            path=subject.model_file,
            certificate=_certificate({"kinds": ran.require_integers()}),
            logits_identical_on=(platform.machine(),),
        ),
    )


def _adopted_lab(run: RunFolder, subject: Subject, golden: NDArray[np.uint8]) -> _Lab:
    """The lab's engine for everything, within the tolerance that the file's sidecar states."""
    with subject.open_engine() as engine:
        name, logits = f"{engine.name} {onnxruntime_version()}", run_all(engine, golden, 1)

    def classes(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        with subject.open_engine() as engine:
            return engine.predict(images)

    return _Lab(
        name=name,
        predict=classes,
        logits=logits,
        codes={},
        golden_engine=name,
        model=lambda ran: _adopted_model(
            subject.model_file,
            len(golden),
            _certificate({"kinds": dict(ran.integer), "in_float": dict(ran.in_float)}),
        ),
    )


def _adopted_model(
    file: Path, golden: int, certificate: Mapping[str, Any] | None = None
) -> BundleModel:
    """Of every engine: the same file, held to the same logits of so many golden images."""
    difference, flip_share = recorded_budget(file)
    return BundleModel(
        path=file,
        certificate=certificate,
        max_logit_difference=difference,
        max_flips=math.ceil(flip_share * golden),
        target=ADOPTED,
    )


def _patch_sets(patches: Sequence[Path | PatchSet]) -> list[PatchSet]:
    """Read them; the reports and gates tell patch sets apart by name."""
    read: dict[str, str] = {}
    found = []
    for place in patches:
        for one in patch_files_in([place]) if isinstance(place, Path) else [place]:
            (patch_set,) = patch_sets_of([one])
            what = str(one) if isinstance(one, Path) else "a patch set in memory"
            if patch_set.name in read:
                raise InputError(
                    f"{read[patch_set.name]} and {what} are both named {patch_set.name!r}, but "
                    "in a bundle a name identifies one patch set; choose the files with --patches"
                )
            read[patch_set.name] = what
            found.append(patch_set)
    return found


def _further_model(
    run: RunFolder, bits: int, engine: str, golden: NDArray[np.uint8]
) -> BundleModel:
    """The file for another engine than ONNX Runtime's, with its own reference and budget."""
    (subject,) = subjects_of(run, engine, [bits])
    file = subject.model_file
    require_origin(file, run.checkpoint_sha256)
    if run.adopted:
        return _adopted_model(file, len(golden))
    difference, flip_share = recorded_budget(file)
    target = target_of(engine)
    exact = target == LITERT
    model = BundleModel(
        path=file,
        certificate=None,
        max_logit_difference=difference,
        max_flips=math.ceil(flip_share * len(golden)),
        golden_logits=reference_of(target)(file).run(golden),
        logits_identical_on=(platform.machine(),) if exact else (),
    )
    assert model.golden_logits is not None
    facts = ModelFacts(
        file=file.name,
        max_logit_difference=model.max_logit_difference,
        max_flips=model.max_flips,
        certificate=None,
        logits_identical_on=(),
    )
    try:
        with subject.open_engine() as opened:
            check_logits(opened, golden, model.golden_logits, facts, tensors=0)
            if exact and isinstance(opened, Certified):
                certificate = {
                    "engine": opened.name,
                    "machine": host_facts().machine,
                    "kinds": dict(opened.kinds_that_ran()),
                }
                model = replace(model, certificate=certificate)
    except EngineUnavailable as error:
        logger.warning(
            "%s was not run on this machine, so its budget is untested: %s", engine, error
        )
    return model


def _patched(
    lab: _Lab, patch_set: PatchSet, images: NDArray[np.uint8], indices: NDArray[np.int64]
) -> NDArray[np.int64]:
    logger.info("%s: predictions of the %s", patch_set.name, lab.name)
    own = images[np.searchsorted(indices, patch_set.image_indices)]
    return lab.predict(patch_set.paste_on(own))


def _device_reports(
    reports: tuple[Path, ...], subject: Subject, images: NDArray[np.uint8], golden_images: int
) -> DeviceReports | None:
    """With what the lab's engine gives for all images, which the devices must have given too."""
    if not reports:
        return None
    digest = hashlib.sha256()
    with subject.open_engine() as engine:
        for start in range(0, len(images), BATCH_IMAGES):
            digest.update(logits_bytes(run_all(engine, images[start : start + BATCH_IMAGES])))
        name = engine.name
    return DeviceReports(
        lab=machine_entry(
            host_facts().as_record(),
            engine=name,
            engine_version=onnxruntime_version(),
            golden_images=golden_images,
            images=len(images),
        ),
        logits_sha256=digest.hexdigest(),
        reports=reports,
    )


def _require_equal(
    run: RunFolder, subject: Subject, golden: NDArray[np.uint8], logits: NDArray[np.float32]
) -> None:
    with subject.open_engine() as engine:
        if not np.array_equal(run_all(engine, golden), logits):
            raise InputError(
                f"{subject.file} in {engine.name} does not give the integer reference's logits "
                f"on this machine; this command shows where they differ: {run.command('parity')}"
            )


def _gated(patch_sets: Sequence[PatchSet], wanted: tuple[str, ...] | None) -> list[bool]:
    names = [one.name for one in patch_sets]
    unknown = sorted(set(wanted or ()) - set(names))
    if unknown:
        raise UsageError(
            f"unknown patch set {', '.join(unknown)} in --gate; the bundle has {', '.join(names)}"
        )
    return [wanted is None or name in wanted for name in names]
