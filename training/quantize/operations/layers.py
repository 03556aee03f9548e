"""Convolutions, linear layers and normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deploy.core.text import shape_in_words
from training.quantize.operations.call import (
    Call,
    FunctionTakers,
    ModuleTakers,
    Traced,
    Untakeable,
    pair,
)


def _convolution(
    call: Call,
    x: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Traced:
    if not isinstance(weight, Tensor) or weight.dim() != 4:
        raise Untakeable("its weights are computed or not two-dimensional", "use nn.Conv2d")
    attributes = {
        "stride": pair(stride),
        "padding": _border(padding, weight.shape[2:], dilation),
        "dilation": pair(dilation),
        "groups": int(groups),
    }
    tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
    return call.add("convolution", [call.tensor(x)], attributes, tensors)


def _border(padding: Any, kernel: Sequence[int], dilation: Any) -> list[int]:
    """Top, left, bottom and right of a convolution's padding, which may be a word."""
    if padding == "valid":
        return [0, 0, 0, 0]
    if padding == "same":
        spans = [d * (k - 1) for d, k in zip(pair(dilation), kernel, strict=True)]
        return [spans[0] // 2, spans[1] // 2, spans[0] - spans[0] // 2, spans[1] - spans[1] // 2]
    return pair(padding) * 2


def _conv_module(call: Call, module: nn.Conv2d, x: Any) -> Traced:
    border = _border(module.padding, module.kernel_size, module.dilation)
    if module.padding_mode != "zeros" and any(border):
        raise Untakeable(
            f"it pads with {module.padding_mode!r}", "use padding_mode='zeros', or no padding"
        )
    return _convolution(
        call,
        x,
        module.weight,
        module.bias,
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
    )


def _linear(call: Call, x: Any, weight: Tensor, bias: Tensor | None = None) -> Traced:
    source = call.tensor(x)
    if len(call.shape(source)) != 1 or not isinstance(weight, Tensor):
        raise Untakeable(
            f"it is applied to N×{shape_in_words(call.shape(source))}",
            "linear layers read N×features: flatten first, or use a 1×1 convolution",
        )
    tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
    return call.add("linear", [source], {}, tensors)


def _norm(
    call: Call,
    x: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Traced:
    if running_mean is None or running_var is None or training:
        raise Untakeable(
            "it has no running statistics", "set track_running_stats=True and train or calibrate it"
        )
    source = call.tensor(x)
    if len(call.shape(source)) == 2:
        raise Untakeable(
            f"it reads N×{shape_in_words(call.shape(source))}", "give it N×C×H×W or N×features"
        )
    tensors = {
        "gain": torch.ones_like(running_mean) if weight is None else weight,
        "bias": torch.zeros_like(running_mean) if bias is None else bias,
        "mean": running_mean,
        "variance": running_var,
    }
    return call.add("norm", [source], {"epsilon": float(eps)}, tensors)


def _norm_module(call: Call, module: Any, x: Any) -> Traced:
    return _norm(
        call,
        x,
        module.running_mean,
        module.running_var,
        module.weight,
        module.bias,
        eps=module.eps,
    )


MODULES: ModuleTakers = {
    nn.Conv2d: _conv_module,
    nn.Linear: lambda call, m, x: _linear(call, x, m.weight, m.bias),
    nn.BatchNorm1d: _norm_module,
    nn.BatchNorm2d: _norm_module,
    nn.SyncBatchNorm: _norm_module,
}
FUNCTIONS: FunctionTakers = {"conv2d": _convolution, "linear": _linear, "batch_norm": _norm}
