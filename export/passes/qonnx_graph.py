"""A quantized file as the passes read it: its canonical graph, and its quantizers' parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.core.errors import InputError
from export.canonical import ImageForm, canonical
from export.canonical.operators import QUANT_DOMAINS
from export.graph import Graph, attributes_of, node_label
from export.reading import read_model

_MOVES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that may be between stored weights and the layer that reads them."""


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """One ``Quant`` node: y = (clamp(round(x / scale + zero_point)) - zero_point) * scale.

    Codes exclude the zero point, so that y = code * scale; the zero point shifts their range.
    ``scale`` is float32, () or broadcastable to the tensor.
    """

    scale: NDArray[np.float32]
    bits: int
    signed: bool
    narrow: bool
    zero_point: int = 0

    @property
    def step(self) -> np.float32:
        """The scale of a quantizer that has one scale for the whole tensor."""
        return np.float32(self.scale.item())

    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code."""
        if self.signed:
            low, high = -(2 ** (self.bits - 1)) + int(self.narrow), 2 ** (self.bits - 1) - 1
        else:
            low, high = 0, 2**self.bits - 1 - int(self.narrow)
        return low - self.zero_point, high - self.zero_point


@dataclass(frozen=True, kw_only=True)
class WeightCodes:
    """Stored weights: value = code * scale.

    Attributes:
        codes: int64.
        scale: float32, of the shape of the codes.
        bits: of their quantizer.
    """

    codes: NDArray[np.int64]
    scale: NDArray[np.float32]
    bits: int


class QonnxGraph(Graph):
    """One file in its canonical form (:mod:`export.canonical`), indexed.

    Attributes:
        path: of the file.
        image: name of its one input.
        logits: name of its one output.
        form: how the image's bytes become the file's input.
        notes: the parts of the file that the canonical form leaves out.

    Raises:
        InputError: the file is damaged, does not have one input and one output, or has something
            that the canonical form does not allow.
    """

    def __init__(self, path: Path, form: ImageForm | None = None) -> None:
        self.form = form or ImageForm()
        model, self.notes = canonical(read_model(path), path, self.form)
        super().__init__(model)
        self.path = path
        self.image, self.logits = self.inputs[0].name, self.outputs[0].name

    @staticmethod
    def is_quant(node: onnx.NodeProto | None) -> TypeGuard[onnx.NodeProto]:
        """Whether ``node`` is a QONNX ``Quant`` (also under its older domains)."""
        return node is not None and node.op_type == "Quant" and node.domain in QUANT_DOMAINS

    @staticmethod
    def is_sign(node: onnx.NodeProto | None) -> TypeGuard[onnx.NodeProto]:
        """Whether ``node`` is a QONNX ``BipolarQuant``: y = scale where x >= 0, else -scale."""
        return node is not None and node.op_type == "BipolarQuant" and node.domain in QUANT_DOMAINS

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
        zero = np.unique(zero_point)
        if len(zero) != 1 or not np.isfinite(zero[0]) or zero[0] != np.rint(zero[0]):
            raise InputError(
                f"{where}: its zero point is {zero_point.reshape(-1)[:3].tolist()}, not one whole "
                "number"
            )
        signed = bool(attributes.get("signed", 1))
        if bits.size != 1 or bits.item() not in range(2 if signed else 1, most_bits + 1):
            raise InputError(
                f"{where}: its bit-width is {bits.tolist()}, expected one of 2 to {most_bits}"
            )
        return Quantizer(
            scale=scale.astype(np.float32),
            bits=int(bits.item()),
            signed=signed,
            narrow=bool(attributes.get("narrow", 0)),
            zero_point=int(zero[0]),
        )

    def constant_values(self, name: str) -> NDArray[np.float64] | None:
        """A stored tensor, float64, also after a ``Quant`` (a bias has up to 32 bits); None if
        ``name`` is computed."""
        if name in self.constants:
            return self.constants[name].astype(np.float64)
        found = self.stored_codes(name, most_bits=32)
        if found is None:
            return None
        return found.codes.astype(np.float64) * found.scale.astype(np.float64)

    def stored_codes(self, name: str, *, most_bits: int = 8) -> WeightCodes | None:
        """The codes of a quantized constant, also through a Transpose, a Reshape or a product with
        a constant; None if ``name`` is not one.

        Raises:
            InputError: as :meth:`quantizer`.
        """
        node = self.producer(name)
        if node is None:
            return None
        if node.op_type in _MOVES:
            found = self.stored_codes(node.input[0], most_bits=most_bits)
            return None if found is None else self._moved(node, found)
        if node.op_type in ("Mul", "Div"):
            return self._scaled(node, most_bits)
        if node.input[0] not in self.constants:
            return None
        values = self.constants[node.input[0]].astype(np.float32)
        if self.is_sign(node):
            scale = self.constants[node.input[1]].astype(np.float32)
            signs = np.where(values >= 0, 1, -1).astype(np.int64)
            return WeightCodes(codes=signs, scale=np.broadcast_to(scale, signs.shape), bits=1)
        if not self.is_quant(node):
            return None
        quantizer = self.quantizer(node, most_bits=most_bits)
        try:
            scale = np.broadcast_to(quantizer.scale, values.shape)
        except ValueError as error:
            raise InputError(
                f"{self.path}: {node_label(node)}: its scale has the shape "
                f"{list(quantizer.scale.shape)}, which does not go with {list(values.shape)}"
            ) from error
        # float32 deliberately: the same division and rounding as in training.
        wide = values if most_bits <= 8 else values.astype(np.float64)
        codes = np.rint(wide / scale + np.float32(quantizer.zero_point)) - quantizer.zero_point
        codes = np.clip(codes, *quantizer.code_range()).astype(np.int64)
        return WeightCodes(codes=codes, scale=scale, bits=quantizer.bits)

    def _moved(self, node: onnx.NodeProto, found: WeightCodes) -> WeightCodes | None:
        shape = self.shapes.get(node.output[0], found.codes.shape)
        if node.op_type == "Transpose":
            order = attributes_of(node).get("perm")
            codes, scale = np.transpose(found.codes, order), np.transpose(found.scale, order)
        else:
            codes, scale = np.reshape(found.codes, shape), np.reshape(found.scale, shape)
        return WeightCodes(codes=codes, scale=scale, bits=found.bits)

    def _scaled(self, node: onnx.NodeProto, most_bits: int) -> WeightCodes | None:
        for one, other in ((0, 1), (1, 0)) if node.op_type == "Mul" else ((0, 1),):
            factor = self.constants.get(node.input[other])
            if factor is None:
                continue
            found = self.stored_codes(node.input[one], most_bits=most_bits)
            if found is None or not bool((factor > 0).all()):
                return None
            with np.errstate(all="ignore"):
                by = factor.astype(np.float32)
                scale = found.scale * by if node.op_type == "Mul" else found.scale / by
            if scale.shape != found.codes.shape or not bool(np.isfinite(scale).all()):
                return None
            return WeightCodes(codes=found.codes, scale=scale, bits=found.bits)
        return None
