"""Small quantized networks in the many ways in which others write them, built node by node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.graph_builder import QONNX

CLASSES = 5
SIZE = 12


class Drawn:
    """A graph with Quant nodes, images 3×12×12 → 5 logits."""

    def __init__(self, shape: tuple[int, ...] = (1, 3, SIZE, SIZE), seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, operator: str, inputs: list[str], out: str = "", **attributes: Any) -> str:
        domain = attributes.pop("domain", "")
        name = out or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, inputs, [name], name=name, domain=domain, **attributes)
        )
        return name

    def quant(
        self, x: str, scale: Any, bits: int, *, signed: bool = True, zero: float = 0.0, **more: Any
    ) -> str:
        inputs = [x, self.constant(scale), self.constant(zero), self.constant(float(bits))]
        operator = more.pop("operator", "Quant")
        settings = {"signed": int(signed), "narrow": 0, "rounding_mode": "ROUND", **more}
        return self.node(operator, inputs, domain=QONNX, **settings)

    def weights(self, *shape: int, bits: int = 4) -> str:
        values = self.rng.normal(0, 0.3, shape)
        scale = np.abs(values).reshape(shape[0], -1).max(axis=1) / (2 ** (bits - 1) - 1)
        sides = [1] * (len(shape) - 1)
        return self.quant(self.constant(values), scale.reshape(-1, *sides), bits, narrow=1)

    def dequantized(self, codes: Any, scale: float, zero: int = 0) -> str:
        """Stored int8 codes, as ONNX Runtime's quantizer stores any operator's parameters."""
        inputs = [self.constant(codes, np.int8), self.constant(scale), self.constant(zero, np.int8)]
        return self.node("DequantizeLinear", inputs)

    def pixels(self) -> str:
        x = self.node("Sub", ["images", self.constant(128.0)])
        return self.quant(self.node("Div", [x, self.constant(64.0)]), 2.0**-6, 8)

    def conv(self, x: str, outputs: int, inputs: int, **more: Any) -> str:
        attributes = {"kernel_shape": [3, 3], "pads": [1] * 4, **more}
        weights = self.weights(outputs, inputs // more.get("group", 1), 3, 3)
        return self.node("Conv", [x, weights], **attributes)

    def start(self, channels: int = 4) -> str:
        x = self.node("Relu", [self.conv(self.pixels(), channels, 3)])
        return self.quant(x, 0.11, 4, signed=False)

    def head(self, x: str, channels: int) -> str:
        x = self.quant(self.node("GlobalAveragePool", [x]), 0.05, 8)
        flat = self.node("Flatten", [x], axis=1)
        bias = self.constant(self.rng.normal(0, 0.2, CLASSES))
        weights = self.weights(CLASSES, channels, bits=8)
        return self.node("Gemm", [flat, weights, bias], "logits", transB=1)

    def model(self, output: str = "logits", **kinds: Any) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("images", TensorProto.FLOAT, list(self.shape))
        kind = helper.make_tensor_type_proto(kinds.get("kind", TensorProto.FLOAT), None)
        graph = helper.make_graph(
            self.nodes, "any", [image], [helper.make_value_info(output, kind)], self.stored
        )
        domains = sorted({node.domain for node in self.nodes} - {""})
        opsets = [helper.make_opsetid("", 13), *(helper.make_opsetid(d, 1) for d in domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def save(self, path: Path, output: str = "logits", **kinds: Any) -> Path:
        onnx.save(self.model(output, **kinds), path)
        return path


def images(count: int = 6, channels: int = 3, size: int = SIZE) -> NDArray[np.uint8]:
    """Coarse blocks, uint8 N×C×H×W."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (count, channels, size // 4, size // 4))
    return np.kron(coarse, np.ones((1, 1, 4, 4))).astype(np.uint8)
