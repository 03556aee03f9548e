"""Brevitas' own quantization in place of this project's faster one, to compare the two.

Both are tensor quantizers inside the same Brevitas layers; only what maps values to codes differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp, TensorClampSte
from brevitas.core.quant import IntQuant
from torch import Tensor

from training.gradients import FakeQuantize


@contextmanager
def stock_quantizers() -> Iterator[None]:
    """Inside the ``with`` block every fake quantization of every network is Brevitas' IntQuant."""
    overridden: Any = FakeQuantize
    overridden.apply = staticmethod(stock_quantize)
    try:
        yield
    finally:
        # What is left is the method that FakeQuantize inherits.
        del overridden.apply


def stock_quantize(x: Tensor, scale: Tensor, low: int, high: int, pass_clipped: bool) -> Tensor:
    """The arguments of :class:`training.gradients.FakeQuantize`, the arithmetic of Brevitas."""
    signed = low < 0
    bits = (high + 1).bit_length() - 1 + int(signed)
    stock = _int_quant(signed, signed and low == -high, pass_clipped)
    y: Tensor = stock(scale, scale.new_zeros(()), scale.new_tensor(float(bits)), x)
    return y


@cache
def _int_quant(signed: bool, narrow: bool, pass_clipped: bool) -> torch.nn.Module:
    stock: torch.nn.Module = IntQuant(
        narrow_range=narrow,
        signed=signed,
        float_to_int_impl=RoundSte(),
        tensor_clamp_impl=TensorClampSte() if pass_clipped else TensorClamp(),
        input_view_impl=Identity(),
    )
    return stock
