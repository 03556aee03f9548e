"""What a final integer ONNX file must compute, in numpy: no engine, no lowering, no torch."""

from __future__ import annotations

from export.reference.errors import NotReproducible, UnsupportedGraph
from export.reference.network import IntegerReference, Layer
from export.reference.operators import supported_operators
from export.reference.qdq import QdqReference, supported_qdq_operators

__all__ = [
    "IntegerReference",
    "Layer",
    "NotReproducible",
    "QdqReference",
    "UnsupportedGraph",
    "supported_operators",
    "supported_qdq_operators",
]
