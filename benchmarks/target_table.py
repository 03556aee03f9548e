"""What the targets with a budget give: tensorrt, qcdq and qonnx, as records for the table.

    python -m benchmarks.target_table --cifar10 DIR --imagenette DIR [--networks …] [--targets …]

One record in results/export for each network, bit-width and target; what has one already is not
made again. Networks and images are those of ``benchmarks.export_table``; the engine is held to the
numpy reference of the same file on ``reference_images`` of them, and its classes to those of fake
quantization on ``flip_images``. Engines here: OpenVINO and ONNX Runtime for qcdq, ONNX Runtime for
tensorrt (TensorRT itself needs a GPU), the executor of the ``qonnx`` package for qonnx.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.export_table import (
    CASES,
    ROOT,
    Case,
    Data,
    add_arguments,
    bit_widths_of,
    network_of,
)
from benchmarks.target_rows import KIND
from deploy.core.engine_protocol import Engine
from deploy.core.model_engine import run_all
from deploy.core.records import provenance, read_records, write_record
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.openvino_engine import OpenVinoEngine
from export.budget import Logits
from export.lowering import lower
from export.passes.qdq.guarantees import QuantizedOperands
from export.qonnx_execution import execute_qonnx
from export.qonnx_from_network import write_qonnx
from export.reference.qdq import QdqReference
from export.signed_images import write_with_bytes
from training.data.subset import chosen_indices
from training.prediction import logits

NETWORKS = ("resnet8", "resnet20", "vgg11", "mobilenetv2", "resnet18")
BIT_WIDTHS = (8, 5, 4, 2)
TARGETS = ("qcdq", "tensorrt", "qonnx")
OPENVINO_LAYERS = ("Convolution", "Eltwise", "FullyConnected", "MatMul", "Pooling", "Reduce")
"""OpenVINO's names of what computes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make what is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.target_table", description=__doc__)
    add_arguments(parser, NETWORKS)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    arguments = parser.parse_args(argv)
    folders = {"cifar10": arguments.cifar10, "imagenette": arguments.imagenette}
    arguments.records.mkdir(parents=True, exist_ok=True)
    facts = provenance(repository=ROOT, seed=0)
    done = {_key(record["payload"]) for record in read_records(arguments.records, KIND)}
    for case in CASES:
        folder = folders[case.data]
        # The drawn resnet8 says nothing that the trained ones do not.
        superfluous = case.network == "resnet8" and case.run is None
        if case.network not in arguments.networks or folder is None or superfluous:
            continue
        data: Data | None = None
        flips = min(case.flips, arguments.images or case.flips)
        for bits in bit_widths_of(case, arguments.bits):
            missing = [t for t in arguments.targets if _wanted(case, bits, t, flips) not in done]
            if not missing:
                continue
            data = data or Data(case.data, folder)
            for payload in _measured(case, bits, missing, data, flips):
                write_record(arguments.records, KIND, payload, {**facts, "data": data.facts})
                print(f"{_wanted(case, bits, payload['target'], flips)} {payload}", flush=True)
    return 0


def _key(payload: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("network", "bits", "target", "weights", "asked_images")
    return tuple(payload[name] for name in names)


def _wanted(case: Case, bits: int, target: str, flips: int) -> tuple[Any, ...]:
    return (case.network, bits, target, case.weights, flips)


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Images, their labels, and what fake quantization gives for them."""

    images: NDArray[np.uint8]
    network: Logits
    batch: int
    references: int

    def few(self) -> NDArray[np.intp]:
        """Indices of the images that the references compute, spread like the whole."""
        return chosen_indices(len(self.images), min(self.references, len(self.images)))


def _measured(
    case: Case, bits: int, targets: Sequence[str], data: Data, flips: int
) -> Iterator[dict[str, Any]]:
    network = network_of(case, bits, data)
    images = data.test.images[chosen_indices(len(data.test), flips)]
    sample = _Sample(
        images=images,
        network=logits(network, images, bits, case.batch),
        batch=case.batch,
        references=500 if case.data == "cifar10" else 20,
    )
    with tempfile.TemporaryDirectory() as folder:
        qonnx = write_qonnx(network, bits, Path(folder) / "qonnx.onnx")
        for target in targets:
            start = time.perf_counter()
            path = qonnx
            if target != "qonnx":
                path = lower(qonnx, Path(folder) / f"{target}.onnx", target=target).path
            found = _qonnx(path, sample) if target == "qonnx" else _qdq(target, path, sample)
            yield {
                "network": case.network,
                "input_px": int(images.shape[2]),
                "bits": bits,
                "target": target,
                "weights": case.weights,
                "trained": case.run is not None,
                "asked_images": flips,
                "bytes": path.stat().st_size,
                **found,
                "seconds": round(time.perf_counter() - start, 1),
            }


def _qdq(target: str, path: Path, sample: _Sample) -> dict[str, Any]:
    few = sample.few()
    reference = QdqReference(path).run(sample.images[few])
    model = onnx.load(path)
    computing = [n for n in model.graph.node if n.op_type in QuantizedOperands.computing]
    found: dict[str, Any] = {
        "nodes_quantized": len(computing),
        "nodes_integer": None,
        "nodes_float": None,
        "reference_images": len(few),
        "largest_logit": float(np.abs(reference).max()),
        "reference_flips_of_network": _flips(reference, sample.network[few]),
        "flip_images": len(sample.images),
        "engines": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = path
        if target == "tensorrt":
            file = write_with_bytes(path, Path(folder) / "bytes.onnx")
        engines: list[Engine] = [OnnxRuntimeEngine(file)]
        if target == "qcdq":
            compiled = OpenVinoEngine(file)
            kinds = [one for one in compiled.compiled_layers() if one.operator in OPENVINO_LAYERS]
            found["nodes_integer"] = sum(one.precision in ("i8", "u8") for one in kinds)
            found["nodes_float"] = len(kinds) - found["nodes_integer"]
            engines.insert(0, compiled)
        for engine in engines:
            with engine:
                given = run_all(engine, sample.images, sample.batch)
            found["engines"].append(_engine(engine.name, given, few, reference, sample))
    return found


def _qonnx(path: Path, sample: _Sample) -> dict[str, Any]:
    count = min(50 if sample.images.shape[2] < 64 else 2, len(sample.images))
    few = chosen_indices(len(sample.images), count)
    ours = execute_qonnx(path, sample.images[few])
    gap = np.abs(ours.astype(np.float64) - sample.network[few])
    return {
        "nodes_quantized": None,
        "nodes_integer": None,
        "nodes_float": None,
        "reference_images": 0,
        "largest_logit": float(np.abs(sample.network[few]).max()),
        "reference_flips_of_network": None,
        "flip_images": count,
        "engines": [
            {
                "engine": "qonnx executor",
                "largest_logit_difference": float(gap.max()),
                "flips_of_reference": None,
                "flips": _flips(ours, sample.network[few]),
            }
        ],
    }


def _engine(
    name: str, logits: Logits, few: NDArray[np.intp], reference: Logits, sample: _Sample
) -> dict[str, Any]:
    gap = np.abs(logits[few].astype(np.float64) - reference)
    return {
        "engine": name,
        "largest_logit_difference": float(gap.max()),
        "flips_of_reference": _flips(logits[few], reference),
        "flips": _flips(logits, sample.network),
    }


def _flips(ours: Logits, theirs: Logits) -> int:
    return int(np.count_nonzero(ours.argmax(axis=1) != theirs.argmax(axis=1)))


if __name__ == "__main__":
    sys.exit(main())
