"""The targets of the lowering: for each, its passes in their order, and what it promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import TensorProto

from deploy.core.errors import InputError
from export.graph_builder import MICROSOFT
from export.passes.average_pool import AveragePool
from export.passes.convolution import Convolution
from export.passes.guarantee import Guarantee, OnlyOperators
from export.passes.image_codes import ImageCodes
from export.passes.kernels import TUNES
from export.passes.layout import Layout
from export.passes.linear import Linear
from export.passes.max_pool import MaxPool
from export.passes.qdq.average_pool import QdqAveragePool
from export.passes.qdq.convolution import QdqConvolution
from export.passes.qdq.dialect import SIGNED, STANDARD, Dialect
from export.passes.qdq.guarantees import QuantizedOperands, SymmetricInt8
from export.passes.qdq.image import QdqImage
from export.passes.qdq.kept import QdqKept
from export.passes.qdq.linear import QdqLinear
from export.passes.qdq.requantize import QdqRequantize
from export.passes.qdq.residual_add import QdqResidualAdd
from export.passes.requantize import Requantize
from export.passes.residual_add import ResidualAdd
from export.passes.rule import Rule
from export.storage import STORAGES

QONNX_TARGET = "qonnx"
"""The network as QONNX itself: what the other targets are lowered from."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What one kind of runtime is given.

    Attributes:
        name: as ``--target`` takes it.
        summary: one line on the file.
        rules: the passes over layers; at each node, those of its place are asked in this order.
        guarantees: checked on the finished graph, in this order.
        code_range: least and largest code that the target's types of codes hold.
        image_type: element type of the input ``images``.
        storages: of the weights, the default first.
        tunes: what a file can be laid out for (:mod:`export.passes.kernels`), the default first.
        domains: operator sets beside ONNX's own.
        opset: the least that its operators need.
    """

    name: str
    summary: str
    rules: tuple[Rule, ...]
    guarantees: tuple[Guarantee, ...]
    code_range: tuple[int, int]
    image_type: int
    storages: tuple[str, ...]
    tunes: tuple[str, ...] = TUNES[:1]
    domains: tuple[str, ...] = ()
    opset: int = 13

    def passes(self) -> tuple[str, ...]:
        """The names of all passes in their order, the guarantees last."""
        rules = tuple(rule.name for rule in self.rules)
        return (*rules, *(guarantee.name for guarantee in self.guarantees))


def _qdq_rules(dialect: Dialect) -> tuple[Rule, ...]:
    return (
        QdqImage(dialect),
        QdqRequantize(dialect),
        QdqConvolution(dialect),
        QdqResidualAdd(dialect),
        QdqAveragePool(dialect),
        QdqKept(dialect, MaxPool()),
        QdqKept(dialect, Layout()),
        QdqLinear(dialect),
    )


_QDQ_OPERATORS = (
    "Add",
    "Clip",
    "Conv",
    "DequantizeLinear",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "MaxPool",
    "QuantizeLinear",
    "Relu",
    "Reshape",
    "Transpose",
)

ONNXRUNTIME = Target(
    name="onnxruntime",
    summary="all integers: uint8 codes between nodes, int32 biases",
    rules=(
        ImageCodes(),
        Requantize(),
        Convolution(),
        ResidualAdd(),
        AveragePool(),
        MaxPool(),
        Layout(),
        Linear(),
    ),
    guarantees=(
        OnlyOperators(
            (
                "Cast",
                "Clip",
                "Flatten",
                "MaxPool",
                "Pad",
                "QLinearConv",
                "Reshape",
                "SpaceToDepth",
                "Transpose",
                f"{MICROSOFT}::QGemm",
                f"{MICROSOFT}::QLinearAdd",
                f"{MICROSOFT}::QLinearGlobalAveragePool",
            )
        ),
    ),
    code_range=(0, 255),
    image_type=TensorProto.UINT8,
    storages=STORAGES,
    tunes=TUNES,
    domains=(MICROSOFT,),
)

TENSORRT = Target(
    name="tensorrt",
    summary="symmetric int8 Q/DQ with zero point 0, clamps in float before the quantizers",
    rules=_qdq_rules(SIGNED),
    guarantees=(OnlyOperators(_QDQ_OPERATORS), SymmetricInt8(), QuantizedOperands()),
    code_range=(-128, 127),
    image_type=TensorProto.INT8,
    storages=("int8",),
)

QCDQ = Target(
    name="qcdq",
    summary="standard Q/DQ, uint8 and int8 codes, no custom operator",
    rules=_qdq_rules(STANDARD),
    guarantees=(OnlyOperators(_QDQ_OPERATORS), QuantizedOperands()),
    code_range=(-128, 255),
    image_type=TensorProto.UINT8,
    storages=("int8",),
)

TARGETS: Mapping[str, Target] = {item.name: item for item in (ONNXRUNTIME, TENSORRT, QCDQ)}
"""The targets that a QONNX file is lowered to, by name."""

NAMES = (*TARGETS, QONNX_TARGET)
"""All names that ``qadtr export --target`` takes."""


def target_named(name: str) -> Target:
    """The lowering target of this name.

    Raises:
        InputError: there is none.
    """
    if name not in TARGETS:
        raise InputError(f"unknown target {name!r}; available: {', '.join(TARGETS)}")
    return TARGETS[name]
