"""The operations that quantization takes, by module type and by function name.

Each file of this folder takes one family: its ``MODULES`` and ``FUNCTIONS`` say what to write into
the graph for a call.  A further operation is a further entry there; what is not in here is refused,
and :mod:`training.quantize.operations.refusals` names what to put in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from training.quantize.operations import (
    arithmetic,
    functions,
    layers,
    refusals,
    shapes,
    windows,
)
from training.quantize.operations.call import FunctionTakers, ModuleTakers, Taker

MODULES: ModuleTakers = MappingProxyType(
    {
        **layers.MODULES,
        **functions.MODULES,
        **shapes.MODULES,
        **windows.MODULES,
        **refusals.MODULES,
    }
)
FUNCTIONS: FunctionTakers = MappingProxyType(
    {
        **layers.FUNCTIONS,
        **arithmetic.FUNCTIONS,
        **functions.FUNCTIONS,
        **shapes.FUNCTIONS,
        **windows.FUNCTIONS,
        **refusals.FUNCTIONS,
    }
)
"""Functions and methods by their name, without underscores of in-place forms."""

_SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        "radd": "add",
        "rmul": "mul",
        "rtruediv": "rdiv",
        "truediv": "div",
        "divide": "div",
        "multiply": "mul",
        "subtract": "sub",
        "view_as": "view",
        "reshape_as": "reshape",
        "concat": "cat",
        "concatenate": "cat",
        "clip": "clamp",
        "iadd": "add",
        "imul": "mul",
        "isub": "sub",
        "itruediv": "div",
        "true_divide": "div",
        "negative": "neg",
        "absolute": "abs",
        "special_expit": "sigmoid",
        "special_erf": "erf",
        "pos": "positive",
        "boolean_dispatch": "max_pool2d",
        "max_pool2d_with_indices": "max_pool2d",
        "adaptive_max_pool2d_with_indices": "adaptive_max_pool2d",
        "swapaxes": "transpose",
        "swapdims": "transpose",
        "moveaxis": "movedim",
    }
)


def module_taker(module: nn.Module) -> Taker | None:
    """What takes a call of ``module``; None: it is not known."""
    return next((take for kind, take in MODULES.items() if isinstance(module, kind)), None)


def function_taker(name: str) -> Taker | None:
    """What takes a call of the function or method ``name``; None: it is not known."""
    return FUNCTIONS.get(_SYNONYMS.get(name, name))
