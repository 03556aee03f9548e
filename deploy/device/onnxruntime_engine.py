"""The ONNX Runtime engine: the only file here that imports onnxruntime, and only when opened."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.engine_versions import OLDEST_FOR_NUMPY_2, version_key, why_too_old
from ..core.errors import EngineUnavailable, InputError, UsageError
from ..core.files import read_bytes, sha256_of_bytes, write_atomic
from ..core.host import host_facts
from ..core.images import GREY_OR_RGB
from ..core.model_contents import read_model_contents
from ..core.model_engine import ModelEngine, require_threads
from ..core.onnx_operators import asks_for_integers
from ..core.scratch import Scratch
from ..core.text import one_line
from .onnx_outputs import with_outputs

logger = logging.getLogger(__name__)

PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""The providers that can be asked for, and ONNX Runtime's names of them."""

INPUT_NAME = "images"
OUTPUT_NAME = "logits"

_ERRORS_ONLY, _NOTHING = 3, 4


class _Session(Protocol):
    """The part of ``onnxruntime.InferenceSession`` that is used."""

    def run(self, outputs: list[str], inputs: dict[str, Any]) -> list[Any]: ...
    def get_inputs(self) -> list[Any]: ...
    def get_outputs(self) -> list[Any]: ...
    def get_providers(self) -> list[str]: ...
    def end_profiling(self) -> str: ...


