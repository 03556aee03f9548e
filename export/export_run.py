"""The stage "export": one checkpoint → a model file per target and bit-width, proved on the way.

A file reaches ``export/`` only after its proof. ONNX Runtime's: the engine has run it with integer
kernels throughout (the certificate) and its codes and logits equalled the integer reference's
(parity). The other targets': :mod:`export.target_proofs`. Proofs go to the run's records with the
file's SHA-256; beside each model file lie its provenance (``NAME.json``), with the budget that a
manifest states of it, and for ONNX Runtime its certificate (``NAME.certificate.json``).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.files import sha256_of, write_json
from deploy.core.records import write_record
from export.budget import (
    FLOAT_BUDGET,
    Logits,
    TargetBudget,
    default_budget,
)
from export.certificate import Certificate, certify, require_integer
from export.exactness import Exactness, require_exact
from export.explanation import explain_qonnx
from export.fake_quantized import FakeQuantized
from export.lowering import Lowered, lower, lower_float
from export.parity import (
    DEFAULT_BUDGET,
    EXACT_BUDGET,
    Budget,
    Parity,
    check_parity,
    require_parity,
)
from export.qonnx_from_network import write_qonnx
from export.sidecar import write_sidecar
from export.target_proofs import (
    BATCH,
    TargetProof,
    prove_float,
    prove_qdq,
    prove_qonnx,
    require_proof,
)
from export.targets import NAMES, ONNXRUNTIME, QONNX_TARGET
from training.networks import Network
from training.prediction import logits
from training.quantizers import FLOAT
from training.run_folder import RunFolder

logger = logging.getLogger(__name__)

CERTIFIED_IMAGES = 8
"""Images that the certificate's profiled run sees; what they show does not matter."""

LEAST_AGREEMENT = 1.0 - DEFAULT_BUDGET.prediction_flips


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """How to export.

    Attributes:
        targets: names of :data:`export.targets.NAMES`.
        storage: "low-bit" or "int8" weights in the file (:mod:`export.storage`); None: each
            target's own default.
        tune: what the kernels of ``onnxruntime`` are chosen for, "any" processor or "amx"
            (:mod:`export.passes.kernels`); None: any.
        least_agreement: share of the images that must have the class that the fake-quantized
            network gives; None: the target's own (:func:`export.budget.default_budget`).
        code_flips: largest share of one layer's codes that may differ from the network's, of
            ``onnxruntime``.
        engine_logits: largest difference of a logit between an engine and the reference of a file
            with a budget, as a share of the largest logit; None: the target's own.
        engine_flips: share of the images that may have another class there; None: likewise.

    A network trained with ``exact = true`` may differ nowhere from its all-integer and QONNX files,
    nor from the reference of its ``qcdq`` file.
    """

    targets: tuple[str, ...] = (ONNXRUNTIME.name,)
    storage: str | None = None
    tune: str | None = None
    least_agreement: float | None = None
    code_flips: float = DEFAULT_BUDGET.code_flips
    engine_logits: float | None = None
    engine_flips: float | None = None


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """One exported file: what each rule did to each layer (``log``, a line per layer, the rule in
    brackets), the guarantees that its graph keeps, and what was proved of it: a certificate and
    parity for integers in ONNX Runtime, a ``proof`` with budgets for all else."""

    bits: int
    target: str
    path: Path
    size_bytes: int
    log: tuple[str, ...]
    guarantees: tuple[str, ...] = ()
    certificate: Certificate | None = None
    parity: Parity | None = None
    exactness: Exactness | None = None
    proof: TargetProof | None = None

    @property
    def budget(self) -> dict[str, float] | None:
        """What a manifest states of an engine of this file; None where no engine ran it."""
        if self.parity is not None:
            return {"max_logit_difference": 0.0, "max_flip_share": 0.0}
        return None if self.proof is None else self.proof.manifest_budget()


