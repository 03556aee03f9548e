"""What the speed benchmark runs: our files, and each peer's file of the same network.

====================  ==========================================================================
``float``             our float ONNX file (BatchNorm folded, no metadata), ONNX Runtime
``ours-B``            the all-integer file at B bits, ONNX Runtime
``amx-B``             the same laid out for AMX (``--tune amx``), where the processor has it
``static``            ``quantize_static`` of the float file, 8 bits, ONNX Runtime
``openvino-B``        our ``qcdq`` file at B bits, OpenVINO's int8 kernels
``openvino-static``   the file of ``static`` in OpenVINO
``litert-B``          the ``.tflite`` file at B bits, XNNPACK's kernels
====================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.networks import multiply_adds, warmed_network
from deploy.core.host import host_facts
from export.lowering import lower, lower_float
from export.qonnx_from_network import write_qonnx

CALIBRATION_IMAGES = 32
STATIC, AMX = "static", "amx"


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one network.

    Attributes:
        size: H and W of the images.
        bit_widths: of the integer files.
        macs: multiply-adds of one image.
        in_onnxruntime: by key, those that do not depend on the batch.
        in_openvino: by key.
        in_litert: by key.
    """

    size: int
    bit_widths: tuple[int, ...]
    macs: int
    in_onnxruntime: dict[str, Path]
    in_openvino: dict[str, Path]
    in_litert: dict[str, Path]


def write_files(network: str, size: int, bit_widths: Sequence[int], folder: Path) -> Files:
    """Export the network for every peer."""
    warmed = warmed_network(network, (32, *bit_widths), size=size)
    warmed.set_bit_width(32)
    macs = multiply_adds(warmed)
    in_onnxruntime: dict[str, Path] = {"float": folder / "float.onnx"}
    in_openvino: dict[str, Path] = {}
    in_litert: dict[str, Path] = {}
    lower_float(write_qonnx(warmed, 32, folder / "qonnx-32.onnx"), in_onnxruntime["float"])
    has_amx = host_facts().has("amx_int8")
    for bits in bit_widths:
        qonnx = write_qonnx(warmed, bits, folder / f"qonnx-{bits}.onnx")
        in_onnxruntime[f"ours-{bits}"] = folder / f"ours-{bits}.onnx"
        lower(qonnx, in_onnxruntime[f"ours-{bits}"])
        if has_amx:
            in_onnxruntime[f"{AMX}-{bits}"] = folder / f"{AMX}-{bits}.onnx"
            lower(qonnx, in_onnxruntime[f"{AMX}-{bits}"], tune=AMX)
        in_openvino[f"openvino-{bits}"] = folder / f"qcdq-{bits}.onnx"
        lower(qonnx, in_openvino[f"openvino-{bits}"], target="qcdq")
        in_litert[f"litert-{bits}"] = folder / f"litert-{bits}.tflite"
        lower(qonnx, in_litert[f"litert-{bits}"], target="litert")
    in_onnxruntime[STATIC] = write_static(in_onnxruntime["float"], folder / "static.onnx", size)
    in_openvino[f"openvino-{STATIC}"] = in_onnxruntime[STATIC]
    return Files(
        size=size,
        bit_widths=tuple(bit_widths),
        macs=macs,
        in_onnxruntime=in_onnxruntime,
        in_openvino=in_openvino,
        in_litert=in_litert,
    )


def write_static(float_file: Path, out: Path, size: int) -> Path:
    """ONNX Runtime's own static quantization as its documents advise for x86-64.

    Pre-processed, Q/DQ, uint8 activations, int8 weights per channel.
    """
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(float_file, prepared)
    name = onnx.load(prepared, load_external_data=False).graph.input[0].name
    quantize_static(
        prepared,
        out,
        _Images(name, size),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return out


class _Images(CalibrationDataReader):
    def __init__(self, name: str, size: int) -> None:
        self._batches = self._draw(name, size)

    @staticmethod
    def _draw(name: str, size: int) -> Iterator[dict[str, NDArray[Any]]]:
        rng = np.random.default_rng(0)
        for _ in range(CALIBRATION_IMAGES):
            yield {name: rng.integers(0, 256, (1, 3, size, size)).astype(np.uint8)}

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch, None after the last."""
        return next(self._batches, None)
