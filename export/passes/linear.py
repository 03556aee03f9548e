"""Matrix products: the last layer, and hidden layers.

The last layer: logits[c] = s_x s_w[c] * (sum (x - z_x) w[c] + B[c]).  A hidden one is followed by
gain, bias, clamp and quantizer, like a convolution of one position
(:mod:`export.passes.convolution` has the algebra).

**All-integer**: B[c] = round(bias[c] / (s_x s_w[c])) in int32; QGemm without an output scale gives
exactly this in float32.  It is the only float output in the integer graph.  With an output scale it
gives codes: round(acc * s_x s_w[c] / s_y) + z_y.

A mean over positions before the product becomes part of it: each of n positions has the weights /
n.  If codes are the logits themselves, they are multiplied by the identity matrix; if a mean is, it
is a product with ones.

**Q/DQ**: Gemm on dequantized codes; weights are int8 codes followed by a DequantizeLinear
with one scale per class, and the bias is float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import attributes_of, node_label
from export.graph_builder import MICROSOFT
from export.passes.convolution import Convolution, FoldedConvolution, finer, fold
from export.passes.quantizers import dequantized_weights, quantized, value_codes
from export.passes.rule import (
    Clamp,
    Codes,
    Context,
    Refusal,
    Written,
    activation_quantizer,
    byte,
    byte_codes,
    clipped,
    int32_bias,
    named,
    quantized_weights,
    scalar,
)
from export.passes.weighted_sum import Affine, affine_before
from export.storage import stored_weights

PRODUCTS = ("Gemm", "MatMul")
POOLS = ("GlobalAveragePool", "ReduceMean")
SHAPING = ("Flatten", "Reshape")
MOST_FEATURES = 4096
"""Largest number of rows of an identity matrix."""

LOGIT_STEP = 2.0**-10
"""Largest rounding error of a class's bias, as a share of the largest of the layer's biases."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """The parts of affine(Gemm or MatMul(codes, Quant(weights), bias?)).

    Attributes:
        x: the codes that it reads.
        flat: whether they must be flattened first.
        weights: integer codes, classes×features, int64, signs flipped where a gain is negative.
        weight_bits: of the weights' quantizer.
        scale: of the weights, float32 (classes,).
        bias: float64 (classes,).
        factor: by which the weights are larger than the trained ones.
    """

    x: Codes
    weights: NDArray[np.int64]
    weight_bits: int
    scale: NDArray[np.float32]
    bias: NDArray[np.float64]
    flat: bool = False
    factor: int = 1

    @property
    def grid(self) -> NDArray[np.float64]:
        """The accumulator's step for each class."""
        return float(self.x.scale) * self.scale.astype(np.float64)

    @property
    def stored_bits(self) -> int:
        """The bits with which the weights are stored if they fit."""
        return self.weight_bits if self.factor == 1 else 4


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product of codes with stored weights: as :class:`Linear`, with an affine map after it."""

    x: Codes
    weights: NDArray[np.int64]
    weight_bits: int
    scale: NDArray[np.float32]
    affine: Affine
    flat: bool = False


def linear(node: onnx.NodeProto, context: Context) -> Linear:
    """Match the node that gives the logits."""
    found, clamp = _product(node.output[0], context)
    if clamp != Clamp():
        raise Refusal("a Relu or Clip of the logits is not supported; leave it out")
    affine = found.affine.of(len(found.weights))
    folded = found.scale.astype(np.float64) * np.abs(affine.gain)
    grid = float(found.x.scale) * folded
    weights = found.weights * np.sign(affine.gain).astype(np.int64).reshape(-1, 1)
    if weights.max(initial=0) > 127:
        raise Refusal("a weight of -128 under a negative gain has no opposite in int8")
    # A class of gain 0 is constant: any step that can hold its bias will do.
    rest = np.abs(affine.bias) / (float(found.x.scale) * 2.0**20) + 1e-30
    error = LOGIT_STEP * float(np.abs(affine.bias).max(initial=0.0))
    factor = finer(affine.bias, grid, weights, error)
    scale = np.where(folded > 0.0, folded / factor, rest).astype(np.float32)
    return Linear(
        x=found.x,
        flat=found.flat,
        weights=weights * factor,
        weight_bits=found.weight_bits,
        scale=scale,
        bias=affine.bias,
        factor=factor,
    )


def hidden_linear(node: onnx.NodeProto, context: Context) -> Convolution:
    """Match the product before the quantizer ``node``."""
    found = product_before(node.input[0], context)
    return replace(found, quantizer=activation_quantizer(node, context))


def product_before(name: str, context: Context) -> Convolution:
    """Match the product before the tensor ``name``, as a convolution of one position; its quantizer
    is not known yet."""
    found, clamp = _product(name, context)
    if found.flat:
        raise Refusal("what it reads has no shape N×K")
    return Convolution(
        x=found.x,
        shape=None,
        weights=found.weights[:, :, None, None],
        scale=found.scale,
        weight_bits=found.weight_bits,
        affine=found.affine.of(len(found.weights)),
        quantizer=None,
        clamp=clamp,
        attributes={},
    )


def _product(name: str, context: Context) -> tuple[Product, Clamp]:
    """The product before a tensor, and the clamp on the way."""
    source = context.source
    node, tensor, affine, clamp = affine_before(name, context, (*PRODUCTS, *SHAPING, *POOLS))
    if node is not None and node.op_type in SHAPING and not _known(node, context):
        node, tensor, inner, more = affine_before(node.input[0], context, (*PRODUCTS, *POOLS))
        if more != Clamp():
            raise Refusal(f"{named(node)}: a Relu or Clip precedes a change of shape")
        affine = affine.after(inner)
    if node is None or node.op_type in SHAPING:
        if node is not None:
            tensor = node.input[0]
        return _unit(tensor, context, affine), clamp
    if node.op_type in POOLS:
        return _mean(node, context, affine), clamp
    if node.op_type not in PRODUCTS:
        raise Refusal(f"{named(node)} precedes it, not a Gemm or MatMul", other=True)
    attributes = attributes_of(node)
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        raise Refusal("Gemm with alpha or beta other than 1 is not supported")
    if attributes.get("transA", 0):
        raise Refusal("Gemm with a transposed input is not supported")
    weights, scale, bits = quantized_weights(
        node.input[1], context, transposed=not attributes.get("transB", 0), what="class"
    )
    if weights.ndim != 2:
        raise Refusal(f"its weights have {weights.ndim} dimensions, not two")
    if len(node.input) > 2 and node.input[2]:
        stored = source.constant_values(node.input[2])
        if stored is None or stored.size not in (1, len(weights)):
            raise Refusal("its bias is not a constant, or not one value per class")
        affine = affine.after(Affine(gain=np.ones(1), bias=stored.reshape(-1)))
    x, weights, scale, flat = _with_pool(node, weights, scale, context)
    found = Product(x=x, weights=weights, weight_bits=bits, scale=scale, affine=affine, flat=flat)
    return found, clamp


def _known(node: onnx.NodeProto, context: Context) -> bool:
    """Whether the input of a Flatten or Reshape has codes."""
    return node.input[0] in context.codes


def _unit(tensor: str, context: Context, affine: Affine) -> Product:
    """Codes that are the result themselves: a product with the identity matrix."""
    codes, shape = context.codes_of(tensor, "its input"), context.source.shapes.get(tensor, ())
    features = math.prod(shape[1:])
    if not shape or not 1 <= features <= MOST_FEATURES:
        raise Refusal(f"{tensor!r} has the shape {list(shape)}")
    weights, ones = np.eye(features, dtype=np.int64), np.ones(features, np.float32)
    flat = len(shape) != 2
    return Product(x=codes, weights=weights, weight_bits=8, scale=ones, affine=affine, flat=flat)


def _mean_over(node: onnx.NodeProto, context: Context) -> tuple[Codes, int, int]:
    """The codes that a pool over all positions reads, their channels and positions."""
    if node.op_type == "ReduceMean":
        attributes = attributes_of(node)
        stored = context.source.constants.get(node.input[1]) if len(node.input) > 1 else None
        axes = attributes.get("axes", []) if stored is None else stored.tolist()
        if {axis % 4 for axis in axes} != {2, 3}:
            raise Refusal(
                f"its ReduceMean averages over the axes {axes}, not over height and width"
            )
    x = context.codes_of(node.input[0], f"the input of {node_label(node)}")
    shape = context.source.shapes.get(node.input[0], ())
    if len(shape) != 4 or not all(shape[1:]) or math.prod(shape[1:]) > 2**16:
        raise Refusal(f"{node_label(node)} reads the shape {list(shape)}; quantize its result")
    return x, shape[1], shape[2] * shape[3]


def _mean(node: onnx.NodeProto, context: Context, affine: Affine) -> Product:
    """A mean over all positions that is the logits: a product with ones."""
    x, channels, positions = _mean_over(node, context)
    weights = np.repeat(np.eye(channels, dtype=np.int64), positions, axis=1)
    scale = np.full(channels, 1.0 / positions, np.float32)
    return Product(x=x, weights=weights, weight_bits=8, scale=scale, affine=affine, flat=True)


def _pool_before(node: onnx.NodeProto, context: Context) -> onnx.NodeProto | None:
    if node.input[0] in context.codes:
        return None
    maker = context.source.producer(node.input[0])
    if maker is not None and maker.op_type in SHAPING:
        maker = context.source.producer(maker.input[0])
    if maker is None or maker.op_type not in POOLS or maker.input[0] not in context.codes:
        return None
    return maker


def _with_pool(
    node: onnx.NodeProto,
    weights: NDArray[np.int64],
    scale: NDArray[np.float32],
    context: Context,
) -> tuple[Codes, NDArray[np.int64], NDArray[np.float32], bool]:
    """The codes that a product reads, its weights and scales, and whether the codes must be
    flattened; a pool before the product becomes part of it."""
    pool = _pool_before(node, context)
    if pool is None:
        flat = len(context.source.shapes.get(node.input[0], (0, 0))) != 2
        return context.codes_of(node.input[0], "its input"), weights, scale, flat
    x, channels, positions = _mean_over(pool, context)
    if weights.shape[1] != channels:
        raise Refusal(
            f"{node_label(pool)} gives {channels} channels, but the product reads another number"
        )
    spread = np.repeat(weights, positions, axis=1)
    return x, spread, (scale / np.float32(positions)).astype(np.float32), True


def _flattened(x: Codes, flat: bool, layer: str, context: Context) -> str:
    return context.builder.add("Flatten", [x.name], f"{layer}.flat", axis=1) if flat else x.name


def _gemm_inputs(
    folded: FoldedConvolution, x: Codes, bits: int, layer: str, context: Context
) -> list[str]:
    builder, weights = context.builder, folded.weights[:, :, 0, 0]
    zero_points = np.zeros(len(weights), np.int8)
    return [
        x.name,
        scalar(builder, x.scale),
        byte(builder, x.zero_point),
        stored_weights(builder, weights, bits, f"{layer}.w", context.storage),
        builder.constant(folded.scale, f"{layer}.ws"),
        builder.constant(zero_points, f"{layer}.z", shared=False),
        builder.constant(int32_bias(folded.bias, folded.grid, weights, layer), f"{layer}.b"),
    ]


def write_integer_hidden(found: Convolution, layer: str, context: Context) -> Written:
    """Write com.microsoft QGemm with an output scale, and Clip if needed."""
    builder, out = context.builder, byte_codes(found.output, found.clamp, layer)
    folded = fold(found, out.scale, layer)
    bits = found.weight_bits if folded.factor == 1 else 4
    inputs = _gemm_inputs(folded, found.x, bits, layer, context)
    inputs += [scalar(builder, out.scale), byte(builder, out.zero_point)]
    name = builder.add("QGemm", inputs, out.name, domain=MICROSOFT, transB=1)
    codes = clipped(context, replace(out, name=name), layer)
    return codes, (
        f"QGemm, {found.weight_bits}-bit weights, codes {codes.low}…{codes.high} (zero point "
        f"{codes.zero_point}){found.flipped}{folded.note}"
    )


def write_hidden(found: Convolution, layer: str, context: Context) -> Written:
    """Write Gemm on values, Q, DQ."""
    builder = context.builder
    scale = value_codes(found.output, found.clamp, context, layer).scale
    folded = fold(found, scale, layer)
    weights, bias = folded.weights[:, :, 0, 0], folded.bias
    if context.dialect.bias_on_grid:
        bias = int32_bias(bias, folded.grid, weights, layer) * folded.grid
    inputs = [
        found.x.name,
        dequantized_weights(builder, weights, folded.scale, layer),
        builder.constant(bias.astype(np.float32), f"{layer}.b"),
    ]
    gemm = builder.add("Gemm", inputs, f"{layer}.gemm", transB=1)
    codes, text = quantized(gemm, found.output, found.clamp, layer, context)
    return codes, f"Gemm, {found.weight_bits}-bit weights as int8, {text}{found.flipped}"


def write_integer_linear(found: Linear, layer: str, context: Context) -> Written:
    """Write com.microsoft QGemm."""
    builder, x, bits = context.builder, found.x, found.weight_bits
    source = _flattened(x, found.flat, layer, context)
    zero_points = np.zeros(len(found.weights), np.int8)
    inputs = [
        source,
        scalar(builder, x.scale),
        byte(builder, x.zero_point),
        stored_weights(builder, found.weights, found.stored_bits, f"{layer}.w", context.storage),
        builder.constant(found.scale, f"{layer}.ws"),
        builder.constant(zero_points, f"{layer}.z", shared=False),
        builder.constant(int32_bias(found.bias, found.grid, found.weights, layer), f"{layer}.b"),
    ]
    builder.add("QGemm", inputs, layer, domain=MICROSOFT, transB=1)
    return None, f"QGemm, {bits}-bit weights, float32 logits"


def write_gemm(found: Linear, layer: str, context: Context) -> Written:
    """Write Gemm on values."""
    builder, bias = context.builder, found.bias
    if context.dialect.bias_on_grid:
        bias = int32_bias(bias, found.grid, found.weights, layer) * found.grid
    inputs = [
        _flattened(found.x, found.flat, layer, context),
        dequantized_weights(builder, found.weights, found.scale, layer),
        builder.constant(bias.astype(np.float32), f"{layer}.b"),
    ]
    builder.add("Gemm", inputs, layer, transB=1)
    return None, f"Gemm, {found.weight_bits}-bit weights as int8"
