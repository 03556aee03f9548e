"""The stage "export": from one checkpoint, a proved model file per target and bit-width.

A file is put into ``export/`` only after its proof. For ONNX Runtime, the engine has run it with
integer kernels throughout (the certificate), and its codes and logits equalled the integer
reference's (parity). For the other targets see :mod:`export.target_proofs`. Proofs go to the run's
records with the file's SHA-256. Beside each model file are its provenance (``NAME.json``), with the
budget that a manifest states, and for ONNX Runtime its certificate (``NAME.certificate.json``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate, QadtrError
from deploy.core.files import sha256_of, write_atomic
from deploy.core.records import write_record
from deploy.core.scratch import Scratch
from deploy.core.strict_json import write_json
from export.budget import Overrides
from export.certificate import Certificate, certify
from export.exactness import Exactness, require_exact
from export.explanation import explain_qonnx
from export.litert_certificate import certify_litert
from export.lowering import Lowered, lower, lower_float
from export.origin import write_sidecar
from export.proving import Proof, Prover, record_proof
from export.qonnx_from_network import write_qonnx
from export.target_proofs import TargetProof
from export.targets import LITERT, NAMES, ONNXRUNTIME, QONNX_TARGET
from training.quantizers import FLOAT
from training.run_folder import RunFolder

logger = logging.getLogger(__name__)

CERTIFIED_IMAGES = 8
"""Images in the certificate's profiled run; their content does not matter."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """How to export.

    Attributes:
        targets: names of :data:`export.targets.NAMES`.
        storage: "low-bit" or "int8" weights in the file (:mod:`export.storage`); None: each
            target's own default.
        tune: what the kernels of ``onnxruntime`` are chosen for, "any" processor or "amx"
            (:mod:`export.passes.kernels`); None: any.
        overrides: of the targets' own budgets (:func:`export.budget.default_budget`).
    """

    targets: tuple[str, ...] = (ONNXRUNTIME.name,)
    storage: str | None = None
    tune: str | None = None
    overrides: Overrides = field(default_factory=Overrides)


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """One exported file and its proofs.

    Attributes:
        lowered: the file, what each rule did to each layer, and the guarantees of its graph.
        proof: parity for integers in ONNX Runtime, a comparison within budgets for all else.
        certificate: for integers in ONNX Runtime.
        exactness: for an exact network there.
    """

    target: str
    bits: int
    lowered: Lowered
    proof: Proof
    certificate: Certificate | None = None
    exactness: Exactness | None = None


class ExportError(QadtrError):
    """Some of several requested files failed.

    Attributes:
        made: the files that succeeded, which are in place.
        failures: the errors of the others, by target and bit-width.
    """

    def __init__(
        self,
        made: Sequence[ExportedModel],
        failures: Mapping[tuple[str, int], QadtrError],
    ) -> None:
        self.made, self.failures = tuple(made), dict(failures)
        lines = [f"{len(failures)} of {len(failures) + len(made)} files failed:"]
        lines += [f"{target}, {bits} bits: {error}" for (target, bits), error in failures.items()]
        super().__init__("\n".join(lines))


def export_run(
    run: RunFolder,
    bit_widths: Sequence[int] | None,
    images: NDArray[np.uint8],
    settings: ExportSettings,
    provenance: Mapping[str, Any],
) -> list[ExportedModel]:
    """Export a run at the given bit-widths (None: all that it has) for the given targets.

    LiteRT's target has no float baseline, so "all" does not include its 32 bits.

    Args:
        images: uint8 N×3×H×W on which the proofs are made; hold-out images, not test ones.

    Raises:
        InputError: a bit-width that the network lacks, an unknown target; a damaged checkpoint.
        NothingToEvaluate: there are no images.
        EngineUnavailable: an engine that a proof needs is not installed.
        LoweringError, CertificateError, ParityError, TargetProofError: the export failed; the old
            file, if there was one, is still in place.
        ExportError: one or more of several files failed; the others are in place.
    """
    if len(images) == 0:
        raise NothingToEvaluate("expected at least one image for the proof, got none")
    unknown = sorted(set(settings.targets) - set(NAMES))
    if unknown or not settings.targets:
        named = ", ".join(unknown) or "none"
        raise InputError(f"unknown target {named}; available: {', '.join(NAMES)}")
    network = run.load_network()
    wanted = tuple(bit_widths) if bit_widths else run.bit_widths
    for bits in wanted:
        if bits not in run.bit_widths:
            raise InputError(
                f"{run.path} has no bit-width {bits}; it was trained at "
                f"{', '.join(map(str, run.bit_widths))}"
            )
    made: list[ExportedModel] = []
    failures: dict[tuple[str, int], QadtrError] = {}
    for bits in wanted:
        prover = Prover(network=network, bits=bits, images=images, overrides=settings.overrides)
        for target in dict.fromkeys(settings.targets):
            if target == LITERT.name and bits == FLOAT and not bit_widths:
                continue
            try:
                made.append(_export(run, target, prover, settings, provenance))
            except QadtrError as error:
                failures[target, bits] = error
    if failures:
        first = next(iter(failures.values()))
        if not made and len(failures) == 1:
            raise first
        raise ExportError(made, failures) from first
    return made


def _export(
    run: RunFolder,
    target: str,
    prover: Prover,
    settings: ExportSettings,
    provenance: Mapping[str, Any],
) -> ExportedModel:
    """Write one target's file in a separate folder, prove it there, and move it into place."""
    bits, final = prover.bits, run.model_file(prover.bits, target)
    final.parent.mkdir(parents=True, exist_ok=True)
    with Scratch(".candidate-", final.parent) as folder:
        qonnx = folder / f"source-{bits}.onnx"
        write_qonnx(prover.network, bits, qonnx, checkpoint_sha256=run.checkpoint_sha256)
        lowered = _lowered(qonnx, folder / final.name, target, bits, settings)
        exactness = certificate = None
        if target == ONNXRUNTIME.name and bits != FLOAT:
            if prover.network.spec.exact:
                exactness = require_exact(lowered.path)
                logger.info("%d bits: %s", bits, exactness.summary())
            sample = prover.images[:CERTIFIED_IMAGES]
            certificate = certify(lowered.path, sample).required()
        if target == LITERT.name:
            certificate = certify_litert(lowered.path).required()
        proof = prover.prove(target, lowered.path).required()
        qonnx_sha256 = sha256_of(qonnx)
        lowered.path.replace(final)
    model = ExportedModel(
        target=target,
        bits=bits,
        lowered=replace(lowered, path=final),
        proof=proof,
        certificate=certificate,
        exactness=exactness,
    )
    _record(run, model, qonnx_sha256, provenance)
    return model


