"""A network at one bit-width as QONNX: standard operators with ``Quant`` nodes.

The graph computes what the fake-quantized network computes in evaluation, tensor by tensor, with a
fixed batch of 1 as FINN and the ``qonnx`` tools expect.  Its input is ``images`` as float32 pixel
values in [0, 255]; ``(x - 128) / 64`` and a signed 8-bit ``Quant`` of scale 2^-6 give the codes.  A
step's output has the step's name.

A BatchNormalization has the folded gain gamma / sigma and the bias on the grid of its integer
accumulator (mean 0, variance 1, epsilon 0).  At bit-width 32 there is no ``Quant`` node and it has
its trained statistics.  A separate normalization follows a convolution of each channel with the
constant 1, which is the code 64 of scale 1/64.  In an exact network (:mod:`training.exact`) the
weights include the gain, and the convolution has the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, shape_inference
from torch import Tensor, nn

from deploy.core.files import write_atomic
from export.expressions import write_clamp, write_expression
from export.graph_builder import QONNX, GraphBuilder, model_bytes
from export.origin import origin_text
from training.quantize.layers import MAP_CODE, Bias, LastLinear, PlannedConvolution
from training.quantize.network import Network
from training.quantize.norms import bias_on_grid
from training.quantize.plan import Step
from training.quantized_layers import weight_quantizer
from training.quantizers import STREAM_BITS

OPSET = 13
IR_VERSION = 8
IMAGES, LOGITS = "images", "logits"


@torch.no_grad()
def qonnx_from_network(network: Network, bits: int) -> onnx.ModelProto:
    """The QONNX model of ``network`` (in evaluation mode) at ``bits`` (32: float, no Quant).

    Raises:
        InputError: the network has no such bit-width.
    """
    if network.training:
        raise ValueError("switch the network to evaluation before exporting it")
    with network.at(bits):
        return _Writer(network).write(f"{network.spec.name}-{bits}")


def write_qonnx(
    network: Network, bits: int, path: Path, *, checkpoint_sha256: str | None = None
) -> Path:
    """Write :func:`qonnx_from_network` atomically; returns ``path``.

    ``checkpoint_sha256`` is stored in the file, and in files lowered from it (export.origin).
    """
    model = qonnx_from_network(network, bits)
    if checkpoint_sha256 is not None:
        model.doc_string = origin_text(checkpoint_sha256)
    write_atomic(path, model_bytes(model))
    return path


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().cpu().numpy().astype(np.float32)


class _QonnxBuilder(GraphBuilder):
    """Writes no node that reads one tensor twice, such as x * x: qonnx-cleanup renames only the
    first of equal inputs, so the second is read through an Identity."""

    def operands(self, inputs: Sequence[str]) -> list[str]:
        """The inputs, each only once, except for constants."""
        distinct: list[str] = []
        for name in inputs:
            again = name in distinct and any(name in node.output for node in self._nodes)
            distinct.append(self.add("Identity", [name], f"{name}.again") if again else name)
        return distinct


class _Writer:
    """Walks the steps of a plan in their order."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.quantized = network.switch.quantized
        self.builder = _QonnxBuilder()
        self.tensors: dict[str, str] = {}

    def write(self, name: str) -> onnx.ModelProto:
        """The whole model."""
        builder, plan = self.builder, self.network.plan
        builder.reserve(IMAGES)
        builder.promise(step.name for step in plan.steps)
        for step in plan.steps:
            builder.begin(step.name)
            inputs = [self.tensors[one] for one in step.inputs]
            self.tensors[step.name] = _WRITERS[step.kind](self, step, inputs)
        image = helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, [1, *plan.input_shape])
        last = self.tensors[plan.steps[-1].name]
        logits = helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, plan.classes])
        model = builder.model(
            name=name,
            inputs=[image],
            outputs=[logits],
            opset=OPSET,
            ir_version=IR_VERSION,
            domains=[QONNX] if self.quantized else [],
        )
        return with_shapes(model)

    # ------------------------------------------------------------------ quantizers

    def quant(
        self, x: str, scale: Tensor, bits: int, *, signed: bool, name: str, narrow: bool = False
    ) -> str:
        """A ``Quant`` node."""
        builder = self.builder
        inputs = [
            x,
            builder.constant(_numpy(scale), f"{name}.scale"),
            builder.constant(np.float32(0.0), "zero"),
            builder.constant(np.float32(bits), "bits"),
        ]
        return builder.add(
            "Quant",
            inputs,
            name,
            domain=QONNX,
            signed=int(signed),
            narrow=int(narrow),
            rounding_mode="ROUND",
        )

    def codes(self, x: str, step: Step) -> str:
        """The quantizer of a step's output; ``x`` itself in float."""
        if not self.quantized:
            return x
        assert step.codes is not None
        source, signed = self.network.scale_of(step.name), step.codes.signed
        bits = self.network.switch.held_bits(source.codes_bits(), signed=signed)
        return self.quant(x, source.value(), bits, signed=signed, name=step.name)

    def rectified(self, x: str, step: Step) -> str:
        """The clamp of a convolution or sum before its quantizer."""
        if not step.attributes.get("rectified", False):
            return x
        name = f"{step.name}.relu" if self.quantized else step.name
        return write_clamp(self.builder, x, 0.0, step.attributes.get("ceiling"), name)

    def weight(self, layer: nn.Module, name: str) -> str:
        """Weights, followed by their ``Quant`` if quantized."""
        weight = cast(Tensor, layer.weight)
        if not self.quantized:
            return self.builder.constant(_numpy(weight), f"{name}.weight")
        quantizer = weight_quantizer(layer)
        stored = self.builder.constant(_numpy(quantizer.folded(weight)), f"{name}.weight")
        scale = quantizer.value().view(-1, *[1] * (weight.dim() - 1))
        return self.quant(
            stored, scale, quantizer.codes_bits(), signed=True, narrow=True, name=f"{name}.codes"
        )

    def map_weight(self, step: Step) -> str:
        """Ones, whose code is 64."""
        ones = np.ones((step.shape[0], 1, 1, 1), np.float32)
        stored = self.builder.constant(ones, f"{step.name}.weight")
        if not self.quantized:
            return stored
        scale = torch.tensor(1.0 / MAP_CODE)
        return self.quant(
            stored, scale, STREAM_BITS, signed=True, narrow=True, name=f"{step.name}.codes"
        )

    # ------------------------------------------------------------------ steps

    def pixels(self, step: Step, inputs: Sequence[str]) -> str:
        """(x - 128) / 64 and its codes."""
        builder = self.builder
        x = builder.add("Sub", [IMAGES, builder.constant(np.float32(128.0), "grey")], "centred")
        x = builder.add("Mul", [x, builder.constant(np.float32(1 / 64), "sixty_fourth")], "scaled")
        if not self.quantized:
            return x
        scale = self.network.scale_of(step.name).value()
        return self.quant(x, scale, STREAM_BITS, signed=True, name=step.name)

    def convolution(self, step: Step, inputs: Sequence[str]) -> str:
        """Conv, BatchNormalization or bias, rectifier, codes."""
        builder, found, name = self.builder, step.attributes, step.name
        layer = cast(PlannedConvolution, self.network.layer(name))
        weight = self.map_weight(step) if layer.conv is None else self.weight(layer.conv, name)
        operands = [inputs[0], weight]
        exact = self.quantized and self.network.switch.spec.exact
        alone = isinstance(layer.norm, Bias) and layer.norm.gain is None
        if alone or exact:
            operands.append(builder.constant(self.bias(layer), f"{name}.bias"))
        x = builder.add(
            "Conv",
            operands,
            f"{name}.conv",
            kernel_shape=list(found["kernel"]),
            strides=list(found["stride"]),
            pads=list(found["padding"]),
            dilations=list(found["dilation"]),
            group=found["groups"],
        )
        if not (alone or exact):
            gain, bias, mean, variance, epsilon = self.norm(layer)
            arrays = (("gain", gain), ("bias", bias), ("mean", mean), ("variance", variance))
            names = [builder.constant(array, f"{name}.{part}") for part, array in arrays]
            x = builder.add("BatchNormalization", [x, *names], f"{name}.norm", epsilon=epsilon)
        return self.codes(self.rectified(x, step), step)

    @staticmethod
    def bias(layer: PlannedConvolution) -> NDArray[np.float32]:
        """The bias, on the grid of the accumulator if there is one."""
        bias, scale = layer.norm.gain_and_bias()[1], layer.accumulator_scale()
        return _numpy(bias if scale is None else bias_on_grid(bias, scale))

    @staticmethod
    def norm(layer: PlannedConvolution) -> tuple[Any, Any, Any, Any, float]:
        """Gain, bias, mean, variance and epsilon."""
        scale = layer.accumulator_scale()
        if scale is None and not isinstance(layer.norm, Bias):
            norm = layer.norm.active()
            assert norm.running_mean is not None and norm.running_var is not None
            mean, variance = _numpy(norm.running_mean), _numpy(norm.running_var)
            return _numpy(norm.weight), _numpy(norm.bias), mean, variance, norm.eps
        gain, bias = layer.norm.gain_and_bias()
        if scale is not None:
            bias = bias_on_grid(bias, scale * gain.abs())
        mean, variance = np.zeros(len(bias), np.float32), np.ones(len(bias), np.float32)
        return _numpy(gain), _numpy(bias), mean, variance, 0.0

    def requantize(self, step: Step, inputs: Sequence[str]) -> str:
        """b-bit codes of an 8-bit stream; the stream itself at 8 bits and in float."""
        source = self.network.scale_of(step.name)
        if not self.quantized or source.codes_bits() == STREAM_BITS:
            return inputs[0]
        return self.codes(inputs[0], step)

    def add(self, step: Step, inputs: Sequence[str]) -> str:
        """Add, rectifier, codes."""
        total = self.builder.add("Add", inputs[:2], f"{step.name}.add")
        return self.codes(self.rectified(total, step), step)

    def gate(self, step: Step, inputs: Sequence[str]) -> str:
        """Mul, codes."""
        return self.codes(self.builder.add("Mul", inputs, f"{step.name}.mul"), step)

    def concat(self, step: Step, inputs: Sequence[str]) -> str:
        """Concat of codes of one scale."""
        return self.builder.add("Concat", inputs, step.name, axis=1)

    def table(self, step: Step, inputs: Sequence[str]) -> str:
        """The function in standard operators, codes."""
        expression = step.attributes["expression"]
        return self.codes(write_expression(self.builder, expression, inputs[0], step.name), step)

    def average_pool(self, step: Step, inputs: Sequence[str]) -> str:
        """GlobalAveragePool or AveragePool, codes."""
        found, builder, name = step.attributes, self.builder, f"{step.name}.average"
        before = self.network.plan.step(step.inputs[0]).shape[1:]
        if tuple(found["kernel"]) == before and not any(found["padding"]):
            return self.codes(builder.add("GlobalAveragePool", inputs, name), step)
        pooled = builder.add(
            "AveragePool",
            inputs,
            name,
            kernel_shape=list(found["kernel"]),
            strides=list(found["stride"]),
            pads=list(found["padding"]),
            count_include_pad=1,
        )
        return self.codes(pooled, step)

    def max_pool(self, step: Step, inputs: Sequence[str]) -> str:
        """MaxPool."""
        found = step.attributes
        return self.builder.add(
            "MaxPool",
            inputs,
            step.name,
            kernel_shape=list(found["kernel"]),
            strides=list(found["stride"]),
            pads=list(found["padding"]),
        )

    def slice(self, step: Step, inputs: Sequence[str]) -> str:
        """Slice of the channels."""
        bounds = [
            self.builder.constant(np.array([step.attributes[key]], np.int64), key)
            for key in ("start", "stop")
        ]
        axes = self.builder.constant(np.array([1], np.int64), "axes")
        return self.builder.add("Slice", [inputs[0], *bounds, axes], step.name)

    def reshape(self, step: Step, inputs: Sequence[str]) -> str:
        """Reshape; 0 keeps the batch."""
        shape = np.array([0, *step.attributes["shape"]], np.int64)
        return self.builder.add(
            "Reshape", [inputs[0], self.builder.constant(shape, f"{step.name}.shape")], step.name
        )

    def transpose(self, step: Step, inputs: Sequence[str]) -> str:
        """Transpose."""
        return self.builder.add("Transpose", inputs, step.name, perm=step.attributes["order"])

    def upsample(self, step: Step, inputs: Sequence[str]) -> str:
        """Resize by whole factors, nearest."""
        factors = np.array([1, 1, *step.attributes["factor"]], np.float32)
        return self.builder.add(
            "Resize",
            [inputs[0], "", self.builder.constant(factors, "factors")],
            step.name,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def pad(self, step: Step, inputs: Sequence[str]) -> str:
        """Pad with a constant value."""
        top, left, bottom, right = step.attributes["amounts"]
        front, back = step.attributes["channels"]
        amounts = np.array([0, front, top, left, 0, back, bottom, right], np.int64)
        value = np.float32(step.attributes.get("value", 0.0))
        return self.builder.add(
            "Pad",
            [
                inputs[0],
                self.builder.constant(amounts, f"{step.name}.amounts"),
                self.builder.constant(value, "border"),
            ],
            step.name,
            mode="constant",
        )

    def linear(self, step: Step, inputs: Sequence[str]) -> str:
        """Flatten, Gemm."""
        layer = cast(LastLinear, self.network.layer(step.name))
        x = self.builder.add("Flatten", inputs, "flat", axis=1)
        weight = self.weight(layer.linear, "linear")
        bias = layer.bias.detach()
        if self.quantized:
            bias = bias_on_grid(bias, layer.accumulator_scale())
        stored = self.builder.constant(_numpy(bias), "linear.bias")
        return self.builder.add("Gemm", [x, weight, stored], LOGITS, transB=1)


_WRITERS: Mapping[str, Callable[[_Writer, Step, Sequence[str]], str]] = MappingProxyType(
    {
        "pixels": _Writer.pixels,
        "convolution": _Writer.convolution,
        "requantize": _Writer.requantize,
        "add": _Writer.add,
        "gate": _Writer.gate,
        "concat": _Writer.concat,
        "table": _Writer.table,
        "average pool": _Writer.average_pool,
        "max pool": _Writer.max_pool,
        "slice": _Writer.slice,
        "reshape": _Writer.reshape,
        "transpose": _Writer.transpose,
        "upsample": _Writer.upsample,
        "pad": _Writer.pad,
        "linear": _Writer.linear,
    }
)


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add value infos for every tensor; ``Quant`` keeps the shape of its input."""
    standard = onnx.ModelProto()
    standard.CopyFrom(model)
    for node in standard.graph.node:
        if node.domain == QONNX:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.attribute[:]
    inferred = shape_inference.infer_shapes(standard, strict_mode=True)
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    return model
