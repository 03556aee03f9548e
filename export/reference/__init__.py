"""Compute in numpy what a final integer file must give, without engine, lowering or torch."""

from __future__ import annotations

from collections.abc import Mapping

from export.reference.errors import NotReproducible, UnsupportedGraph
from export.reference.litert import LiteRtReference
from export.reference.litert_operators import supported_litert_operators
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
    """The reference class of a target's integer files; targets not listed have Q/DQ files."""
    return _EXACT.get(target, QdqReference)