class OnnxRuntimeEngine(ModelEngine):
    """One ONNX file in ONNX Runtime.

    The file has a single input ``images``, uint8 N×3×H×W with fixed H and W, and a single output
    ``logits``, float32 N×C. Integer graphs and the float baseline (a Cast inside) look alike from
    outside. Nothing falls back silently: a missing provider is an error, and so is a provider that
    cannot run the whole graph.

    Args:
        model: the ``.onnx`` file.
        threads: threads inside an operator; operators run one after the other.
        profile_to: path of ONNX Runtime's profile (JSON), written when the engine is closed.
        optimized_to: path of the graph that ONNX Runtime actually runs (ONNX); it fits only this
            kind of processor.
        provider: "cpu" or "cuda". CUDA has no integer convolution: a file that requires integer
            inference is refused there.
        optimize: False runs the file's nodes unchanged, for comparisons.

    Attributes:
        name: "onnxruntime-cpu" or "onnxruntime-cuda".
        input_shape: (3, H, W) of the images.
        batch_size: N where the file fixes it, else None.
        classes: C.
        threads: as given.
        model_sha256: of the bytes that were loaded.
        integer: whether the file requires integer inference; the certificate states whether the
            engine runs it in integers.
        x64_quant_precision: whether ``session.x64quantprecision`` is on.
        providers: the providers that can be requested, and ONNX Runtime's names of them.
        remedy: how to install a missing provider.
        image_type: ONNX Runtime's name of the type of ``images``.

    Raises:
        EngineUnavailable: onnxruntime or the provider is not installed.
        InputError: the file is missing, not ONNX, damaged, or has another interface; a file for
            integers on CUDA.
        UsageError: an unknown provider, or fewer than one thread or too many.
    """

    providers: ClassVar[Mapping[str, str]] = PROVIDERS
    remedy: ClassVar[str] = "the package onnxruntime-gpu has it; install it instead of onnxruntime"
    image_type: ClassVar[str] = "tensor(uint8)"

    def __init__(
        self,
        model: Path,
        *,
        threads: int = 1,
        profile_to: Path | None = None,
        optimized_to: Path | None = None,
        provider: str = "cpu",
        optimize: bool = True,
    ) -> None:
        if provider not in self.providers:
            raise UsageError(
                f"provider {provider!r} is unknown; known: {', '.join(self.providers)}"
            )
        require_threads(threads)
        self._session: _Session | None = None
        self._model = Path(model)
        self._profile_to = None if profile_to is None else Path(profile_to)
        self._scratch = Scratch()
        self.threads = threads
        self.name = f"onnxruntime-{provider}"
        try:
            self._open(provider, optimized_to, optimize)
        except BaseException:
            self._session = None
            self._scratch.close()
            raise

    def _open(self, provider: str, optimized_to: Path | None, optimize: bool) -> None:
        data = read_bytes(self._model)
        self.model_sha256 = sha256_of_bytes(data)
        found = read_model_contents(data, str(self._model))
        self.integer = asks_for_integers(found.operators)
        if self.integer and provider == "cuda":
            raise InputError(
                f"{self._model} needs integer inference, which ONNX Runtime's CUDA provider does "
                "not have (no QLinearConv), so it would run in float; use provider 'cpu', or "
                "give CUDA the float file"
            )
        ort, wanted = _onnxruntime(), self.providers[provider]
        # On by need only: it exchanges int8 weights for uint8 ones, which costs time.
        self.x64_quant_precision = provider == "cpu" and host_facts().u8s8_saturates
        options = self._options(ort, optimize)
        attached = self._attached(ort, options, wanted)
        optimized = self._scratch.folder / "optimized.onnx"
        if optimized_to is not None:
            options.optimized_model_filepath = str(optimized)
        try:
            self._session = ort.InferenceSession(
                data,
                sess_options=options,
                enable_fallback=0,  # it would print a line and continue with another provider
                **attached,
            )
        # onnxruntime's exceptions have no public base class below Exception.
        except Exception as error:
            too_old = why_too_old(found, ort.__version__)
            if too_old is not None:
                raise EngineUnavailable(
                    f"ONNX Runtime {ort.__version__} is too old for {self._model}: {too_old}"
                ) from error
            raise InputError(
                f"ONNX Runtime {ort.__version__} does not load {self._model} on {provider}: "
                f"{one_line(str(error))}; export or copy it again"
            ) from error
        if self._session.get_providers()[0] != wanted:
            raise EngineUnavailable(
                f"ONNX Runtime replaced {wanted} by {', '.join(self._session.get_providers())}: "
                "its libraries are incomplete"
            )
        self._read_interface(self._session)
        if optimized_to is not None:
            write_atomic(Path(optimized_to), optimized.read_bytes())

    def _attached(self, ort: Any, options: Any, wanted: str) -> dict[str, Any]:
        """Give the session its provider: in its options, or as further arguments, returned."""
        available = ort.get_available_providers()
        if wanted not in available:
            raise EngineUnavailable(
                f"this onnxruntime {ort.__version__} has no {wanted}; available: "
                f"{', '.join(available)}; {self.remedy}"
            )
        return {"providers": [(wanted, self._provider_options())]}

    def _provider_options(self) -> dict[str, str]:
        """Options of the provider itself, in ONNX Runtime's names."""
        return {}

    def _taken(self, batch: NDArray[np.uint8]) -> NDArray[Any]:
        """The batch as the file takes it."""
        return batch

    def _options(self, ort: Any, optimize: bool) -> Any:
        options = common_options(
            ort, self.threads, exact=self.x64_quant_precision, optimize=optimize
        )
        if self.name != "onnxruntime-cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if self._profile_to is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(self._scratch.folder / "profile")
        return options

    def _read_interface(self, session: _Session) -> None:
        expected = (
            f"expected one input '{INPUT_NAME}' ({self.image_type}, N×3×H×W) and one output "
            f"'{OUTPUT_NAME}' (float32, N×C)"
        )
        inputs, outputs = session.get_inputs(), session.get_outputs()
        found = f"{self._model} has inputs {_listed(inputs)} and outputs {_listed(outputs)}"
        named = [node.name for node in inputs], [node.name for node in outputs]
        if named != ([INPUT_NAME], [OUTPUT_NAME]):
            raise InputError(f"{found}; {expected}")
        image, logits = inputs[0], outputs[0]
        if (image.type, logits.type) != (self.image_type, "tensor(float)"):
            raise InputError(f"{found}; {expected}")
        shape, logits_shape = image.shape, logits.shape
        fixed = (
            len(shape) == 4
            and all(isinstance(length, int) and length > 0 for length in shape[1:])
            and shape[1] in GREY_OR_RGB
            and len(logits_shape) == 2
            and isinstance(logits_shape[1], int)
            and logits_shape[1] > 0
        )
        if not fixed:
            raise InputError(f"{found}; {expected} with numbers for H, W and C")
        self.input_shape: tuple[int, int, int] = (shape[1], shape[2], shape[3])
        self.batch_size: int | None = shape[0] if isinstance(shape[0], int) else None
        self.classes: int = logits_shape[1]

    def close(self) -> None:
        """Free the session and write the requested profile; a second call is not an error.

        Raises:
            InputError: the profile cannot be written.
        """
        session, self._session = self._session, None
        if session is None:
            return
        try:
            if self._profile_to is not None:
                write_atomic(self._profile_to, Path(session.end_profiling()).read_bytes())
        finally:
            self._scratch.close()

    @property
    def _is_open(self) -> bool:
        return self._session is not None

    def _logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert self._session is not None
        try:
            (logits,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: self._taken(batch)})
        except Exception as error:  # see _open
            raise InputError(
                f"ONNX Runtime failed to run {self._model}: {one_line(str(error))}"
            ) from error
        result: NDArray[np.float32] = logits
        return result