def _lowered(qonnx: Path, out: Path, target: str, bits: int, settings: ExportSettings) -> Lowered:
    if target == QONNX_TARGET:
        write_atomic(out, qonnx.read_bytes())
        return Lowered(
            path=out,
            sha256=sha256_of(out),
            size_bytes=out.stat().st_size,
            log=explain_qonnx(out),
        )
    if bits == FLOAT:
        return lower_float(qonnx, out, target=target)
    return lower(qonnx, out, target=target, storage=settings.storage, tune=settings.tune)


def _record(
    run: RunFolder, model: ExportedModel, qonnx_sha256: str, provenance: Mapping[str, Any]
) -> None:
    """Write the proofs to the run's records, and sidecar and certificate beside the file."""
    lowered, proof, certificate = model.lowered, model.proof, model.certificate
    facts: dict[str, Any] = {
        "checkpoint_sha256": run.checkpoint_sha256,
        "bit_width": model.bits,
    }
    if certificate is not None:
        payload = {**certificate.to_json(), **facts}
        write_record(run.records, "certificate", payload, provenance)
        write_json(lowered.path.with_suffix(".certificate.json"), certificate.to_json())
        logger.info("%s, %d bits: %s", model.target, model.bits, certificate.summary())
    record_proof(run, model.bits, proof, provenance)
    logger.info("%s, %d bits: %s", model.target, model.bits, proof.summary())
    if model.exactness is not None:
        facts["exact"] = model.exactness.to_json()
    write_sidecar(
        lowered.path,
        {
            **facts,
            "target": model.target,
            "sha256": lowered.sha256,
            "qonnx_sha256": qonnx_sha256,
            "storage": lowered.storage,
            "tune": lowered.tune,
            "size_bytes": lowered.size_bytes,
            "layers": list(lowered.log),
            "guarantees": list(lowered.guarantees),
            "budget": proof.manifest_budget(),
            "proof": proof.to_json() if isinstance(proof, TargetProof) else None,
            "provenance": dict(provenance),
        },
    )
