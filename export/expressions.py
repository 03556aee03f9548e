"""Functions of one tensor (:mod:`training.quantize.pointwise`) in standard ONNX operators."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from export.graph_builder import GraphBuilder
from training.quantize.pointwise import Expression, X


def write_expression(builder: GraphBuilder, expression: Expression, x: str, name: str) -> str:
    """Append ``expression`` of the float tensor ``x``; returns its output tensor."""

    def written(part: Expression) -> str | float:
        if not isinstance(part, list):
            return x if part == X else float(part)
        function, *arguments = part
        if function == "clamp":
            low, high = arguments[1:]
            return write_clamp(
                builder, cast(str, written(arguments[0])), low, high, f"{name}.clamp"
            )
        values = [written(one) for one in arguments]
        operator, attributes = FUNCTIONS[function]
        if attributes:
            numbers: dict[str, Any] = dict(zip(attributes, values[1:], strict=True))
            return builder.add(operator, [cast(str, values[0])], f"{name}.{function}", **numbers)
        operands = [
            builder.constant(np.float32(v), "number") if isinstance(v, float) else v for v in values
        ]
        return builder.add(
            operator, operands * (2 if function == "square" else 1), f"{name}.{function}"
        )

    found = written(expression)
    assert isinstance(found, str), "expected a number, got a function of a tensor"
    return found


def write_clamp(
    builder: GraphBuilder, x: str, low: float | None, high: float | None, name: str
) -> str:
    """Append Relu, or Clip to the given bounds."""
    if low == 0.0 and high is None:
        return builder.add("Relu", [x], name)
    bounds = ["" if v is None else builder.constant(np.float32(v), "bound") for v in (low, high)]
    while not bounds[-1]:
        bounds.pop()
    return builder.add("Clip", [x, *bounds], name)


FUNCTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "add": ("Add", ()),
        "sub": ("Sub", ()),
        "mul": ("Mul", ()),
        "div": ("Div", ()),
        "neg": ("Neg", ()),
        "leaky": ("LeakyRelu", ("alpha",)),
        "elu": ("Elu", ("alpha",)),
        "sigmoid": ("Sigmoid", ()),
        "tanh": ("Tanh", ()),
        "softplus": ("Softplus", ()),
        "exp": ("Exp", ()),
        "erf": ("Erf", ()),
        "abs": ("Abs", ()),
        "sqrt": ("Sqrt", ()),
        "square": ("Mul", ()),
    }
)
"""ONNX's operator for each function of an expression, and which arguments are its attributes."""
