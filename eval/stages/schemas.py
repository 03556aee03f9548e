"""The JSON Schemas of records and of a training's config, made from the types that check them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.core.files import json_bytes, write_atomic
from eval.measure import evaluation_record, examples, pixel_record, proofs
from eval.measure.adaptive import adaptive_record
from eval.measure.checks import checks_record
from eval.measure.drift import drift_record
from eval.stages.analyze import ANALYSES
from training.defenses import config_schema
from training.record_types import record_form
from training.validated import json_schema

FORMS: Mapping[str, Any] = {
    evaluation_record.KIND: evaluation_record.EvaluationRecord,
    adaptive_record.KIND: adaptive_record.AdaptiveRecord,
    checks_record.KIND: checks_record.ChecksRecord,
    pixel_record.KIND: pixel_record.PixelRecord,
    drift_record.KIND: drift_record.DriftRecord,
    **{one.kind: one.form for one in ANALYSES.values()},
    examples.KIND: examples.ExamplesRecord,
    proofs.CERTIFICATE_KIND: proofs.CertificateRecord,
    proofs.PARITY_KIND: proofs.ParityRecord,
    proofs.TARGET_PROOF_KIND: proofs.TargetProofRecord,
}
"""The payload's type of every kind of record that commands write."""


def schemas(forms: Mapping[str, Any] = FORMS) -> dict[str, dict[str, Any]]:
    """By file name, the JSON Schema (draft 2020-12) of each kind of record, and the config's."""
    records = {kind: json_schema(record_form(kind, form)) for kind, form in forms.items()}
    named = {f"record-{kind}.json": schema for kind, schema in records.items()}
    return named | {"config.json": config_schema()}


def write_schemas(folder: Path, forms: Mapping[str, Any] = FORMS) -> None:
    """Write them to ``folder``."""
    for name, schema in schemas(forms).items():
        write_atomic(folder / name, json_bytes(schema))
