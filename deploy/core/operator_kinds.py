"""The operators that must be integer where integer inference is promised, by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

KINDS: Mapping[str, tuple[str, ...]] = {
    "convolution": (
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "FusedConv",
        "NhwcFusedConv",
        "QLinearConv",
        "QLinearConvTranspose",
    ),
    "matrix product": (
        "DynamicQuantizeMatMul",
        "FusedGemm",
        "FusedMatMul",
        "Gemm",
        "MatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QGemm",
        "QLinearMatMul",
    ),
    "addition": ("Add", "QLinearAdd", "Sub", "Sum"),
    "pool": (
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "MaxPool",
        "NhwcMaxPool",
        "QLinearAveragePool",
        "QLinearGlobalAveragePool",
        "QLinearReduceMean",
        "ReduceMean",
    ),
    "gate": ("Mul", "QLinearMul"),
    "function": (
        "BiasGelu",
        "Elu",
        "Erf",
        "Exp",
        "FastGelu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "QLinearLeakyRelu",
        "QLinearSigmoid",
        "QuickGelu",
        "Sigmoid",
        "Softplus",
        "Sqrt",
        "Tanh",
    ),
}
"""ONNX Runtime's operators without their domains; each kind has integer and float members."""

KIND_OF: Mapping[str, str] = {
    operator: kind for kind, operators in KINDS.items() for operator in operators
}
"""The kind of each of these operators."""


def kind_of(operator: str, types: Sequence[str]) -> str | None:
    """Return the kind of a node, or None where it has no such kind.

    A node that reads only int64 computes shapes and indices: it is not a layer that quantization
    made integer.

    Args:
        operator: without its domain.
        types: of the tensors that it reads, as ONNX Runtime names them.
    """
    return None if set(types) == {"int64"} else KIND_OF.get(operator)
