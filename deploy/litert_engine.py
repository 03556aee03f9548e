"""The LiteRT engine: the only file of deploy that imports ai_edge_litert, and only when opened.

For ``.tflite`` files (``qadtr export --target litert``).  LiteRT has two kinds of kernels that
matter here: XNNPACK's, which it takes by default wherever they can run an operator, and its own
reference kernels, whose fixed-point arithmetic is that of microcontrollers.  Both are integer; they
round alike except where a sum lies near a half, and each has its numpy reference
(``export.reference.litert``).
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .core.errors import EngineUnavailable, InputError, UsageError
from .core.files import read_bytes, sha256_of_bytes
from .core.host import host_facts
from .core.images import GREY_OR_RGB
from .core.installing import install_command
from .core.model_engine import ModelEngine, require_threads
from .core.operator_kinds import KINDS
from .core.scratch import Scratch
from .core.text import one_line
from .core.tflite_file import read_tflite
from .device.own_process import answer, how_it_ended, limit_memory

KERNELS = ("xnnpack", "reference")
PROCESSORS = ("x86_64", "amd64", "aarch64", "arm64")
"""Where XNNPACK multiplies in float32 and rounds halves to even, as the reference has it."""

_RESOLVERS: Mapping[str, str] = {"xnnpack": "BUILTIN", "reference": "BUILTIN_REF"}
_DELEGATE = "DELEGATE"
LITERT_KINDS: Mapping[str, str] = {
    "ADD": "addition",
    "AVERAGE_POOL_2D": "pool",
    "CONV_2D": "convolution",
    "DEPTHWISE_CONV_2D": "convolution",
    "FULLY_CONNECTED": "matrix product",
    "MAX_POOL_2D": "pool",
    "MEAN": "pool",
    "MUL": "gate",
}
"""LiteRT's operators that must be integer, by the kind of :data:`.core.operator_kinds.KINDS`."""


REHEARSAL_S = 60.0
_SPARE_BYTES = 1 << 30
_TIMES_A_FILE = 8
"""What loading may take beside the file itself: LiteRT packs weights anew."""
_MODEL = "model.tflite"
_rehearsed: set[tuple[str, str]] = set()


def _require_rehearsed(data: bytes, kernels: str, model: Path, sha256: str) -> None:
    """Load a file in a process of its own first: on damaged ones LiteRT aborts, or takes gigabytes.

    Where no process can be started (a processor that is played, a sandbox), nothing is tried, and
    a file that LiteRT does not survive ends this process: without a verdict, and not with 0.

    Raises:
        InputError: that process died, or ran out of its memory or time.
    """
    if (sha256, kernels) in _rehearsed:
        return
    spare = _SPARE_BYTES + _TIMES_A_FILE * len(data)
    job = {"kernels": kernels, "spare_bytes": spare}
    try:
        with Scratch() as folder:
            (folder / _MODEL).write_bytes(data)
            ended = how_it_ended(__spec__.name, job, folder, REHEARSAL_S)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"LiteRT had not loaded {model} after {REHEARSAL_S:.0f} s; export or copy it again"
        ) from error
    except OSError:
        return
    if ended.code:
        how = f"signal {-ended.code}" if ended.code < 0 else str(ended.error or ended.said)
        raise InputError(
            f"loading {model} in LiteRT, with {spare >> 20} MiB, crashed the process ({how}); "
            "export or copy it again"
        )
    _rehearsed.add((sha256, kernels))


def _rehearse(job: Mapping[str, Any], folder: Path) -> None:
    """Load and run the file once; an error of LiteRT's is one where the file is opened, too."""
    from ai_edge_litert import interpreter as litert

    limit_memory(job["spare_bytes"])
    try:
        one = litert.Interpreter(
            model_content=(folder / _MODEL).read_bytes(),
            num_threads=1,
            experimental_op_resolver_type=_resolver(litert, job["kernels"]),
        )
        one.allocate_tensors()
        for image in one.get_input_details():
            one.set_tensor(image["index"], np.zeros(image["shape"], image["dtype"]))
        one.invoke()
        one.get_tensor_details(), one._get_ops_details()
    except (RuntimeError, ValueError):
        pass


def _resolver(litert: Any, kernels: str) -> Any:
    return getattr(litert.OpResolverType, _RESOLVERS[kernels])


