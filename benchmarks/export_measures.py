"""What is measured of each target's file, for the records of ``benchmarks.export_table``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.arm64_root import Arm64Root
from benchmarks.export_cases import Case
from benchmarks.export_rows import BUILD_KIND, KIND, LITERT_KIND, TARGET_KIND
from benchmarks.litert_arm64 import CPUS, compared_on_arm64
from benchmarks.microcontroller import run_micro
from benchmarks.records import ratio
from deploy.core.engine_protocol import Engine
from deploy.core.files import sha256_of
from deploy.core.model_contents import suffix_of
from deploy.core.model_engine import run_all
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.litert_engine import LiteRtEngine
from deploy.openvino_engine import OpenVinoEngine
from deploy.tensorrt.bindings import TENSORRT_RTX
from deploy.tensorrt.builder import build_engine
from deploy.tensorrt.options import BuildOptions
from export.budget import EQUAL, Logits, departure
from export.certificate import certify
from export.litert_certificate import certify_litert
from export.lowering import lower
from export.parity import check_litert_parity, check_parity
from export.passes.guarantee import QuantizedOperands
from export.qonnx_execution import execute_qonnx
from export.reference import LiteRtReference
from export.reference.litert_arithmetic import MICROCONTROLLER
from export.reference.qdq import QdqReference
from export.signed_images import write_with_bytes
from training.data.subset import chosen_indices
from training.prediction import logits
from training.quantize import Network

OPENVINO_LAYERS = ("Convolution", "Eltwise", "FullyConnected", "MatMul", "Pooling", "Reduce")
"""OpenVINO's names of what computes."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network at one bit-width, its QONNX file, and the images that it is measured on."""

    case: Case
    network: Network
    bits: int
    qonnx: Path
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    arm64: Arm64Root | None = None

    @cached_property
    def logits(self) -> Logits:
        """Those of the fake-quantized network."""
        return logits(self.network, self.images, self.bits, self.case.batch)

    def lowered(self, target: str) -> Path:
        """The file of a target, beside the QONNX file."""
        file = self.qonnx.with_name(f"{target}{suffix_of(target)}")
        return lower(self.qonnx, file, target=target).path


def _all_integer(subject: Subject, target: str) -> dict[str, Any]:
    path, images, batch = subject.lowered(target), subject.images, subject.case.batch
    certificate = certify(path, images[:2])
    # The subset of a subset: spread over the classes like the whole.
    few = images[chosen_indices(len(images), subject.case.parity)]
    equal = check_parity(path, few, batch_size=min(batch, 16))
    with OnnxRuntimeEngine(path) as engine:
        ours = engine.predict(images, batch_size=batch)
    return {
        "target": target,
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "nodes_integer": sum(layer.integer for layer in certificate.layers),
        "nodes_float": sum(not layer.integer for layer in certificate.layers),
        "counts": certificate.counts(),
        "failures": [f"{one.layer}: {one.reason}" for one in certificate.failures],
        "parity_images": len(few),
        "codes": sum(layer.values for layer in equal.layers),
        "codes_different": sum(layer.different for layer in equal.layers),
        "logits": equal.images * equal.classes,
        "logits_different": equal.logits_different,
        "first_departure": equal.first_departure,
        "flip_images": len(images),
        "flips": int(np.count_nonzero(ours != subject.logits.argmax(axis=1))),
        "predicted_classes": len(np.unique(ours)),
        "accuracy": float((ours == subject.labels).mean()),
    }


