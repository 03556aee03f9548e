"""TensorRT and TensorRT-RTX as providers of ONNX Runtime, nothing beside them.

"onnxruntime-tensorrt" is the provider that onnxruntime-gpu is built with,
"onnxruntime-tensorrt-rtx" NVIDIA's plug-in for any onnxruntime.

ONNX Runtime gives a provider the nodes that it takes and the rest to others, and continues without
a provider that does not load. Neither happens here: the provider must be present, the session may
not fall back, and a profiled run must show every node in it. TensorRT does not report through ONNX
Runtime what its layers compute in, so there is no certificate.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .core.errors import EngineUnavailable
from .core.files import read_bytes
from .core.images import INPUT_ZERO_POINT, int8_codes
from .core.scratch import Scratch
from .device.onnxruntime_engine import OnnxRuntimeEngine
from .device.profile_check import read_profile
from .onnxruntime_plugin import FromPlugin
from .tensorrt.builder import NEVER_RUN
from .tensorrt.onnx_file import check_symmetric_int8

PROVIDER = "TensorrtExecutionProvider"
LARGEST_BATCH = 64


class OnnxRuntimeTensorRtEngine(OnnxRuntimeEngine):
    """One ONNX file of the target ``tensorrt`` in ONNX Runtime's TensorRT provider.

    Args:
        model: the ``.onnx`` file.
        threads: for the host.

    Attributes are those of :class:`OnnxRuntimeEngine`, and ``note``.

    Raises:
        EngineUnavailable: onnxruntime or the provider is not here, or does not load.
        InputError: the file is not for TensorRT, or a node ran in another provider.
        UsageError: fewer than one thread.
    """

    providers: ClassVar[Mapping[str, str]] = {"tensorrt": PROVIDER}
    remedy: ClassVar[str] = (
        "the package onnxruntime-gpu has it (install it instead of onnxruntime), and needs the "
        "TensorRT libraries of the version that it was linked with"
    )
    image_type: ClassVar[str] = "tensor(int8)"

    def __init__(self, model: Path, *, threads: int = 1) -> None:
        self._facts = check_symmetric_int8(read_bytes(Path(model)), str(model))
        self.note = NEVER_RUN
        with Scratch() as folder:
            profile = folder / "profile.json"
            (kind,) = self.providers
            super().__init__(model, threads=threads, provider=kind, profile_to=profile)
            try:
                self._check_providers()
            except BaseException:
                self._profile_to = None
                self.close()
                raise

    def _provider_options(self) -> dict[str, str]:
        shape = "x".join(map(str, self._facts.input_shape))
        largest = self._facts.batch_size or LARGEST_BATCH
        return {
            # TensorRT 10 wants the flag for Q/DQ nodes too; it licenses no implicit quantization.
            "trt_int8_enable": "1",
            "trt_fp16_enable": "0",
            "trt_profile_min_shapes": f"images:{self._facts.batch_size or 1}x{shape}",
            "trt_profile_opt_shapes": f"images:{largest}x{shape}",
            "trt_profile_max_shapes": f"images:{largest}x{shape}",
        }

    def _taken(self, batch: NDArray[np.uint8]) -> NDArray[Any]:
        return int8_codes(batch)

    def _check_providers(self) -> None:
        """Run one batch of grey images with the profiler on, then look where it ran."""
        shape = (self._facts.batch_size or 1, *self._facts.input_shape)
        self.run(np.full(shape, INPUT_ZERO_POINT, np.uint8))
        session, self._profile_to = self._session, None
        assert session is not None
        (provider,) = self.providers.values()
        require_only(provider, Path(session.end_profiling()))


class OnnxRuntimeTensorRtRtxEngine(FromPlugin, OnnxRuntimeTensorRtEngine):
    """One ONNX file of the target ``tensorrt`` in NVIDIA's TensorRT-RTX plug-in.

    Arguments, attributes and errors are those of :class:`OnnxRuntimeTensorRtEngine`.
    """

    providers: ClassVar[Mapping[str, str]] = {"tensorrt-rtx": "NvTensorRTRTXExecutionProvider"}
    package: ClassVar[str] = "onnxruntime_ep_nv_tensorrt_rtx"
    extra: ClassVar[str] = "rtx-ep"
    device: ClassVar[str] = "GPU"
    hardware: ClassVar[str] = "an NVIDIA GPU of compute capability 8.0 or more and its driver"

    def _provider_options(self) -> dict[str, str]:
        shape = "x".join(map(str, self._facts.input_shape))
        largest = self._facts.batch_size or LARGEST_BATCH
        return {
            "nv_profile_min_shapes": f"images:{self._facts.batch_size or 1}x{shape}",
            "nv_profile_opt_shapes": f"images:{largest}x{shape}",
            "nv_profile_max_shapes": f"images:{largest}x{shape}",
        }


def require_only(provider: str, profile: Path) -> int:
    """Return how many nodes a profiled run had, all of them in one provider.

    ``profile`` is the JSON that ONNX Runtime wrote, ``provider`` its name of one.

    Raises:
        InputError: no such profile.
        EngineUnavailable: no node, or one that ran in another provider.
    """
    events = read_profile(profile)
    where: dict[str, str] = {}
    for event in events:
        arguments = event.get("args") if isinstance(event, dict) else None
        if isinstance(arguments, dict) and "provider" in arguments:
            where[str(event.get("name"))] = str(arguments["provider"])
    elsewhere = {name: one for name, one in where.items() if one != provider}
    if elsewhere or not where:
        told = ", ".join(f"{name} in {one}" for name, one in list(elsewhere.items())[:5])
        raise EngineUnavailable(
            f"{len(elsewhere)} of {len(where)} nodes did not run in {provider}: "
            f"{told or 'no node ran'}; a silent fallback is not allowed"
        )
    return len(where)
