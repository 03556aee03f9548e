"""Build an ONNX graph whose bytes depend only on its content.

It has no metadata, absolute paths or times, and the caller chooses the names, so the same calls
give the same bytes on any machine.  Equal constants are stored once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"
QONNX = "qonnx.custom_op.general"
PRODUCER = "qadtr"


class GraphBuilder:
    """Collects nodes and constants in order; :meth:`model` assembles the model."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._names: set[str] = set()
        self._promised: frozenset[str] = frozenset()
        self._layer = ""

    def promise(self, layers: Iterable[str]) -> None:
        """Reserve the names of layers for their outputs, because a tensor named after one layer,
        such as ``block.add``, may have the name of another layer."""
        self._promised = frozenset(layers)

    def begin(self, layer: str) -> None:
        """From now on, a node of this layer may take its reserved name."""
        self._layer = layer

    def reserve(self, hint: str, *, promised: bool = True) -> str:
        """A unique name: ``hint``, followed by a number if it is taken.

        ``promised``: it may be the layer's name, which a constant may not take.
        """
        name, number = hint, 1
        own = self._layer if promised else None
        while name in self._names or (name in self._promised and name != own):
            number += 1
            name = f"{hint}_{number}"
        self._names.add(name)
        return name

    def constant(self, array: NDArray[Any] | np.generic, hint: str, *, shared: bool = True) -> str:
        """The name of an initializer with this value; an equal shared one is reused.

        int8 weights and their zero points are not shared: with ``session.x64quantprecision``
        (x86-64 without VNNI), ONNX Runtime replaces them by uint8 ones layer by layer, and fails
        to load a file in which two layers name the same one.
        """
        value = np.asarray(array)
        key = (str(value.dtype), value.shape, value.tobytes())
        if shared and key in self._constants:
            return self._constants[key]
        name = self.reserve(hint, promised=False)
        self._initializers.append(numpy_helper.from_array(value, name))
        if shared:
            self._constants[key] = name
        return name

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str,
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node with one output; the output's name, made unique, is also the node's."""
        read = self.operands(inputs)
        name = self.reserve(output)
        node = helper.make_node(operator, read, [name], name=name, domain=domain)
        node.attribute.extend(
            helper.make_attribute(key, value) for key, value in sorted(attributes.items())
        )
        self._nodes.append(node)
        return name

    def operands(self, inputs: Sequence[str]) -> list[str]:
        """The inputs that a node names to read these tensors: the tensors themselves."""
        return list(inputs)

    def model(
        self,
        *,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        opset: int,
        ir_version: int,
        domains: Sequence[str] = (),
    ) -> onnx.ModelProto:
        """The model; ``domains`` are the further operator sets, each at version 1."""
        ends = (list(inputs), list(outputs))
        graph = helper.make_graph(self._nodes, name, *ends, self._initializers)
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=ir_version, producer_name=PRODUCER
        )


def model_bytes(model: onnx.ModelProto) -> bytes:
    """The model as bytes, maps in a fixed order."""
    return model.SerializeToString(deterministic=True)
