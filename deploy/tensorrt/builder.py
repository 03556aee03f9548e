"""Build an engine from an ONNX file of the target ``tensorrt``.

TensorRT-RTX builds ahead of time, with no GPU and no driver; the kernels are compiled on the
device. TensorRT times kernels on the machine's GPU.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.errors import EngineUnavailable, InputError, UsageError
from ..core.files import read_bytes, sha256_of_bytes, write_atomic
from .bindings import Bindings, Flavour, load
from .cuda import Device
from .engine_file import write_engine_file
from .layers import EngineLayer, layers_from_json, layers_from_text, require_integer
from .onnx_file import IMAGES, check_symmetric_int8
from .options import COMPUTE_CAPABILITIES, HARDWARE, BuildOptions

NEVER_RUN = (
    "never run on hardware: no GPU has been at hand; what is known is that the builder takes the "
    "file and what its layers compute in"
)
"""Shown wherever these engines are used, until a record in results/ shows a run."""


def build_engine(
    model: Path, out: Path, flavour: Flavour, options: BuildOptions | None = None
) -> dict[str, Any]:
    """Build an engine, write it and its sidecar, and return the sidecar.

    Args:
        model: the ONNX file.
        out: the engine file; its sidecar is written beside it.
        flavour: TensorRT or TensorRT-RTX.
        options: build options; by default :class:`BuildOptions` without arguments.

    Raises:
        EngineUnavailable: the package, or for TensorRT the GPU, is missing.
        InputError: the file is not for TensorRT (see ``check_symmetric_int8``), the parser or
            the compiler refuses it, or a layer of the plan is not integer.
        UsageError: an option that this product does not have.
    """
    plan, facts = build_plan(read_bytes(model), str(model), flavour, options or BuildOptions())
    return write_engine_file(out, plan, facts)


def build_plan(
    data: bytes, where: str, flavour: Flavour, options: BuildOptions
) -> tuple[bytes, dict[str, Any]]:
    """Build the bytes ``data`` of an ONNX file called ``where``, as :func:`build_engine`.

    Returns:
        The serialised engine, and the facts for its sidecar.
    """
    options.check_for(flavour)
    onnx = check_symmetric_int8(data, where)
    bindings = load(flavour)
    built_on = None
    if not flavour.rtx:
        with closing(Device()) as gpu:
            built_on = {"name": gpu.name, "compute_capability": gpu.compute_capability}
    bindings.log.clear()
    batch_sizes = options.batch_sizes if onnx.batch_size is None else (onnx.batch_size,) * 3
    builder = _builder(bindings)
    network = _parsed(builder, data, where, bindings)
    config = builder.create_builder_config()
    _configure(config, options, bindings)
    profile = builder.create_optimization_profile()
    profile.set_shape(IMAGES, *((size, *onnx.input_shape) for size in batch_sizes))
    config.add_optimization_profile(profile)
    serialised = builder.build_serialized_network(network, config)
    if serialised is None:
        raise InputError(
            f"{flavour.name} {bindings.version} cannot compile {where}: "
            f"{bindings.log.last_errors()}"
        )
    plan = bytes(serialised)
    if flavour.rtx:
        if bindings.log.layers is None:
            raise InputError(
                f"{flavour.name} {bindings.version} did not list the layers of the plan while "
                "building, so it is not known what runs in integers"
            )
        layers, layers_from = layers_from_text(bindings.log.layers), "builder"
    else:
        layers, layers_from = inspected(deserialised(plan, where, bindings), bindings), "inspector"
    kinds = require_integer(layers, onnx.operators, f"the plan of {where}")
    return plan, {
        "onnx_sha256": onnx.sha256,
        "builder": {"name": flavour.name, "version": bindings.version},
        "options": options.as_record(flavour),
        "built_on": built_on,
        "timing_cache_sha256": _write_timing_cache(config, options),
        "input_shape": list(onnx.input_shape),
        "batch_sizes": list(batch_sizes),
        "classes": onnx.classes,
        "kinds": kinds,
        "layers": [asdict(layer) for layer in layers],
        "layers_from": layers_from,
        "note": NEVER_RUN,
    }


def deserialised(plan: bytes, where: str, bindings: Bindings, runtime: Any = None) -> Any:
    """The engine of a plan, an ``ICudaEngine``; this needs a GPU.

    Raises:
        InputError: TensorRT refuses it.
    """
    bindings.log.clear()
    runtime = bindings.api.Runtime(bindings.logger) if runtime is None else runtime
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise InputError(
            f"{bindings.flavour.name} {bindings.version} does not load the engine of {where}: "
            f"{bindings.log.last_errors()}"
        )
    return engine


def inspected(engine: Any, bindings: Bindings) -> tuple[EngineLayer, ...]:
    """The layers of a deserialised engine, from the inspector.

    Raises:
        InputError: it states no details.
    """
    inspector = engine.create_engine_inspector()
    return layers_from_json(
        inspector.get_engine_information(bindings.api.LayerInformationFormat.JSON)
    )


def _builder(bindings: Bindings) -> Any:
    try:
        return bindings.api.Builder(bindings.logger)
    except (TypeError, RuntimeError) as error:  # from pybind11 if the library returns no builder
        raise EngineUnavailable(
            f"{bindings.flavour.name} {bindings.version} cannot build on this machine: "
            f"{bindings.log.last_errors()}"
        ) from error


def _parsed(builder: Any, data: bytes, where: str, bindings: Bindings) -> Any:
    api = bindings.api
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = api.OnnxParser(network, bindings.logger)
    if not parser.parse(data):
        found = [parser.get_error(i) for i in range(min(parser.num_errors, 3))]
        told = "; ".join(
            f"{one.node_operator()} {one.node_name()!r}: {one.desc()}" for one in found
        )
        raise InputError(
            f"the ONNX parser of {bindings.flavour.name} {bindings.version} refuses {where}: "
            f"{told or bindings.log.last_errors()}"
        )
    return network


def _configure(config: Any, options: BuildOptions, bindings: Bindings) -> None:
    api = bindings.api
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if bindings.flavour.rtx:
        wanted = options.compute_capabilities or COMPUTE_CAPABILITIES
        known = {  # the members have names such as SM86
            f"{name[2:-1]}.{name[-1]}" if name.startswith("SM") else name.lower(): value
            for name, value in api.ComputeCapability.__members__.items()
            if name != "NONE"
        }
        unknown = [one for one in wanted if one not in known]
        if unknown:
            raise UsageError(
                f"{bindings.flavour.name} {bindings.version} does not build for compute "
                f"capability {', '.join(unknown)}; it supports {', '.join(known)}"
            )
        config.num_compute_capabilities = len(wanted)
        for index, one in enumerate(wanted):
            config.set_compute_capability(known[one], index)
        return
    if options.version_compatible:
        config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
        config.set_flag(api.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    level = getattr(api.HardwareCompatibilityLevel, HARDWARE[options.hardware], None)
    if level is None:
        raise UsageError(f"TensorRT {bindings.version} has no hardware {options.hardware!r}")
    config.hardware_compatibility_level = level
    if options.timing_cache is not None:
        path = options.timing_cache
        cache = config.create_timing_cache(read_bytes(path) if path.exists() else b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise InputError(
                f"{path} is not a timing cache of TensorRT {bindings.version} for this GPU: "
                f"{bindings.log.last_errors()}; remove it or give another"
            )


def _write_timing_cache(config: Any, options: BuildOptions) -> str | None:
    if options.timing_cache is None:
        return None
    data = bytes(config.get_timing_cache().serialize())
    write_atomic(options.timing_cache, data)
    return sha256_of_bytes(data)
