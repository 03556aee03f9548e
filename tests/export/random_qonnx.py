"""Random small QONNX graphs of the layers that the lowering supports, drawn by hypothesis.

Corners on purpose: bit-widths 2 to 8, BatchNorm gains of 0 and below 0, channels whose weights are
all 0, strides, kernels, padding, groups, signed and unsigned streams, ReLU6, sums, max-pools.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from deploy.core.files import write_atomic
from export.graph_builder import QONNX, GraphBuilder, model_bytes
from export.qonnx_from_network import with_shapes
from training.steps import residual_ratio

CLASSES = 4


@dataclass(kw_only=True)
class Tensor:
    """A quantized tensor of the graph being drawn."""

    name: str
    channels: int
    size: int
    scale: float
    bits: int
    signed: bool


@dataclass(kw_only=True)
class Drawing:
    """A graph being drawn; ``rng`` fills arrays, hypothesis chooses the structure."""

    draw: st.DrawFn
    rng: np.random.Generator
    builder: GraphBuilder = field(default_factory=GraphBuilder)

    def constant(self, value: Any, hint: str) -> str:
        return self.builder.constant(np.asarray(value, np.float32), hint)

    def quant(
        self, x: str, scale: Any, bits: int, name: str, *, signed: bool, narrow: bool = False
    ) -> str:
        inputs = [
            x,
            self.constant(scale, f"{name}.s"),
            self.constant(0, "zero"),
            self.constant(bits, "bits"),
        ]
        settings = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": "ROUND"}
        return self.builder.add("Quant", inputs, name, domain=QONNX, **settings)

    def bias(self, channels: int, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Biases on the grid of the integer accumulator, as an exact network has them."""
        step = np.where(grid > 1e-6, grid, 1.0)
        return np.rint(self.rng.normal(0.0, 0.5, channels) / step) * step

    def image(self, size: int) -> Tensor:
        x = self.builder.reserve("images")
        x = self.builder.add("Sub", [x, self.constant(128.0, "grey")], "centred")
        x = self.builder.add("Mul", [x, self.constant(2.0**-6, "step")], "scaled")
        x = self.quant(x, 2.0**-6, 8, "pixels", signed=True)
        return Tensor(name=x, channels=3, size=size, scale=2.0**-6, bits=8, signed=True)

    def weights(self, shape: tuple[int, ...], name: str) -> tuple[str, NDArray[np.float64]]:
        """Name of quantized weights and their scales; one channel may be 0."""
        bits = self.draw(st.integers(2, 8))
        values = self.rng.normal(0.0, 1.0, shape)
        if self.draw(st.booleans()):
            values[self.rng.integers(shape[0])] = 0.0
        scale = np.abs(values).reshape(shape[0], -1).mean(axis=1) * 2.5 / 2 ** (bits - 1)
        scale = np.maximum(scale, 2.0**-20)
        if self.draw(st.booleans()):
            scale = np.full_like(scale, scale.max())
        stored = self.constant(values, f"{name}.w")
        aligned = scale.reshape(-1, *[1] * (len(shape) - 1))
        return self.quant(stored, aligned, bits, f"{name}.wq", signed=True, narrow=True), scale

    def convolution(
        self, x: Tensor, name: str, *, into: Tensor | None = None, plain: bool = False
    ) -> Tensor:
        """A convolution; ``into``: onto that tensor's scale and shape, signed, 8 bits."""
        draw, rng, builder = self.draw, self.rng, self.builder
        depthwise = not plain and into is None and draw(st.booleans())
        kernel = draw(st.sampled_from([k for k in (1, 2, 3, 5) if k <= x.size]))
        stride, pads = draw(st.integers(1, 3)), draw(st.lists(st.integers(0, 2), min_size=4,
                                                               max_size=4))  # fmt: skip
        if into is not None:
            kernel, stride, pads = (1, 1, [0] * 4) if kernel % 2 == 0 else (
                kernel, 1, [kernel // 2] * 4)  # fmt: skip
        if pads[0] + pads[2] != pads[1] + pads[3]:
            pads = [pads[0]] * 4
        channels = x.channels if depthwise else draw(st.integers(2, 6))
        channels = into.channels if into is not None else channels
        groups = x.channels if depthwise else 1
        weights, scale = self.weights((channels, x.channels // groups, kernel, kernel), name)
        inputs = [x.name, weights]
        if draw(st.booleans()):
            inputs.append(self.constant(self.bias(channels, x.scale * scale), f"{name}.bias"))
        y = builder.add(
            "Conv", inputs, f"{name}.conv", kernel_shape=[kernel] * 2, strides=[stride] * 2,
            pads=pads, dilations=[1, 1], group=groups,
        )  # fmt: skip
        spread = float(np.sqrt(kernel * kernel * x.channels / groups)) * x.scale
        spread *= 2.0 ** (x.bits - 2)
        if draw(st.booleans()):
            gain = rng.normal(0.0, 1.0, channels)
            gain[rng.integers(channels)] = draw(st.sampled_from([0.0, -1.0, 1.0]))
            beta = self.bias(channels, x.scale * scale * np.abs(gain / spread))
            moments = [gain / spread, beta, np.zeros(channels), np.ones(channels)]
            names = [self.constant(one, f"{name}.n") for one in moments]
            y = builder.add("BatchNormalization", [y, *names], f"{name}.norm", epsilon=0.0)
            spread = 1.0
        signed = into is not None or draw(st.booleans())
        clamp = "none" if signed else draw(st.sampled_from(["none", "relu", "clip"]))
        if clamp == "relu":
            y = builder.add("Relu", [y], f"{name}.relu")
        elif clamp == "clip":
            bounds = [self.constant(0.0, "low"), self.constant(1.5 * spread, "high")]
            y = builder.add("Clip", [y, *bounds], f"{name}.clip")
        bits = 8 if into is not None else draw(st.integers(2, 8))
        step = into.scale if into is not None else float(np.float32(spread * 3.0 / 2**bits))
        y = self.quant(y, step, bits, name, signed=signed)
        size = (x.size + pads[0] + pads[2] - kernel) // stride + 1
        return Tensor(name=y, channels=channels, size=size, scale=step, bits=bits, signed=signed)

    def max_pool(self, x: Tensor, name: str) -> Tensor:
        kernel = self.draw(st.integers(1, min(3, x.size)))
        stride, padding = self.draw(st.integers(1, 2)), self.draw(st.integers(0, kernel // 2))
        y = self.builder.add(
            "MaxPool", [x.name], name, kernel_shape=[kernel] * 2, strides=[stride] * 2,
            pads=[padding] * 4,
        )  # fmt: skip
        size = (x.size + 2 * padding - kernel) // stride + 1
        return Tensor(**{**vars(x), "name": y, "size": size})

    def requantized(self, x: Tensor, name: str) -> Tensor:
        bits = self.draw(st.integers(2, x.bits))
        step = float(np.float32(x.scale) * np.float32(residual_ratio(bits)))
        y = self.quant(x.name, step, bits, name, signed=x.signed)
        return Tensor(**{**vars(x), "name": y, "scale": step, "bits": bits})

    def block(self, x: Tensor, name: str) -> Tensor:
        """A sum of the stream and of a convolution of it, on the stream's scale."""
        inner = self.requantized(x, f"{name}.enter") if self.draw(st.booleans()) else x
        branch = self.convolution(inner, f"{name}.branch", into=x)
        pair = [branch.name, x.name] if self.draw(st.booleans()) else [x.name, branch.name]
        total = self.builder.add("Add", pair, f"{name}.sum")
        signed = self.draw(st.booleans())
        y = self.quant(total, x.scale, 8, name, signed=signed)
        return Tensor(**{**vars(x), "name": y, "bits": 8, "signed": signed})

    def head(self, x: Tensor) -> None:
        builder = self.builder
        if self.draw(st.booleans()):
            y = builder.add("GlobalAveragePool", [x.name], "average")
            step = float(np.float32(x.scale * 1.01))
            y = self.quant(y, step, 8, "pool", signed=x.signed)
            features = x.channels
        else:
            y, features, step = x.name, x.channels * x.size * x.size, x.scale
        if self.draw(st.booleans()):
            shape = builder.constant(np.array([1, features], np.int64), "shape")
            y = builder.add("Reshape", [y, shape], "flat")
        else:
            y = builder.add("Flatten", [y], "flat", axis=1)
        weights, scale = self.weights((CLASSES, features), "linear")
        bias = self.constant(self.bias(CLASSES, step * scale), "linear.bias")
        builder.add("Gemm", [y, weights, bias], "logits", transB=1)


@st.composite
def small_networks(draw: st.DrawFn) -> onnx.ModelProto:
    """A QONNX model with an input of 3×5…9×5…9 pixels and 4 logits."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    drawing = Drawing(draw=draw, rng=rng)
    size = draw(st.integers(5, 9))
    x = drawing.convolution(drawing.image(size), "stem", plain=True)
    for index in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["convolution", "pool", "requantize", "block"]))
        if kind == "convolution":
            x = drawing.convolution(x, f"conv{index}")
        elif kind == "pool":
            x = drawing.max_pool(x, f"pool{index}")
        elif kind == "requantize":
            x = drawing.requantized(x, f"narrow{index}")
        else:
            x = drawing.block(x, f"block{index}")
    drawing.head(x)
    model = drawing.builder.model(
        name="random",
        inputs=[helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
        outputs=[helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        opset=13,
        ir_version=8,
        domains=[QONNX],
    )
    return with_shapes(model)


def write_random(model: onnx.ModelProto, path: Path) -> Path:
    write_atomic(path, model_bytes(model))
    return path
