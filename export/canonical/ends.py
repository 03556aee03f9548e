"""Leave out the operators after the logits that rank or rescale them and keep the largest one.

Softmax, LogSoftmax and Sigmoid keep the order of the logits; ArgMax, TopK and Max select. Codes of
an increasing function are left out with it, because rounding is monotone.
"""

from __future__ import annotations

import math

import onnx
from onnx import helper

from deploy.core.errors import InputError
from export.canonical.draft import Draft
from export.graph import attributes_of, node_label

INCREASING = ("LogSoftmax", "Sigmoid", "Softmax")
CHOOSING = ("ArgMax", "TopK")
NOTHING = ("Dropout", "Identity")
ROUNDING = ("Clip", "DequantizeLinear", "IntQuant", "Quant", "QuantizeLinear")


CODES = ("BipolarQuant", "Concat", "MaxPool", "Quant", "Slice", "Transpose", "Trunc")
"""Operators that give codes, if the file's output is one of theirs."""


def as_values(draft: Draft) -> None:
    """Append a Flatten if the output has codes, whose values are the logits."""
    node = draft.wiring.producer(draft.output)
    if node is None or node.op_type not in CODES:
        return
    codes = draft.name(f"{draft.output}.codes")
    node.output[0] = codes
    for reader in draft.nodes:
        reader.input[:] = [codes if name == draft.output else name for name in reader.input]
    draft.shapes[codes] = shape = draft.shapes.get(draft.output, ())
    if shape and all(shape):
        draft.shapes[draft.output] = (shape[0], math.prod(shape[1:]))
    last = helper.make_node("Flatten", [codes], [draft.output], name=f"{codes}.values", axis=1)
    draft.nodes.append(last)


def leave_out(draft: Draft) -> None:
    """Make the logits the output.

    Raises:
        InputError: TopK or ArgMax selects the smallest.
    """
    while (node := _before_codes(draft)) is not None:
        attributes = attributes_of(node)
        if node.op_type in CHOOSING:
            if not attributes.get("largest", 1):
                raise InputError(
                    f"{draft.path}: {node_label(node)} selects the smallest logit, but the class "
                    "of a classifier is that of the largest"
                )
        elif node.op_type not in (*INCREASING, *NOTHING):
            break
        if node.op_type not in NOTHING:
            draft.notes.append(
                f"{node_label(node)} is left out: the lowered file gives the logits before it"
            )
        draft.output = node.input[0]
    draft.live()


def _before_codes(draft: Draft) -> onnx.NodeProto | None:
    """The node that gives the output, or the function of logits whose codes the output holds."""
    last = node = draft.wiring.producer(draft.output)
    while node is not None and node.op_type in (*ROUNDING, *NOTHING):
        node = draft.wiring.producer(node.input[0])
    return node if node is not None and node.op_type in INCREASING else last
