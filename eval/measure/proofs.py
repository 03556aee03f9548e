"""Certificates and parity of the model files, from their records.

Records of kind ``certificate`` and ``parity`` hold what ``export.certificate.Certificate.to_json``
and ``export.parity.Parity.to_json`` give; they are matched to the results by the SHA-256 of the
model file. They are read as plain JSON here, so that a report needs no ONNX.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.core.errors import InputError
from eval.measure.evaluation_record import ModelFacts

CERTIFICATE_KIND = "certificate"
PARITY_KIND = "parity"

_CERTIFICATE_FIELDS = (
    "model",
    "model_sha256",
    "engine",
    "ok",
    "counts",
    "layers",
    "requantizations",
    "float_requantizations",
    "failures",
)
_PARITY_FIELDS = (
    "model",
    "model_sha256",
    "engine",
    "ok",
    "images",
    "classes",
    "layers",
    "logits_different",
    "predicted_classes",
    "agreement",
    "failures",
)
OF_CERTIFICATE_LAYER = ("layer", "operator", "input_types", "output_types", "provider")
OF_PARITY_LAYER = ("name", "operator", "values", "different", "distinct_codes")


@dataclass(frozen=True, kw_only=True)
class Proofs:
    """Certificates and parity reports by the SHA-256 of the model file; the newest of each."""

    certificates: Mapping[str, Mapping[str, Any]]
    parities: Mapping[str, Mapping[str, Any]]

    def certified(self, model: ModelFacts) -> bool | None:
        """Whether the engine ran the file in integers; None where nobody looked."""
        certificate = self.certificates.get(model["file_sha256"] or "")
        return None if certificate is None else bool(certificate["ok"])

    def parity_ok(self, model: ModelFacts) -> bool | None:
        """Whether the engine gave the reference's codes and logits; None where nobody looked."""
        parity = self.parities.get(model["file_sha256"] or "")
        return None if parity is None else bool(parity["ok"])


def proofs_from_records(records: Iterable[Mapping[str, Any]]) -> Proofs:
    """The certificates and parity reports among `records` (oldest first).

    Raises:
        InputError: a record lacks a field.
    """
    certificates: dict[str, Mapping[str, Any]] = {}
    parities: dict[str, Mapping[str, Any]] = {}
    for record in records:
        payload = record["payload"]
        if record["kind"] == CERTIFICATE_KIND:
            _check(payload, _CERTIFICATE_FIELDS, OF_CERTIFICATE_LAYER, CERTIFICATE_KIND)
            certificates[payload["model_sha256"]] = payload
        elif record["kind"] == PARITY_KIND:
            _check(payload, _PARITY_FIELDS, OF_PARITY_LAYER, PARITY_KIND)
            parities[payload["model_sha256"]] = payload
    return Proofs(certificates=certificates, parities=parities)


def _check(
    payload: Mapping[str, Any], fields: tuple[str, ...], of_layer: tuple[str, ...], kind: str
) -> None:
    missing = [name for name in fields if name not in payload]
    if not missing:
        missing = [n for n in of_layer if any(n not in layer for layer in payload["layers"])]
    if missing:
        raise InputError(
            f"A record of kind {kind!r} lacks {', '.join(missing)}: it was written by another "
            "version; export again, or report with the version that wrote it."
        )
