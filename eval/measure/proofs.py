"""Certificates and parity of the model files, from their records.

Records of kind ``certificate`` and ``parity`` hold what ``export.certificate.Certificate.to_json``
and ``export.parity.Parity.to_json`` return; they are matched to the results by the SHA-256 of the
model file. They are read as plain JSON here, so that a report does not need ONNX.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from eval.measure.evaluation_record import Counts, ModelFacts
from training.record_types import Fraction, Sha256, payloads
from training.validated import AtLeast0, AtLeast1, NotNegative

CERTIFICATE_KIND = "certificate"
PARITY_KIND = "parity"

TARGET_PROOF_KIND = "target-proof"
OF_CERTIFICATE_LAYER = ("layer", "operator", "input_types", "output_types", "provider")
OF_PARITY_LAYER = ("name", "operator", "values", "different", "distinct_codes")


class LayerRun(TypedDict):
    """A node that the engine ran; ``export.layer_runs.LayerRun``."""

    layer: str
    operator: str
    kind: str
    input_types: list[str]
    output_types: list[str]
    provider: str
    time_share: NotNegative | None
    integer: bool


class Failure(TypedDict):
    """A layer that breaks the promise, and why."""

    layer: str
    reason: str
    rules: NotRequired[list[str]]
    """Not in format version 1."""


class Tensor(TypedDict):
    """An input or output of the file; null for a dimension that the file leaves open."""

    name: str
    type: str
    shape: list[int | None]


class CertificateRecord(TypedDict):
    """The payload of a record of kind ``certificate``, of both format versions."""

    format_version: Literal[1, 2]
    checkpoint_sha256: NotRequired[Sha256]
    bit_width: NotRequired[AtLeast1]
    ok: bool
    counts: dict[str, Counts]
    model: str
    model_sha256: Sha256
    engine: str
    threads: AtLeast1
    layers: list[LayerRun]
    requantizations: list[str]
    float_requantizations: list[str]
    failures: list[Failure]
    engine_version: NotRequired[str]
    """This and the next three: since format version 2, which takes files of any inputs."""
    inputs: NotRequired[list[Tensor]]
    outputs: NotRequired[list[Tensor]]
    fed: NotRequired[dict[str, list[AtLeast0]]]
    adapted: NotRequired[bool]
    """This and the next two: of format version 1 alone."""
    input_type: NotRequired[str]
    images: NotRequired[AtLeast1]


class LayerParity(TypedDict):
    """One tensor of codes, engine against reference; ``export.parity_report.LayerParity``."""

    name: str
    operator: str
    tensor: str
    values: AtLeast0
    different: AtLeast0
    largest_difference: AtLeast0
    distinct_codes: AtLeast0
    flips: NotRequired[AtLeast0 | None]
    """This and the next: since format version 2, which compares with fake quantization."""
    largest_flip: NotRequired[AtLeast0 | None]


class CodeBudget(TypedDict):
    """How far the integer reference may be from the fake-quantized network."""

    code_flips: Fraction
    largest_code_flip: AtLeast0 | None
    prediction_flips: Fraction
    logits_equal: bool


class ParityRecord(TypedDict):
    """The payload of a record of kind ``parity``, of both format versions."""

    format_version: Literal[1, 2]
    checkpoint_sha256: NotRequired[Sha256]
    bit_width: NotRequired[AtLeast1]
    ok: bool
    model: str
    model_sha256: Sha256
    reference_sha256: Sha256
    engine: str
    images: AtLeast1
    classes: AtLeast1
    layers: list[LayerParity]
    logits_different: AtLeast0
    largest_logit_difference: NotNegative
    predictions_different: AtLeast0
    predicted_classes: AtLeast1
    first_departure: str | None
    flips: list[AtLeast0] | None
    agreement: Fraction | None
    failures: list[str]
    first_flip: NotRequired[str | None]
    """This and the next three: since format version 2."""
    fake_logits_different: NotRequired[AtLeast0 | None]
    largest_fake_logit_difference: NotRequired[NotNegative | None]
    budget: NotRequired[CodeBudget | None]


class DepartureBudget(TypedDict):
    """Shares of the largest logit and of the images; null bounds nothing."""

    logits: NotNegative | None
    flips: Fraction


class Departure(TypedDict):
    """How far one computation was from another; ``export.budget.Departure``."""

    computed: str
    held_to: str
    images: AtLeast1
    largest_logit: NotNegative
    largest_difference: NotNegative
    flips: AtLeast0
    budget: DepartureBudget
    allowed_difference: NotNegative | None


class TargetProofRecord(TypedDict):
    """The payload of a record of kind ``target-proof``."""

    format_version: Literal[1]
    checkpoint_sha256: Sha256
    bit_width: AtLeast1
    target: str
    model_sha256: Sha256
    ok: bool
    checks: list[str]
    departures: list[Departure]
    failures: list[str]


@dataclass(frozen=True, kw_only=True)
class Proofs:
    """Certificates and parity reports by the SHA-256 of the model file; the newest of each."""

    certificates: Mapping[str, Mapping[str, Any]]
    parities: Mapping[str, Mapping[str, Any]]

    def certified(self, model: ModelFacts) -> bool | None:
        """Whether the engine ran the file in integers; None where it was not checked."""
        certificate = self.certificates.get(model["file_sha256"] or "")
        return None if certificate is None else bool(certificate["ok"])

    def parity_ok(self, model: ModelFacts) -> bool | None:
        """Whether the engine gave the reference's codes and logits; None where not checked."""
        parity = self.parities.get(model["file_sha256"] or "")
        return None if parity is None else bool(parity["ok"])


def proofs_from_records(records: Iterable[Mapping[str, Any]]) -> Proofs:
    """The certificates and parity reports among `records` (oldest first).

    Raises:
        InputError: a record does not match the schema.
    """
    records = list(records)
    certificates = payloads(records, CERTIFICATE_KIND, CertificateRecord)
    parities = payloads(records, PARITY_KIND, ParityRecord)
    return Proofs(
        certificates={one["model_sha256"]: one for one in certificates},
        parities={one["model_sha256"]: one for one in parities},
    )