def codes_from_onnxruntime(
    model: Path, images: NDArray[np.uint8], tensors: Sequence[str], *, threads: int = 1
) -> dict[str, NDArray[np.uint8]]:
    """Return codes between the nodes of a model, on the CPU provider.

    This uses a separate session: requesting a tensor keeps it from being optimized away.

    Args:
        model: the ``.onnx`` file, an integer graph.
        images: uint8, N×3×H×W.
        tensors: names of uint8 tensors in the file.
        threads: inside an operator.

    Raises:
        EngineUnavailable: onnxruntime is not installed.
        InputError: the file is missing or damaged, or has no such tensor of codes.
    """
    if not tensors:
        return {}
    ort = _onnxruntime()
    options = common_options(ort, threads, exact=host_facts().u8s8_saturates)
    try:
        session = ort.InferenceSession(
            with_outputs(read_bytes(model), tensors),
            sess_options=options,
            providers=[PROVIDERS["cpu"]],
        )
        codes = session.run(list(tensors), {INPUT_NAME: images})
    except InputError:
        raise
    except Exception as error:  # see OnnxRuntimeEngine._open
        raise InputError(
            f"ONNX Runtime does not give the codes of {model.name}: {one_line(str(error))}"
        ) from error
    return dict(zip(tensors, codes, strict=True))


def onnxruntime_version() -> str:
    """Return the version of onnxruntime; EngineUnavailable where it is not installed."""
    return str(_onnxruntime().__version__)


def plain_session(model: bytes) -> _Session:
    """A session of any ONNX file on the CPU that runs its nodes one by one, unchanged; errors are
    onnxruntime's own.

    Raises:
        EngineUnavailable: onnxruntime is not installed.
    """
    ort = _onnxruntime()
    options = common_options(ort, 1, exact=False, optimize=False)
    options.log_severity_level = _NOTHING
    session: _Session = ort.InferenceSession(model, options, providers=[PROVIDERS["cpu"]])
    return session


def common_options(ort: Any, threads: int, *, exact: bool, optimize: bool = True) -> Any:
    """Session options of every run here.

    ``exact``: on processors whose products of uint8 and int8 saturate, use slower products that do
    not.
    """
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = _ERRORS_ONLY
    return options


def _onnxruntime() -> Any:
    require_its_numpy()
    try:
        import onnxruntime  # here, so that the rest of the package works without it
    except Exception as error:  # a damaged package raises what it likes
        raise EngineUnavailable(
            f"the engine 'onnxruntime' needs the package onnxruntime "
            f"({one_line(str(error)) or type(error).__name__}); "
            "install it: pip install onnxruntime"
        ) from error
    return onnxruntime


@cache
def require_its_numpy() -> None:
    """Check that onnxruntime fits the installed numpy, before its import prints pages of errors.

    Raises:
        EngineUnavailable: onnxruntime was compiled for an older numpy.
    """
    if version_key(np.__version__) < (2,):
        return
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(name)
            if () < version_key(version) < version_key(OLDEST_FOR_NUMPY_2):
                raise EngineUnavailable(
                    f"{name} {version} was compiled for numpy 1 and does not import with numpy "
                    f"{np.__version__}; upgrade {name} ({OLDEST_FOR_NUMPY_2} or newer), or pip "
                    "install 'numpy<2'"
                )


def _listed(nodes: list[Any]) -> str:
    return ", ".join(f"'{node.name}' {node.type} {node.shape}" for node in nodes) or "none"
