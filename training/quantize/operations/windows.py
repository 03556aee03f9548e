"""Pools, averages, nearest upsampling and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from training.quantize.graph import Kind
from training.quantize.operations.call import (
    Call,
    FunctionTakers,
    ModuleTakers,
    Taker,
    Traced,
    Untakeable,
    pair,
)


def _max_pool(
    call: Call,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Traced:
    if pair(dilation) != [1, 1] or return_indices:
        raise Untakeable("it is dilated or returns indices", "use a plain window")
    source = call.tensor(x)
    attributes = _window(call, source, kernel_size, stride, padding, ceil_mode)
    return call.add("max pool", [source], attributes)


def _window(
    call: Call, source: str, kernel: Any, stride: Any, padding: Any, ceil_mode: bool
) -> dict[str, list[int]]:
    call.map_shape(source)
    sides = pair(kernel)
    steps = sides if stride is None or stride == [] else pair(stride)
    pads = pair(padding) * 2
    if ceil_mode:  # the same windows, with the overhang written as padding
        _, height, width = call.map_shape(source)
        for axis, size in enumerate((height, width)):
            windows = call.value.shape[2 + axis]
            reach = (windows - 1) * steps[axis] + sides[axis]
            pads[2 + axis] = max(pads[2 + axis], reach - size - pads[axis])
    return {"kernel": sides, "stride": steps, "padding": pads}


def _average_pool(
    call: Call,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Traced:
    source = call.tensor(x)
    attributes = _window(call, source, kernel_size, stride, padding, ceil_mode)
    padded = any(attributes["padding"])
    if divisor_override is not None or (padded and (ceil_mode or not count_include_pad)):
        raise Untakeable(
            "its windows at the border have other divisors than those inside",
            "use count_include_pad=True, ceil_mode=False and no divisor_override",
        )
    return call.add("average pool", [source], attributes)


def _global_pool(call: Call, source: str, kind: Kind) -> Traced:
    channels, height, width = call.map_shape(source)
    attributes = {"kernel": [height, width], "stride": [1, 1], "padding": [0, 0, 0, 0]}
    return call.add(kind, [source], attributes, value=torch.empty(1, channels, 1, 1))


def _adaptive_average_pool(call: Call, x: Any, output_size: Any) -> Traced:
    source = call.tensor(x)
    _, height, width = call.map_shape(source)
    wanted = [
        s if n is None else int(n)
        for n, s in zip(
            output_size if isinstance(output_size, tuple | list) else [output_size] * 2,
            (height, width),
            strict=True,
        )
    ]
    if wanted == [1, 1]:
        return _global_pool(call, source, "average pool")
    if height % wanted[0] or width % wanted[1]:
        raise Untakeable(
            f"it averages {height}×{width} to {wanted[0]}×{wanted[1]} in windows of unequal size",
            "use an output size that divides the input's",
        )
    sides = [height // wanted[0], width // wanted[1]]
    if sides == [1, 1]:
        return Traced(root=source)
    return call.add(
        "average pool", [source], {"kernel": sides, "stride": sides, "padding": [0, 0, 0, 0]}
    )


def _adaptive_max_pool(
    call: Call, x: Any, output_size: Any, return_indices: bool = False
) -> Traced:
    source = call.tensor(x)
    if pair(output_size) != [1, 1] or return_indices:
        raise Untakeable("its output is not 1×1, or has indices", "use nn.MaxPool2d")
    return _global_pool(call, source, "max pool")


def _over_the_map(kind: Kind, verb: str) -> Taker:
    """The average or the maximum over the dimensions ``dim``, height and width."""

    def take(call: Call, x: Any, dim: Any = None, keepdim: bool = False, **_more: Any) -> Traced:
        source = call.tensor(x)
        axes = dim if isinstance(dim, tuple | list) else [dim]
        if len(call.shape(source)) != 3 or {None if d is None else d % 4 for d in axes} != {2, 3}:
            raise Untakeable(f"it {verb}s dimensions {dim}", f"{verb} height and width, dim=(2, 3)")
        pooled = _global_pool(call, source, kind)
        if keepdim:
            return pooled
        return call.add("reshape", [pooled.root], {"shape": [call.shape(source)[0]]})

    return take


def _interpolate(
    call: Call,
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    **_more: Any,
) -> Traced:
    source = call.tensor(x)
    call.map_shape(source)
    factors = [call.value.shape[2 + axis] / call.shape(source)[1 + axis] for axis in (0, 1)]
    # At whole factors both copy the same pixels.
    nearest = mode in ("nearest", "nearest-exact")
    if not nearest or any(f != int(f) or f < 1 for f in factors):
        raise Untakeable(
            f"it resizes by {factors} with mode {mode!r}", "use nearest and whole factors"
        )
    if factors == [1.0, 1.0]:
        return Traced(root=source)
    return call.add("upsample", [source], {"factor": [int(f) for f in factors]})


def _pad(
    call: Call, x: Any, pad: Sequence[int], mode: str = "constant", value: Any = None
) -> Traced:
    amounts = [int(n) for n in pad] + [0] * (6 - len(pad))
    if mode != "constant" or (value or 0) != 0 or min(amounts) < 0 or len(pad) > 6:
        border = f"{value or 0}" if mode == "constant" else f"mode {mode!r}"
        raise Untakeable(f"it pads {list(pad)} with {border}", "pad with zeros, mode constant")
    left, right, top, bottom, front, back = amounts
    source = call.tensor(x)
    call.map_shape(source)
    return call.add(
        "pad", [source], {"amounts": [top, left, bottom, right], "channels": [front, back]}
    )


MODULES: ModuleTakers = {
    nn.MaxPool2d: lambda call, m, x: _max_pool(
        call, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    ),
    nn.AvgPool2d: lambda call, m, x: _average_pool(
        call,
        x,
        m.kernel_size,
        m.stride,
        m.padding,
        m.ceil_mode,
        m.count_include_pad,
        m.divisor_override,
    ),
    nn.AdaptiveAvgPool2d: lambda call, m, x: _adaptive_average_pool(call, x, m.output_size),
    nn.AdaptiveMaxPool2d: lambda call, m, x: _adaptive_max_pool(
        call, x, m.output_size, m.return_indices
    ),
    nn.Upsample: lambda call, m, x: _interpolate(call, x, m.size, m.scale_factor, m.mode),
    nn.ConstantPad2d: lambda call, m, x: _pad(call, x, m.padding, value=m.value),
    nn.ReflectionPad2d: lambda call, m, x: _pad(call, x, m.padding, "reflect"),
    nn.ReplicationPad2d: lambda call, m, x: _pad(call, x, m.padding, "replicate"),
    nn.CircularPad2d: lambda call, m, x: _pad(call, x, m.padding, "circular"),
}
FUNCTIONS: FunctionTakers = {
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive_average_pool,
    "adaptive_max_pool2d": _adaptive_max_pool,
    "mean": _over_the_map("average pool", "average"),
    "amax": _over_the_map("max pool", "maximize"),
    "interpolate": _interpolate,
    "pad": _pad,
    "constant_pad_nd": lambda call, x, pad, value=0: _pad(call, x, pad, value=value),
}
