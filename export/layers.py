"""Lower the layers of a graph in order: each by the first rule that matches, or refuse it."""

from __future__ import annotations

import onnx

from export.graph import node_label
from export.passes.layout import OPERATORS
from export.passes.moves import OPERATORS as MOVES
from export.passes.rule import (
    NO_CODES,
    Clamp,
    Context,
    ContractError,
    LoweringError,
    Place,
    Refusal,
    activation_quantizer,
    byte_codes,
    named,
    require_codes,
)
from export.passes.weighted_sum import affine_before
from export.targets import Target

QUANTIZE_IT = (
    "a tensor without integer codes is a float tensor in the file too; put a quantizer after it "
    "in the network (Brevitas: a QuantIdentity, the same one for all tensors that meet in a sum "
    "or a concatenation; brevitas.graph.quantize inserts them everywhere)"
)

MEETINGS = ("Add", "AveragePool", "Concat", "GlobalAveragePool", "Mul", "ReduceMean", "Sub")
"""Operators that rules match if all their inputs have codes."""

MOST_ERRORS = 8
"""Largest number of layers that one error names."""

KEEP_CODES = ("MaxPool", *OPERATORS, *MOVES)
"""Operators that read and output codes without a quantizer between."""


def lower_layers(target: Target, context: Context) -> list[str]:
    """Write all layers, each by the first of the target's rules that matches; returns the log.

    Raises:
        LoweringError: a line for each layer that cannot be lowered. The layers after it are checked
            as if it had the codes that its quantizer states.
    """
    log: list[str] = []
    errors: list[LoweringError] = []
    for node in context.source.nodes:
        try:
            log.append(_lower_node(node, target, context))
        except ContractError:
            raise
        except LoweringError as error:
            errors.append(error)
            if len(errors) == MOST_ERRORS or not _assume_codes(node, context):
                break
    if errors:
        path = f"{context.source.path}: "
        texts = [str(error).removeprefix(path) for error in errors]
        if len(errors) == MOST_ERRORS:
            texts.append("… there may be others")
        if any(NO_CODES in text for text in texts):
            texts.append(QUANTIZE_IT)
        raise LoweringError(path + "\n".join(texts)) from errors[0]
    return [line for line in log if line]


def _lower_node(node: onnx.NodeProto, target: Target, context: Context) -> str:
    """Write the node's layer by the first rule that matches; returns a line for the log, or ""."""
    place, layer = _place(node, context), node.output[0]
    if place is None:
        return ""
    context.builder.begin(layer)
    reasons: dict[str, list[str]] = {}
    for rule in target.rules:
        if rule.place is not place:
            continue
        try:
            found = rule.match(node, context)
            codes, text = rule.write(found, layer, context)
        except Refusal as refusal:
            if not refusal.other:  # a rule for another kind of layer gives no reason
                reasons.setdefault(str(refusal), []).append(rule.name)
            continue
        if place is not Place.LOGITS:
            context.codes[layer] = require_codes(rule.name, layer, codes, target.code_range)
        return f"{layer}: {text} [{rule.name}]" if text else ""
    read = next((name for name in node.input if name not in context.source.constants), "")
    telling = [f"{', '.join(rules)}: {reason}" for reason, rules in reasons.items()]
    if not telling:
        telling = [_in_the_way(read, context)]
    place_of = f"after {named(context.source.producer(read))}"
    if readers := context.source.readers(layer):
        place_of += f" and before {named(readers[0])}"
    raise LoweringError(
        f"{context.source.path}: the layer {node_label(node)} cannot be lowered to integers, "
        f"{place_of}. " + "; ".join(telling)
    )


def _place(node: onnx.NodeProto, context: Context) -> Place | None:
    """The rules that are tried at a node; None if a rule matches it together with a later node."""
    source = context.source
    if node.output[0] == source.logits:
        return Place.LOGITS
    quantizes = source.is_quant(node) or source.is_sign(node) or node.op_type == "Trunc"
    if quantizes and node.input[0] not in source.constants:
        return Place.QUANTIZER
    if node.op_type in KEEP_CODES and node.input[0] in context.codes:
        return Place.CODES
    return None


def _in_the_way(read: str, context: Context) -> str:
    """The operator that no rule matches, before those that only scale, shift or clamp."""
    try:
        node, _, _, _ = affine_before(read, context, ())
    except Refusal:
        node = context.source.producer(read)
    missing = [
        name
        for name in (node.input if node is not None and node.op_type in MEETINGS else ())
        if name not in context.codes
    ]
    if missing:
        makers = ", ".join(named(context.source.producer(name)) for name in missing)
        return f"{named(node)} reads a tensor that has {NO_CODES}, computed by {makers}"
    return f"no pass supports {named(node)}"


def _assume_codes(node: onnx.NodeProto, context: Context) -> bool:
    """Assume the codes that a quantizer states for its output; returns whether that is possible.

    A .tflite file is built from existing tensors, so nothing can be assumed there.
    """
    if context.litert is not None:
        return False
    try:
        codes = byte_codes(activation_quantizer(node, context), Clamp(), node.output[0])
    except Refusal:
        return False
    context.codes[node.output[0]] = codes
    return True
