"""Hand-built integer ONNX graphs for the tests of reference, certificate and parity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.reference import IntegerReference

MICROSOFT = "com.microsoft"
INT_TYPES = {8: np.int8, 4: ml_dtypes.int4, 2: ml_dtypes.int2}
WEIGHT_LIMIT = {8: 127, 4: 7, 2: 1}


class IntegerGraph:
    """Builds a graph node by node; each method gives the name of its output tensor."""

    def __init__(self, rng: np.random.Generator, *, size: int = 8, opset: int = 21) -> None:
        self.rng = rng
        self.size = size
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self.scales: dict[str, np.float32] = {"images": np.float32(2**-6)}
        self.zero_points: dict[str, int] = {"images": 128}
        self.channels: dict[str, int] = {"images": 3}
        # How far codes usually are from their zero point; only steers the choice of scales.
        self.spreads: dict[str, float] = {"images": 60.0}

    def constant(self, name: str, value: Any) -> str:
        self.arrays[name] = np.asarray(value)
        return name

    def node(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        domain = MICROSOFT if operator in _MICROSOFT_OPERATORS else ""
        output = f"{name}.out"
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=name, domain=domain, **attributes)
        )
        return output

    def describe(self, tensor: str, like: str, **changes: Any) -> str:
        self.scales[tensor] = changes.get("scale", self.scales[like])
        self.zero_points[tensor] = changes.get("zero_point", self.zero_points[like])
        self.channels[tensor] = changes.get("channels", self.channels[like])
        self.spreads[tensor] = changes.get("spread", self.spreads[like])
        return tensor

    def quantization(self, tensor: str) -> tuple[str, str]:
        """Names of the stored scale and zero point of a tensor."""
        return (
            self.constant(f"{tensor}.scale", self.scales[tensor]),
            self.constant(f"{tensor}.zero", np.uint8(self.zero_points[tensor])),
        )

    def conv(
        self,
        x: str,
        outputs: int,
        name: str,
        *,
        kernel: int = 3,
        stride: int = 1,
        pad: int | None = None,
        groups: int = 1,
        bits: int = 8,
        zero_point: int = 0,
        scale: np.float32 | None = None,
        spread: float = 40.0,
        per_channel: bool = True,
        dilation: int = 1,
    ) -> str:
        inputs = self.channels[x]
        limit = WEIGHT_LIMIT[bits]
        shape = (outputs, inputs // groups, kernel, kernel)
        weight = self.rng.integers(-limit, limit + 1, shape)
        stored = self.constant(f"{name}.weight", weight.astype(INT_TYPES[bits]))
        if bits < 8:
            stored = self.node("Cast", [stored], f"{name}.cast", to=TensorProto.INT8)
        sw = self.rng.uniform(0.5, 1.5, outputs if per_channel else ()) / limit
        reach = np.sqrt(weight[0].size) * self.spreads[x] * 0.6
        if scale is None:
            sy = np.float32(self.scales[x] * reach / spread)
        else:
            sy = scale
            sw *= sy * spread / (self.scales[x] * reach)
        sw = np.asarray(sw, np.float32)
        bias = self.rng.normal(0, reach * limit * 0.3, outputs).astype(np.int32)
        arguments = [
            x,
            *self.quantization(x),
            stored,
            self.constant(f"{name}.weight_scale", sw),
            self.constant(f"{name}.weight_zero", np.int8(0)),
            self.constant(f"{name}.y_scale", sy),
            self.constant(f"{name}.y_zero", np.uint8(zero_point)),
            self.constant(f"{name}.bias", bias),
        ]
        edge = kernel // 2 if pad is None else pad
        out = self.node(
            "QLinearConv",
            arguments,
            name,
            group=groups,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[edge] * 4,
            dilations=[dilation, dilation],
        )
        return self.describe(
            out, x, scale=sy, zero_point=zero_point, channels=outputs, spread=spread
        )

    def clip(self, x: str, name: str, *, low: int = 0, high: int = 15) -> str:
        limits = [
            self.constant(f"{name}.low", np.uint8(low)),
            self.constant(f"{name}.high", np.uint8(high)),
        ]
        spread = min(self.spreads[x], high / 2)
        return self.describe(self.node("Clip", [x, *limits], name), x, spread=spread)

    def add(self, a: str, b: str, name: str, *, zero_point: int = 0) -> str:
        out = self.describe(f"{name}.out", a, zero_point=zero_point)
        arguments = [a, *self.quantization(a), b, *self.quantization(b), *self.quantization(out)]
        return self.node("QLinearAdd", arguments, name)

    def requantize(self, x: str, ratio: float, name: str) -> str:
        out = f"{name}.out"
        spread = max(self.spreads[x] / ratio, 1.0)
        self.describe(out, x, scale=np.float32(self.scales[x] * ratio), spread=spread)
        zero = self.constant(f"{name}.nothing", np.uint8(0))
        none = self.constant(f"{name}.nothing_zero", np.uint8(0))
        scale, point = self.quantization(x)
        arguments = [x, scale, point, zero, scale, none, *self.quantization(out)]
        return self.node("QLinearAdd", arguments, name)

    def max_pool(self, x: str, name: str, *, kernel: int = 2, stride: int = 2, pad: int = 0) -> str:
        out = self.node(
            "MaxPool",
            [x],
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
        )
        return self.describe(out, x)

    def head(self, x: str, classes: int = 5, *, pool_ratio: float = 0.7) -> None:
        """Average pool, Flatten and the logits."""
        out = self.describe(
            "pool.out",
            x,
            scale=np.float32(self.scales[x] * pool_ratio),
        )
        self.node(
            "QLinearGlobalAveragePool",
            [x, *self.quantization(x), *self.quantization(out)],
            "pool",
            channels_last=0,
        )
        flat = self.describe(self.node("Flatten", [out], "flatten", axis=1), out)
        weight = self.rng.integers(-127, 128, (classes, self.channels[x])).astype(np.int8)
        self.nodes.append(
            helper.make_node(
                "QGemm",
                [
                    flat,
                    *self.quantization(flat),
                    self.constant("dense.weight", weight),
                    self.constant("dense.weight_scale", np.full(classes, 0.01, np.float32)),
                    self.constant("dense.weight_zero", np.zeros(classes, np.int8)),
                    self.constant("dense.bias", self.rng.integers(-500, 500, classes, np.int32)),
                ],
                ["logits"],
                name="dense",
                domain=MICROSOFT,
                transB=1,
            )
        )
        self.classes = classes

    def model(self) -> onnx.ModelProto:
        image = helper.make_tensor_value_info(
            "images", TensorProto.UINT8, ["N", 3, self.size, self.size]
        )
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", self.classes])
        stored = [numpy_helper.from_array(value, name) for name, value in self.arrays.items()]
        graph = helper.make_graph(self.nodes, "integer", [image], [logits], stored)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = 13 if self.opset >= 25 else 10
        return model

    def save(self, path: Path) -> Path:
        path.write_bytes(self.model().SerializeToString())
        return path


_MICROSOFT_OPERATORS = {"QLinearAdd", "QLinearGlobalAveragePool", "QGemm"}


def residual_graph(rng: np.random.Generator, *, size: int = 8, bits: int = 8) -> IntegerGraph:
    """A small residual network with every operator that the lowering writes."""
    graph = IntegerGraph(rng, size=size, opset=25 if bits == 2 else 21)
    stem = graph.conv("images", 8, "stem", spread=80)
    stem = graph.max_pool(stem, "stem_pool")
    codes = graph.requantize(stem, 5, "block_codes")
    inner = graph.conv(codes, 8, "block_conv1", bits=bits, spread=6)
    inner = graph.clip(inner, "block_clip1", high=15)
    stream = graph.scales[stem]
    branch = graph.conv(inner, 8, "block_conv2", bits=bits, zero_point=128, scale=stream, spread=30)
    graph.head(graph.add(branch, stem, "block_add"))
    return graph


def random_graph(rng: np.random.Generator) -> IntegerGraph:
    """A random chain of the supported layers, with a residual addition in about half of them."""
    bits = int(rng.choice([8, 4, 2]))
    graph = IntegerGraph(rng, size=int(rng.integers(6, 13)), opset=25)
    x = "images"
    for index in range(int(rng.integers(1, 4))):
        name = f"layer{index}"
        channels = graph.channels[x]
        depthwise = index > 0 and rng.random() < 0.3
        kernel = int(rng.choice([1, 3]))
        x = graph.conv(
            x,
            channels if depthwise else int(rng.choice([4, 8, 12])),
            name,
            kernel=kernel,
            stride=int(rng.choice([1, 1, 2])),
            pad=None if rng.random() < 0.8 or graph.size < 8 else 0,
            groups=channels if depthwise else 1,
            bits=bits if index else 8,
            zero_point=int(rng.choice([0, 0, 128])),
            per_channel=bool(rng.random() < 0.7),
        )
        if rng.random() < 0.5:
            x = graph.clip(x, f"{name}_clip", high=int(rng.choice([3, 15, 31])))
        if rng.random() < 0.5:
            branch = graph.conv(
                x,
                graph.channels[x],
                f"{name}_branch",
                bits=bits,
                groups=2 if rng.random() < 0.3 else 1,
                zero_point=128,
                scale=graph.scales[x],
            )
            x = graph.add(branch, x, f"{name}_add")
            if rng.random() < 0.5:
                x = graph.requantize(x, int(rng.choice([3, 17, 85])), f"{name}_codes")
        if rng.random() < 0.3:
            x = graph.max_pool(x, f"{name}_pool", kernel=3, stride=1, pad=1)
    graph.head(x, classes=int(rng.integers(3, 8)), pool_ratio=float(rng.uniform(0.2, 1.2)))
    return graph


def random_images(rng: np.random.Generator, count: int, size: int) -> NDArray[np.uint8]:
    """Images whose brightness and contrast differ, so that classes and codes do too."""
    low = rng.integers(0, 200, (count, 3, 1, 1))
    high = low + rng.integers(1, 56, (count, 3, 1, 1))
    return rng.integers(low, high, (count, 3, size, size)).astype(np.uint8)


def balance(graph: IntegerGraph, images: NDArray[np.uint8], path: Path) -> Path:
    """Save the graph with a bias that makes each class win about as often."""
    graph.arrays["dense.bias"] = np.zeros(graph.classes, np.int32)
    logits = IntegerReference(graph.save(path)).run(images)
    bias = -logits.mean(axis=0).astype(np.float64)
    for round_ in range(400):
        shares = np.bincount((logits + bias).argmax(axis=1), minlength=graph.classes) / len(images)
        bias -= (shares - 1 / graph.classes) * logits.std() / (1 + round_ / 20)
    scale = graph.scales["pool.out"] * graph.arrays["dense.weight_scale"]
    graph.arrays["dense.bias"] = np.rint(bias / scale).astype(np.int32)
    return graph.save(path)


def with_array(source: Path, target: Path, name: str, change: Any) -> Path:
    """Save a copy of a model in which ``change(array)`` replaces one stored tensor."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = change(numpy_helper.to_array(tensor).copy())
            tensor.CopyFrom(numpy_helper.from_array(array, name))
            target.write_bytes(model.SerializeToString())
            return target
    raise KeyError(name)
