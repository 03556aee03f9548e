"""Build an ONNX graph whose bytes follow from its content alone.

No metadata, no absolute paths, no time, names chosen by the caller: the same calls give the same
bytes on any machine.  Equal constants are stored once.
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
    """Collects nodes and constants in order; :meth:`model` puts the model together."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._names: set[str] = set()
        self._promised: frozenset[str] = frozenset()
        self._layer = ""

    def promise(self, layers: Iterable[str]) -> None:
        """Keep the names of layers for their outputs: what is named after one layer, such as
        ``block.add``, may be what another one is called."""
        self._promised = frozenset(layers)

    def begin(self, layer: str) -> None:
        """From here on it is a node of this layer that may take its promised name."""
        self._layer = layer

    def reserve(self, hint: str, *, promised: bool = True) -> str:
        """A name that nothing else gets: ``hint``, with a number behind it where it is taken.

        ``promised``: it may be that of the layer, as a constant's may not.
        """
        name, number = hint, 1
        own = self._layer if promised else None
        while name in self._names or (name in self._promised and name != own):
            number += 1
            name = f"{hint}_{number}"
        self._names.add(name)
        return name

    def constant(self, array: NDArray[Any] | np.generic, hint: str, *, shared: bool = True) -> str:
        """The name of an initializer with this value; an equal shared one is used again.

        int8 weights and their zero points are not shared: where ``session.x64quantprecision`` is on
        (x86-64 without VNNI), ONNX Runtime exchanges them for uint8 ones layer by layer, and fails
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
        """What a node that is to read these tensors names: these."""
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
