"""Small real ONNX files, one all-integer and one float, for the engine's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"


def constant(name: str, value: Any, dtype: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)


def save_model(
    path: Path,
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> Path:
    graph = helper.make_graph(nodes, "network", inputs, outputs, initializers)
    domains = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=domains)
    model.ir_version = 10  # onnxruntime does not read onnx's default
    onnx.save(model, path)
    return path


def images_info(batch: int | str = "N", size: int | str = 8) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, 3, size, size])


def logits_info(batch: int | str = "N", classes: int = 5) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])


class IntegerNetwork:
    """QLinearConv, Clip to 4-bit codes, global pool, QGemm; with its weights at hand."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.weights = rng.integers(-7, 8, size=(8, 3, 3, 3)).astype(np.int8)
        self.weight_scales = 2.0 ** rng.integers(-6, -3, size=8).astype(np.float32)
        self.bias = rng.integers(-500, 500, size=8).astype(np.int32)
        self.head = rng.integers(-60, 61, size=(8, 5)).astype(np.int8)

    def conv_codes(self, images: np.ndarray) -> np.ndarray:
        """The codes behind the clip, by QLinearConv's formula, in numpy alone."""
        centred = images.astype(np.int64) - 128
        padded = np.pad(centred, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        sums = np.einsum("nchwij,kcij->nkhw", windows, self.weights.astype(np.int64))
        sums += self.bias[:, None, None]
        factor = np.float32(2**-6) * self.weight_scales / np.float32(0.25)
        scaled = np.rint(sums.astype(np.float32) * factor[:, None, None])
        return np.clip(scaled, 0, 15).astype(np.uint8)

    def save(self, path: Path, batch: int | str = "N", *, stop_at_codes: bool = False) -> Path:
        low_bit = helper.make_tensor(
            "w4", TensorProto.INT4, self.weights.shape, self.weights.flatten().tolist()
        )
        initializers = [
            low_bit,
            constant("image_scale", 2**-6, np.float32),
            constant("image_zero", 128, np.uint8),
            constant("w_scale", self.weight_scales, np.float32),
            constant("w_zero", [0] * 8, np.int8),
            constant("code_scale", 0.25, np.float32),
            constant("zero", 0, np.uint8),
            constant("top", 15, np.uint8),
            constant("bias", self.bias, np.int32),
            constant("head", self.head, np.int8),
            constant("head_scale", 2**-5, np.float32),
            constant("head_zero", 0, np.int8),
        ]
        conv_inputs = "images image_scale image_zero w w_scale w_zero code_scale zero bias"
        pool_inputs = "codes code_scale zero code_scale zero"
        nodes = [
            helper.make_node("Cast", ["w4"], ["w"], to=TensorProto.INT8),
            helper.make_node(
                "QLinearConv", conv_inputs.split(), ["wide"], pads=[1, 1, 1, 1], name="conv"
            ),
            helper.make_node("Clip", ["wide", "zero", "top"], ["codes"]),
        ]
        if stop_at_codes:
            nodes += [
                helper.make_node("Flatten", ["codes"], ["flat"]),
                helper.make_node("Cast", ["flat"], ["logits"], to=TensorProto.FLOAT),
            ]
            outputs = [logits_info(batch, 8 * 64)]
        else:
            nodes += [
                helper.make_node(
                    "QLinearGlobalAveragePool",
                    pool_inputs.split(),
                    ["pooled"],
                    domain=MICROSOFT,
                    channels_last=0,
                ),
                helper.make_node("Flatten", ["pooled"], ["flat"]),
                helper.make_node(
                    "QGemm",
                    ["flat", "code_scale", "zero", "head", "head_scale", "head_zero"],
                    ["logits"],
                    domain=MICROSOFT,
                ),
            ]
            outputs = [logits_info(batch)]
        return save_model(path, nodes, initializers, [images_info(batch)], outputs)


@pytest.fixture
def integer_network() -> IntegerNetwork:
    return IntegerNetwork(np.random.default_rng(7))


@pytest.fixture
def integer_onnx(tmp_path: Path, integer_network: IntegerNetwork) -> Path:
    return integer_network.save(tmp_path / "integer-4.onnx")


@pytest.fixture
def save_float_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves Cast → Conv → pool → Flatten, five classes."""

    def save(
        batch: int | str = "N",
        *,
        weights: np.ndarray | None = None,
        info: onnx.ValueInfoProto | None = None,
    ) -> Path:
        if weights is None:
            weights = np.random.default_rng(3).normal(size=(5, 3, 3, 3))
        nodes = [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["pixels", "w"], ["maps"], pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["logits"]),
        ]
        return save_model(
            tmp_path / "float.onnx",
            nodes,
            [constant("w", weights, np.float32)],
            [info or images_info(batch)],
            [logits_info(batch)],
        )

    return save


@pytest.fixture
def images() -> np.ndarray:
    """uint8, 23×3×8×8."""
    return np.random.default_rng(11).integers(0, 256, size=(23, 3, 8, 8), dtype=np.uint8)
