"""Reading a QONNX graph: producers, constants, quantizers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from deploy.core.errors import InputError
from export.graph_builder import QONNX
from export.reading import initializers, node_label, read_model

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

    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code."""
        if self.signed:
            return -(2 ** (self.bits - 1)) + int(self.narrow), 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1 - int(self.narrow)


class QonnxGraph:
    """One QONNX file, indexed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = read_model(path)
        self.graph = self.model.graph
        self.constants: dict[str, NDArray[Any]] = dict(initializers(self.model))
        self._producers = {out: node for node in self.graph.node for out in node.output}
        self.shapes = {
            info.name: tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
            for info in (*self.graph.value_info, *self.graph.input, *self.graph.output)
        }

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes tensor ``name``; None for inputs and constants."""
        return self._producers.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read tensor ``name``, in order."""
        return [node for node in self.graph.node if name in node.input]

    @staticmethod
    def is_quant(node: onnx.NodeProto | None) -> bool:
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
        if (
            bits.size != 1
            or not float(bits.item()).is_integer()
            or not 2 <= bits.item() <= most_bits
        ):
            raise InputError(
                f"{where}: its bit-width is {bits.tolist()}, expected one of 2 to {most_bits}"
            )
        return Quantizer(
            scale=scale.astype(np.float32),
            bits=int(bits.item()),
            signed=bool(attributes.get("signed", 1)),
            narrow=bool(attributes.get("narrow", 0)),
        )

    @property
    def image(self) -> str:
        """The name of the one input that is no constant (older exporters list constants too).

        Raises:
            InputError: there is none, or more than one.
        """
        inputs = [value.name for value in self.graph.input if value.name not in self.constants]
        if len(inputs) != 1:
            found = ", ".join(inputs) or "none"
            raise InputError(f"{self.path}: expected one input, found {found}")
        return inputs[0]

    def constant_values(self, name: str) -> NDArray[np.float64] | None:
        """A stored tensor, float64, also one behind a ``Quant`` (a bias has up to 32 bits); None if
        ``name`` is computed."""
        if name in self.constants:
            return self.constants[name].astype(np.float64)
        node = self.producer(name)
        if node is None or not self.is_quant(node) or node.input[0] not in self.constants:
            return None
        quantizer = self.quantizer(node, most_bits=32)
        scale = quantizer.scale.astype(np.float64)
        codes = np.rint(self.constants[node.input[0]].astype(np.float64) / scale)
        return np.clip(codes, *quantizer.code_range()) * scale

    def weight_codes(self, name: str) -> tuple[NDArray[np.int64], Quantizer] | None:
        """Integer codes, int64 of the tensor's shape, and quantizer of a quantized constant; None
        if ``name`` is none."""
        node = self.producer(name)
        if node is None or not self.is_quant(node) or node.input[0] not in self.constants:
            return None
        quantizer = self.quantizer(node)
        low, high = quantizer.code_range()
        values = self.constants[node.input[0]].astype(np.float32)
        # float32 on purpose: the same division and rounding as in training.
        codes = np.clip(np.rint(values / quantizer.scale), low, high)
        return codes.astype(np.int64), quantizer


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as plain values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
