"""The certificate of a ``.tflite`` file: what LiteRT's interpreter runs, operator by operator.

Operators and element types are those of the interpreter after delegation; the provider is
``XNNPACK`` or ``LiteRT``.  The interpreter reports no times, so there are no time shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deploy.core.files import sha256_of
from deploy.core.tflite_file import TfLiteTensor, read_tflite
from deploy.litert_engine import LITERT_KINDS, LiteRtEngine, RanOperator
from export.certificate import Certificate, TensorFacts
from export.layer_runs import INTEGERS, Failure, LayerRun


def certify_litert(model: Path | str, *, kernels: str = "xnnpack", threads: int = 1) -> Certificate:
    """Load a ``.tflite`` file in LiteRT and return the certificate of what it runs.

    Args:
        model: the file.
        kernels: of :data:`deploy.litert_engine.KERNELS`.
        threads: of the engine.

    Raises:
        InputError: the file is damaged or refused by the engine.
        EngineUnavailable: ai-edge-litert is not installed.

    Example:
        >>> certify_litert(Path("export/litert-4.tflite")).ok  # doctest: +SKIP
        True
    """
    path = Path(model)
    with LiteRtEngine(path, threads=threads, kernels=kernels) as engine:
        ran = engine.operators_that_ran()
        name, version = engine.name, engine.version
    file = read_tflite(path.read_bytes())
    ends = [[file.tensors[number] for number in numbers] for numbers in (file.inputs, file.outputs)]
    inputs, outputs = (tuple(map(_facts, tensors)) for tensors in ends)
    stored = {tensor.name for tensor in file.tensors if tensor.data is not None}
    only_scale = {
        file.tensors[node.outputs[0]].name
        for node in file.nodes
        if node.operator == "ADD" and any(file.tensors[n].name in stored for n in node.inputs)
    }
    layers = tuple(_layer(one, only_scale) for one in ran)
    return Certificate(
        model=path.name,
        model_sha256=sha256_of(path),
        engine=name,
        engine_version=version,
        threads=threads,
        inputs=inputs,
        outputs=outputs,
        fed={one.name: tuple(size or 1 for size in one.shape) for one in inputs},
        layers=layers,
        requantizations=tuple(one.layer for one in layers if one.kind == "requantization"),
        float_requantizations=(),
        failures=tuple(_failures(layers)),
    )


def _facts(tensor: TfLiteTensor) -> TensorFacts:
    return TensorFacts(name=tensor.name, type=tensor.type, shape=(None, *tensor.shape[1:]))


def _layer(ran: RanOperator, only_scale: set[str]) -> LayerRun:
    kind = LITERT_KINDS.get(ran.operator, "other")
    if ran.tensor in only_scale:
        # A table's index is an ADD of int32, which is not a change of scale.
        kind = "requantization" if ran.output_types == ("int8",) else "other"
    return LayerRun(
        layer=ran.tensor,
        operator=ran.operator,
        kind=kind,
        input_types=ran.input_types,
        output_types=ran.output_types,
        provider=ran.provider,
        time_share=None,
        integer=INTEGERS.issuperset((*ran.input_types, *ran.output_types)),
    )


def _failures(layers: tuple[LayerRun, ...]) -> Iterator[Failure]:
    if not {"convolution", "matrix product"} & {layer.kind for layer in layers}:
        yield Failure("graph", "it has no convolution and no matrix product", ("no-layers",))
    for layer in layers:
        if not layer.integer:
            types = ", ".join((*layer.input_types, *layer.output_types))
            text = f"{layer.operator} runs on {types}, expected integers throughout"
            yield Failure(layer.layer, text, ("float-tensor",))
