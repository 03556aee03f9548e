"""The stage "parity": exported files of a run proved once more, on any images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate
from export.budget import Overrides
from export.origin import require_origin
from export.proving import Proof, Prover, record_proof
from training.quantizers import FLOAT
from training.run_folder import RunFolder


def parity_of_run(
    run: RunFolder,
    target: str,
    bit_widths: Sequence[int] | None,
    images: NDArray[np.uint8],
    overrides: Overrides,
    provenance: Mapping[str, Any],
) -> Iterator[tuple[Path, Proof]]:
    """Prove the exported integer files of a target, writing a record of each, passed or failed.

    Args:
        run: with exported files.
        target: one of :data:`export.targets.NAMES`.
        bit_widths: None takes all that are exported.
        images: uint8 N×3×H×W.
        overrides: of the target's own budget.
        provenance: from ``deploy.core.records.provenance``.

    Yields:
        The file and what was found of it.

    Raises:
        EngineUnavailable: an engine that the proof needs is not installed.
        InputError: a file that is not exported, or damaged.
        NothingToEvaluate: there are no images.
    """
    if len(images) == 0:
        raise NothingToEvaluate("a proof needs images, and there are none")
    wanted = _exported(run, bit_widths, target)
    network = run.load_network()
    for bits in wanted:
        path = run.model_file(bits, target)
        prover = Prover(network=network, bits=bits, images=images, overrides=overrides)
        proof = prover.prove(target, path)
        record_proof(run, bits, proof, provenance)
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
