"""An operator is identified by its domain and its name.

qonnx' channels-last ``Conv`` is not ONNX's operator, and neither is a vendor's own operator in
ONNX's domain.
"""

from __future__ import annotations

import onnx

from deploy.core.errors import InputError
from export.canonical.draft import Draft
from export.graph import node_label
from export.graph_builder import QONNX

QUANT_DOMAINS = (QONNX, "qonnx.custom_op", "onnx.brevitas", "finn.custom_op.general")
QUANTIZERS = ("Quant", "IntQuant", "BipolarQuant", "Trunc")


def require_known(draft: Draft) -> None:
    """Check that every node is an operator of ONNX at its version, or a quantizer of QONNX.

    Raises:
        InputError: the first that is not, by operator, domain and layer.
    """
    for node in draft.nodes:
        if node.domain in QUANT_DOMAINS and node.op_type in QUANTIZERS:
            continue
        standard = node.domain in ("", "ai.onnx")
        if standard and onnx.defs.has(node.op_type, max_inclusive_version=draft.opset, domain=""):
            continue
        domain = "ONNX's own domain" if standard else f"the domain {node.domain!r}"
        raise InputError(
            f"{draft.path}: the layer {node_label(node)} cannot be lowered to integers: "
            f"{node.op_type} of {domain} is neither an operator of ONNX (opset {draft.opset}) "
            f"nor a quantizer of QONNX ({', '.join(QUANTIZERS)}); export the network without "
            "this operator"
        )
