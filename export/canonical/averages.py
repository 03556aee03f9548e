"""Give an average of codes that is read unquantized its own codes: its sum, if a byte holds it.

The average of n codes x of scale s and zero point 0 is s/n · (x_1 + … + x_n): an integer number of
steps s/n, at most n times the largest code.  A quantizer of 8 bits with this step changes no value,
and readers of the average then read codes.  This supports networks whose pools are between a
quantizer and a layer, such as torch networks converted to Brevitas' layers.  An average over the
whole map is written as GlobalAveragePool, which a product after it can read without codes.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper

from export.canonical.draft import Draft
from export.graph import Wiring, attributes_of
from export.graph_builder import QONNX

CODES = 255
SIGNED_CODES = 127
KEEPING = ("Flatten", "MaxPool", "Reshape", "Slice", "Transpose")
"""Operators that move codes or select among them; the quantizer may be before them."""
READERS = ("Add", "Concat", "Conv", "Gemm", "MatMul", *KEEPING)


def as_codes(draft: Draft) -> None:
    """Quantize, without loss, the averages that are read unquantized."""
    for pool in list(draft.nodes):
        if pool.op_type == "AveragePool" and _is_read_as_it_is(pool, draft.wiring, draft):
            if _is_of_the_whole_map(pool, draft):
                x, mean = pool.input[0], pool.output[0]
                whole = helper.make_node("GlobalAveragePool", [x], [mean], name=pool.name)
                draft.replace(pool, whole)
            else:
                _quantize(pool, draft)


def _is_read_as_it_is(pool: onnx.NodeProto, wiring: Wiring[onnx.NodeProto], draft: Draft) -> bool:
    """Whether something other than a quantizer needs its codes."""
    readers = wiring.readers(pool.output[0])
    return pool.output[0] == draft.output or any(one.op_type in READERS for one in readers)


def _is_of_the_whole_map(pool: onnx.NodeProto, draft: Draft) -> bool:
    shape, attributes = draft.shapes.get(pool.input[0], ()), attributes_of(pool)
    kernel = list(attributes.get("kernel_shape", []))
    return len(shape) == 4 and kernel == list(shape[2:]) and not any(attributes.get("pads", []))


def _quantize(pool: onnx.NodeProto, draft: Draft) -> None:
    maker = draft.producer(pool.input[0])
    while maker is not None and maker.op_type in KEEPING:
        maker = draft.producer(maker.input[0])
    if maker is None or maker.op_type != "Quant":
        return
    scale, zero, bits = (draft.constants.get(name) for name in maker.input[1:4])
    if scale is None or zero is None or bits is None or scale.size != 1 or zero.any():
        return
    signed = bool(attributes_of(maker).get("signed", 1))
    count = math.prod(attributes_of(pool).get("kernel_shape", []))
    largest = 2.0 ** (float(bits.reshape(-1)[0]) - signed)
    if count * (largest if signed else largest - 1.0) > (SIGNED_CODES if signed else CODES):
        return
    codes = pool.output[0]
    total = draft.name(f"{codes}.average")
    if codes in draft.shapes:
        draft.shapes[total] = draft.shapes[codes]
    pool.output[0] = total
    step = np.float32(float(scale.reshape(-1)[0]) / count)
    parameters = [
        draft.constant(np.float32(value), f"{codes}.{what}")
        for what, value in (("step", step), ("zero", 0.0), ("bits", 8.0))
    ]
    quant = helper.make_node(
        "Quant", [total, *parameters], [codes], name=f"{pool.name or codes}.codes", domain=QONNX,
        signed=int(signed), narrow=0, rounding_mode="ROUND",
    )  # fmt: skip
    draft.replace(pool, pool, quant)
