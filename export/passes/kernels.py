"""Write a QLinearConv so that ONNX Runtime selects the faster of its integer kernels.

The convolution sums the same integers in each of these forms.  Only their layout in memory differs,
and therefore the kernel that runs them.

**Channels in fours.**  The direct kernel needs a multiple of four input channels; otherwise a slow
gather runs, and an image has three channels.  So a small kernel's input is padded with channels of
the zero point whose weights are 0.  They add nothing to any sum, and a first layer of 3×3 takes two
thirds of the time.  A large kernel would lose more on the fourth channel's products than it gains.

**Blocks.**  A large kernel with stride s is written over s×s blocks of positions: SpaceToDepth
moves each block into the channels, which become C s², and the stride becomes 1.  With kernel width
k, p columns of padding before, q = ceil(p / s) and d = s q - p:

    y[i] = sum_j w[j] x[s i - p + j] = sum_t sum_r w[s t + r - d] x[s (i - q + t) + r]

where j + d = s t + r with 0 ≤ r < s; t is one of ceil((k + d) / s) taps, r the position within the
block, and w is 0 outside 0 … k - 1.  Padding consists of whole blocks of the zero point, so its
value is unchanged.  The 7×7 stem of an ImageNet network becomes 4×4 over 12 channels.  Old runtimes
have no SpaceToDepth of bytes, so int8 storage, which is for them, keeps the stride.

**The matrix kernel** (``tune="amx"``).  Weights with zero point 0 always run in the direct kernel,
which uses VNNI at best.  Weights with another zero point run in the matrix product, which uses AMX.
So the weights of a convolution with long enough sums are stored as w - 1 with zero point -1, which
fits because their range is narrow and symmetric.  Without AMX this form is slower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.passes.rule import Codes, Context, byte

TUNES = ("any", "amx")
"""The processors that a file can be tuned for: any, or those with AMX."""

DIRECT_CHANNELS = 4
"""The direct kernels read this many input channels at once."""

MOST_PADDED_TAPS = 25
"""Height times width of the largest kernel whose input channels are padded."""

LEAST_POINTWISE_SUM = 320
"""Least products per sum with which a 1×1 convolution is faster on the matrix kernel with AMX."""

LEAST_SPATIAL_SUM, LEAST_SPATIAL_OUTPUTS = 576, 96
"""The same for larger kernels, and their output channels, which share the cost of the windows."""

FEW_INPUTS, LEAST_OUTPUTS_OF_FEW = 28 * 28, 64
"""Up to this many positions, fewer output channels suffice: the windows stay in the cache."""


@dataclass(frozen=True, kw_only=True)
class KernelForm:
    """One convolution as it is written.

    Attributes:
        source: tensor of input codes in the graph being built.
        weights: int64 O×C×kh×kw, before the zero point is subtracted.
        zero_point: of the weights.
        attributes: of the node.
        note: the changes made, as the end of a line of the log; may be empty.
    """

    source: str
    weights: NDArray[np.int64]
    zero_point: int
    attributes: dict[str, Any]
    note: str = ""


def kernel_form(
    context: Context,
    x: Codes,
    shape: tuple[int, ...] | None,
    weights: NDArray[np.int64],
    attributes: dict[str, Any],
) -> KernelForm:
    """Choose the form, and add the nodes that it needs before the convolution.

    Args:
        context: its builder gets the nodes; its ``tune`` (of :data:`TUNES`) and storage decide.
        x: the input codes.
        shape: of these codes, N×C×H×W, if the QONNX file has it.
        weights: integer codes O×(C/groups)×kh×kw with zero point 0.
        attributes: kernel_shape, strides, pads, dilations, group of the convolution.
    """
    form = KernelForm(source=x.name, weights=weights, zero_point=0, attributes=attributes)
    if int(attributes.get("group", 1)) != 1:
        return form
    taps = weights.shape[2] * weights.shape[3]
    if weights.shape[1] % DIRECT_CHANNELS:
        if taps <= MOST_PADDED_TAPS:
            form = _padded(context, x, form)
        elif shape is not None and context.storage != "int8":
            form = _blocked(context, form, shape)
    return _for_matrix_kernel(form, shape) if context.tune == "amx" else form


def _padded(context: Context, x: Codes, form: KernelForm) -> KernelForm:
    missing = -form.weights.shape[1] % DIRECT_CHANNELS
    builder = context.builder
    before_and_after = np.array([0, 0, 0, 0, 0, missing, 0, 0], np.int64)
    inputs = [form.source, builder.constant(before_and_after, "pads"), byte(builder, x.zero_point)]
    return replace(
        form,
        source=builder.add("Pad", inputs, f"{form.source}.padded"),
        weights=np.pad(form.weights, ((0, 0), (0, missing), (0, 0), (0, 0))),
        note=f", {missing} channels of zeros added",
    )


def _blocked(context: Context, form: KernelForm, shape: tuple[int, ...]) -> KernelForm:
    outputs, channels, *kernel = form.weights.shape
    strides = list(form.attributes.get("strides", (1, 1)))
    pads = list(form.attributes.get("pads", (0, 0, 0, 0)))
    dilations = list(form.attributes.get("dilations", (1, 1)))
    side = strides[0]
    blocks = [size // side for size in shape[2:]]
    divides = len(shape) == 4 and all(size > 0 and size % side == 0 for size in shape[2:])
    if side < 2 or strides != [side, side] or dilations != [1, 1] or not divides:
        return form
    if (channels * side**2) % DIRECT_CHANNELS:
        return form
    before, after, shifts, taps = [], [], [], []
    for axis in (0, 1):
        lead = -(-pads[axis] // side)
        shift = side * lead - pads[axis]
        span = -(-(kernel[axis] + shift) // side)
        positions = (shape[2 + axis] + pads[axis] + pads[2 + axis] - kernel[axis]) // side + 1
        before.append(lead)
        after.append(positions - 1 - lead + span - blocks[axis])
        shifts.append(shift)
        taps.append(span)
    if min(after) < 0:
        return form
    wide = np.zeros((outputs, channels, taps[0] * side, taps[1] * side), np.int64)
    rows = slice(shifts[0], shifts[0] + kernel[0])
    columns = slice(shifts[1], shifts[1] + kernel[1])
    wide[:, :, rows, columns] = form.weights
    split = wide.reshape(outputs, channels, taps[0], side, taps[1], side)
    # SpaceToDepth puts the position within the block before the channel.
    weights = split.transpose(0, 3, 5, 1, 2, 4).reshape(outputs, channels * side**2, *taps)
    source = context.builder.add(
        "SpaceToDepth", [form.source], f"{form.source}.blocks", blocksize=side
    )
    return replace(
        form,
        source=source,
        weights=np.ascontiguousarray(weights),
        attributes={
            **form.attributes,
            "kernel_shape": taps,
            "strides": [1, 1],
            "pads": [*before, *after],
        },
        note=f", {kernel[0]}×{kernel[1]} with stride {side} as {taps[0]}×{taps[1]} over blocks",
    )


def _for_matrix_kernel(form: KernelForm, shape: tuple[int, ...] | None) -> KernelForm:
    outputs, channels, height, width = form.weights.shape
    products = channels * height * width
    if height * width == 1:
        wins = products >= LEAST_POINTWISE_SUM
    else:
        few = shape is not None and 0 < math.prod(shape[2:]) <= FEW_INPUTS
        least = LEAST_OUTPUTS_OF_FEW if few else LEAST_SPATIAL_OUTPUTS
        wins = products >= LEAST_SPATIAL_SUM and outputs >= least
    if not wins or form.weights.min(initial=0) <= -128:
        return form
    return replace(
        form, weights=form.weights - 1, zero_point=-1, note=f"{form.note}, for the matrix kernel"
    )
