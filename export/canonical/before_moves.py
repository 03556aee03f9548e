"""A quantizer after a Concat, MaxPool or change of shape is moved before it.

Such a node moves values or selects the largest.  A quantizer with one scale is an increasing
function of each value, so Quant(MaxPool(x)) = MaxPool(Quant(x)), also with Relu and Clip between
them.  Joined tensors then have the one scale that codes must share.  If the values already have
codes that the node may move, nothing is changed: the codes are moved, and requantized afterwards.
"""

from __future__ import annotations

import onnx

from export.canonical.draft import Draft
from export.graph import Wiring

MOVERS = ("Concat", "Flatten", "MaxPool", "Reshape", "Slice", "Transpose")
CLAMPS = ("Clip", "Relu")


def hoist(draft: Draft) -> None:
    """Move quantizers up as far as necessary."""
    waiting = [node for node in draft.nodes if _has_one_scale(node, draft)]
    while waiting:
        waiting += _hoisted(waiting.pop(), draft)


def _has_one_scale(node: onnx.NodeProto, draft: Draft) -> bool:
    if node.op_type != "Quant" or node.input[0] in draft.constants:
        return False
    scale = draft.constants.get(node.input[1])
    return scale is not None and scale.size == 1


def _hoisted(quant: onnx.NodeProto, draft: Draft) -> list[onnx.NodeProto]:
    """The quantizers that replace one; none where it stays."""
    wiring = draft.wiring
    chain = [quant]
    mover = wiring.producer(quant.input[0])
    while mover is not None and mover.op_type in CLAMPS:
        chain.insert(0, mover)
        mover = wiring.producer(mover.input[0])
    if mover is None or mover.op_type not in MOVERS:
        return []
    if any(len(wiring.readers(one.output[0])) != 1 for one in (mover, *chain[:-1])):
        return []
    parts = list(mover.input) if mover.op_type == "Concat" else [mover.input[0]]
    if share_one_scale(parts, wiring, draft) or draft.output in (mover.output[0],):
        return []
    if any(part in draft.constants or part == draft.image for part in parts):
        return []
    made: list[onnx.NodeProto] = []
    quants: list[onnx.NodeProto] = []
    for index, part in enumerate(parts):
        name = part
        for link in chain:
            output = draft.name(f"{quant.output[0]}.{index}")
            copy = onnx.NodeProto()
            copy.CopyFrom(link)
            copy.name = f"{link.name or link.output[0]}.{index}"
            copy.input[0], copy.output[0] = name, output
            if part in draft.shapes:
                draft.shapes[output] = draft.shapes[part]
            made.append(copy)
            name = output
        quants.append(made[-1])
        parts[index] = name
    moved = onnx.NodeProto()
    moved.CopyFrom(mover)
    moved.input[: len(parts)] = parts
    moved.output[0] = quant.output[0]
    for link in chain[:-1]:
        draft.nodes.remove(link)
    draft.replace(quant, *made, moved)
    draft.nodes.remove(mover)
    return quants


def share_one_scale(parts: list[str], wiring: Wiring[onnx.NodeProto], draft: Draft) -> bool:
    """Whether all parts have codes, of one scale and zero point."""
    found = set()
    for part in parts:
        maker = wiring.producer(part)
        while maker is not None and maker.op_type in (*MOVERS, "Pad", "Resize"):
            maker = wiring.producer(maker.input[0])
        if maker is None or maker.op_type not in ("Quant", "BipolarQuant"):
            return False
        parameters = [draft.constants.get(name) for name in maker.input[1:3]]
        found.add(tuple(b"" if one is None else one.tobytes() for one in parameters))
    return len(found) == 1
