"""Writes docs/schemas/: the JSON Schema of every file that is checked by its type.

Run: ``python -m benchmarks.schemas`` (``make schemas``)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from benchmarks import beside, fuzzing_page, public_networks
from deploy.core.files import write_atomic
from deploy.core.strict_json import json_bytes
from eval.measure import certification_record, evaluation_record, examples, pixel_record, proofs
from eval.measure.adaptive import adaptive_record
from eval.measure.checks import checks_record
from eval.measure.drift import drift_record
from eval.measure.evaluation_record import Counts
from eval.stages.analyze import ANALYSES
from training.defenses import config_schema
from training.record_types import Fraction, Sha256, record_form
from training.validated import AtLeast0, AtLeast1, NotNegative, json_schema

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"


class ExportedNetwork(TypedDict):
    """What the records of all exports share."""

    network: str
    bits: AtLeast1
    target: str
    input_px: AtLeast1
    trained: bool
    weights: str
    """Where they are from."""
    bytes: AtLeast1
    """Of the file."""
    flip_images: AtLeast1
    seconds: NotNegative


class ExportRecord(ExportedNetwork):
    """The payload of a record of kind ``export``: one integer file and what was proved of it."""

    sha256: Sha256
    accuracy: Fraction
    """Of the integer reference."""
    counts: dict[str, Counts]
    nodes_integer: AtLeast0
    nodes_float: AtLeast0
    codes: AtLeast1
    codes_different: AtLeast0
    logits: AtLeast1
    logits_different: AtLeast0
    parity_images: AtLeast1
    predicted_classes: AtLeast1
    first_departure: str | None
    flips: AtLeast0
    """Of ``flip_images``, against the fake-quantized network."""
    failures: list[str]


class SpeedBeside(TypedDict):
    """LiteRT beside ONNX Runtime's all-integer file, one thread each, in turn; the ratio of their
    speeds by rounds."""

    litert_images_per_s: NotNegative
    onnxruntime_images_per_s: NotNegative
    median: NotNegative
    lower_quartile: NotNegative
    upper_quartile: NotNegative


class ExportLiteRtRecord(ExportedNetwork):
    """The payload of a record of kind ``export-litert``: one ``.tflite`` file in each kernel."""

    sha256: Sha256
    onnx_bytes: AtLeast1
    """Of the all-integer ONNX file of the same network."""
    accuracy: Fraction
    """In XNNPACK's kernels."""
    counts: dict[str, Counts]
    operators_xnnpack: AtLeast0
    operators_litert: AtLeast0
    codes: AtLeast1
    codes_different: AtLeast0
    """From the numpy references, XNNPACK's kernels and LiteRT's own together."""
    logits: AtLeast1
    logits_different: AtLeast0
    parity_images: AtLeast1
    flips: AtLeast0
    """Of ``flip_images``, against the fake-quantized network."""
    failures: list[str]
    fixed_point_images: AtLeast1
    """Seen by the slow kernels: LiteRT's reference and tflite-micro's."""
    micro_logits_different: AtLeast0
    """Logits of tflite-micro that are not its numpy reference's."""
    micro_reference_images: AtLeast1
    """Seen by the numpy reference of tflite-micro's arithmetic."""
    micro_flips: AtLeast0
    """Of these, predictions that are not XNNPACK's."""
    micro_accuracy: Fraction
    accuracy_of_these: Fraction
    """Of the same images, in XNNPACK's kernels."""
    ram_bytes: AtLeast1
    """Of tflite-micro's arena."""
    over_onnxruntime: dict[str, SpeedBeside]
    """By batch size."""
    predicted_classes: NotRequired[AtLeast1]
    arm64_processors: NotRequired[list[str]]
    """Those that qemu played; missing, with the rest, where no arm64 machine was asked for."""
    arm64_images: NotRequired[AtLeast1]
    arm64_values: NotRequired[AtLeast1]
    """Codes and logits compared there with the reference that x86-64 equals."""
    arm64_different: NotRequired[AtLeast0]


