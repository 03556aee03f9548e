"""Functions of one number: kept as expressions until something else reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from training.quantize.operations.call import (
    Call,
    FunctionTakers,
    ModuleTakers,
    Traced,
    Untakeable,
    number,
)
from training.quantize.pointwise import (
    GELU,
    GELU_TANH,
    HARD_SIGMOID,
    HARD_SWISH,
    MISH,
    RELU,
    RELU6,
    SELU,
    SIGMOID,
    SILU,
    Expression,
    X,
)


def _power(call: Call, x: Any, exponent: Any) -> Traced:
    known = {2.0: "square", 0.5: "sqrt"}.get(number(exponent) or 0.0)
    if known is None:
        raise Untakeable(f"its exponent is {exponent}", "the supported exponents are 2 and 0.5")
    return call.pointwise([known, X], x)


def _prelu(call: Call, x: Any, weight: Tensor) -> Traced:
    if weight.numel() != 1:
        raise Untakeable(
            f"it has a slope for each of {weight.numel()} channels, but a table has one for all",
            "use nn.PReLU() with one slope, or LeakyReLU",
        )
    return call.pointwise(["leaky", X, float(weight)], x)


def _clamp(call: Call, x: Any, min: Any = None, max: Any = None, **more: Any) -> Traced:
    bounds = [None if b is None else number(b) for b in (min, max)]
    if any(b is None and given is not None for b, given in zip(bounds, (min, max), strict=True)):
        raise Untakeable("its bounds are tensors", "clamp to numbers")
    return call.pointwise(["clamp", X, *bounds], x)


def _unary(expression: Expression) -> Callable[..., Traced]:
    return lambda call, x, *_rest, **_more: call.pointwise(expression, x)


def _softplus(call: Call, x: Any, beta: float = 1.0, threshold: float = 20.0) -> Traced:
    if threshold < 20.0:
        raise Untakeable(f"its threshold is {threshold}", "leave it at 20")
    if beta == 1.0:
        return call.pointwise(["softplus", X], x)
    return call.pointwise(["div", ["softplus", ["mul", X, float(beta)]], float(beta)], x)


def _celu(call: Call, x: Any, alpha: float = 1.0, inplace: bool = False) -> Traced:
    if alpha <= 0.0:
        raise Untakeable(f"its alpha is {alpha}", "give it one above 0")
    return call.pointwise(["mul", ["elu", ["div", X, float(alpha)], 1.0], float(alpha)], x)


def _gelu(call: Call, x: Any, approximate: str = "none") -> Traced:
    return call.pointwise(GELU if approximate == "none" else GELU_TANH, x)


MODULES: ModuleTakers = {
    nn.ReLU: lambda call, m, x: call.pointwise(RELU, x),
    nn.ReLU6: lambda call, m, x: call.pointwise(RELU6, x),
    nn.Hardtanh: lambda call, m, x: call.pointwise(["clamp", X, m.min_val, m.max_val], x),
    nn.LeakyReLU: lambda call, m, x: call.pointwise(["leaky", X, m.negative_slope], x),
    nn.PReLU: lambda call, m, x: _prelu(call, x, m.weight),
    nn.ELU: lambda call, m, x: call.pointwise(["elu", X, m.alpha], x),
    nn.CELU: lambda call, m, x: _celu(call, x, m.alpha),
    nn.SELU: lambda call, m, x: call.pointwise(SELU, x),
    nn.Sigmoid: lambda call, m, x: call.pointwise(SIGMOID, x),
    nn.Hardsigmoid: lambda call, m, x: call.pointwise(HARD_SIGMOID, x),
    nn.Hardswish: lambda call, m, x: call.pointwise(HARD_SWISH, x),
    nn.SiLU: lambda call, m, x: call.pointwise(SILU, x),
    nn.Mish: lambda call, m, x: call.pointwise(MISH, x),
    nn.GELU: lambda call, m, x: _gelu(call, x, m.approximate),
    nn.Tanh: lambda call, m, x: call.pointwise(["tanh", X], x),
    nn.Softplus: lambda call, m, x: _softplus(call, x, m.beta, m.threshold),
}
FUNCTIONS: FunctionTakers = {
    "neg": _unary(["neg", X]),
    "relu": _unary(RELU),
    "relu6": _unary(RELU6),
    "hardtanh": lambda call, x, min_val=-1.0, max_val=1.0, inplace=False: call.pointwise(
        ["clamp", X, float(min_val), float(max_val)], x
    ),
    "clamp": _clamp,
    "clamp_min": lambda call, x, min: _clamp(call, x, min=min),
    "clamp_max": lambda call, x, max: _clamp(call, x, max=max),
    "leaky_relu": lambda call, x, negative_slope=0.01, inplace=False: call.pointwise(
        ["leaky", X, float(negative_slope)], x
    ),
    "elu": lambda call, x, alpha=1.0, inplace=False: call.pointwise(["elu", X, alpha], x),
    "celu": _celu,
    "selu": _unary(SELU),
    "prelu": _prelu,
    "sigmoid": _unary(SIGMOID),
    "hardsigmoid": _unary(HARD_SIGMOID),
    "hardswish": _unary(HARD_SWISH),
    "silu": _unary(SILU),
    "mish": _unary(MISH),
    "gelu": _gelu,
    "tanh": _unary(["tanh", X]),
    "softplus": _softplus,
    "exp": _unary(["exp", X]),
    "erf": _unary(["erf", X]),
    "abs": _unary(["abs", X]),
    "sqrt": _unary(["sqrt", X]),
    "rsqrt": _unary(["div", 1.0, ["sqrt", X]]),
    "reciprocal": _unary(["div", 1.0, X]),
    "square": _unary(["square", X]),
    "pow": _power,
}
