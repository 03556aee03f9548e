"""The stage "parity": exported files of a run once more against the reference, on any images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.records import write_record
from export.export_run import ExportSettings, budget_of, target_budget_of
from export.fake_quantized import FakeQuantized
from export.origin import require_origin
from export.parity import Parity, check_parity
from export.target_proofs import BATCH, TargetProof, prove_qdq, prove_qonnx
from export.targets import ONNXRUNTIME, QONNX_TARGET
from training.prediction import logits
from training.quantizers import FLOAT
from training.run_folder import RunFolder


def parity_of_run(
    run: RunFolder,
    bit_widths: Sequence[int] | None,
    images: NDArray[np.uint8],
    least_agreement: float,
    code_flips: float,
    provenance: Mapping[str, Any],
) -> Iterator[Parity]:
    """Check the exported integer files of a run, writing a record of each, passed or failed.

    Args:
        run: with exported files.
        bit_widths: None takes all that are exported.
        images: uint8 N×3×H×W.
        least_agreement: share of the images that must have the fake-quantized network's class.
        code_flips: largest share of one layer's codes that may differ from that network's; an
            exact network may differ nowhere, whatever these two say.
        provenance: from ``deploy.core.records.provenance``.

    Yields:
        What was found, file by file.

    Raises:
        InputError: a file that is not exported, or damaged.
        NothingToEvaluate: there are no images.
    """
    wanted = _exported(run, bit_widths, ONNXRUNTIME.name)
    network = run.load_network()
    for bits in wanted:
        found = check_parity(
            run.model_file(bits),
            images,
            fake_quantized=FakeQuantized(network, bits),
            budget=budget_of(network, least_agreement, code_flips),
        )
        facts = {"checkpoint_sha256": run.checkpoint_sha256, "bit_width": bits}
        write_record(run.records, "parity", {**found.to_json(), **facts}, provenance)
        yield found


def proofs_of_run(
    run: RunFolder,
    target: str,
    bit_widths: Sequence[int] | None,
    images: NDArray[np.uint8],
    settings: ExportSettings,
    provenance: Mapping[str, Any],
) -> Iterator[tuple[Path, TargetProof]]:
    """Prove the exported files of a target with a budget once more; a record of each.

    Args:
        target: "tensorrt", "qcdq" or "qonnx"; the others as :func:`parity_of_run`, the budgets
            those of ``settings``.

    Yields:
        The file, and what was found of it.

    Raises:
        EngineUnavailable: an engine that the proof needs is not installed.
        InputError, NothingToEvaluate: as :func:`parity_of_run`.
    """
    if len(images) == 0:
        raise NothingToEvaluate("a proof needs images, and there are none")
    wanted = _exported(run, bit_widths, target)
    network = run.load_network()
    for bits in wanted:
        path = run.model_file(bits, target)
        budget = target_budget_of(network, bits, target, settings)
        given = logits(network, images, bits, BATCH)
        if target == QONNX_TARGET:
            proof = prove_qonnx(path, images, given, budget)
        else:
            proof = prove_qdq(target, path, images, given, budget)
        facts = {"checkpoint_sha256": run.checkpoint_sha256, "bit_width": bits}
        write_record(run.records, "target-proof", {**proof.to_json(), **facts}, provenance)
        yield path, proof


def _exported(run: RunFolder, bit_widths: Sequence[int] | None, target: str) -> tuple[int, ...]:
    """The integer bit-widths to check, each with a file of this very checkpoint."""
    integer = [bits for bits in run.bit_widths if bits != FLOAT]
    there = [bits for bits in run.bit_widths_with_file(target) if bits != FLOAT]
    wanted = run.exported(bit_widths or there or integer, target)
    if FLOAT in wanted:
        raise InputError("parity is of integer models, and 32 bits is the float baseline")
    for bits in wanted:
        require_origin(run.model_file(bits, target), run.checkpoint_sha256)
    return wanted
