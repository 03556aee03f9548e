"""The proof that a file of a target with a budget must pass before it is put in place.

========  ==============================================================================
target    what must hold
========  ==============================================================================
tensorrt  ONNX Runtime, running the file's Q/DQ operators, within a budget of the file's numpy
          reference; that reference within a budget of the fake-quantized network
qcdq      the same in ONNX Runtime and in OpenVINO; ``onnx.checker``
qonnx     the ``qonnx`` package's executor within a budget of the fake-quantized network, equal for
          an exact one; the same numbers again after ``qonnx-cleanup``
========  ==============================================================================

The all-integer file has stronger proofs: certificate and parity. At 32 bits every target's file is
compared with the float network. A target's guarantees for its graph are checked before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.core.engine_protocol import Engine
from deploy.core.errors import InputError, QadtrError
from deploy.core.files import sha256_of
from deploy.core.model_engine import run_all
from deploy.core.scratch import Scratch
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.openvino_engine import OpenVinoEngine
from export.budget import EQUAL, Budget, Departure, FileBudget, Logits, departure
from export.graph import graph_inputs
from export.qonnx_execution import clean_qonnx, execute_qonnx
from export.reading import read_model
from export.reference.qdq import QdqReference
from export.signed_images import write_with_bytes

FORMAT_VERSION = 1
NETWORK = "the fake-quantized network"
FLOAT_NETWORK = "the float network"
REFERENCE = "the numpy reference of the file"
BATCH = 16
QONNX_IMAGES = 8
"""Images that ``qonnx`` runs: its executor takes one at a time, and a new session for each node."""


class TargetProofError(QadtrError):
    """The difference of a file from what it must compute exceeds its budget."""


@dataclass(frozen=True, kw_only=True)
class TargetProof:
    """The proof of one file: comparisons of engines and references (``departures``), and the names
    of the other checks that passed."""

    target: str
    model_sha256: str
    departures: tuple[Departure, ...]
    checks: tuple[str, ...] = ()

    record_kind: ClassVar[str] = "target-proof"

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the proof fails, one sentence each; empty if it holds."""
        return tuple(text for one in self.departures for text in one.failures)

    @property
    def ok(self) -> bool:
        """Whether everything is within its budget."""
        return not self.failures

    def required(self) -> TargetProof:
        """Return this, or raise TargetProofError with all failures."""
        if not self.ok:
            raise TargetProofError(f"{self.target}: " + "; ".join(self.failures))
        return self

    def manifest_budget(self) -> dict[str, float] | None:
        """The budget that a manifest states for an engine of this file: the largest absolute
        difference of a logit from the file's reference, and the share of flips; None if no engine
        ran."""
        engines = [one for one in self.departures if one.held_to == REFERENCE]
        if not engines:
            return None
        return {
            "max_logit_difference": max(one.allowed_difference or 0.0 for one in engines),
            "max_flip_share": max(one.budget.flips for one in engines),
        }

    def summary(self) -> str:
        """A line for each comparison."""
        lines = [one.summary() for one in self.departures]
        if self.checks:
            lines.append(f"checked: {', '.join(self.checks)}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with a format version."""
        return {
            "format_version": FORMAT_VERSION,
            "target": self.target,
            "model_sha256": self.model_sha256,
            "ok": self.ok,
            "checks": list(self.checks),
            "departures": [one.to_json() for one in self.departures],
            "failures": list(self.failures),
        }


OpenEngine = Callable[[Path], Engine]
ENGINES: Mapping[str, tuple[OpenEngine, ...]] = {
    "tensorrt": (OnnxRuntimeEngine,),
    "qcdq": (OnnxRuntimeEngine, OpenVinoEngine),
}
"""The engines in which each target's file must run here. TensorRT itself needs a GPU."""


def prove_qdq(
    target: str, path: Path, images: NDArray[np.uint8], network: Logits, budget: FileBudget
) -> TargetProof:
    """Prove a Q/DQ file of the target "tensorrt" or "qcdq" on ``images``, uint8 N×3×H×W, for which
    the fake-quantized network gives the logits ``network``, float32 N×classes.

    Raises:
        EngineUnavailable: an engine is not installed.
        InputError, UnsupportedGraph: the file is damaged or not of this project.
    """
    reference = QdqReference(path, batch_size=BATCH).run(images)
    checks: tuple[str, ...] = ()
    if target == "qcdq":
        onnx.checker.check_model(read_model(path), full_check=True)
        checks = ("onnx.checker, full",)
    ran = _in_engines(path, images, ENGINES[target])
    return TargetProof(
        target=target,
        model_sha256=sha256_of(path),
        checks=checks,
        departures=(
            *(departure(one, (REFERENCE, reference), budget.engine) for one in ran),
            departure((REFERENCE, reference), (NETWORK, network), budget.network),
        ),
    )


def prove_qonnx(
    path: Path, images: NDArray[np.uint8], network: Logits, budget: FileBudget
) -> TargetProof:
    """Prove a QONNX file, on the first images only; arguments as :func:`prove_qdq`.

    The cleaned file must give the same numbers as the file, without a budget.

    Raises:
        InputError: the file is damaged.
        TargetProofError: the output of qonnx-cleanup is not a valid file.
    """
    few, held_to = images[:QONNX_IMAGES], network[:QONNX_IMAGES]
    executor = "the qonnx executor"
    ours = execute_qonnx(path, few)
    with Scratch() as folder:
        out = clean_qonnx(path, folder / "clean.onnx")
        try:
            cleaned = execute_qonnx(out, few)
        except InputError as error:
            raise TargetProofError(
                f"qonnx: {path.name} itself is valid, but the output of qonnx-cleanup for it is "
                f"not: {error}"
            ) from error
    return TargetProof(
        target="qonnx",
        model_sha256=sha256_of(path),
        departures=(
            departure((executor, ours), (NETWORK, held_to), budget.network),
            departure(("the file after qonnx-cleanup", cleaned), (executor, ours), EQUAL),
        ),
    )


def prove_float(
    target: str, path: Path, images: NDArray[np.uint8], network: Logits, budget: Budget
) -> TargetProof:
    """Prove a file of 32 bits of any target: ONNX Runtime against the float network."""
    (ran,) = _in_engines(path, images, (OnnxRuntimeEngine,))
    return TargetProof(
        target=target,
        model_sha256=sha256_of(path),
        departures=(departure(ran, (FLOAT_NETWORK, network), budget),),
    )


def _in_engines(
    path: Path, images: NDArray[np.uint8], engines: tuple[OpenEngine, ...]
) -> list[tuple[str, Logits]]:
    found = []
    with Scratch() as folder:
        kind = graph_inputs(read_model(path))[0].type.tensor_type.elem_type
        if kind == onnx.TensorProto.INT8:
            path = write_with_bytes(path, folder / "bytes.onnx")
        for open_engine in engines:
            with open_engine(path) as engine:
                step = engine.batch_size or BATCH
                logits = run_all(engine, images, step)
                found.append((engine.name, logits))
    return found
