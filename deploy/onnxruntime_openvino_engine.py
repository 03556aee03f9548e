"""The engine "onnxruntime-openvino": stock onnxruntime with Intel's plug-in, nothing beside it.

For files of the target ``qcdq``. The plug-in takes the whole graph or the session does not open,
and OpenVINO's own counters, which it puts into ONNX Runtime's profile, name the kernel of every
layer: each convolution and product must be an int8 one. The plug-in supports only Intel processors;
:class:`.openvino_engine.OpenVinoEngine` runs the same file on others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from .core.errors import EngineUnavailable, InputError
from .core.files import read_bytes
from .core.host import host_facts
from .core.images import INPUT_ZERO_POINT
from .core.model_contents import read_model_contents
from .core.model_engine import require_threads
from .core.onnx_operators import OnnxFile
from .core.scratch import Scratch
from .device.onnxruntime_engine import OnnxRuntimeEngine
from .device.profile_check import read_profile
from .onnxruntime_plugin import FromPlugin
from .openvino_engine import compiler_settings

KIND_OF_LAYER: Mapping[str, str] = {
    "Convolution": "convolution",
    "FullyConnected": "matrix product",
    "FullyConnectedQuantizedLegacy": "matrix product",
    "MatMul": "matrix product",
}
"""OpenVINO's names of what must be in integers."""

_IN_THE_FILE = {"Conv": "convolution", "Gemm": "matrix product"}


class Kernel(NamedTuple):
    """What ran of one layer: its name, OpenVINO's operator, and the kernel, such as
    ``brgconv_avx512_I8``, which ends with the type that it computes in."""

    layer: str
    operator: str
    kernel: str


class OnnxRuntimeOpenVinoEngine(FromPlugin, OnnxRuntimeEngine):
    """One ONNX file of the target ``qcdq`` in Intel's plug-in, on the CPU.

    Args:
        model: the ``.onnx`` file.
        threads: of OpenVINO.

    Attributes, beside those of :class:`OnnxRuntimeEngine`:
        kernels: what ran of each layer, in the engine's order, measured when it was opened.

    Raises:
        EngineUnavailable: onnxruntime or the plug-in is not installed, the processor is not
            Intel's, or its int8 kernels would saturate.
        InputError: the file is missing, damaged or of another interface, or not all of it ran in
            the plug-in and in integers.
        UsageError: fewer than one thread.

    Example:
        >>> with OnnxRuntimeOpenVinoEngine(Path("qcdq-4.onnx")) as engine:  # doctest: +SKIP
        ...     engine.run(images).shape
        (16, 10)
    """

    providers: ClassVar[Mapping[str, str]] = {"openvino": "OpenVINOExecutionProvider"}
    package: ClassVar[str] = "onnxruntime_ep_openvino"
    extra: ClassVar[str] = "openvino-ep"
    device: ClassVar[str] = "CPU"
    hardware: ClassVar[str] = (
        "an Intel processor (on others the engine 'openvino' runs the same file)"
    )

    def __init__(self, model: Path, *, threads: int = 1) -> None:
        require_threads(threads)
        if host_facts().u8s8_saturates:
            raise EngineUnavailable(
                "this processor has no VNNI: OpenVINO's int8 kernels saturate on it; use the "
                "engine 'onnxruntime', which is exact, or 'openvino', which runs float32 here"
            )
        contents = read_model_contents(read_bytes(Path(model)), str(model))
        if "QLinearConv" in contents.operators:
            raise InputError(
                f"{model} is an all-integer file, which OpenVINO does not support; expected a "
                "Q/DQ file, as qadtr export --target qcdq writes it"
            )
        self._counted = True
        with Scratch() as folder:
            profile = folder / "profile.json"
            super().__init__(model, threads=threads, provider="openvino", profile_to=profile)
            try:
                shape = (self.batch_size or 1, *self.input_shape)
                self.run(np.full(shape, INPUT_ZERO_POINT, np.uint8))
            finally:
                self.close()
            self.kernels = kernels_of(profile, self.providers["openvino"])
        self._kinds = require_integers(contents, str(model), self.kernels)
        self._counted = False  # counting costs time
        super().__init__(model, threads=threads, provider="openvino")

    def _provider_options(self) -> dict[str, str]:
        settings = compiler_settings(self.threads, integers=True)
        if self._counted:
            settings["PERF_COUNT"] = "YES"
        return {"load_config": json.dumps({"CPU": settings})}

    def tells_every_layer(self) -> bool:
        """No: sums and pools are not stated."""
        return False

    def kinds_that_ran(self) -> Mapping[str, int]:
        """Return how many convolutions and products ran, all of them in integers."""
        return self._kinds


def kernels_of(profile: Path, provider: str) -> tuple[Kernel, ...]:
    """Return the kernels that OpenVINO counted in a profiled run, each layer once.

    Raises:
        InputError: no such profile, a node that ran in another provider, or no kernel.
    """
    found: dict[str, Kernel] = {}
    for event in read_profile(profile):
        arguments = event.get("args") if isinstance(event, dict) else None
        if not isinstance(arguments, dict):
            continue
        name, where = str(event.get("name")), arguments.get("provider", provider)
        if where != provider:
            raise InputError(f"{name} ran in {where}, not in {provider}; a fallback is not allowed")
        if "ov_exec_type" in arguments and arguments.get("ov_status") == "EXECUTED":
            operator, kernel = str(arguments.get("ov_node_type")), str(arguments["ov_exec_type"])
            found[name] = Kernel(name.removeprefix("OV::"), operator, kernel)
    if not found:
        raise InputError(f"{provider} counted no kernel, so it is not known what ran")
    return tuple(found.values())


def require_integers(file: OnnxFile, name: str, kernels: tuple[Kernel, ...]) -> dict[str, int]:
    """Return the number of convolutions and products, which the file has too, all in integers.

    Raises:
        InputError: one ran in float, or there are others than the file has.
    """
    ran = [one for one in kernels if one.operator in KIND_OF_LAYER]
    in_float = [one for one in ran if not one.kernel.lower().endswith(("_i8", "_u8"))]
    if in_float:
        told = ", ".join(f"{one.layer} ({one.kernel})" for one in in_float[:5])
        raise InputError(
            f"{len(in_float)} of {len(ran)} convolutions and products of {name} ran in float in "
            f"OpenVINO: {told}; expected int8 kernels; use a file of the target qcdq"
        )
    wanted = dict.fromkeys(_IN_THE_FILE.values(), 0)
    for node in file.nodes:
        if node.operator in _IN_THE_FILE:
            wanted[_IN_THE_FILE[node.operator]] += 1
    if sum(wanted.values()) != len(ran):
        raise InputError(
            f"OpenVINO ran {len(ran)} convolutions and products, but {name} has "
            f"{sum(wanted.values())}: it is not known how the others were run"
        )
    counts = dict.fromkeys(_IN_THE_FILE.values(), 0)
    for one in ran:
        counts[KIND_OF_LAYER[one.operator]] += 1
    return counts
