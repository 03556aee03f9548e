"""A function of codes as a table: for each code that may come, the code that the function has.

y = f(s_x (k - z_x)) for every k in 0 … 255 is 256 numbers, rounded to codes of s_y once, in
float64, by the same functions that the fake-quantized network takes (training.quantize.pointwise).
The engine looks them up: Gather on uint8 by the input's code, which a Cast turns into the index
that Gather wants.  Nothing is rounded in the engine, so every engine gives the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from export.expressions import write_expression
from export.graph import attributes_of
from export.passes.qonnx_graph import Quantizer
from export.passes.quantizers import quantized
from export.passes.rule import (
    Clamp,
    Codes,
    Context,
    Refusal,
    Written,
    activation_quantizer,
    byte_codes,
)
from training.quantize.pointwise import Expression, X, evaluate

_OPERATORS: Mapping[str, str] = MappingProxyType(
    {
        "Add": "add",
        "Sub": "sub",
        "Mul": "mul",
        "Div": "div",
        "Neg": "neg",
        "Sigmoid": "sigmoid",
        "Tanh": "tanh",
        "Softplus": "softplus",
        "Exp": "exp",
        "Erf": "erf",
        "Abs": "abs",
        "Sqrt": "sqrt",
    }
)
_WITH_ALPHA: Mapping[str, tuple[str, float]] = MappingProxyType(
    {"LeakyRelu": ("leaky", 0.01), "Elu": ("elu", 1.0)}
)
FUNCTION_OPERATORS = tuple(sorted({*_OPERATORS, *_WITH_ALPHA} - {"Add", "Mul"}))
"""Those that a function in a Q/DQ file may have, besides sums, products and clamps."""

_NAMES = (*_OPERATORS, *_WITH_ALPHA, "Relu", "Clip", "HardSigmoid", "HardSwish")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Quant(f(codes)), taken apart; ``source`` is the QONNX tensor of the codes."""

    x: Codes
    source: str
    expression: Expression
    quantizer: Quantizer


def table(node: onnx.NodeProto, context: Context) -> Table:
    """Take apart the function before the quantizer ``node``."""
    found: dict[str, Expression] = {}
    roots: set[str] = set()

    def expression_of(name: str, depth: int) -> Expression:
        if name in context.codes:
            roots.add(name)
            return X
        if name in context.source.constants:
            constant = context.source.constants[name]
            if constant.size != 1:
                raise Refusal(f"{name!r} is no single number, so the function differs by channel")
            return float(constant.item())
        if name in found:
            return found[name]
        maker = context.source.producer(name)
        if maker is None or maker.op_type not in _NAMES or maker.domain not in ("", "ai.onnx"):
            made = "an input" if maker is None else maker.op_type
            raise Refusal(f"{made} is no function that a table can hold")
        if depth > 64:
            raise Refusal("the function has more than 64 nested operators")
        found[name] = _expression(maker, lambda part: expression_of(part, depth + 1))
        return found[name]

    expression = expression_of(node.input[0], 0)
    if len(roots) != 1:
        raise Refusal(f"it is a function of {len(roots)} tensors of codes, not of one")
    if expression == X:
        raise Refusal("there is no function, the codes are requantized")
    (root,) = roots
    return Table(
        x=context.codes[root],
        source=root,
        expression=expression,
        quantizer=activation_quantizer(node, context),
    )


def _expression(node: onnx.NodeProto, of: object) -> Expression:
    assert callable(of)
    attributes = attributes_of(node)
    if node.op_type in _OPERATORS:
        return [_OPERATORS[node.op_type], *(of(name) for name in node.input)]
    x = of(node.input[0])
    if node.op_type in _WITH_ALPHA:
        function, default = _WITH_ALPHA[node.op_type]
        return [function, x, float(attributes.get("alpha", default))]
    if node.op_type == "Relu":
        return ["clamp", x, 0.0, None]
    if node.op_type == "Clip":
        bounds: list[Expression | None] = [attributes.get("min"), attributes.get("max")]
        for index, name in enumerate(node.input[1:3]):
            if name:
                bounds[index] = of(name)
        if any(isinstance(bound, list | str) for bound in bounds):
            raise Refusal("its Clip has a computed bound")
        return ["clamp", x, *bounds]
    alpha, beta = (1.0 / 6.0, 0.5) if node.op_type == "HardSwish" else (0.2, 0.5)
    slope = float(attributes.get("alpha", alpha))
    line: Expression = ["add", ["mul", slope, x], float(attributes.get("beta", beta))]
    hard: Expression = ["clamp", line, 0.0, 1.0]
    return ["mul", x, hard] if node.op_type == "HardSwish" else hard


def entries(found: Table, out: Codes) -> NDArray[np.uint8]:
    """uint8 (256,): the output's code for each input code."""
    codes = np.arange(256, dtype=np.float64) - found.x.zero_point
    values = evaluate(found.expression, codes * np.float64(found.x.scale))
    rounded = np.rint(values / np.float64(out.scale)) + out.zero_point
    return np.clip(rounded, out.low, out.high).astype(np.uint8)


def write_lookup(found: Table, layer: str, context: Context) -> Written:
    """Cast, Gather."""
    builder = context.builder
    out = byte_codes(found.quantizer, Clamp(), layer)
    index = builder.add("Cast", [found.x.name], f"{layer}.index", to=TensorProto.INT32)
    stored = builder.constant(entries(found, out), f"{layer}.table")
    name = builder.add("Gather", [stored, index], layer, axis=0)
    used = len(np.unique(entries(found, out)))
    codes = Codes(name=name, scale=out.scale, zero_point=out.zero_point, low=out.low, high=out.high)
    return codes, f"table of {used} codes, {out.low}…{out.high}"


def write_function(found: Table, layer: str, context: Context) -> Written:
    """The function in float32 on dequantized codes, Q, DQ."""
    name = write_expression(context.builder, found.expression, found.x.name, layer)
    codes, text = quantized(name, found.quantizer, Clamp(), layer, context)
    return codes, f"function, {text}"
