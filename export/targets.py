"""The targets of the lowering, each with its passes in their order and its guarantees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx import TensorProto

from deploy.core.errors import InputError
from export.graph_builder import MICROSOFT
from export.passes import (
    average_pool,
    convolution,
    gate,
    image_codes,
    layout,
    leaky,
    linear,
    litert,
    litert_convolution,
    litert_moves,
    max_pool,
    moves,
    pair_table,
    requantize,
    residual_add,
    sign,
    table,
    truncation,
    window_average,
)
from export.passes.guarantee import Guarantee, OnlyOperators, QuantizedOperands, SymmetricInt8
from export.passes.kernels import TUNES
from export.passes.quantizers import then_quantized
from export.passes.rule import SIGNED, STANDARD, Dialect, Place, Rule
from export.reference import supported_operators, supported_qdq_operators
from export.storage import STORAGES

QONNX_TARGET = "qonnx"
"""The network as QONNX itself, from which the other targets are lowered."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The files for one kind of runtime.

    Attributes:
        rules: the passes over layers; at each node, those of its place are tried in this order.
        dialect: of the quantizers that they write, in a Q/DQ file.
        guarantees: checked on the finished graph, in this order.
        code_range: least and largest code that the target's types of codes hold.
        image_type: element type of the input ``images``.
        storages: of the weights, the default first.
        tunes: what a file can be tuned for (:mod:`export.passes.kernels`), the default first.
        domains: operator sets beside ONNX's own.
    """

    name: str
    rules: tuple[Rule[Any], ...]
    guarantees: tuple[Guarantee, ...]
    code_range: tuple[int, int]
    image_type: int
    storages: tuple[str, ...]
    tunes: tuple[str, ...] = TUNES[:1]
    domains: tuple[str, ...] = ()
    dialect: Dialect = STANDARD


_INTEGER_RULES: tuple[Rule[Any], ...] = (
    Rule("image codes", image_codes.image_codes, image_codes.write_bytes),
    Rule("requantize", requantize.requantization_without_ties, requantize.write_requantization),
    Rule("convolution", convolution.convolution, convolution.write_integer_convolution),
    Rule("residual add", residual_add.residual_add_at_one_scale, residual_add.write_integer_add),
    Rule("global average pool", average_pool.average_pool, average_pool.write_integer_pool),
    Rule("window average", window_average.window_average, window_average.write_integer_average),
    Rule("gate", gate.gate_without_ties, gate.write_integer_gate),
    Rule("table", table.table, table.write_lookup),
    Rule("pair table", pair_table.pair_table, pair_table.write_pair_lookup),
    Rule("leaky", leaky.leaky, leaky.write_integer_leaky),
    Rule("hidden linear", linear.hidden_linear, linear.write_integer_hidden),
    Rule("channel map", convolution.channel_map, convolution.write_integer_convolution),
    Rule("sign", sign.sign, sign.write_sign),
    Rule("truncation", truncation.truncation, truncation.write_truncation),
    Rule("max-pool", max_pool.max_pool, max_pool.write_max_pool, Place.CODES),
    Rule("layout", layout.layout, layout.write_layout, Place.CODES),
    Rule("moves", moves.code_move, moves.write_code_move, Place.CODES),
    Rule("linear", linear.linear, linear.write_integer_linear, Place.LOGITS),
)

_QDQ_RULES: tuple[Rule[Any], ...] = (
    Rule("image codes", image_codes.image_codes, image_codes.write_dequantized),
    Rule("requantize", requantize.requantization, requantize.write_quantizer),
    Rule("convolution", convolution.convolution, convolution.write_convolution),
    Rule("residual add", residual_add.residual_add, residual_add.write_add),
    Rule("global average pool", average_pool.average_pool, average_pool.write_pool),
    Rule("window average", window_average.window_average, window_average.write_average),
    Rule("gate", gate.gate, gate.write_gate),
    Rule("function", table.function, table.write_function),
    Rule("leaky", leaky.leaky, leaky.write_leaky),
    Rule("hidden linear", linear.hidden_linear, linear.write_hidden),
    Rule("channel map", convolution.channel_map, convolution.write_convolution),
    Rule("max-pool", max_pool.max_pool, then_quantized(max_pool.write_max_pool), Place.CODES),
    Rule("layout", layout.layout, then_quantized(layout.write_layout), Place.CODES),
    Rule("moves", moves.code_move, then_quantized(moves.write_value_move), Place.CODES),
    Rule("linear", linear.linear, linear.write_gemm, Place.LOGITS),
)

_LITERT_RULES: tuple[Rule[Any], ...] = (
    Rule("image codes", image_codes.image_codes, litert.write_image),
    Rule("requantize", requantize.requantization_without_ties, litert.write_requantization),
    Rule("convolution", convolution.convolution, litert_convolution.write_convolution),
    Rule("residual add", residual_add.residual_add_at_one_scale, litert.write_two_operands),
    Rule("global average pool", average_pool.average_pool, litert.write_mean),
    Rule("window average", window_average.window_average, litert_convolution.write_average),
    Rule("gate", gate.gate_without_ties, litert.write_two_operands),
    Rule("table", table.table, litert.write_table),
    Rule("max-pool", max_pool.max_pool, litert_moves.write_max_pool, Place.CODES),
    Rule("layout", layout.layout, litert_moves.write_layout, Place.CODES),
    Rule("moves", moves.code_move, litert_moves.write_code_move, Place.CODES),
    Rule("linear", linear.linear, litert.write_linear, Place.LOGITS),
)

ONNXRUNTIME = Target(  # all integers: uint8 codes between nodes, int32 biases
    name="onnxruntime",
    rules=_INTEGER_RULES,
    guarantees=(OnlyOperators(supported_operators()),),
    code_range=(0, 255),
    image_type=TensorProto.UINT8,
    storages=STORAGES,
    tunes=TUNES,
    domains=(MICROSOFT,),
)

TENSORRT = Target(  # symmetric int8 Q/DQ, clamps in float before the quantizers
    name="tensorrt",
    rules=_QDQ_RULES,
    dialect=SIGNED,
    guarantees=(OnlyOperators(supported_qdq_operators()), SymmetricInt8(), QuantizedOperands()),
    code_range=(-128, 127),
    image_type=TensorProto.INT8,
    storages=("int8",),
)

QCDQ = Target(  # standard Q/DQ, uint8 and int8 codes, no custom operator
    name="qcdq",
    rules=_QDQ_RULES,
    guarantees=(OnlyOperators(supported_qdq_operators()), QuantizedOperands()),
    code_range=(-128, 255),
    image_type=TensorProto.UINT8,
    storages=("int8",),
)

LITERT = Target(  # a .tflite of int8 codes with the channels last, int16 logits
    name="litert",
    rules=_LITERT_RULES,
    guarantees=(),
    code_range=(-128, 127),
    image_type=TensorProto.INT8,
    storages=("int8",),
)

TARGETS: Mapping[str, Target] = {item.name: item for item in (ONNXRUNTIME, TENSORRT, QCDQ, LITERT)}
"""The targets that a QONNX file is lowered to, by name."""

NAMES = (*TARGETS, QONNX_TARGET)
"""All names that ``qadtr export --target`` takes."""


def target_named(name: str) -> Target:
    """The lowering target of this name.

    Raises:
        InputError: there is no such target.
    """
    if name not in TARGETS:
        raise InputError(f"unknown target {name!r}; available: {', '.join(TARGETS)}")
    return TARGETS[name]
