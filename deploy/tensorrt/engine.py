"""The engines "tensorrt" and "tensorrt-rtx": an ONNX file of the target ``tensorrt`` on a GPU.

They have never run on hardware (:data:`deploy.tensorrt.builder.NEVER_RUN`): each engine states this
when it is opened, and so does the report of a validation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError, UsageError
from ..core.files import read_bytes
from ..core.images import int8_codes
from ..core.model_engine import ModelEngine, require_threads
from .batches import BatchRunner, Enqueue
from .bindings import TENSORRT, TENSORRT_RTX, Bindings, Flavour, load
from .builder import NEVER_RUN, build_plan, deserialised, inspected
from .cuda import Device
from .engine_file import read_engine_file
from .layers import require_integer
from .onnx_file import IMAGES, LOGITS, OnnxFacts, check_symmetric_int8
from .options import CURRENT, BuildOptions

logger = logging.getLogger(__name__)


class TensorRtEngine(ModelEngine):
    """One ONNX file in TensorRT 10 or 11, on a GPU.

    Args:
        model: the ``.onnx`` file.
        threads: only recorded; a GPU has no thread count to set.
        engine_file: built from ``model`` earlier by :func:`deploy.tensorrt.builder.build_engine`;
            None builds one in memory, for the machine's GPU.
        gpu: its ordinal.
        lean_runtime: the library of the lean runtime that a version-compatible engine runs in.

    Attributes, besides those of :class:`..core.engine_protocol.Engine`:
        model_sha256: of the ONNX file.
        gpu: the GPU's name and compute capability.
        layers: of the engine, as the inspector lists them.

    Raises:
        EngineUnavailable: the package, the driver or the GPU is missing.
        InputError: the model is not for TensorRT, the engine file does not fit, or a layer does
            not run in integers.
        UsageError: fewer than one thread; a version-compatible engine without its lean runtime.
    """

    flavour: ClassVar[Flavour] = TENSORRT

    def __init__(
        self,
        model: Path,
        *,
        threads: int = 1,
        engine_file: Path | None = None,
        gpu: int = 0,
        lean_runtime: Path | None = None,
    ) -> None:
        require_threads(threads)
        self._model = Path(model)
        self._runner: BatchRunner | None = None
        self.name, self.threads, self.note = self.flavour.name, threads, NEVER_RUN
        data = read_bytes(self._model)
        onnx = check_symmetric_int8(data, str(self._model))
        self._bindings = load(self.flavour)
        self._device = Device(gpu)
        self.version, self.model_sha256 = self._bindings.version, onnx.sha256
        self.gpu = f"{self._device.name}, compute capability {self._device.compute_capability}"
        self.input_shape, self.classes = onnx.input_shape, onnx.classes
        self.batch_size = onnx.batch_size
        try:
            self._open(data, onnx, engine_file, lean_runtime)
        except BaseException:
            self.close()
            raise
        logger.warning("%s: %s", self.name, self.note)

    def _open(
        self, data: bytes, onnx: OnnxFacts, engine_file: Path | None, lean_runtime: Path | None
    ) -> None:
        bindings = self._bindings
        facts: Mapping[str, Any]
        if engine_file is None:
            options = BuildOptions(compute_capabilities=(CURRENT,) if self.flavour.rtx else None)
            plan, facts = build_plan(data, str(self._model), self.flavour, options)
        else:
            plan, facts = read_engine_file(
                Path(engine_file), onnx_sha256=onnx.sha256, bindings=bindings
            )
        compatible = facts["options"].get("version_compatible", False)
        self._runtime = _runtime(bindings, lean_runtime, compatible)
        self._engine = deserialised(plan, str(self._model), bindings, self._runtime)
        self._check_interface()
        self.layers = inspected(self._engine, bindings)
        self._kinds = require_integer(self.layers, onnx.operators, f"the engine of {self._model}")
        self._runner = BatchRunner(
            self._device,
            self._prepare,
            image_shape=self.input_shape,
            classes=self.classes,
            least=facts["batch_sizes"][0],
            largest=facts["batch_sizes"][2],
            graphs=not self.flavour.rtx,
        )

    def _check_interface(self) -> None:
        engine, types = self._engine, self._bindings.api.DataType
        names = map(engine.get_tensor_name, range(engine.num_io_tensors))
        expected = {IMAGES: types.INT8, LOGITS: types.FLOAT}
        found = {name: engine.get_tensor_dtype(name) for name in names}
        if found != expected:
            raise InputError(
                f"the engine of {self._model} has the tensors {found}, expected {expected}: it "
                "was built from another file"
            )

    def _context(self) -> Any:
        """A separate context for each batch size, as recorded graphs require."""
        return self._engine.create_execution_context()

    def _prepare(self, size: int, codes: int, logits: int, stream: int) -> Enqueue:
        context = self._context()
        if not (
            context is not None
            and context.set_input_shape(IMAGES, (size, *self.input_shape))
            and context.set_tensor_address(IMAGES, codes)
            and context.set_tensor_address(LOGITS, logits)
        ):
            raise InputError(
                f"{self.name} cannot run {self._model} in batches of {size}: "
                f"{self._bindings.log.last_errors()}"
            )

        def enqueue() -> None:
            if not context.execute_async_v3(stream):
                raise InputError(
                    f"{self.name} failed to run {self._model}: {self._bindings.log.last_errors()}"
                )

        return enqueue

    def tells_every_layer(self) -> bool:
        """False: only convolutions, products and pools are listed."""
        return False

    def kinds_that_ran(self) -> Mapping[str, int]:
        """How many layers of each kind the engine runs on int8 codes."""
        return self._kinds

    def close(self) -> None:
        """Free the engine and its memory on the GPU; a second call is not an error."""
        self._runner = None
        # Contexts are freed first, then the engine, its runtime, and last the GPU's context.
        self._engine = self._runtime = None
        self._device.close()

    @property
    def _is_open(self) -> bool:
        return self._runner is not None

    def _logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert self._runner is not None
        return self._runner.run(int8_codes(batch))


class TensorRtRtxEngine(TensorRtEngine):
    """One ONNX file in TensorRT-RTX, on a GPU; as :class:`TensorRtEngine`.

    TensorRT-RTX compiles kernels on the device. Here it does so eagerly, so that an image has the
    same result from the first run on. It makes its own CUDA graphs.
    """

    flavour = TENSORRT_RTX

    def _context(self) -> Any:
        api = self._bindings.api
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        config.dynamic_shapes_kernel_specialization_strategy = (
            api.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        return self._engine.create_execution_context(config)


def _runtime(bindings: Bindings, lean_runtime: Path | None, compatible: bool) -> Any:
    runtime = bindings.api.Runtime(bindings.logger)
    if not compatible:
        return runtime
    if lean_runtime is None:
        raise UsageError(
            "a version-compatible engine runs in the lean runtime of the version that built it; "
            "give that library as lean_runtime (libnvinfer_lean.so of the package tensorrt-lean)"
        )
    loaded = runtime.load_runtime(str(lean_runtime))
    if loaded is None:
        raise InputError(f"{lean_runtime} does not load: {bindings.log.last_errors()}")
    return loaded
