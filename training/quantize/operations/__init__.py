"""The operations that quantization supports, by module type and by function name.

Each file of this folder handles one family: its ``MODULES`` and ``FUNCTIONS`` define what to write
into the graph for a call.  To support another operation, add an entry there.  An operation without
an entry is refused, and :mod:`training.quantize.operations.refusals` names its replacement.
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
    """The handler of a call of ``module``; None where it is unknown."""
    return next((take for kind, take in MODULES.items() if isinstance(module, kind)), None)


def function_taker(name: str) -> Taker | None:
    """The handler of a call of the function or method ``name``; None where it is unknown."""
    return FUNCTIONS.get(_SYNONYMS.get(name, name))
