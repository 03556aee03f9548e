"""The one place where engines are opened by name."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .core.engine_protocol import Engine
from .core.errors import EngineUnavailable, UsageError
from .core.model_contents import target_of as target_of
from .device.onnxruntime_engine import OnnxRuntimeEngine
from .litert_engine import LiteRtEngine
from .onnxruntime_openvino_engine import OnnxRuntimeOpenVinoEngine
from .onnxruntime_tensorrt_engine import OnnxRuntimeTensorRtEngine, OnnxRuntimeTensorRtRtxEngine
from .openvino_engine import OpenVinoEngine
from .tensorrt.engine import TensorRtEngine, TensorRtRtxEngine

ENGINES: Mapping[str, Callable[..., Engine]] = {
    "litert": LiteRtEngine,
    "onnxruntime": OnnxRuntimeEngine,
    "onnxruntime-openvino": OnnxRuntimeOpenVinoEngine,
    "onnxruntime-tensorrt": OnnxRuntimeTensorRtEngine,
    "onnxruntime-tensorrt-rtx": OnnxRuntimeTensorRtRtxEngine,
    "openvino": OpenVinoEngine,
    "tensorrt": TensorRtEngine,
    "tensorrt-rtx": TensorRtRtxEngine,
}
"""The engines whose code is here, by the name that commands take."""

DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "litert": ("ai-edge-litert",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "onnxruntime-openvino": ("onnxruntime-ep-openvino",),
    "onnxruntime-tensorrt-rtx": (
        "onnxruntime-ep-nv-tensorrt-rtx-cu13",
        "onnxruntime-ep-nv-tensorrt-rtx-cu12",
    ),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"),
}
"""The distributions of an engine's package, any of which states its version."""


def version_of(engine: str) -> str:
    """Version of an engine's package, "unknown" where none of its distributions is installed.

    Args:
        engine: an open engine's own name, such as "onnxruntime-cpu"; or a distribution, "torch".
    """
    families = [name for name in DISTRIBUTIONS if f"{engine}-".startswith(f"{name}-")]
    for distribution in DISTRIBUTIONS[max(families, key=len)] if families else (engine,):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def require_engine(name: str) -> None:
    """Check that there is code for an engine, before its file is looked for.

    Raises:
        EngineUnavailable: no engine of that name here.
    """
    if name not in ENGINES:
        raise EngineUnavailable(f"unknown engine {name!r}; available: {', '.join(sorted(ENGINES))}")


def open_engine(name: str, model: Path, **settings: Any) -> Engine:
    """Open ``model`` in the engine ``name``; use it in a ``with``.

    Args:
        name: one of ``ENGINES``.
        model: the file for that engine.
        settings: the engine's own, such as ``threads``.

    Raises:
        EngineUnavailable: no engine of that name here, or its package is not installed.
        UsageError: a setting that the engine does not have.
        InputError: the file is missing, damaged or not for this engine.
    """
    require_engine(name)
    engine = ENGINES[name]
    parameters = inspect.signature(engine).parameters.values()
    known = [item.name for item in parameters if item.kind is item.KEYWORD_ONLY]
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise UsageError(
            f"the engine {name!r} has no setting {', '.join(unknown)}; its settings are "
            f"{', '.join(known)}"
        )
    return engine(model, **settings)