class RanOperator(NamedTuple):
    """One operator as the interpreter runs it: its name in LiteRT's words, the tensor that it
    gives, the element types of what it reads and gives, and whose kernel took it, ``XNNPACK`` or
    ``LiteRT``."""

    operator: str
    tensor: str
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]
    provider: str


class LiteRtEngine(ModelEngine):
    """One ``.tflite`` file in LiteRT's interpreter, on the CPU.

    Args:
        model: the file: ``images`` int8 N×H×W×C of byte - 128, to ``logits`` int16 N×classes.
        threads: of the engine.
        kernels: "xnnpack", what LiteRT takes by default; or "reference", the fixed-point kernels.

    Attributes, beside those of :class:`.core.engine_protocol.Engine`:
        model_sha256: of the bytes that were loaded.
        version: of ai-edge-litert.
        kernels: as given.

    Raises:
        EngineUnavailable: ai-edge-litert is not installed, or XNNPACK's arithmetic is not known on
            this processor.
        InputError: the file is missing, damaged, or of another interface.
        UsageError: fewer than one thread, or kernels that are not known.

    Example:
        >>> with LiteRtEngine(Path("export/litert-4.tflite")) as engine:  # doctest: +SKIP
        ...     classes = engine.predict(images)
    """

    def __init__(self, model: Path, *, threads: int = 1, kernels: str = "xnnpack") -> None:
        require_threads(threads)
        if kernels not in KERNELS:
            raise UsageError(f"unknown kernels {kernels!r}; available: {', '.join(KERNELS)}")
        machine = host_facts().machine
        if kernels == "xnnpack" and machine.lower() not in PROCESSORS:
            raise EngineUnavailable(
                "the engine 'litert' needs x86-64 or aarch64 for XNNPACK's kernels, and this "
                f"processor is {machine}; LiteRT's fixed-point kernels run on any processor, so "
                "open the model with kernels='reference'"
            )
        self._model, self._opened = Path(model), False
        self.name, self.threads, self.kernels = f"litert-{kernels}", threads, kernels
        data = read_bytes(self._model)
        self.model_sha256 = sha256_of_bytes(data)
        try:
            read_tflite(data)
        except ValueError as error:
            raise InputError(
                f"{self._model} is not a readable .tflite file: {error}; export or copy it again"
            ) from error
        try:
            import ai_edge_litert  # here, so that the rest of the package works without it
            from ai_edge_litert import interpreter as litert
        except Exception as error:  # a damaged package raises what it likes
            raise EngineUnavailable(
                f"the engine 'litert' needs the package ai-edge-litert ({one_line(str(error))}); "
                f"install it: {install_command('litert')}"
            ) from error
        self.version = str(getattr(ai_edge_litert, "__version__", "unknown"))
        _require_rehearsed(data, kernels, self._model, self.model_sha256)
        try:
            self._interpreter: Any = litert.Interpreter(
                model_content=data,
                num_threads=threads,
                experimental_op_resolver_type=_resolver(litert, kernels),
            )
            self._interpreter.allocate_tensors()
        except (MemoryError, RuntimeError, ValueError) as error:
            raise InputError(
                f"LiteRT {self.version} does not load {self._model}: {one_line(str(error))}"
            ) from error
        self._read_interface()
        self._opened = True
        if kernels == "xnnpack" and not any(
            one.provider == "XNNPACK" for one in self.operators_that_ran()
        ):
            raise InputError(
                f"XNNPACK supports no operator of {self._model}; open it with kernels='reference'"
            )

    def _read_interface(self) -> None:
        inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        if len(inputs) != 1 or not self._outputs:
            raise InputError(
                f"{self._model} has {len(inputs)} inputs and {len(self._outputs)} outputs; "
                "expected one of each"
            )
        image, logits = inputs[0], self._outputs[0]
        sides = [int(size) for size in image["shape"]]
        if image["dtype"] is not np.int8 or len(sides) != 4 or sides[3] not in GREY_OR_RGB:
            raise InputError(
                f"{self._model} takes {np.dtype(image['dtype'])} {sides}; expected int8 N×H×W×C"
            )
        scales = logits["quantization_parameters"]["scales"]
        if logits["dtype"] is not np.int16 or len(logits["shape"]) != 2 or len(scales) != 1:
            raise InputError(
                f"{self._model} gives {np.dtype(logits['dtype'])} {list(logits['shape'])}; "
                "expected int16 N×classes with one scale"
            )
        self._image = int(image["index"])
        self._batch = sides[0]
        self._scale = np.float32(scales[0])
        self.input_shape: tuple[int, int, int] = (sides[3], sides[1], sides[2])
        self.batch_size: int | None = None
        self.classes: int = int(logits["shape"][1])

    def operators_that_ran(self) -> tuple[RanOperator, ...]:
        """What the interpreter runs, in its order, from its own plan."""
        interpreter = self._interpreter
        names = {int(one["index"]): str(one["name"]) for one in interpreter.get_tensor_details()}
        # The interpreter has no public list of its nodes.
        every = interpreter._get_ops_details()
        own = [node for node in every if node["op_name"] != _DELEGATE]
        made = {int(number): node for node in own for number in node["outputs"]}
        taken: set[int] = set()
        for delegate in every:
            if delegate["op_name"] != _DELEGATE:
                continue
            reads = {int(number) for number in delegate["inputs"]}
            waiting = [int(number) for number in delegate["outputs"]]
            while waiting:
                number = waiting.pop()
                node = made.get(number)
                if node is None or number in reads or int(node["index"]) in taken:
                    continue
                taken.add(int(node["index"]))
                waiting += [int(one) for one in node["inputs"]]
        return tuple(
            RanOperator(
                operator=str(node["op_name"]),
                tensor=names.get(int(node["outputs"][0]), ""),
                input_types=tuple(str(np.dtype(kind)) for kind in node["operand_types"]),
                output_types=tuple(str(np.dtype(kind)) for kind in node["result_types"]),
                provider="XNNPACK" if int(node["index"]) in taken else "LiteRT",
            )
            for node in own
        )

    def tells_every_layer(self) -> bool:
        """Yes: the interpreter names each operator."""
        return True

    def kinds_that_ran(self) -> Mapping[str, int]:
        """Return how many operators of each kind it runs, all of them in integers.

        Raises:
            InputError: one of them computes in float, or there is no convolution and no product.
        """
        counts: Counter[str] = Counter()
        for one in self.operators_that_ran():
            types = (*one.input_types, *one.output_types)
            if not all("int" in kind for kind in types):
                raise InputError(
                    f"{one.tensor} ({one.operator}) runs on {', '.join(types)}, expected "
                    "integers throughout: this is not the engine that the bundle was certified "
                    "for"
                )
            counts[LITERT_KINDS.get(one.operator, "")] += 1
        if not counts["convolution"] + counts["matrix product"]:
            raise InputError(f"{self._model} has no convolution and no matrix product")
        return {kind: counts[kind] for kind in KINDS}

    def close(self) -> None:
        """Free the interpreter; again is not an error."""
        self._opened, self._interpreter = False, None

    @property
    def _is_open(self) -> bool:
        return self._opened

    def _logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.logits_of(self.outputs(batch))

    def logits_of(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the logits, float32 N×classes, among what :meth:`outputs` gave."""
        logits = outputs[str(self._outputs[0]["name"])]
        scaled: NDArray[np.float32] = logits.astype(np.float32) * self._scale
        return scaled

    def outputs(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return every output of the file by its name, as the file has it, for one batch.

        Args:
            batch: uint8 N×C×H×W.

        Raises:
            InputError: a failure inside the engine.
        """
        # byte - 128 is the byte with its highest bit turned, as int8.
        codes = np.ascontiguousarray(batch.transpose(0, 2, 3, 1) ^ np.uint8(128)).view(np.int8)
        interpreter = self._interpreter
        try:
            if len(batch) != self._batch:
                interpreter.resize_tensor_input(self._image, codes.shape, strict=True)
                interpreter.allocate_tensors()
                self._batch = len(batch)
            interpreter.set_tensor(self._image, codes)
            interpreter.invoke()
            return {str(one["name"]): interpreter.get_tensor(one["index"]) for one in self._outputs}
        except (RuntimeError, ValueError) as error:
            reason = one_line(str(error))
            raise InputError(f"LiteRT failed to run {self._model}: {reason}") from error


if __name__ == "__main__":
    sys.exit(answer(Path(sys.argv[1]), _rehearse))
