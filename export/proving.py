"""The proof of any target's file at any bit-width, for `qadtr export` and `qadtr parity`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.records import write_record
from export.budget import FLOAT_BUDGET, Logits, Overrides, default_budget
from export.fake_quantized import FakeQuantized
from export.parity import check_parity
from export.parity_report import Parity
from export.target_proofs import BATCH, TargetProof, prove_float, prove_qdq, prove_qonnx
from export.targets import ONNXRUNTIME, QONNX_TARGET
from training.networks import Network
from training.prediction import logits
from training.quantizers import FLOAT
from training.run_folder import RunFolder

Proof = Parity | TargetProof


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
        """What the network itself gives for the images."""
        return logits(self.network, self.images, self.bits, BATCH)

    def prove(self, target: str, path: Path) -> Proof:
        """What is found of a target's file; the caller decides what a failure means.

        Raises:
            EngineUnavailable: an engine that the proof needs is not installed.
            InputError: the file is damaged or not of this network.
        """
        if self.bits == FLOAT and target != QONNX_TARGET:
            return prove_float(target, path, self.images, self.logits, FLOAT_BUDGET)
        exact = self.network.spec.exact and self.bits != FLOAT
        budget = self.overrides.of(default_budget(target, self.bits, exact=exact))
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