def export_run(
    run: RunFolder,
    bit_widths: Sequence[int] | None,
    images: NDArray[np.uint8],
    settings: ExportSettings,
    provenance: Mapping[str, Any],
) -> list[ExportedModel]:
    """Export a run at the given bit-widths (None: all that it has) for the given targets.

    Args:
        images: uint8 N×3×H×W on which the proofs are made; hold-out images, not test ones.

    Raises:
        InputError: a bit-width that the network lacks, an unknown target; a damaged checkpoint.
        NothingToEvaluate: there are no images.
        EngineUnavailable: an engine that a proof needs is not installed.
        LoweringError, CertificateError, ParityError, TargetProofError: the export failed; the old
            file, if there was one, is still in place.
    """
    if len(images) == 0:
        raise NothingToEvaluate("a proof needs images, and there are none")
    unknown = sorted(set(settings.targets) - set(NAMES))
    if unknown or not settings.targets:
        named = ", ".join(unknown) or "none"
        raise InputError(f"unknown target {named}; available: {', '.join(NAMES)}")
    network = run.load_network()
    wanted = tuple(bit_widths) if bit_widths else run.bit_widths
    for bits in wanted:
        if bits not in run.bit_widths:
            raise InputError(
                f"{run.path} has no bit-width {bits}; it was trained for "
                f"{', '.join(map(str, run.bit_widths))}"
            )
    made = []
    for bits in wanted:
        job = _Job(run=run, network=network, bits=bits, images=images, settings=settings)
        made += [job.export(target, provenance) for target in dict.fromkeys(settings.targets)]
    return made