def _litert(subject: Subject, target: str) -> dict[str, Any]:
    path, images, batch = subject.lowered(target), subject.images, subject.case.batch
    certificate = certify_litert(path)
    few = images[chosen_indices(len(images), subject.case.parity)]
    fewer = images[chosen_indices(len(images), min(len(images), SLOW_KERNEL_IMAGES))]
    equal = check_litert_parity(path, few, batch_size=min(batch, 16))
    fixed = check_litert_parity(path, fewer, kernels="reference", batch_size=min(batch, 16))
    codes, arena_bytes = run_micro(path, fewer)
    micro = LiteRtReference(path, arithmetic=MICROCONTROLLER)
    micro_codes = np.rint(micro.run(fewer) / micro.logit_scale)
    chosen = chosen_indices(len(images), min(len(few), MICRO_REFERENCE_IMAGES))
    in_numpy = micro.run(images[chosen]).argmax(axis=1)
    with LiteRtEngine(path) as engine:
        ours = run_all(engine, images, batch)
    providers = [layer.provider for layer in certificate.layers]
    return {
        "target": target,
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "onnx_bytes": subject.lowered("onnxruntime").stat().st_size,
        "operators_xnnpack": providers.count("XNNPACK"),
        "operators_litert": providers.count("LiteRT"),
        "counts": certificate.counts(),
        "failures": [f"{one.layer}: {one.reason}" for one in certificate.failures],
        "parity_images": len(few),
        "codes": sum(layer.values for layer in equal.layers),
        "codes_different": sum(layer.different for layer in (*equal.layers, *fixed.layers)),
        "logits": equal.images * equal.classes,
        "logits_different": equal.logits_different + fixed.logits_different,
        "fixed_point_images": len(fewer),
        "micro_logits_different": int(np.count_nonzero(codes != micro_codes)),
        "micro_reference_images": len(chosen),
        "micro_flips": int(np.count_nonzero(in_numpy != ours[chosen].argmax(axis=1))),
        "micro_accuracy": float((in_numpy == subject.labels[chosen]).mean()),
        "accuracy_of_these": float((ours[chosen].argmax(axis=1) == subject.labels[chosen]).mean()),
        "ram_bytes": arena_bytes,
        "flip_images": len(images),
        "flips": _flips(ours, subject.logits),
        "predicted_classes": len(np.unique(ours.argmax(axis=1))),
        "accuracy": float((ours.argmax(axis=1) == subject.labels).mean()),
        **_arm64(subject, path),
        "over_onnxruntime": {
            str(size): _speed(path, subject.lowered("onnxruntime"), images[:size])
            for size in (1, 16)
        },
    }


def _arm64(subject: Subject, path: Path) -> dict[str, Any]:
    """Codes and logits on each processor of the emulated machine; empty without one."""
    if subject.arm64 is None:
        return {}
    images = subject.images[chosen_indices(len(subject.images), ARM64_IMAGES)]
    found = [compared_on_arm64(subject.arm64, [path], images, cpu=cpu)[path.stem] for cpu in CPUS]
    return {
        "arm64_processors": [str(cpu) for cpu in CPUS],
        "arm64_images": len(images),
        "arm64_values": sum(one.values for one in found),
        "arm64_different": sum(one.different for one in found),
    }


ARM64_IMAGES = 4
"""Images on each emulated processor."""

SLOW_KERNEL_IMAGES = 200
"""Images, at most, in LiteRT's reference kernels and in tflite-micro's."""

MICRO_REFERENCE_IMAGES = 1000
"""Images, at most, in the numpy reference of tflite-micro's arithmetic, which equals it."""

SPEED_ROUNDS, SPEED_RUNS = 30, 5
"""Rounds, and runs of each engine within one."""


def _speed(litert: Path, onnx_file: Path, batch: NDArray[np.uint8]) -> dict[str, float]:
    """Images per second of two engines, one thread each, in turn; and their ratio round by round.

    Each image's bytes go in and logits come out as the product runs them. Time is the process's
    own on the processor, which others on the machine lengthen little.
    """
    taken: dict[str, list[float]] = {"litert": [], "onnxruntime": []}
    with LiteRtEngine(litert) as ours, OnnxRuntimeEngine(onnx_file) as theirs:
        for number in range(SPEED_ROUNDS + 2):
            for name, engine in (("litert", ours), ("onnxruntime", theirs)):
                start = time.process_time()
                for _ in range(SPEED_RUNS):
                    engine.run(batch)
                if number > 1:  # the first ones allocate
                    taken[name].append((time.process_time() - start) / SPEED_RUNS)
    return {
        **{f"{name}_images_per_s": len(batch) / float(np.median(t)) for name, t in taken.items()},
        **ratio(taken["onnxruntime"], taken["litert"]),
    }


