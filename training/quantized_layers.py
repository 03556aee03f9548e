"""Brevitas layers around this project's tensor quantizers."""

from __future__ import annotations

from typing import Any, cast

import torch
from brevitas.inject import ExtendedInjector
from brevitas.nn import QuantConv2d, QuantIdentity, QuantLinear
from brevitas.proxy import ActQuantProxyFromInjector, WeightQuantProxyFromInjector
from torch import Tensor, nn

from training.quantizers import STREAM_BITS, BitWidthSwitch
from training.weight_quantizer import WeightQuantizer


def quantized_activation(tensor_quant: nn.Module, *, signed: bool = False) -> QuantIdentity:
    """A Brevitas ``QuantIdentity`` around one of the activation quantizers."""

    class Injector(ExtendedInjector):
        proxy_class = ActQuantProxyFromInjector

    injector = Injector.let(
        tensor_quant=tensor_quant, signed=signed, narrow_range=False, rounding_mode="ROUND"
    )
    layer = QuantIdentity(act_quant=injector, return_quant_tensor=False)
    layer.act_quant.skip_create_quant_tensor = True
    return layer


def _weight_injector(tensor_quant: WeightQuantizer) -> Any:
    class Injector(ExtendedInjector):
        proxy_class = WeightQuantProxyFromInjector

    return Injector.let(
        tensor_quant=tensor_quant, signed=True, narrow_range=True, rounding_mode="ROUND"
    )


class Convolution(QuantConv2d):
    """Brevitas' ``QuantConv2d`` whose products a training may compute in bfloat16.

    Codes, scales, BatchNorm and everything after the products stay float32: quantizers that read
    bfloat16 values (8 bits of precision) would give different codes.  In evaluation, and therefore
    in every export, the products are float32 whatever ``products`` is.
    """

    products: torch.dtype = torch.float32

    def forward(self, x: Tensor, gain: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """The convolution of ``x``, N×C×H×W, float32.

        With ``gain`` and ``bias``, float32 (C,), it is ``gain · conv(x) + bias`` with weights that
        are not quantized: a float network with its BatchNorm folded.
        """
        if gain is None:
            return cast(Tensor, super().forward(x))
        return self._conv_forward(x, self.weight * gain.view(-1, 1, 1, 1), bias)

    def inner_forward_impl(
        self, x: Tensor, quant_weight: Tensor, quant_bias: Tensor | None
    ) -> Tensor:
        """The convolution of quantized values, float32 N×C×H×W."""
        if not self.training or self.products == torch.float32:
            return cast(Tensor, super().inner_forward_impl(x, quant_weight, quant_bias))
        with torch.autocast(x.device.type, self.products):
            return cast(Tensor, super().inner_forward_impl(x, quant_weight, quant_bias)).float()


def quantized_convolution(
    switch: BitWidthSwitch,
    channels_in: int,
    channels_out: int,
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    fixed_bits: int | None = None,
) -> Convolution:
    """A Brevitas ``QuantConv2d`` without bias, with switchable weights."""
    layer = Convolution(
        channels_in,
        channels_out,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=False,
        weight_quant=_weight_injector(WeightQuantizer(switch, channels_out, fixed_bits=fixed_bits)),
        return_quant_tensor=False,
    )
    layer.weight_quant.skip_create_quant_tensor = True
    return layer


def quantized_linear(switch: BitWidthSwitch, features: int, classes: int) -> QuantLinear:
    """A Brevitas ``QuantLinear`` without bias, with 8-bit weights at every quantized bit-width."""
    layer = QuantLinear(
        features,
        classes,
        bias=False,
        weight_quant=_weight_injector(WeightQuantizer(switch, classes, fixed_bits=STREAM_BITS)),
        return_quant_tensor=False,
    )
    layer.weight_quant.skip_create_quant_tensor = True
    return layer


def weight_quantizer(layer: nn.Module) -> WeightQuantizer:
    """The :class:`WeightQuantizer` inside one of the Brevitas layers built here."""
    quantizer = cast(Any, layer).weight_quant.tensor_quant
    assert isinstance(quantizer, WeightQuantizer)
    return quantizer
