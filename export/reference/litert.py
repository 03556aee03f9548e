"""Compute a ``.tflite`` file in numpy, in each arithmetic of LiteRT's kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.files import read_bytes
from deploy.core.tflite_file import TfLiteTensor, read_tflite
from export.reading import refusing_malformed
from export.reference.errors import UnsupportedGraph
from export.reference.limits import Held
from export.reference.litert_arithmetic import ARITHMETICS, XNNPACK, Integers
from export.reference.litert_operators import INTEGERS, prepare
from export.reference.network import Batch, Exchange, Layer, Reference


class LiteRtReference(Reference[np.uint8]):
    """The reference of a ``.tflite`` file with int8 images and int16 logits.

    Codes are returned as bytes, int8 code + 128, as in the all-integer file. A tensor of four
    dimensions is returned as N×C×H×W.

    Args:
        path: the file.
        arithmetic: one of :data:`ARITHMETICS`.
        batch_size: images computed at once.

    Raises:
        InputError: the file is missing or damaged.
        UnsupportedGraph: the file has something that the reference does not define.
    """

    def __init__(
        self, path: Path | str, *, arithmetic: str = XNNPACK, batch_size: int = 16
    ) -> None:
        super().__init__(path, batch_size=batch_size)
        if arithmetic not in ARITHMETICS:
            raise InputError(
                f"unknown arithmetic {arithmetic!r}; available: {', '.join(ARITHMETICS)}"
            )
        self.arithmetic = arithmetic
        try:
            self._file = read_tflite(read_bytes(self.path))
        except ValueError as error:
            raise InputError(f"{self.path} is not a readable .tflite file: {error}") from error
        with refusing_malformed(self.path):
            self._prepare()

    def _prepare(self) -> None:
        """Check everything in the file, once."""
        file = self._file
        if file.inner or file.outside or len(file.inputs) != 1 or len(file.outputs) != 1:
            raise UnsupportedGraph(
                "expected one plain graph with one input and one output, found "
                f"{', '.join([*file.inner, *file.outside]) or 'other ends'}"
            )
        image, logits = file.tensors[file.inputs[0]], file.tensors[file.outputs[0]]
        if image.type != "int8" or len(image.shape) != 4 or not image.scales:
            raise UnsupportedGraph(
                f"input {image.name!r} is {image.type}{list(image.shape)}: expected int8 N×H×W×C"
            )
        if logits.type != "int16" or len(logits.scales) != 1:
            raise UnsupportedGraph(f"output {logits.name!r} is {logits.type}, expected int16 codes")
        _, height, width, channels = image.shape
        self.input_shape = (channels, height, width)
        self._logits = logits
        self._steps = [prepare(node, file.tensors, self.arithmetic) for node in file.nodes]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The operators, in the file's order; each is named after its output tensor."""
        tensors = self._file.tensors
        return tuple(
            Layer(
                name=tensors[node.outputs[0]].name,
                operator=node.operator,
                inputs=tuple(
                    tensors[number].name for number in node.inputs if tensors[number].data is None
                ),
                output=tensors[node.outputs[0]].name,
            )
            for node in self._file.nodes
        )

    @property
    def code_tensors(self) -> tuple[str, ...]:
        """Names of the computed tensors of int8 codes, in the file's order."""
        return tuple(tensor.name for tensor in self._computed)

    @property
    def zero_points(self) -> Mapping[str, int]:
        """The byte that represents 0 in each of these tensors, by name."""
        return {tensor.name: tensor.zero_points[0] + 128 for tensor in self._computed}

    @property
    def _computed(self) -> list[TfLiteTensor]:
        made = (self._file.tensors[node.outputs[0]] for node in self._file.nodes)
        return [tensor for tensor in made if tensor.type == "int8"]

    @property
    def logit_scale(self) -> np.float32:
        """The value of one step of the int16 logits."""
        return np.float32(self._logits.scales[0])

    def _batch(self, images: NDArray[np.uint8], exchange: Exchange) -> Batch[np.uint8]:
        values: dict[int, Integers] = {
            self._file.inputs[0]: images.transpose(0, 2, 3, 1).astype(np.int64) - 128
        }
        for number, tensor in enumerate(self._file.tensors):
            if tensor.data is not None:
                values[number] = _stored(tensor)
        codes: dict[str, NDArray[np.uint8]] = {}
        held = Held()
        for node, function in zip(self._file.nodes, self._steps, strict=True):
            made = values[node.outputs[0]] = function(*(values[number] for number in node.inputs))
            tensor = self._file.tensors[node.outputs[0]]
            held.add(f"operator {tensor.name!r} ({node.operator})", made)
            if tensor.type == "int8":
                shown = made.transpose(0, 3, 1, 2) if made.ndim == 4 else made
                codes[tensor.name] = exchange(tensor.name, (shown + 128).astype(np.uint8))
                taken = codes[tensor.name].astype(np.int64) - 128
                values[node.outputs[0]] = taken.transpose(0, 2, 3, 1) if made.ndim == 4 else taken
        return values[self._file.outputs[0]].astype(np.float32) * self.logit_scale, codes


def _stored(tensor: TfLiteTensor) -> Integers:
    if tensor.type not in INTEGERS:
        raise UnsupportedGraph(f"the stored tensor {tensor.name!r} is {tensor.type}")
    assert tensor.data is not None
    found = np.frombuffer(tensor.data, np.dtype(INTEGERS[tensor.type]).newbyteorder("<"))
    if found.size != math.prod(tensor.shape):
        raise UnsupportedGraph(f"the stored tensor {tensor.name!r} has {found.size} values")
    return found.reshape(tensor.shape).astype(np.int64)
