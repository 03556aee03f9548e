"""What the reference of a .tflite file refuses, with the words that say why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.errors import InputError
from export.reference import LiteRtReference
from tests.deploy.core.test_tflite_file import changed, one_convolution


def without_bias(model: Any, schema: Any) -> None:
    del schema
    (graph,) = model.subgraphs
    graph.operators[0].inputs = np.array([*graph.operators[0].inputs[:2], -1], np.int32)


def of_another_operator(model: Any, schema: Any) -> None:
    tanh = schema.BuiltinOperator.TANH
    model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = tanh


def of_float_images(model: Any, schema: Any) -> None:
    (graph,) = model.subgraphs
    graph.tensors[graph.inputs[0]].type = schema.TensorType.FLOAT32


def of_float_logits(model: Any, schema: Any) -> None:
    (graph,) = model.subgraphs
    graph.tensors[graph.outputs[0]].type = schema.TensorType.FLOAT32


def of_two_outputs(model: Any, schema: Any) -> None:
    del schema
    (graph,) = model.subgraphs
    graph.outputs = np.array([*graph.outputs, graph.inputs[0]], np.int32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_bias, r"CONV_2D has 1 outputs and 1 omitted inputs, .* defines 1 and 0"),
        (of_another_operator, r": operator 28 has no LiteRT reference; supported: ADD, .*CONV_2D"),
        (of_float_images, r"input 'images' is float32\[1, 4, 4, 3\]: expected int8 N×H×W×C"),
        (of_float_logits, r"output 'logits' is float32, expected int16 codes"),
        (of_two_outputs, r"one plain graph with one input and one output, found other ends"),
    ],
)
def test_what_is_not_defined_is_refused(
    change: Callable[[Any, Any], object], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(changed(one_convolution(), change))
    with pytest.raises(InputError, match=words):
        LiteRtReference(path)


def test_the_unchanged_file_is_computed(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(changed(one_convolution(), lambda *_: None))
    images = np.arange(2 * 3 * 16, dtype=np.uint8).reshape(2, 3, 4, 4)
    logits, codes = next(LiteRtReference(path).batches(images))
    assert logits.shape == (2, 2)
    assert list(codes) == ["codes", "mean"]


def test_an_unknown_arithmetic_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(one_convolution())
    with pytest.raises(InputError, match=r"unknown arithmetic 'exact'; available: xnnpack, "):
        LiteRtReference(path, arithmetic="exact")
    path.write_bytes(one_convolution()[:200])
    with pytest.raises(InputError, match=r"model\.tflite is not a readable \.tflite file"):
        LiteRtReference(path)
