"""Sums, differences, products and quotients: with numbers, of two tensors, with stored tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from training.quantize.graph import is_gate
from training.quantize.operations.call import Call, FunctionTakers, Traced, Untakeable, number
from training.quantize.pointwise import X


def _binary(name: str) -> Callable[..., Traced]:
    def take(call: Call, a: Any, b: Any, **keywords: Any) -> Traced:
        if any(value not in (None, 1) for value in keywords.values()):
            raise Untakeable(f"it has {', '.join(keywords)}", "call it with only two operands")
        constant = [number(one) for one in (a, b)]
        if constant[1] is not None:
            return call.pointwise([name, X, constant[1]], a)
        if constant[0] is not None:
            return call.pointwise([name, constant[0], X], b)
        if isinstance(a, Traced) and isinstance(b, Traced):
            if a.root == b.root and _same_shape(call):
                expression = [name, a.expression, b.expression]
                return Traced(root=a.root, expression=expression)
            if name == "add":
                return _sum(call, [a, b])
            if name == "mul":
                return _gate(call, a, b)
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            return _channel_affine(call, name, a, b)
        raise Untakeable(
            f"{name} of two tensors that both depend on the image",
            "sums and gates (products with a sigmoid) are known",
        )

    return take


def _same_shape(call: Call) -> bool:
    shapes = {tuple(call.draft.values[n].shape) for n in call.node.all_input_nodes}
    return len(shapes) == 1


def _channel_affine(call: Call, name: str, a: Any, b: Any) -> Traced:
    """A sum, difference, product or quotient with a stored tensor of one number per channel: a norm
    that has only gain and bias. With one number for all channels it is a function."""
    x, stored = (a, b) if isinstance(a, Traced) else (b, a)
    shape = call.shape(x.root)
    # Broadcasting aligns the last dimensions: a map's channels are the third from the end.
    rank = len(shape)
    fits = rank in (1, 3) and stored.dim() >= rank
    fits = fits and stored.numel() == stored.shape[-rank] == shape[0]
    if not fits and stored.numel() == 1 and stored.dim() <= rank + 1:
        value = float(stored)
        return call.pointwise([name, value, X] if x is b else [name, X, value], x)
    if not fits or (name == "div" and x is b):
        raise Untakeable(
            f"{name} with a stored tensor of shape {tuple(stored.shape)}",
            "a stored tensor may add to, multiply or divide each channel, C×1×1, or each feature",
        )
    flat = stored.detach().double().reshape(-1)
    if name == "div" and not bool(flat.all()):
        raise Untakeable("it divides a channel by 0", "store divisors that are not 0")
    ones, zeros = torch.ones_like(flat), torch.zeros_like(flat)
    gain, bias = {
        "add": (ones, flat),
        "sub": (-ones, flat) if x is b else (ones, -flat),
        "mul": (flat, zeros),
        "div": (1.0 / flat, zeros),
    }[name]
    tensors = {"gain": gain, "bias": bias, "mean": zeros, "variance": ones}
    return call.add("norm", [call.tensor(x)], {"epsilon": 0.0, "fixed": True}, tensors)


def _sum(call: Call, terms: Sequence[Any]) -> Traced:
    names = [call.tensor(term, "a summand") for term in terms]
    shapes = {call.shape(name) for name in names}
    if len(shapes) != 1:
        raise Untakeable(
            f"it broadcasts {' and '.join(str(s) for s in sorted(shapes))}",
            "summands must have one shape",
        )
    return call.add("add", names)


def _gate(call: Call, a: Traced, b: Traced) -> Traced:
    names = [call.tensor(a, "a factor"), call.tensor(b, "a factor")]
    by_name = {one.name: one for one in call.draft.operations}
    if not any(call.refused(name) or is_gate(name, by_name) for name in names):
        raise Untakeable(
            "neither factor is known to be within 0…1", "a gate is a sigmoid or hard sigmoid"
        )
    first, second = (call.shape(name) for name in names)
    # Broadcasting aligns the last dimensions: both are vectors of features, or both are maps.
    if len(first) != len(second) or len(first) not in (1, 3) or first[0] != second[0]:
        raise Untakeable(
            f"it multiplies {first} and {second}",
            "a gate has the channels of what it gates, C×1×1 or C×H×W, or its features",
        )
    return call.add("gate", names)


_TAKERS = {name: _binary(name) for name in ("add", "sub", "mul", "div")}

FUNCTIONS: FunctionTakers = {
    **_TAKERS,
    "rsub": lambda call, a, b: _TAKERS["sub"](call, b, a),
    "rdiv": lambda call, a, b: _TAKERS["div"](call, b, a),
}
