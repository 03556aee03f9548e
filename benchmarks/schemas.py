"""Write docs/schemas: the JSON Schemas of the records of commands and of these benchmarks.

python -m benchmarks.schemas [FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from eval.measure.evaluation_record import Counts
from eval.stages.schemas import FORMS, write_schemas
from training.record_types import Fraction, Sha256
from training.validated import AtLeast0, AtLeast1, NotNegative

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "schemas"


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


ALL_FORMS: Mapping[str, Any] = {
    **FORMS,
    "export": ExportRecord,
    "export-target": ExportTargetRecord,
    "engine-build": EngineBuildRecord,
}
"""The payload's type of every kind of record in ``results/``, and of those that commands write."""


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, ALL_FORMS)
