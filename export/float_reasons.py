"""Why the engine ran a layer in float: the rules that a stock quantized file violates.

Each rule checks the neighbours of the node in the graph that actually ran. The rules are those of
ONNX Runtime's CPU provider: it makes an integer kernel of DequantizeLinear → operator →
QuantizeLinear only if weights are stored, activations are unsigned, and nothing is in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from export.engine_graph import EngineGraph, RanNode

RULES = (
    "float-input",
    "signed-activations",
    "other-activations",
    "no-quantizer-before",
    "flatten-without-quantizer",
    "no-quantizer-behind",
    "signed-output",
    "float-clip",
    "overridable-initializer",
    "low-bit-weights",
    "float-weights",
    "no-pattern",
    "float-tensor",
    "another-provider",
    "not-proven",
    "no-layers",
)
"""The names of the rules in certificates; docs/networks.md explains each."""

_WEIGHTED = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose"}
_FLOATS = ("float", "double", "bfloat")
_LAYOUT = {"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose"}


@dataclass(frozen=True)
class Reason:
    """A rule of :data:`RULES` that keeps a layer in float, and how, in words."""

    rule: str
    text: str


def why_float(node: RanNode, graph: EngineGraph) -> list[Reason]:
    """Return the reasons why a layer ran in float, most specific first; at least one."""
    reasons = [
        *_input_reasons(node, graph),
        *_weight_reasons(node, graph),
        *_output_reasons(node, graph),
    ]
    none = Reason("no-pattern", "the engine found no integer kernel for this pattern")
    return list(dict.fromkeys(reasons)) or [none]


def why_computed_again(node: RanNode, graph: EngineGraph) -> Reason:
    """Return the reason why stored parameters are recomputed on every run."""
    if any(_origins(name, graph) & graph.overridable for name in node.input if name):
        text = "an initializer that is also a graph input is not folded"
        return Reason("overridable-initializer", text)
    return Reason("no-pattern", "no integer kernel took them in")


def bare(operator: str) -> str:
    """Return an operator without its domain."""
    return operator.rpartition(".")[2]


def _input_reasons(node: RanNode, graph: EngineGraph) -> Iterator[Reason]:
    for name in (name for name in node.input if name in graph.types):
        producer, kind = graph.producer(name), graph.types[name]
        if producer is None:
            if kind.startswith(_FLOATS):
                yield Reason("float-input", f"its input {name!r} is the graph's {kind} input")
        elif bare(producer.operator) == "DequantizeLinear":
            source = graph.types.get(producer.input[0], "")
            if source.startswith("int8"):
                text = "its input has signed activations (int8; uint8 is needed)"
                yield Reason("signed-activations", text)
            elif source not in ("uint8", ""):
                yield Reason("other-activations", f"its input is dequantized from {source}")
        elif kind.startswith(_FLOATS):
            yield _no_quantizer_before(producer, graph)


def _no_quantizer_before(producer: RanNode, graph: EngineGraph) -> Reason:
    if bare(producer.operator) in _LAYOUT and _dequantized_before(producer, graph):
        return Reason(
            "flatten-without-quantizer",
            f"{producer.operator} {producer.layer!r} is between DequantizeLinear and it (a "
            f"QuantizeLinear and DequantizeLinear are needed after {producer.operator})",
        )
    return Reason(
        "no-quantizer-before",
        f"its input comes from {producer.operator} {producer.layer!r} in float (no "
        "QuantizeLinear and DequantizeLinear in between)",
    )


def _dequantized_before(node: RanNode, graph: EngineGraph) -> bool:
    """Whether only layout operators are between a DequantizeLinear and the node."""
    seen: set[str] = set()
    while bare(node.operator) in _LAYOUT and node.name not in seen:
        seen.add(node.name)
        source = graph.producer(node.input[0])
        if source is None:
            return False
        node = source
    return bare(node.operator) == "DequantizeLinear"


def _weight_reasons(node: RanNode, graph: EngineGraph) -> Iterator[Reason]:
    if bare(node.operator) not in _WEIGHTED or len(node.input) < 2:
        return
    origins = {origin for name in node.input[1:] if name for origin in _origins(name, graph)}
    if origins & graph.overridable:
        text = (
            "its weights come from an initializer that is also a graph input, so they "
            "are not folded"
        )
        yield Reason("overridable-initializer", text)
    low = {graph.stored.get(origin) for origin in origins} & {"int4", "uint4", "int2", "uint2"}
    for kind in sorted(map(str, low)):
        text = f"its weights come from {kind}, for which there is no kernel after DequantizeLinear"
        yield Reason("low-bit-weights", text)
    if (stored := graph.stored.get(node.input[1], "")).startswith(_FLOATS):
        # The engine also folds DequantizeLinear of stored weights; the file may still have it.
        yield Reason("float-weights", f"its weights reach it as {stored}")


def _origins(tensor: str, graph: EngineGraph) -> set[str]:
    """Return the stored tensors from which a parameter is computed."""
    found: set[str] = set()
    seen = {tensor}
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        producer = graph.producer(name)
        if producer is None:
            found.add(name)
        elif not producer.depends_on_images:
            fresh = {one for one in producer.input if one} - seen
            seen |= fresh
            waiting += fresh
    return found


def _output_reasons(node: RanNode, graph: EngineGraph) -> Iterator[Reason]:
    if node.activation:
        text = f"a float {node.activation} is between it and QuantizeLinear"
        yield Reason("float-clip", text)
    for reader in (reader for name in node.output for reader in graph.readers(name)):
        operator = bare(reader.operator)
        named = f"{operator} {reader.layer!r}"
        if operator == "QuantizeLinear":
            if graph.types.get(reader.output[0]) == "int8":
                yield Reason("signed-output", "its output is quantized to int8 (uint8 is needed)")
        elif operator in ("Clip", "Relu"):
            text = f"a float {named} is between it and QuantizeLinear"
            yield Reason("float-clip", text)
        else:
            text = f"no QuantizeLinear after it: {named} reads its output in float"
            yield Reason("no-quantizer-behind", text)
