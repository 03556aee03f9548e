"""Functions of one number, as data, each of which becomes a table of at most 256 codes.

An expression is ``"x"``, a number, or ``[name, expression, …]``, and therefore plain JSON.  torch
computes it where gradients are needed, and numpy in float64 where a table is made: the network, the
reference and the exported file all take their codes from the same numbers.

Example:
    >>> hard_swish = ["mul", "x", ["div", ["clamp", ["add", "x", 3.0], 0.0, 6.0], 6.0]]
    >>> float(evaluate(hard_swish, np.float64(1.0)))
    0.6666666666666666
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deploy.core.errors import InputError

Expression = str | float | list[Any]
X, Y = "x", "y"
"""The variable, and the second one of a function of two numbers."""

RELU: Expression = ["clamp", X, 0.0, None]
RELU6: Expression = ["clamp", X, 0.0, 6.0]
HARD_SIGMOID: Expression = ["div", ["clamp", ["add", X, 3.0], 0.0, 6.0], 6.0]
GELU: Expression = [
    "mul",
    ["mul", 0.5, X],
    ["add", 1.0, ["erf", ["div", X, math.sqrt(2.0)]]],
]
GELU_TANH: Expression = [
    "mul",
    ["mul", 0.5, X],
    [
        "add",
        1.0,
        [
            "tanh",
            [
                "mul",
                math.sqrt(2.0 / math.pi),
                ["add", X, ["mul", 0.044715, ["mul", X, ["square", X]]]],
            ],
        ],
    ],
]
SIGMOID: Expression = ["sigmoid", X]
SILU: Expression = ["mul", X, ["sigmoid", X]]
MISH: Expression = ["mul", X, ["tanh", ["softplus", X]]]
HARD_SWISH: Expression = ["mul", X, HARD_SIGMOID]
SELU: Expression = ["mul", ["elu", X, 1.6732632423543772], 1.0507009873554805]

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        repr(RELU): "relu",
        repr(RELU6): "relu6",
        repr(SILU): "silu",
        repr(HARD_SWISH): "hard_swish",
        repr(HARD_SIGMOID): "hard_sigmoid",
        repr(GELU): "gelu",
        repr(GELU_TANH): "gelu",
        repr(MISH): "mish",
        repr(SELU): "selu",
    }
)

_ERF = np.vectorize(math.erf, otypes=[np.float64])


def _exp(x: Any) -> Any:
    with np.errstate(over="ignore"):  # the limit of the enclosing expression is right at infinity
        return np.exp(x)


_NUMPY: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "neg": lambda a: -a,
        "clamp": lambda a, low, high: np.clip(a, low, high),
        "leaky": lambda a, slope: np.where(a >= 0.0, a, a * slope),
        "elu": lambda a, alpha: np.where(a > 0.0, a, alpha * np.expm1(np.minimum(a, 0.0))),
        "sigmoid": lambda a: 1.0 / (1.0 + _exp(-a)),
        "tanh": np.tanh,
        "softplus": lambda a: np.logaddexp(0.0, a),
        "exp": _exp,
        "erf": _ERF,
        "abs": np.abs,
        "sqrt": lambda a: np.sqrt(np.maximum(a, 0.0)),
        "square": np.square,
    }
)
_TORCH: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "neg": lambda a: -a,
        "clamp": lambda a, low, high: torch.clamp(a, low, high),
        "leaky": lambda a, slope: F.leaky_relu(a, slope),
        "elu": lambda a, alpha: F.elu(a, alpha),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "softplus": F.softplus,
        "exp": torch.exp,
        "erf": torch.erf,
        "abs": torch.abs,
        "sqrt": lambda a: torch.sqrt(torch.clamp(a, min=0.0)),
        "square": torch.square,
    }
)

_OPERANDS = dict.fromkeys(("add", "sub", "mul", "div", "leaky", "elu"), 2) | {"clamp": 3}

FUNCTIONS: Mapping[str, int] = MappingProxyType({name: _OPERANDS.get(name, 1) for name in _NUMPY})
"""The names that an expression may hold, each in both arithmetics, and how many operands each has.
Those of leaky, elu and clamp after the first are numbers; a bound of clamp may be None."""

MOST_NESTED = 64


def evaluate(expression: Expression, x: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    """The value of the expression in float64, of the shape of ``x``."""
    return np.asarray(_apply(expression, x, _NUMPY), np.float64) + np.zeros_like(x)


def evaluate_pair(
    expression: Expression, x: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]]
) -> NDArray[np.floating[Any]]:
    """The value of an expression of :data:`X` and :data:`Y` in their precision, of the shape that
    the two broadcast to."""
    found = np.asarray(_apply(expression, x, _NUMPY, y))
    return np.broadcast_to(found, np.broadcast_shapes(x.shape, y.shape))


def evaluate_torch(expression: Expression, x: Tensor) -> Tensor:
    """The value of the expression for a float tensor of any shape, with its gradient."""
    found = _apply(expression, x, _TORCH)
    return found if isinstance(found, Tensor) else torch.full_like(x, found)


def substitute(expression: Expression, inner: Expression) -> Expression:
    """The expression with ``inner`` in place of the variable."""
    if expression == X:
        return inner
    if isinstance(expression, list):
        return [expression[0], *(substitute(part, inner) for part in expression[1:])]
    return expression


def check(expression: object, where: str, depth: int = 0) -> Expression:
    """Check an expression that came from a file.

    Raises:
        InputError: it is not an expression, names a function that is not in :data:`FUNCTIONS`,
            gives one the wrong number of operands, or is nested more than :data:`MOST_NESTED` deep.
    """
    match expression:
        case [str(name), first, *rest] if (
            FUNCTIONS.get(name) == 1 + len(rest) and depth < MOST_NESTED
        ):
            check(first, where, depth + 1)
            for part in rest:
                if name == "clamp" and part is None and rest != [None, None]:
                    continue
                if name in ("clamp", "leaky", "elu") and not _is_number(part):
                    break
                check(part, where, depth + 1)
            else:
                return cast(Expression, expression)
        case _ if expression == X or _is_number(expression):
            return cast(Expression, expression)
    operands = ", ".join(f"{name} of {count}" for name, count in FUNCTIONS.items())
    raise InputError(
        f"{where}: expected an expression of x, numbers and functions ({operands}), nested at most "
        f"{MOST_NESTED} deep; got {str(expression)[:200]}"
    )


def _is_number(value: object) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(cast(float, value))


def name_of(expression: Expression) -> str:
    """A short name of a function: its own where it has one, else that of its outermost part."""
    named = _NAMES.get(repr(expression))
    if named is not None:
        return named
    return str(expression[0]) if isinstance(expression, list) else "function"


def in_float32(expression: Expression) -> Expression:
    """The expression with every number rounded to float32, as the constants of a file are: the
    tables of the network and of its file then come from the same numbers."""
    if isinstance(expression, list):
        return [expression[0], *(None if e is None else in_float32(e) for e in expression[1:])]
    return float(np.float32(expression)) if _is_number(expression) else expression


def rectifier(expression: Expression) -> tuple[float | None] | None:
    """(ceiling,) of a ReLU (where it is None) or of a clamp to 0 … ceiling; None for any other
    function."""
    match expression:
        case ["clamp", "x", low, None] if low == 0:
            return (None,)
        case ["clamp", "x", low, high] if low == 0 and high is not None:
            return (float(high),)
    return None


def _apply(
    expression: Any, x: Any, functions: Mapping[str, Callable[..., Any]], y: Any = None
) -> Any:
    if isinstance(expression, list):
        parts = (_apply(part, x, functions, y) for part in expression[1:])
        return functions[expression[0]](*parts)
    if isinstance(expression, str):
        return x if expression == X else y
    return expression
