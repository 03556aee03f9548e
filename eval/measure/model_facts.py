"""What a record says of the model that was attacked."""

from __future__ import annotations

from pathlib import Path

from deploy.core.files import sha256_of
from deploy.core.records import read_records
from deploy.engine import version_of
from eval.measure.evaluation_record import CertificateSummary, ModelFacts
from eval.measure.proofs import proofs_from_records
from training.run_folder import RunFolder

TORCH = "torch"
"""Name of the fake-quantized network itself in the place of an engine."""


def model_facts(run: RunFolder, bit_width: int, file: Path | None, engine: str) -> ModelFacts:
    """The facts of one model of a run on one engine.

    Args:
        run: of the model.
        bit_width: 32 is float.
        file: for the engine; None for the network itself in torch.
        engine: the open engine's own name, or :data:`TORCH`.

    Raises:
        InputError: the file or a record of the run cannot be read.
    """
    digest = None if file is None else sha256_of(file)
    return ModelFacts(
        network=run.network_name,
        defense=run.defense,
        bit_width=bit_width,
        checkpoint_sha256=run.checkpoint_sha256,
        file=None if file is None else file.name,
        file_sha256=digest,
        file_size_bytes=None if file is None else file.stat().st_size,
        engine=engine,
        engine_version=version_of(engine),
        certificate=None if digest is None else _certificate(run, digest),
    )


def _certificate(run: RunFolder, model_sha256: str) -> CertificateSummary | None:
    """The verdict and counts of the newest certificate of a model file, where there is one."""
    if not run.records.is_dir():
        return None
    newest = proofs_from_records(read_records(run.records)).certificates.get(model_sha256)
    if newest is None:
        return None
    return CertificateSummary(ok=newest["ok"], counts=newest["counts"])
