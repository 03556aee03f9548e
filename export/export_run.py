"""The stage "export": one checkpoint → QONNX and an engine's file per bit-width, proved on the way.

Beside each model file lie its certificate (``NAME.certificate.json``, as its schema says) and its
provenance (``NAME.json``).

A file reaches ``export/`` only after the engine has run it with integer kernels throughout (the
certificate) and its codes and logits equalled the integer reference's (parity).  Both go to the
run's records, with the file's SHA-256.
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

from deploy.device.errors import InputError, NothingToEvaluate
from deploy.device.files import sha256_of, write_json
from deploy.device.records import write_record
from export.certificate import Certificate, certify, require_integer
from export.exactness import Exactness, require_exact
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
from training.networks import Network
from training.quantizers import FLOAT
from training.run_folder import RunFolder

logger = logging.getLogger(__name__)

CERTIFIED_IMAGES = 8
"""Images that the certificate's profiled run sees; what they show does not matter."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """How to export.

    ``storage``: "low-bit" or "int8" weights in the file (:mod:`export.storage`);
    ``least_agreement``: share of the parity images that must have the class that the
    fake-quantized network gives; ``code_flips``: largest share of one layer's codes that may
    differ from its codes.  A network trained with ``exact = true`` may differ nowhere.
    """

    storage: str = "low-bit"
    least_agreement: float = 0.995
    code_flips: float = DEFAULT_BUDGET.code_flips


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """One exported file, what each rule did to each layer (``log``, a line per layer, the rule in
    brackets), and what was proved of it (nothing for the float baseline)."""

    bits: int
    path: Path
    size_bytes: int
    log: tuple[str, ...]
    certificate: Certificate | None
    parity: Parity | None
    exactness: Exactness | None = None


def export_run(
    run: RunFolder,
    bit_widths: Sequence[int] | None,
    images: NDArray[np.uint8],
    settings: ExportSettings,
    provenance: Mapping[str, Any],
) -> list[ExportedModel]:
    """Export a run at the given bit-widths (None: all that it has) for ONNX Runtime's CPU.

    Args:
        images: uint8 N×3×H×W on which parity is checked; hold-out images, not test ones.

    Raises:
        InputError: a bit-width that the network lacks; a damaged checkpoint.
        NothingToEvaluate: there are no images.
        LoweringError, CertificateError, ParityError: the export failed; the old file, if there
            was one, is still in place.
    """
    if len(images) == 0:
        raise NothingToEvaluate("parity needs images, and there are none")
    network = run.load_network()
    wanted = tuple(bit_widths) if bit_widths else run.bit_widths
    for bits in wanted:
        if bits not in run.bit_widths:
            raise InputError(
                f"{run.path} has no bit-width {bits}; it was trained for "
                f"{', '.join(map(str, run.bit_widths))}"
            )
    return [_export(run, network, bits, images, settings, provenance) for bits in wanted]


def _export(
    run: RunFolder,
    network: Network,
    bits: int,
    images: NDArray[np.uint8],
    settings: ExportSettings,
    provenance: Mapping[str, Any],
) -> ExportedModel:
    final = run.model_file(bits)
    final.parent.mkdir(parents=True, exist_ok=True)
    qonnx = write_qonnx(network, bits, run.model_file(bits, "qonnx"))
    with tempfile.TemporaryDirectory(prefix=".candidate-", dir=final.parent) as folder:
        candidate = Path(folder) / final.name
        certificate: Certificate | None = None
        parity: Parity | None = None
        exactness: Exactness | None = None
        if bits == FLOAT:
            lowered = lower_float(qonnx, candidate)
        else:
            lowered = lower(qonnx, candidate, storage=settings.storage)
            if network.spec.exact:
                exactness = require_exact(candidate)
                logger.info("%d bits: %s", bits, exactness.summary())
            certificate = require_integer(certify(candidate, images[:CERTIFIED_IMAGES]))
            parity = require_parity(
                check_parity(
                    candidate,
                    images,
                    fake_quantized=FakeQuantized(network, bits),
                    budget=budget_of(network, settings.least_agreement, settings.code_flips),
                )
            )
        candidate.replace(final)
    facts: dict[str, Any] = {"checkpoint_sha256": run.checkpoint_sha256, "bit_width": bits}
    for kind, proof in (("certificate", certificate), ("parity", parity)):
        if proof is not None:
            write_record(run.records, kind, {**proof.to_json(), **facts}, provenance)
            logger.info("%d bits: %s", bits, proof.summary())
    if certificate is not None:
        write_json(final.with_suffix(".certificate.json"), certificate.to_json())
    if exactness is not None:
        facts["exact"] = exactness.to_json()
    _write_sidecar(final, qonnx, lowered, settings, facts, provenance)
    return ExportedModel(
        bits=bits,
        path=final,
        size_bytes=lowered.size_bytes,
        log=lowered.log,
        certificate=certificate,
        parity=parity,
        exactness=exactness,
    )


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


def _write_sidecar(
    final: Path,
    qonnx: Path,
    lowered: Lowered,
    settings: ExportSettings,
    facts: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    write_json(
        final.with_suffix(".json"),
        {
            "format": "qadtr-export",
            "format_version": 1,
            **facts,
            "target": "onnxruntime",
            "storage": settings.storage,
            "sha256": lowered.sha256,
            "size_bytes": lowered.size_bytes,
            "qonnx_sha256": sha256_of(qonnx),
            "layers": list(lowered.log),
            "provenance": dict(provenance),
        },
    )