class EngineOfTarget(TypedDict):
    """One engine on a target's file."""

    engine: str
    flips: AtLeast0
    """Images with another class than the fake-quantized network gives."""
    flips_of_reference: AtLeast0 | None
    largest_logit_difference: NotNegative


class ExportTargetRecord(ExportedNetwork):
    """The payload of a record of kind ``export-target``: a file of a target with a budget."""

    asked_images: AtLeast1
    engines: list[EngineOfTarget]
    largest_logit: NotNegative
    nodes_integer: AtLeast0 | None
    nodes_float: AtLeast0 | None
    nodes_quantized: AtLeast0 | None
    reference_images: AtLeast0
    reference_flips_of_network: AtLeast0 | None


class Builder(TypedDict):
    """What built an engine."""

    name: str
    version: str


class EngineBuildRecord(TypedDict):
    """The payload of a record of kind ``engine-build``: a TensorRT-RTX engine built ahead."""

    network: str
    bits: AtLeast1
    input_px: AtLeast1
    trained: bool
    builder: Builder
    build_s: NotNegative
    onnx_sha256: Sha256
    onnx_bytes: AtLeast1
    engine_bytes: AtLeast1
    layers: AtLeast1
    kinds: dict[str, AtLeast0]
    tensors: dict[str, AtLeast0]
    options: dict[str, Any]
    note: str


class PublicNetwork(TypedDict):
    """A network of others, taken at a bit-width or refused."""

    network: str
    input_px: AtLeast1
    bits: AtLeast0
    """0 where it is refused."""
    refused: str | None


class PublicNetworkRecord(PublicNetwork, total=False):
    """The payload of a record of kind ``zoo``; without the rest where the network is refused."""

    quantize_s: NotNegative
    calibrate_s: NotNegative
    export_s: NotNegative
    calibration_images: AtLeast1
    bytes: AtLeast1
    nodes_integer: AtLeast0
    nodes_float: AtLeast0
    failures: list[str]
    parity_images: AtLeast1
    codes: AtLeast1
    codes_different: AtLeast0
    """Engine against the numpy reference."""
    logits_different: AtLeast0
    codes_compared: AtLeast0
    code_flips: AtLeast0
    """Of these, engine against the fake-quantized network."""
    agreement_images: AtLeast1
    flips: AtLeast0
    """Of these, against the fake-quantized network."""
    predicted_classes: AtLeast1


FORMS: Mapping[str, Any] = {
    evaluation_record.KIND: evaluation_record.EvaluationRecord,
    adaptive_record.KIND: adaptive_record.AdaptiveRecord,
    checks_record.KIND: checks_record.ChecksRecord,
    certification_record.KIND: certification_record.CertificationRecord,
    pixel_record.KIND: pixel_record.PixelRecord,
    drift_record.KIND: drift_record.DriftRecord,
    **{one.kind: one.form for one in ANALYSES.values()},
    examples.KIND: examples.ExamplesRecord,
    proofs.CERTIFICATE_KIND: proofs.CertificateRecord,
    proofs.PARITY_KIND: proofs.ParityRecord,
    proofs.TARGET_PROOF_KIND: proofs.TargetProofRecord,
    "export": ExportRecord,
    "export-litert": ExportLiteRtRecord,
    "export-target": ExportTargetRecord,
    "engine-build": EngineBuildRecord,
    public_networks.KIND: PublicNetworkRecord,
    fuzzing_page.KIND: fuzzing_page.FuzzingRecord,
}
"""The payload's type of every kind of record that commands write, or that is in ``results/``."""


def record_schema(kind: str) -> dict[str, Any]:
    """Of a whole record file."""
    return json_schema(record_form(kind, FORMS[kind]))


SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "config": config_schema,
    "benchmark-beside": partial(json_schema, beside.BesideRecord),
    **{f"record-{kind}": partial(record_schema, kind) for kind in FORMS},
}
"""What makes a schema, by the name of its file."""


def main() -> int:
    """Write them all."""
    for name, make in SCHEMAS.items():
        write_atomic(FOLDER / f"{name}.json", json_bytes(make()))
        print(FOLDER / f"{name}.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
