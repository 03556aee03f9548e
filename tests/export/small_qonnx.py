"""A QONNX model of every kind of layer that the lowering knows, always the same."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.graph_builder import QONNX, GraphBuilder
from export.qonnx_from_network import with_shapes

SIZE_PX = 8
CHANNELS = 4


def small_qonnx(rng: np.random.Generator, bits: int = 4) -> onnx.ModelProto:
    """Images 3×8×8 → convolution, BatchNorm, max-pool, a residual block, pool → 3 logits."""
    builder = GraphBuilder()

    def constant(value: object, hint: str) -> str:
        return builder.constant(np.asarray(value, np.float32), hint)

    def quant(x: str, scale: object, width: int, name: str, *, signed: bool) -> str:
        inputs = [x, constant(scale, f"{name}.s"), constant(0, "zero"), constant(width, "width")]
        settings = {"signed": int(signed), "narrow": 0, "rounding_mode": "ROUND"}
        return builder.add("Quant", inputs, name, domain=QONNX, **settings)

    def convolution(x: str, channels: int, name: str) -> str:
        values = rng.normal(0, 1, (CHANNELS, channels, 3, 3))
        weights = quant(constant(values, f"{name}.w"), 0.25, bits, f"{name}.wq", signed=True)
        y = builder.add(
            "Conv", [x, weights], f"{name}.conv", kernel_shape=[3, 3], strides=[1, 1],
            pads=[1, 1, 1, 1], dilations=[1, 1], group=1,
        )  # fmt: skip
        norm = [
            constant(rng.normal(0.2, 0.1, CHANNELS), f"{name}.gain"),
            constant(rng.normal(0, 0.1, CHANNELS), f"{name}.bias"),
            constant(np.zeros(CHANNELS), f"{name}.mean"),
            constant(np.ones(CHANNELS), f"{name}.variance"),
        ]
        return builder.add("BatchNormalization", [y, *norm], f"{name}.norm", epsilon=1e-5)

    x = builder.reserve("images")
    x = builder.add("Sub", [x, constant(128.0, "grey")], "centred")
    x = builder.add("Mul", [x, constant(2.0**-6, "step")], "scaled")
    x = quant(x, 2.0**-6, 8, "pixels", signed=True)
    x = builder.add("Relu", [convolution(x, 3, "stem")], "stem.relu")
    x = quant(x, 0.05, 8, "stem", signed=False)
    x = builder.add("MaxPool", [x], "maxpool", kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4)
    narrow = quant(x, 0.05 * 17, bits, "enter", signed=False)
    branch = quant(convolution(narrow, CHANNELS, "branch"), 0.05, 8, "branch", signed=True)
    x = builder.add("Relu", [builder.add("Add", [branch, x], "sum")], "sum.relu")
    x = quant(x, 0.05, 8, "block", signed=False)
    x = builder.add("GlobalAveragePool", [x], "average")
    x = builder.add("Flatten", [quant(x, 0.05 * 17 / 16, 8, "pool", signed=False)], "flat", axis=1)
    values = rng.normal(0, 1, (3, CHANNELS))
    weights = quant(constant(values, "linear.w"), 0.02, 8, "linear.wq", signed=True)
    builder.add("Gemm", [x, weights, constant(np.zeros(3), "linear.b")], "logits", transB=1)
    shape = [1, 3, SIZE_PX, SIZE_PX]
    model = builder.model(
        name="small",
        inputs=[helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        outputs=[helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        opset=13,
        ir_version=8,
        domains=[QONNX],
    )
    return with_shapes(model)
