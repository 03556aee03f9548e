"""What the engine ran, node by node, and which nodes violate integer inference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deploy.core.operator_kinds import KINDS, kind_of
from deploy.device.onnxruntime_engine import PROVIDERS
from export.engine_graph import EngineGraph, RanNode
from export.float_reasons import bare, why_computed_again, why_float

INTEGERS = {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (2, 4, 8, 16, 32, 64)
} | {"bool"}  # fmt: skip
"""The engine's names of the element types that are integers."""


@dataclass(frozen=True, kw_only=True)
class LayerRun:
    """One node that the engine ran; names and types as :class:`export.engine_graph.RanNode`.

    Attributes:
        kind: one of ``KINDS``, ``requantization``, ``parameter`` (recomputes stored values on every
            run) or ``other``.
        input_types: of the inputs that depend on the images.
        time_share: of the time in kernels, 0…1; None if the engine reports none.
        integer: whether all those types are integers (logits may be float).
    """

    layer: str
    operator: str
    kind: str
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]
    provider: str
    time_share: float | None
    integer: bool


@dataclass(frozen=True)
class Failure:
    """A layer that is not integer (``graph`` if no single one is at fault), why in words, and the
    rules (``export.float_reasons.RULES``) that it violates, most specific first."""

    layer: str
    reason: str
    rules: tuple[str, ...]


def layer_runs(graph: EngineGraph) -> tuple[LayerRun, ...]:
    """Return what ran in each node, in the graph's order."""
    total = sum(node.time_us for node in graph.nodes)
    return tuple(_layer(node, graph, total) for node in graph.nodes)


def requantizations(graph: EngineGraph) -> tuple[str, ...]:
    """Return the layers that only change the scale, in integers."""
    return tuple(node.layer for node in graph.nodes if _requantizes(node, graph))


def _layer(node: RanNode, graph: EngineGraph, total_us: int) -> LayerRun:
    reads = tuple(graph.types[name] for name in node.input if name in graph.types)
    gives = [
        kind
        for name, kind in zip(node.output, node.output_types, strict=True)
        if name not in graph.outputs
    ]
    kind = kind_of(bare(node.operator), reads) or "other"
    if not node.depends_on_images:
        kind = "parameter"
    elif _requantizes(node, graph):
        kind = "requantization"
    return LayerRun(
        layer=node.layer,
        operator=node.operator,
        kind=kind,
        input_types=reads,
        output_types=node.output_types,
        provider=node.provider,
        time_share=node.time_us / total_us if total_us else 0.0,
        integer=INTEGERS.issuperset(reads) and INTEGERS.issuperset(gives),
    )


def _requantizes(node: RanNode, graph: EngineGraph) -> bool:
    """Whether an integer node with one tensor that depends on the images only changes its scale."""
    moving = [name for name in node.input if name in graph.types]
    return len(moving) == 1 and bare(node.operator) in ("QLinearAdd", "QLinearConcat")


def float_requantizations(graph: EngineGraph) -> list[tuple[RanNode, RanNode]]:
    """Return the DequantizeLinear → QuantizeLinear pairs; each has one float tensor, as allowed."""
    pairs = []
    for node in graph.nodes:
        if bare(node.operator) != "DequantizeLinear" or not node.depends_on_images:
            continue
        readers = graph.readers(node.output[0])
        if (
            readers
            and node.output[0] not in graph.outputs
            and all(bare(reader.operator) == "QuantizeLinear" for reader in readers)
        ):
            pairs += [(node, reader) for reader in readers]
    return pairs


def failures_of(
    graph: EngineGraph, layers: tuple[LayerRun, ...], input_types: Mapping[str, str]
) -> list[Failure]:
    """Return every node that is not integer but should be, with the rule that it violates.

    ``layers`` are those of the graph, ``input_types`` the element types of the file's inputs.
    """
    unproven = "graph and profile disagree, so it is not proved what ran"
    failures = [Failure(name, unproven, ("not-proven",)) for name in graph.unproven]
    for name, kind in input_types.items():
        if kind not in INTEGERS:
            text = f"the input is {kind}; an integer graph takes integers, such as image bytes"
            failures.append(Failure(name, text, ("float-input",)))
    if not {"convolution", "matrix product"} & {layer.kind for layer in layers}:
        text = "it has no convolution and no matrix product"
        failures.append(Failure("graph", text, ("no-layers",)))
    paired = {node.name for node, _ in float_requantizations(graph)}
    for node, layer in zip(graph.nodes, layers, strict=True):
        failures += _failures(node, layer, graph, paired=node.name in paired)
    return failures


def _failures(
    node: RanNode, layer: LayerRun, graph: EngineGraph, *, paired: bool
) -> Iterator[Failure]:
    floats = [
        name
        for name, kind in zip(node.output, node.output_types, strict=True)
        if kind not in INTEGERS and name not in graph.outputs
    ]
    if layer.provider != PROVIDERS["cpu"]:
        yield Failure(layer.layer, f"ran on {layer.provider}", ("another-provider",))
    if layer.kind in KINDS and not layer.integer:
        why = why_float(node, graph)
        text = f"{layer.operator} ran in float: {'; '.join(one.text for one in why)}"
        yield Failure(layer.layer, text, tuple(dict.fromkeys(one.rule for one in why)))
    elif floats and layer.kind == "parameter":
        again = why_computed_again(node, graph)
        text = f"{layer.operator} computes stored parameters in float on every run: {again.text}"
        yield Failure(layer.layer, text, (again.rule,))
    elif floats and not paired:
        text = f"{layer.operator} gives a float tensor, {', '.join(map(repr, floats))}"
        yield Failure(layer.layer, text, ("float-tensor",))
