"""A trained network at one bit-width as QONNX: standard operators with ``Quant`` nodes.

The graph is what the fake-quantized network computes in evaluation, tensor by tensor, with a fixed
batch of 1 as FINN and the ``qonnx`` tools expect.  Its input is ``images`` as float32 pixel values
in [0, 255]; ``(x - 128) / 64`` and a signed 8-bit ``Quant`` of scale 2^-6 make the codes.

Each BatchNormalization carries the folded gain gamma / sigma and the bias on the grid of its
integer accumulator (mean 0, variance 1, epsilon 0), as :class:`training.networks.units.
SwitchableBatchNorm2d` computes them.  At bit-width 32 there is no ``Quant`` node and the
BatchNormalization has its trained statistics.

In an exact network (:mod:`training.exact`) the weights have the gain in them, the convolution has
the bias, and there is no BatchNormalization at an integer bit-width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, shape_inference
from torch import Tensor, nn

from deploy.core.files import write_atomic
from export.graph_builder import QONNX, GraphBuilder, model_bytes
from export.origin import origin_text
from training.networks import Network
from training.networks.inverted_residual import InvertedResidual, StreamUnit
from training.networks.layers import part_name
from training.networks.units import ConvUnit, Head, MaxPool, ResidualBlock, bias_on_grid
from training.quantized_layers import weight_quantizer
from training.quantizers import STREAM_BITS, ActivationQuantizer, BranchQuantizer, WeightQuantizer

OPSET = 13
IR_VERSION = 8


@torch.no_grad()
def qonnx_from_network(network: Network, bits: int) -> onnx.ModelProto:
    """The QONNX model of ``network`` (in evaluation mode) at ``bits`` (32: float, no Quant).

    Raises:
        InputError: the network has no such bit-width.
    """
    if network.training:
        raise ValueError("switch the network to evaluation before exporting it")
    with network.at(bits):
        return _Writer(network).write()


def write_qonnx(
    network: Network, bits: int, path: Path, *, checkpoint_sha256: str | None = None
) -> Path:
    """Write :func:`qonnx_from_network` atomically; returns ``path``.

    ``checkpoint_sha256`` is named in the file, and in what is lowered from it (export.origin).
    """
    model = qonnx_from_network(network, bits)
    if checkpoint_sha256 is not None:
        model.doc_string = origin_text(checkpoint_sha256)
    write_atomic(path, model_bytes(model))
    return path


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().cpu().numpy().astype(np.float32)


class _Writer:
    """Walks one network in the order of its forward pass."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.quantized = network.switch.quantized
        self.builder = GraphBuilder()
        self.shapes: dict[str, tuple[int, ...]] = {}

    def write(self) -> onnx.ModelProto:
        """The whole model."""
        network, builder = self.network, self.builder
        size = network.spec.input_size
        x = builder.reserve("images")
        x = builder.add("Sub", [x, builder.constant(np.float32(128.0), "grey")], "centred")
        x = builder.add("Mul", [x, builder.constant(np.float32(1 / 64), "sixty_fourth")], "scaled")
        if self.quantized:
            pixels = network.pixel_codes
            x = self._quant(x, pixels.value(), STREAM_BITS, signed=True, name="pixels")
        x = self._conv_unit(network.stem, x, "stem")
        for index, block in enumerate(network.blocks):
            x = self._part(block, x, index)
        self._head(network.head, x)
        image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])
        logits = helper.make_tensor_value_info(
            "logits", TensorProto.FLOAT, [1, network.spec.classes]
        )
        model = builder.model(
            name=f"{network.spec.name}-{network.bit_width}",
            inputs=[image],
            outputs=[logits],
            opset=OPSET,
            ir_version=IR_VERSION,
            domains=[QONNX] if self.quantized else [],
        )
        return with_shapes(model)

    def _quant(
        self,
        x: str,
        scale: Tensor,
        bits: int,
        *,
        signed: bool,
        name: str,
        narrow: bool = False,
    ) -> str:
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

    def _weight(self, layer: nn.Module, name: str) -> str:
        weight = cast(Tensor, layer.weight)
        if not self.quantized:
            return self.builder.constant(_numpy(weight), f"{name}.weight")
        quantizer: WeightQuantizer = weight_quantizer(layer)
        stored = self.builder.constant(_numpy(quantizer.folded(weight)), f"{name}.weight")
        scale = quantizer.value().view(-1, *[1] * (weight.dim() - 1))
        return self._quant(
            stored, scale, quantizer.codes_bits(), signed=True, narrow=True, name=f"{name}.codes"
        )

    def _part(self, part: nn.Module, x: str, index: int) -> str:
        name = part_name(part, index)
        match part:
            case ConvUnit():
                return self._conv_unit(part, x, name)
            case MaxPool():
                return self._max_pool(part, x, name)
            case ResidualBlock():
                return self._block(part, x, name)
            case InvertedResidual():
                return self._inverted_residual(part, x, name)
            case StreamUnit():
                codes = self._branch_codes(part.branch_codes, x, f"{name}.enter")
                return self._conv_unit(part.unit, codes, name)
        raise TypeError(f"no QONNX is defined for {type(part).__name__}")

    def _activation(
        self, quantizer: ActivationQuantizer, x: str, name: str, ceiling: float | None = None
    ) -> str:
        builder = self.builder
        if not quantizer.signed:
            rectified = f"{name}.relu" if self.quantized else name
            if ceiling is None:
                x = builder.add("Relu", [x], rectified)
            else:
                bounds = [builder.constant(np.float32(v), "bound") for v in (0.0, ceiling)]
                x = builder.add("Clip", [x, *bounds], rectified)
        if not self.quantized:
            return x
        scale, bits = quantizer.scale.value(), quantizer.scale.codes_bits()
        return self._quant(x, scale, bits, signed=quantizer.signed, name=name)

    def _conv_unit(self, unit: ConvUnit, x: str, name: str) -> str:
        builder, conv = self.builder, cast(Any, unit.conv)
        exact = self.quantized and self.network.spec.exact
        inputs = [x, self._weight(conv, name)]
        if exact:
            inputs.append(builder.constant(self._exact_bias(unit), f"{name}.bias"))
        x = builder.add(
            "Conv",
            inputs,
            f"{name}.conv",
            kernel_shape=list(conv.kernel_size),
            strides=list(conv.stride),
            pads=[conv.padding[0], conv.padding[1]] * 2,
            dilations=[1, 1],
            group=conv.groups,
        )
        if exact:
            return self._activation(unit.output, x, name, unit.ceiling)
        gain, bias, mean, variance, epsilon = self._batch_norm(unit)
        arrays = (("gain", gain), ("bias", bias), ("mean", mean), ("variance", variance))
        names = [builder.constant(array, f"{name}.{part}") for part, array in arrays]
        x = builder.add("BatchNormalization", [x, *names], f"{name}.norm", epsilon=epsilon)
        return self._activation(unit.output, x, name, unit.ceiling)

    @staticmethod
    def _exact_bias(unit: ConvUnit) -> NDArray[np.float32]:
        """On the grid of the accumulator; the gain is in the weights."""
        scale = unit.accumulator_scale()
        assert scale is not None
        return _numpy(bias_on_grid(unit.norm.gain_and_bias()[1], scale))

    def _batch_norm(self, unit: ConvUnit) -> tuple[Any, Any, Any, Any, float]:
        scale = unit.accumulator_scale()
        if scale is None:
            norm = unit.norm.active()
            assert norm.running_mean is not None and norm.running_var is not None
            mean, variance = _numpy(norm.running_mean), _numpy(norm.running_var)
            return _numpy(norm.weight), _numpy(norm.bias), mean, variance, norm.eps
        gain, bias = unit.norm.gain_and_bias()
        bias = bias_on_grid(bias, scale * gain.abs())
        mean, variance = np.zeros(len(bias), np.float32), np.ones(len(bias), np.float32)
        return _numpy(gain), _numpy(bias), mean, variance, 0.0

    def _max_pool(self, pool: MaxPool, x: str, name: str) -> str:
        return self.builder.add(
            "MaxPool",
            [x],
            name,
            kernel_shape=[pool.kernel] * 2,
            strides=[pool.stride] * 2,
            pads=[pool.padding] * 4,
        )

    def _branch_codes(self, quantizer: BranchQuantizer, stream: str, name: str) -> str:
        bits = quantizer.codes_bits()
        if not self.quantized or bits == STREAM_BITS:
            return stream
        return self._quant(stream, quantizer.value(), bits, signed=quantizer.signed, name=name)

    def _inverted_residual(self, block: InvertedResidual, stream: str, name: str) -> str:
        x = self._branch_codes(block.branch_codes, stream, f"{name}.enter")
        x = self._conv_unit(block.expand, x, f"{name}.expand")
        x = self._conv_unit(block.depthwise, x, f"{name}.depthwise")
        x = self._conv_unit(block.project, x, f"{name}.project")
        if block.leave is None:
            return x
        total = self.builder.add("Add", [x, stream], f"{name}.add")
        return self._activation(block.stream_quantizer, total, name)

    def _block(self, block: ResidualBlock, stream: str, name: str) -> str:
        codes = self._branch_codes(block.branch_codes, stream, f"{name}.enter")
        branch = self._conv_unit(block.first, codes, f"{name}.first")
        branch = self._conv_unit(block.second, branch, f"{name}.second")
        if block.third is not None:
            branch = self._conv_unit(block.third, branch, f"{name}.third")
        kept = stream
        if block.shortcut is not None:
            kept = self._conv_unit(block.shortcut, codes, f"{name}.shortcut")
        total = self.builder.add("Add", [branch, kept], f"{name}.add")
        return self._activation(block.stream_quantizer, total, name)

    def _head(self, head: Head, stream: str) -> None:
        builder = self.builder
        x = builder.add("GlobalAveragePool", [stream], "pool.average")
        bias = head.bias.detach()
        if self.quantized:
            scale = head.pooled_codes.value()
            x = self._quant(x, scale, STREAM_BITS, signed=False, name="pool")
            bias = bias_on_grid(bias, head.accumulator_scale())
        x = builder.add("Flatten", [x], "flat", axis=1)
        weight = self._weight(head.linear, "linear")
        stored = builder.constant(_numpy(bias), "linear.bias")
        builder.add("Gemm", [x, weight, stored], "logits", transB=1)


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Value infos for every tensor; ``Quant`` keeps the shape of its input."""
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