@dataclass(kw_only=True)
class _Job:
    """One bit-width of a run."""

    run: RunFolder
    network: Network
    bits: int
    images: NDArray[np.uint8]
    settings: ExportSettings
    _logits: Logits | None = None

    @property
    def logits(self) -> Logits:
        """What the network itself gives for the images, computed once for all targets."""
        if self._logits is None:
            self._logits = logits(self.network, self.images, self.bits, BATCH)
        return self._logits

    def export(self, target: str, provenance: Mapping[str, Any]) -> ExportedModel:
        """Write one target's file in a folder of its own, prove it there, put it in place."""
        final = self.run.model_file(self.bits, target)
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".candidate-", dir=final.parent) as folder:
            qonnx = write_qonnx(
                self.network,
                self.bits,
                Path(folder) / f"source-{self.bits}.onnx",
                checkpoint_sha256=self.run.checkpoint_sha256,
            )
            model, form = self._made(target, qonnx, Path(folder) / final.name)
            facts = {"sha256": sha256_of(model.path), "qonnx_sha256": sha256_of(qonnx)}
            model.path.replace(final)
        model = replace(model, path=final)
        self._record(model, {**facts, **form}, provenance)
        return model

    def _made(
        self, target: str, qonnx: Path, candidate: Path
    ) -> tuple[ExportedModel, dict[str, str | None]]:
        """The proved candidate; how its weights are stored and its kernels chosen (None: float)."""
        as_float: dict[str, str | None] = {"storage": None, "tune": None}
        if target == QONNX_TARGET:
            return self._qonnx(qonnx, candidate), as_float
        if self.bits == FLOAT:
            lowered = lower_float(qonnx, candidate, target=target)
            proof = prove_float(target, candidate, self.images, self.logits, FLOAT_BUDGET)
            return self._model(target, lowered, proof=require_proof(proof)), as_float
        lowered = lower(
            qonnx,
            candidate,
            target=target,
            storage=self.settings.storage,
            tune=self.settings.tune,
        )
        form = {"storage": lowered.storage, "tune": lowered.tune}
        if target == ONNXRUNTIME.name:
            return self._all_integer(lowered), form
        proof = prove_qdq(target, candidate, self.images, self.logits, self._budget(target))
        return self._model(target, lowered, proof=require_proof(proof)), form

    def _all_integer(self, lowered: Lowered) -> ExportedModel:
        exactness: Exactness | None = None
        if self.network.spec.exact:
            exactness = require_exact(lowered.path)
            logger.info("%d bits: %s", self.bits, exactness.summary())
        certificate = require_integer(certify(lowered.path, self.images[:CERTIFIED_IMAGES]))
        agreement = self.settings.least_agreement
        parity = check_parity(
            lowered.path,
            self.images,
            fake_quantized=FakeQuantized(self.network, self.bits),
            budget=budget_of(
                self.network,
                LEAST_AGREEMENT if agreement is None else agreement,
                self.settings.code_flips,
            ),
        )
        return self._model(
            ONNXRUNTIME.name,
            lowered,
            certificate=certificate,
            parity=require_parity(parity),
            exactness=exactness,
        )

    def _qonnx(self, qonnx: Path, candidate: Path) -> ExportedModel:
        proof = require_proof(
            prove_qonnx(qonnx, self.images, self.logits, self._budget(QONNX_TARGET))
        )
        candidate.write_bytes(qonnx.read_bytes())
        return ExportedModel(
            bits=self.bits,
            target=QONNX_TARGET,
            path=candidate,
            size_bytes=candidate.stat().st_size,
            log=explain_qonnx(candidate),
            proof=proof,
        )

    def _model(self, target: str, lowered: Lowered, **proofs: Any) -> ExportedModel:
        return ExportedModel(
            bits=self.bits,
            target=target,
            path=lowered.path,
            size_bytes=lowered.size_bytes,
            log=lowered.log,
            guarantees=lowered.guarantees,
            **proofs,
        )

    def _budget(self, target: str) -> TargetBudget:
        return target_budget_of(self.network, self.bits, target, self.settings)

    def _record(
        self, model: ExportedModel, files: Mapping[str, Any], provenance: Mapping[str, Any]
    ) -> None:
        facts: dict[str, Any] = {
            "checkpoint_sha256": self.run.checkpoint_sha256,
            "bit_width": self.bits,
        }
        proofs = (
            ("certificate", model.certificate),
            ("parity", model.parity),
            ("target-proof", model.proof),
        )
        for kind, proof in proofs:
            if proof is not None:
                write_record(self.run.records, kind, {**proof.to_json(), **facts}, provenance)
                logger.info("%s, %d bits: %s", model.target, self.bits, proof.summary())
        if model.certificate is not None:
            write_json(model.path.with_suffix(".certificate.json"), model.certificate.to_json())
        if model.exactness is not None:
            facts["exact"] = model.exactness.to_json()
        write_sidecar(
            model.path,
            {
                **facts,
                "target": model.target,
                **files,
                "size_bytes": model.size_bytes,
                "layers": list(model.log),
                "guarantees": list(model.guarantees),
                "budget": model.budget,
                "proof": None if model.proof is None else model.proof.to_json(),
                "provenance": dict(provenance),
            },
        )


def target_budget_of(
    network: Network, bits: int, target: str, settings: ExportSettings
) -> TargetBudget:
    """The budget of a target's file at a bit-width: its default with what the settings change."""
    exact = network.spec.exact and bits != FLOAT
    budget = default_budget(target, bits, exact=exact)
    engine, held = budget.engine, budget.network
    if settings.engine_logits is not None:
        engine = replace(engine, logits=settings.engine_logits)
    if settings.engine_flips is not None:
        engine = replace(engine, flips=settings.engine_flips)
    if settings.least_agreement is not None and held.flips > 0.0:
        held = replace(held, flips=1.0 - settings.least_agreement)
    return TargetBudget(engine=engine, network=held)


def budget_of(network: Network, least_agreement: float, code_flips: float) -> Budget:
    """What a network's integer file may differ from the network itself: nothing if it is exact.

    Raises:
        InputError: a share that is none.
    """
    for name, share in (("least agreement", least_agreement), ("code flips", code_flips)):
        if not 0.0 <= share <= 1.0:
            raise InputError(f"{name} is a share, 0 to 1, not {share}")
    if network.spec.exact:
        return EXACT_BUDGET
    return replace(DEFAULT_BUDGET, code_flips=code_flips, prediction_flips=1.0 - least_agreement)
