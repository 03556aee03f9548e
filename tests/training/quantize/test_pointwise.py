"""Functions as data: two arithmetics, one meaning, and what a file may hold."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from deploy.core.errors import InputError
from training.quantize.pointwise import (
    FUNCTIONS,
    MOST_NESTED,
    Expression,
    X,
    check,
    evaluate,
    evaluate_torch,
    in_float32,
    rectifier,
    substitute,
)

HARD_SWISH: Expression = ["mul", X, ["div", ["clamp", ["add", X, 3.0], 0.0, 6.0], 6.0]]
OPERANDS: dict[str, list[Any]] = {
    "add": [X, 1.5],
    "sub": [2.0, X],
    "mul": [X, X],
    "div": [X, 3.0],
    "clamp": [X, -0.5, 6.0],
    "leaky": [X, 0.1],
    "elu": [X, 0.7],
}


def of(name: str) -> Expression:
    return [name, *OPERANDS.get(name, [X])]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpy_and_torch_agree_on_each_function(name: str) -> None:
    x = np.concatenate([np.linspace(-30.0, 30.0, 2001), [0.0, -0.0, 1e-8, 88.0]])
    ours = evaluate(of(name), x)
    theirs = evaluate_torch(of(name), torch.from_numpy(x)).numpy()
    # Both in float64: softplus is linear above 20 in torch, 2e-9 off.
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=3e-9)
    assert ours.dtype == np.float64


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_has_a_gradient_that_is_that_of_differences(name: str) -> None:
    x = torch.linspace(-3.0, 3.0, 25, dtype=torch.float64) + 0.013
    x = x.abs() if name == "sqrt" else x  # below 0 it is held at 0
    assert torch.autograd.gradcheck(
        lambda t: evaluate_torch(of(name), t), x.requires_grad_(), eps=1e-6, atol=1e-5
    )


def test_limits_are_finite_where_the_function_has_one() -> None:
    x = np.array([-1e3, 1e3])
    assert evaluate(["sigmoid", X], x).tolist() == [0.0, 1.0]
    assert evaluate(["tanh", X], x).tolist() == [-1.0, 1.0]
    assert evaluate(["elu", X, 1.0], x).tolist() == [-1.0, 1e3]
    assert evaluate(["softplus", X], x).tolist() == [0.0, 1e3]


def test_a_constant_has_the_shape_of_the_variable() -> None:
    x = torch.zeros(2, 3, dtype=torch.float32)
    assert evaluate(2.5, np.zeros((2, 3))).tolist() == [[2.5] * 3] * 2
    assert evaluate_torch(2.5, x).tolist() == [[2.5] * 3] * 2
    assert evaluate_torch(X, x) is x


def test_substitution_composes() -> None:
    x = np.linspace(-5.0, 5.0, 101)
    inner: Expression = ["sub", X, 1.0]
    composed = substitute(HARD_SWISH, inner)
    np.testing.assert_array_equal(evaluate(composed, x), evaluate(HARD_SWISH, x - 1.0))
    assert substitute(X, inner) == inner
    assert substitute(3.0, inner) == 3.0


def test_rectifiers_are_known_by_their_bounds() -> None:
    assert rectifier(["clamp", X, 0.0, None]) == (None,)
    assert rectifier(["clamp", X, 0, 6.0]) == (6.0,)
    assert rectifier(["clamp", X, -1.0, 6.0]) is None
    assert rectifier(["clamp", ["neg", X], 0.0, None]) is None
    assert rectifier(HARD_SWISH) is None


@pytest.mark.parametrize(
    "expression",
    [X, 1, 2.5, HARD_SWISH, ["clamp", X, 0.0, None], ["clamp", X, None, 1.0], *map(of, FUNCTIONS)],
)
def test_what_a_plan_writes_is_read(expression: Expression) -> None:
    assert check(json.loads(json.dumps(expression)), "plan") == expression


def nested(depth: int) -> Expression:
    expression: Expression = X
    for _ in range(depth):
        expression = ["neg", expression]
    return expression


@pytest.mark.parametrize(
    "wrong",
    [
        "y", None, True, [], {}, [X], ["cube", X], [["neg"], X], ["add", X], ["neg", X, X],
        ["add", X, None], ["clamp", X, None, None], ["clamp", X, X, 1.0], ["leaky", X, X],
        ["clamp", None, 0.0, 1.0], ["mul", X, float("nan")], float("inf"), ["neg", ["add", X, "1"]],
        ["__import__", "os"], nested(MOST_NESTED + 1),
    ],
)  # fmt: skip
def test_anything_else_in_a_file_is_refused(wrong: object) -> None:
    with pytest.raises(InputError, match=r"step 3: expected an expression of x, .*add of 2"):
        check(wrong, "step 3")
    check(nested(MOST_NESTED), "step 3")


def test_numbers_are_those_of_a_float32_file() -> None:
    rounded = in_float32(["leaky", ["clamp", ["add", X, 0.1], None, 6.0], 0.3])
    tenth, third = float(np.float32(0.1)), float(np.float32(0.3))
    assert rounded == ["leaky", ["clamp", ["add", X, tenth], None, 6.0], third]
    assert in_float32(rounded) == rounded
