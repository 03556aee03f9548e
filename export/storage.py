"""Store weight codes as INT2, INT4 or INT8 initializers; a Cast follows the first two.

ONNX Runtime folds the Cast once, at load, and then runs its int8 kernel (docs/networks.md); the
file holds the low-bit codes.  INT2 needs opset 25 and IR version 13, INT4 opset 21 and IR 10.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from deploy.core.errors import InputError
from export.graph_builder import GraphBuilder

STORAGES = ("low-bit", "int8")
_TYPES = ((2, np.dtype(ml_dtypes.int2)), (4, np.dtype(ml_dtypes.int4)))


def stored_weights(
    builder: GraphBuilder, codes: NDArray[np.int64], bits: int, name: str, storage: str
) -> str:
    """The name of an int8 tensor with the values ``codes``, stored in the narrowest type that has
    at least ``bits`` bits and holds them all ("low-bit"), or as int8.

    Raises:
        InputError: codes outside -128 … 127, which do not fit int8.
    """
    if codes.min(initial=0) < -128 or codes.max(initial=0) > 127:
        raise InputError(f"{name}: weight codes {codes.min()}…{codes.max()} do not fit int8")
    if storage == "low-bit":
        for width, dtype in _TYPES:
            low, high = -(2 ** (width - 1)), 2 ** (width - 1) - 1
            if bits <= width and low <= codes.min(initial=0) and codes.max(initial=0) <= high:
                packed = builder.constant(codes.astype(np.int8).astype(dtype), name)
                return builder.add("Cast", [packed], f"{name}8", to=TensorProto.INT8)
    return builder.constant(codes.astype(np.int8), name, shared=False)


def versions_for(model: onnx.ModelProto) -> tuple[int, int]:
    """The lowest (opset, IR version) that knows every initializer's type; at least opset 13."""
    types = {tensor.data_type for tensor in model.graph.initializer}
    if TensorProto.INT2 in types:
        return 25, 13
    return (21, 10) if TensorProto.INT4 in types else (13, 8)
