"""Why the engine ran a layer in float: the rules that a stock quantized file falls foul of.

Each rule looks at the neighbours of the node in the graph that really ran. They are those of ONNX
Runtime's CPU provider: it makes an integer kernel of DequantizeLinear → operator → QuantizeLinear
only where weights are stored, activations are unsigned, and nothing stands in between.
"""

from __future__ import annotations

from export.engine_graph import EngineGraph, RanNode

_WEIGHTED = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose"}


def why_float(node: RanNode, graph: EngineGraph) -> str:
    """Give the reasons, most telling first, joined by semicolons."""
    reasons = [*_input_reasons(node, graph), *_weight_reasons(node, graph)]
    reasons += _output_reasons(node, graph)
    return "; ".join(reasons) or "the engine found no integer kernel for this pattern"


def why_computed_again(node: RanNode, graph: EngineGraph) -> str:
    """Give the reason why stored parameters are computed anew on every run."""
    if any(_origins(name, graph) & graph.overridable for name in node.inputs if name):
        return "an initializer that is also a graph input does not fold"
    return "no integer kernel took them in"


def _bare(operator: str) -> str:
    return operator.rpartition(".")[2]


def _input_reasons(node: RanNode, graph: EngineGraph) -> list[str]:
    reasons: list[str] = []
    data = [name for name in node.inputs if name in graph.types]
    for name in data:
        producer = graph.producer(name)
        if producer is None:
            reasons.append(f"its input {name!r} is the graph's {graph.types[name]} input")
        elif _bare(producer.operator) != "DequantizeLinear":
            if graph.types[name].startswith("float"):
                reasons.append(
                    f"its input comes from {producer.operator} {producer.layer!r} in float (no "
                    "QuantizeLinear and DequantizeLinear in between)"
                )
        else:
            source = graph.types.get(producer.inputs[0], "")
            if source.startswith("int8"):
                reasons.append("its input has signed activations (int8; uint8 is needed)")
            elif source not in ("uint8", ""):
                reasons.append(f"its input is dequantized from {source}")
    return reasons


def _weight_reasons(node: RanNode, graph: EngineGraph) -> list[str]:
    if _bare(node.operator) not in _WEIGHTED or len(node.inputs) < 2:
        return []
    reasons: list[str] = []
    kinds = set()
    for name in node.inputs[1:]:
        origins = _origins(name, graph)
        if origins & graph.overridable:
            kinds.add("an initializer that is also a graph input, so that nothing folds")
        kinds |= {
            f"{graph.stored[origin]}, which has no kernel behind DequantizeLinear"
            for origin in origins
            if graph.stored.get(origin) in ("int4", "uint4", "int2", "uint2")
        }
    reasons += [f"its weights come from {kind}" for kind in sorted(kinds)]
    return reasons


def _origins(tensor: str, graph: EngineGraph) -> set[str]:
    """Give the stored tensors that a parameter is computed from."""
    producer = graph.producer(tensor)
    if producer is None:
        return {tensor}
    if producer.depends_on_images:
        return set()
    return {origin for name in producer.inputs if name for origin in _origins(name, graph)}


def _output_reasons(node: RanNode, graph: EngineGraph) -> list[str]:
    reasons: list[str] = []
    if node.activation:
        reasons.append(f"a float {node.activation} stands between it and QuantizeLinear")
    for name in node.outputs:
        for reader in graph.readers(name):
            operator = _bare(reader.operator)
            if operator == "QuantizeLinear":
                if graph.types.get(reader.outputs[0]) == "int8":
                    reasons.append("its output is quantized to int8 (uint8 is needed)")
            elif operator in ("Clip", "Relu"):
                reasons.append(
                    f"a float {operator} {reader.layer!r} stands between it and QuantizeLinear"
                )
            else:
                reasons.append(
                    f"no QuantizeLinear behind it: {operator} {reader.layer!r} reads its output "
                    "in float"
                )
    return list(dict.fromkeys(reasons))
