"""A function of codes as a table: for each possible input code, the code of the function.

y = f(s_x (k - z_x)) for every k in 0 … 255 is a table of 256 numbers.  They are rounded once to
codes of s_y, in float64, by the functions of the fake-quantized network
(training.quantize.pointwise).  The engine looks them up: Gather on uint8 by the input's code, which
a Cast converts to Gather's index type.  The engine rounds nothing, so every engine gives the same
code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from export.expressions import write_expression
from export.graph import attributes_of, node_label
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
    named,
)
from training.quantize.pointwise import Expression, X, Y, evaluate

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
_SUMS = ("Add", "Sub", "Mul", "Div", "Neg", "Abs")
_CURVES = frozenset({*_OPERATORS, *_WITH_ALPHA, "PRelu"}.difference(_SUMS))
"""Functions other than sums and products: what precedes them is a sum of the network."""

_NAMES = (*_OPERATORS, *_WITH_ALPHA, "PRelu", "Relu", "Clip", "HardSigmoid", "HardSwish")


_MOST_OPERATIONS = 1000
"""Largest number of operations of one function; GELU has 9."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The parts of Quant(f(codes))."""

    x: Codes
    expression: Expression
    quantizer: Quantizer


def table(node: onnx.NodeProto, context: Context) -> Table:
    """Match the function before the quantizer ``node``."""
    expression, roots = function_before(node.input[0], context)
    if len(roots) != 1:
        raise Refusal(f"it is a function of {len(roots)} tensors of codes, not of one")
    return Table(
        x=context.codes[roots[0]],
        expression=expression,
        quantizer=activation_quantizer(node, context),
    )


def function(node: onnx.NodeProto, context: Context) -> Table:
    """Match as :func:`table`, if there is a function; another rule handles codes that a Q/DQ file
    only requantizes."""
    found = table(node, context)
    if found.expression == X:
        raise Refusal("there is no function, the codes are requantized", other=True)
    return found


def function_before(tensor: str, context: Context) -> tuple[Expression, tuple[str, ...]]:
    """The function that computes a tensor, and the tensors of codes that are its arguments: the
    first is :data:`X`, the second :data:`Y`."""
    found: dict[str, Expression] = {}
    operations: dict[str, int] = {}
    roots: list[str] = []
    variables = (X, Y)

    def expression_of(name: str, depth: int) -> Expression:
        if name in context.codes:
            same = (one for one in roots if context.codes[one] == context.codes[name])
            root = next(same, name)  # an Identity may give the same codes another name
            if root not in roots:
                roots.append(root)
            return variables[min(roots.index(root), 1)]
        if name in context.source.constants:
            constant = context.source.constants[name]
            if constant.size != 1:
                raise Refusal(f"{name!r} is not one number, so the function differs by channel")
            return float(constant.item())
        if name in found:
            return found[name]
        maker = context.source.producer(name)
        if maker is None or maker.op_type not in _NAMES:
            raise Refusal(f"a table cannot hold the function of {named(maker)}", other=True)
        if depth > 64:
            raise Refusal("the function has more than 64 nested operators")
        try:
            found[name] = _expression(maker, lambda part: expression_of(part, depth + 1))
            # A tensor read twice is computed twice: x + x, nested forty times, is 2⁴⁰ operations.
            operations[name] = 1 + sum(operations.get(part, 0) for part in maker.input)
            if operations[name] > _MOST_OPERATIONS:
                raise Refusal(f"the function has more than {_MOST_OPERATIONS:,} operations")
        except Refusal as refusal:
            if refusal.other and not depth and maker.op_type in _CURVES:
                raise Refusal(
                    f"{node_label(maker)} is a function of a sum that has no codes: {refusal}; "
                    "put a quantizer before it"
                ) from refusal
            raise
        return found[name]

    expression = expression_of(tensor, 0)
    if len(roots) not in (1, 2):
        raise Refusal(f"it is a function of {len(roots)} tensors of codes")
    return expression, tuple(roots)


def _expression(node: onnx.NodeProto, of: object) -> Expression:
    assert callable(of)
    attributes = attributes_of(node)
    if node.op_type in _OPERATORS:
        return [_OPERATORS[node.op_type], *(of(name) for name in node.input)]
    x = of(node.input[0])
    if node.op_type in _WITH_ALPHA:
        function, default = _WITH_ALPHA[node.op_type]
        return [function, x, float(attributes.get("alpha", default))]
    if node.op_type == "PRelu":
        slope = of(node.input[1])
        if not isinstance(slope, float):
            raise Refusal("its PRelu has a computed slope")
        return ["leaky", x, slope]
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
    if found.expression == X:  # only requantized: in float32, to round ties as the source does
        rounded = np.rint(codes.astype(np.float32) * found.x.scale / out.scale) + out.zero_point
    else:
        values = evaluate(found.expression, codes * np.float64(found.x.scale))
        rounded = np.rint(values / np.float64(out.scale)) + out.zero_point
    return np.clip(rounded, out.low, out.high).astype(np.uint8)


def write_lookup(found: Table, layer: str, context: Context) -> Written:
    """Write Cast, Gather."""
    out = byte_codes(found.quantizer, Clamp(), layer)
    return looked_up(found.x.name, entries(found, out), out, layer, context)


def looked_up(
    name: str, values: NDArray[np.uint8], out: Codes, layer: str, context: Context
) -> Written:
    """Append a lookup of the codes ``name`` in the table ``values``, uint8 (256,)."""
    builder = context.builder
    index = builder.add("Cast", [name], f"{layer}.index", to=TensorProto.INT32)
    stored = builder.constant(values, f"{layer}.table")
    gathered = builder.add("Gather", [stored, index], layer, axis=0)
    used = len(np.unique(values))
    return replace(out, name=gathered), f"table of {used} codes, {out.low}…{out.high}"


def write_function(found: Table, layer: str, context: Context) -> Written:
    """Write the function in float32 on dequantized codes, Q, DQ."""
    name = write_expression(context.builder, found.expression, found.x.name, layer)
    codes, text = quantized(name, found.quantizer, Clamp(), layer, context)
    return codes, f"function, {text}"
