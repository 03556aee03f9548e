"""What a final integer file must compute, in numpy: no engine, no lowering, no torch."""

from __future__ import annotations

from collections.abc import Mapping

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
    "reference_of",
    "supported_litert_operators",
    "supported_operators",
    "supported_qdq_operators",
]

_EXACT: Mapping[str, type[IntegerReference | LiteRtReference]] = {
    "litert": LiteRtReference,
    "onnxruntime": IntegerReference,
}


def reference_of(target: str) -> type[IntegerReference | LiteRtReference | QdqReference]:
    """The reference of a target's integer files; those of the others have Q/DQ pairs."""
    return _EXACT.get(target, QdqReference)
