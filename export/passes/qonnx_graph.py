"""A QONNX file as the passes read it: its graph, and the parameters of its quantizers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.core.errors import InputError
from export.graph import Graph, attributes_of, node_label
from export.graph_builder import QONNX
from export.reading import read_model

QUANT_DOMAINS = (QONNX, "onnx.brevitas", "finn.custom_op.general")


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """One ``Quant`` node: y = clamp(round(x / scale)) * scale, zero point 0.

    ``scale`` is float32, () or broadcastable to the tensor.
    """

    scale: NDArray[np.float32]
    bits: int
    signed: bool
    narrow: bool

    @property
    def step(self) -> np.float32:
        """The scale of a quantizer that has one for the whole tensor."""
        return np.float32(self.scale.item())

    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code."""
        if self.signed:
            return -(2 ** (self.bits - 1)) + int(self.narrow), 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1 - int(self.narrow)


class QonnxGraph(Graph):
    """One QONNX file, indexed.

    Attributes:
        path: of the file.
        image: name of its one input.
        logits: name of its one output.

    Raises:
        InputError: the file is damaged, or has another number of inputs or outputs.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(read_model(path))
        self.path = path
        for what, found in (("input", self.inputs), ("output", self.outputs)):
            if len(found) != 1:
                names = ", ".join(value.name for value in found) or "none"
                raise InputError(f"{path}: expected one {what}, found {names}")
        self.image, self.logits = self.inputs[0].name, self.outputs[0].name

    @staticmethod
    def is_quant(node: onnx.NodeProto | None) -> TypeGuard[onnx.NodeProto]:
        """Whether ``node`` is a QONNX ``Quant`` (also under its older domains)."""
        return node is not None and node.op_type == "Quant" and node.domain in QUANT_DOMAINS

    def quantizer(self, node: onnx.NodeProto, *, most_bits: int = 8) -> Quantizer:
        """The parameters of a ``Quant`` node.

        Raises:
            InputError: they are not constant, not finite, or of a kind this project cannot lower.
        """
        where = f"{self.path}: {node_label(node)}"
        if len(node.input) != 4 or any(name not in self.constants for name in node.input[1:]):
            raise InputError(f"{where}: scale, zero point and bit-width must be constants")
        scale, zero_point, bits = (self.constants[name] for name in node.input[1:])
        attributes = attributes_of(node)
        rounding = attributes.get("rounding_mode", b"ROUND").decode().upper()
        if rounding not in ("ROUND", "HALF_EVEN"):
            raise InputError(f"{where}: rounding mode {rounding} is not ROUND (half to even)")
        if not bool(np.isfinite(scale).all() and (scale > 0).all()):
            raise InputError(f"{where}: its scale has values that are not finite and positive")
        if bool((zero_point != 0).any()):
            raise InputError(f"{where}: its zero point is not 0")
        if bits.size != 1 or bits.item() not in range(2, most_bits + 1):
            raise InputError(
                f"{where}: its bit-width is {bits.tolist()}, expected one of 2 to {most_bits}"
            )
        return Quantizer(
            scale=scale.astype(np.float32),
            bits=int(bits.item()),
            signed=bool(attributes.get("signed", 1)),
            narrow=bool(attributes.get("narrow", 0)),
        )

    def constant_values(self, name: str) -> NDArray[np.float64] | None:
        """A stored tensor, float64, also one behind a ``Quant`` (a bias has up to 32 bits); None if
        ``name`` is computed."""
        if name in self.constants:
            return self.constants[name].astype(np.float64)
        node = self.producer(name)
        if not self.is_quant(node) or node.input[0] not in self.constants:
            return None
        quantizer = self.quantizer(node, most_bits=32)
        scale = quantizer.scale.astype(np.float64)
        codes = np.rint(self.constants[node.input[0]].astype(np.float64) / scale)
        return np.clip(codes, *quantizer.code_range()) * scale

    def weight_codes(self, name: str) -> tuple[NDArray[np.int64], Quantizer] | None:
        """Integer codes, int64 of the tensor's shape, and quantizer of a quantized constant; None
        if ``name`` is not one."""
        node = self.producer(name)
        if not self.is_quant(node) or node.input[0] not in self.constants:
            return None
        quantizer = self.quantizer(node)
        values = self.constants[node.input[0]].astype(np.float32)
        # float32 on purpose: the same division and rounding as in training.
        codes = np.clip(np.rint(values / quantizer.scale), *quantizer.code_range())
        return codes.astype(np.int64), quantizer
