"""The OpenVINO engine: the only file that imports openvino, and only when opened.

For standard Q/DQ files (``qadtr export --target qcdq``). OpenVINO's compiler turns Q/DQ pairs
around an operator into an integer kernel. On x86-64 without VNNI those kernels add pairs of
products in 16 bits and silently saturate where 8-bit weights are large; ONNX Runtime has a switch
against it, OpenVINO has none. So on such a processor this engine runs the file's values in float32
unless integers are requested, and reports this.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .core.errors import EngineUnavailable, InputError
from .core.files import read_bytes, sha256_of_bytes
from .core.host import host_facts
from .core.images import GREY_OR_RGB
from .core.installing import install_command
from .core.model_engine import ModelEngine, require_threads
from .core.text import one_line

logger = logging.getLogger(__name__)

INPUT_NAME, OUTPUT_NAME = "images", "logits"


def compiler_settings(threads: int, *, integers: bool) -> dict[str, str]:
    """Return the settings of OpenVINO's compiler for a Q/DQ file; no number is computed in fewer
    bits than the file states."""
    return {
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "LP_TRANSFORMS_MODE": "YES" if integers else "NO",
    }


class CompiledLayer(NamedTuple):
    """One node of the compiled graph: what it does, such as ``Convolution``, and in which type it
    computes, such as ``u8``, ``i8`` or ``f32``; both in OpenVINO's words.
    """

    operator: str
    precision: str


class OpenVinoEngine(ModelEngine):
    """One ONNX file in OpenVINO, on the CPU.

    Args:
        model: the ``.onnx`` file: ``images`` uint8 N×3×H×W to ``logits`` float32 N×C.
        threads: of the engine.
        integers: whether Q/DQ pairs become integer kernels; None: unless this processor's
            saturate.

    Attributes, beside those of :class:`.core.engine_protocol.Engine`:
        model_sha256: of the bytes that were loaded.
        integers: whether integer kernels were asked of the compiler.

    Raises:
        EngineUnavailable: openvino is not installed.
        InputError: the file is missing, damaged, or of another interface.
        UsageError: fewer than one thread.
    """

    def __init__(self, model: Path, *, threads: int = 1, integers: bool | None = None) -> None:
        require_threads(threads)
        self._model = Path(model)
        self.name, self.threads = "openvino-cpu", threads
        saturates = host_facts().u8s8_saturates
        self.integers = not saturates if integers is None else integers
        if integers is None and saturates:
            logger.info(
                "this processor has no VNNI: OpenVINO's int8 kernels saturate on it, so %s runs in "
                "float32", self._model.name,
            )  # fmt: skip
        data = read_bytes(self._model)
        self.model_sha256 = sha256_of_bytes(data)
        try:
            import openvino as ov  # here, so that the rest of the package works without it
        except Exception as error:  # its import looks for a home, and raises what it likes
            raise EngineUnavailable(
                f"the engine 'openvino' needs the package openvino ({one_line(str(error))}); "
                f"install it: {install_command('openvino')}"
            ) from error
        settings = compiler_settings(threads, integers=self.integers)
        try:
            core = ov.Core()
            self._compiled = core.compile_model(core.read_model(data, b""), "CPU", settings)
        # openvino raises RuntimeError and its own classes, which have no documented base.
        except Exception as error:
            raise InputError(
                f"OpenVINO {ov.__version__} does not load {self._model}: {one_line(str(error))}"
            ) from error
        self._read_interface()
        self._request: Any = self._compiled.create_infer_request()

    def _read_interface(self) -> None:
        inputs, outputs = self._compiled.inputs, self._compiled.outputs
        named = [port.any_name for port in (*inputs, *outputs)]
        if named != [INPUT_NAME, OUTPUT_NAME]:
            raise InputError(
                f"{self._model} has inputs and outputs {', '.join(named)}; expected "
                f"'{INPUT_NAME}' and '{OUTPUT_NAME}'"
            )
        image, logits = inputs[0].partial_shape, outputs[0].partial_shape
        sides = [dim.get_length() if dim.is_static else 0 for dim in image]
        classes = logits[1].get_length() if len(logits) == 2 and logits[1].is_static else 0
        kind = inputs[0].element_type.get_type_name()
        if kind != "u8" or len(sides) != 4 or sides[1] not in GREY_OR_RGB or not all(sides[1:]):
            raise InputError(
                f"{self._model} takes {kind} {image}; expected uint8 N×3×H×W with numbers for H "
                "and W"
            )
        if not classes:
            raise InputError(f"{self._model} gives {logits}; expected N×C with a number for C")
        self.input_shape: tuple[int, int, int] = (sides[1], sides[2], sides[3])
        self.batch_size: int | None = sides[0] or None
        self.classes: int = classes

    def compiled_layers(self) -> list[CompiledLayer]:
        """What the compiled graph runs, in its order; stored values left out."""
        layers = []
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            facts = {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}
            layer = CompiledLayer(facts.get("layerType", ""), facts.get("runtimePrecision", ""))
            if layer.operator != "Const":
                layers.append(layer)
        return layers

    def close(self) -> None:
        """Free the compiled model; again is not an error."""
        self._request = None

    @property
    def _is_open(self) -> bool:
        return self._request is not None

    def _logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            found = self._request.infer({INPUT_NAME: np.ascontiguousarray(batch)})
        except Exception as error:  # see __init__
            reason = one_line(str(error))
            raise InputError(f"OpenVINO failed to run {self._model}: {reason}") from error
        logits: NDArray[np.float32] = next(iter(found.values())).copy()
        return logits
