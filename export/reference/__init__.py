"""What a final integer file must compute, in numpy: no engine, no lowering, no torch."""

from __future__ import annotations

from export.reference.errors import NotReproducible, UnsupportedGraph
from export.reference.litert import LiteRtReference, supported_litert_operators
from export.reference.network import IntegerReference, Layer
from export.reference.operators import supported_operators
from export.reference.qdq import QdqReference, supported_qdq_operators

__all__ = [
    "IntegerReference",
    "Layer",
    "LiteRtReference",
    "NotReproducible",
    "QdqReference",
    "UnsupportedGraph",
    "supported_litert_operators",
    "supported_operators",
    "supported_qdq_operators",
]