def _qdq(subject: Subject, target: str) -> dict[str, Any]:
    path, images = subject.lowered(target), subject.images
    references = 500 if subject.case.data == "cifar10" else 20
    few = chosen_indices(len(images), min(references, len(images)))
    reference = QdqReference(path).run(images[few])
    computing = [n for n in onnx.load(path).graph.node if n.op_type in QuantizedOperands.computing]
    integer = total = None
    engines: list[Engine] = []
    if target == "qcdq":
        engines.append(compiled := OpenVinoEngine(path))
        kinds = [one for one in compiled.compiled_layers() if one.operator in OPENVINO_LAYERS]
        integer, total = sum(one.precision in ("i8", "u8") for one in kinds), len(kinds)
        engines.append(OnnxRuntimeEngine(path))
    else:
        engines.append(OnnxRuntimeEngine(write_with_bytes(path, path.with_name("bytes.onnx"))))
    tried = []
    for engine in engines:
        with engine:
            found = run_all(engine, images, subject.case.batch)
        own = departure((engine.name, found[few]), ("reference", reference), EQUAL)
        tried.append(
            {
                "engine": engine.name,
                "largest_logit_difference": own.largest_difference,
                "flips_of_reference": own.flips,
                "flips": _flips(found, subject.logits),
            }
        )
    return {
        "target": target,
        "asked_images": len(images),
        "bytes": path.stat().st_size,
        "nodes_quantized": len(computing),
        "nodes_integer": integer,
        "nodes_float": None if integer is None or total is None else total - integer,
        "reference_images": len(few),
        "largest_logit": float(np.abs(reference).max()),
        "reference_flips_of_network": _flips(reference, subject.logits[few]),
        "flip_images": len(images),
        "engines": tried,
    }


def _qonnx(subject: Subject, target: str) -> dict[str, Any]:
    images = subject.images
    few = chosen_indices(len(images), min(50 if images.shape[2] < 64 else 2, len(images)))
    ours = ("qonnx executor", execute_qonnx(subject.qonnx, images[few]))
    own = departure(ours, ("network", subject.logits[few]), EQUAL)
    return {
        "target": target,
        "asked_images": len(images),
        "bytes": subject.qonnx.stat().st_size,
        "nodes_quantized": None,
        "nodes_integer": None,
        "nodes_float": None,
        "reference_images": 0,
        "largest_logit": own.largest_logit,
        "reference_flips_of_network": None,
        "flip_images": len(few),
        "engines": [
            {
                "engine": own.computed,
                "largest_logit_difference": own.largest_difference,
                "flips_of_reference": None,
                "flips": own.flips,
            }
        ],
    }


def engine_build(subject: Subject, target: str) -> dict[str, Any]:
    """Build the ``tensorrt`` file for the usual compute capabilities, and say what came out."""
    del target
    model = subject.lowered("tensorrt")
    largest = 64 if subject.case.data == "cifar10" else 16
    start = time.perf_counter()
    facts = build_engine(
        model,
        model.with_suffix(".engine"),
        TENSORRT_RTX,
        BuildOptions(batch_sizes=(1, largest, largest)),
    )
    given = [kind for layer in facts["layers"] for kind in layer["outputs"]]
    return {
        "onnx_sha256": sha256_of(model),
        "onnx_bytes": model.stat().st_size,
        "engine_bytes": facts["engine"]["size_bytes"],
        "builder": facts["builder"],
        "options": facts["options"],
        "kinds": facts["kinds"],
        "layers": len(facts["layers"]),
        "tensors": {kind: given.count(kind) for kind in sorted(set(given))},
        "build_s": round(time.perf_counter() - start, 1),
        "note": facts["note"],
    }


def _flips(ours: Logits, theirs: Logits) -> int:
    return int(np.count_nonzero(ours.argmax(axis=1) != theirs.argmax(axis=1)))


MEASURES: Mapping[str, tuple[str, Callable[[Subject, str], dict[str, Any]]]] = {
    "onnxruntime": (KIND, _all_integer),
    "litert": (LITERT_KIND, _litert),
    "qcdq": (TARGET_KIND, _qdq),
    "tensorrt": (TARGET_KIND, _qdq),
    "qonnx": (TARGET_KIND, _qonnx),
    "tensorrt-rtx": (BUILD_KIND, engine_build),
}
"""By target the kind of its record, and what is measured."""
