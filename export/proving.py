"""Prove any target's file at any bit-width, for `qadtr export`, and again on any images for
`qadtr parity`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.records import write_record
from export.budget import FLOAT_BUDGET, Logits, Overrides, default_budget
from export.fake_quantized import FakeQuantized
from export.origin import require_origin
from export.parity import check_litert_parity, check_parity
from export.parity_report import Parity
from export.target_proofs import BATCH, TargetProof, prove_float, prove_qdq, prove_qonnx
from export.targets import LITERT, ONNXRUNTIME, QONNX_TARGET
from training.prediction import logits
from training.quantize import Network
from training.quantizers import FLOAT
from training.run_folder import RunFolder

Proof = Parity | TargetProof

FIXED_POINT_IMAGES = 32
"""Images on which LiteRT's fixed-point kernels are also compared; they are slow by design."""


@dataclass(kw_only=True)
class Prover:
    """Proves the files of one network at one bit-width on the same images.

    Attributes:
        network: in evaluation mode.
        bits: one of its bit-widths.
        images: uint8 N×3×H×W.
        overrides: of the targets' own budgets.
    """

    network: Network
    bits: int
    images: NDArray[np.uint8]
    overrides: Overrides

    @cached_property
    def logits(self) -> Logits:
        """The logits of the network itself for the images."""
        return logits(self.network, self.images, self.bits, BATCH)

    def prove(self, target: str, path: Path) -> Proof:
        """Prove a target's file; the caller decides what a failure means.

        Raises:
            EngineUnavailable: an engine that the proof needs is not installed.
            InputError: the file is damaged or not of this network.
        """
        if self.bits == FLOAT and target != QONNX_TARGET:
            return prove_float(target, path, self.images, self.logits, FLOAT_BUDGET)
        spec = self.network.spec
        exact = spec.exact and self.bits != FLOAT
        own = default_budget(target, self.bits, exact=exact, codes=spec.codes)
        budget = self.overrides.of(own)
        if target == LITERT.name:
            few = self.images[:FIXED_POINT_IMAGES]
            check_litert_parity(path, few, kernels="reference").required()
            fake = FakeQuantized(self.network, self.bits)
            return check_litert_parity(
                path, self.images, fake_quantized=fake, budget=budget.network
            )
        if target == ONNXRUNTIME.name:
            fake = FakeQuantized(self.network, self.bits)
            return check_parity(path, self.images, fake_quantized=fake, budget=budget.network)
        if target == QONNX_TARGET:
            return prove_qonnx(path, self.images, self.logits, budget)
        return prove_qdq(target, path, self.images, self.logits, budget)


def record_proof(run: RunFolder, bits: int, proof: Proof, provenance: Mapping[str, Any]) -> None:
    """Write a proof to a run's records, passed or failed."""
    facts = {"checkpoint_sha256": run.checkpoint_sha256, "bit_width": bits}
    write_record(run.records, proof.record_kind, {**proof.to_json(), **facts}, provenance)


def parity_of_run(
    run: RunFolder,
    target: str,
    bit_widths: Sequence[int] | None,
    images: NDArray[np.uint8],
    overrides: Overrides,
    provenance: Mapping[str, Any],
) -> Iterator[tuple[Path, Proof]]:
    """Prove the exported integer files of a target, writing a record of each, passed or failed.

    Yields each file and its proof.

    Args:
        target: one of :data:`export.targets.NAMES`.
        bit_widths: None takes all that are exported.
        images: uint8 N×3×H×W.
        overrides: of the target's own budget.

    Raises:
        EngineUnavailable: an engine that the proof needs is not installed.
        InputError: a file that is not exported, or damaged.
        NothingToEvaluate: there are no images.
    """
    if len(images) == 0:
        raise NothingToEvaluate("expected at least one image for the proof, got none")
    wanted = _exported(run, bit_widths, target)
    network = run.load_network()
    for bits in wanted:
        path = run.model_file(bits, target)
        prover = Prover(network=network, bits=bits, images=images, overrides=overrides)
        proof = prover.prove(target, path)
        record_proof(run, bits, proof, provenance)
        yield path, proof


def _exported(run: RunFolder, bit_widths: Sequence[int] | None, target: str) -> tuple[int, ...]:
    """The integer bit-widths to check, each with a file of this checkpoint."""
    integer = [bits for bits in run.bit_widths if bits != FLOAT]
    there = [bits for bits in run.bit_widths_with_file(target) if bits != FLOAT]
    wanted = run.exported(bit_widths or there or integer, target)
    if FLOAT in wanted:
        raise InputError(
            "parity compares integer models, and 32 bits is the float baseline; give other --bits"
        )
    for bits in wanted:
        require_origin(run.model_file(bits, target), run.checkpoint_sha256)
    return wanted
