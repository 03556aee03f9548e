"""A node's operands and attributes, each of which is checked or refused with the node's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import attributes_of, node_label, type_name
from export.reference.errors import UnsupportedGraph

Constants = Mapping[str, NDArray[Any]]
Function = Callable[..., NDArray[Any]]


@dataclass(frozen=True)
class Operands:
    """A node with the stored tensors of its file; anything undefined is refused."""

    node: onnx.NodeProto
    constants: Constants

    @property
    def what(self) -> str:
        """The node's name in errors."""
        return f"node {node_label(self.node)}"

    @property
    def x(self) -> tuple[str]:
        """The name of the tensor that it reads."""
        return (self.node.input[0],)

    def has(self, index: int) -> bool:
        """Whether an optional input is present."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def refusal(self, text: str) -> UnsupportedGraph:
        """An error that names the node."""
        return UnsupportedGraph(f"{self.what}{text}")

    def attributes(self, required: Mapping[str, Any] | None = None, **known: Any) -> dict[str, Any]:
        """The attributes, with defaults ``known``; ``required`` has the only allowed values."""
        wanted = dict(required or {})
        found = {**wanted, **known}
        for name, value in attributes_of(self.node).items():
            if name not in found:
                listed = ", ".join(sorted(found)) or "none"
                raise self.refusal(
                    f" has the attribute {name!r}, but the reference supports {listed} "
                    f"for {self.node.op_type}"
                )
            found[name] = value.decode() if isinstance(value, bytes) else value
        for name, value in wanted.items():
            self.require(name, found[name], value)
        return found

    def require(self, name: str, found: Any, wanted: Any) -> None:
        """Refuse an attribute whose value is not the one that is defined."""
        if found != wanted:
            raise self.refusal(
                f" has {name} = {found!r}, but the reference defines only {wanted!r}"
            )

    def integers(self, name: str, value: Any, length: int, least: int = 0) -> tuple[int, ...]:
        """An attribute of ``length`` integers, each ``least`` or more."""
        values = tuple(int(one) for one in value)
        if len(values) != length or min(values) < least:
            raise self.refusal(
                f": {name} must be {length} integers from {least} on (the reference defines two "
                f"dimensions), not {list(values)}"
            )
        return values

    def constant(self, index: int, what: str, dtype: type[np.generic]) -> NDArray[Any]:
        """A stored input of this type."""
        name = self.node.input[index] if index < len(self.node.input) else ""
        value = self.constants.get(name)
        if value is None or value.dtype != dtype:
            found = "missing" if not name else "computed" if value is None else f"{value.dtype}"
            raise self.refusal(
                f": {what} (input {index}, {name!r}) must be a stored {np.dtype(dtype).name} "
                f"tensor but is {found}"
            )
        return value

    def scalar(self, index: int, what: str, dtype: type[np.generic]) -> Any:
        """A stored input of one value."""
        value = self.constant(index, what, dtype)
        if value.size != 1:
            raise self.refusal(f": {what} must be one value, not of shape {value.shape}")
        return value.reshape(())[()]

    def scale(self, index: int, whose: str) -> np.float32:
        """A stored scale of one value."""
        value = np.float32(self.scalar(index, f"the {whose} scale", np.float32))
        if not (np.isfinite(value) and value > 0):
            raise self.refusal(f": the {whose} scale must be positive and finite, not {value}")
        return value

    def zero_point(self, index: int, whose: str) -> int:
        """A stored uint8 zero point of one value."""
        return int(self.scalar(index, f"the {whose} zero point", np.uint8))

    def per_output(
        self, index: int, what: str, dtype: type[np.generic], outputs: int
    ) -> NDArray[Any]:
        """One stored value, or one for each output; zeros if the input is omitted."""
        if not self.has(index):
            return np.zeros(outputs, dtype)
        values = self.constant(index, what, dtype)
        if values.size not in (1, outputs):
            raise self.refusal(f": {what} must be 1 or {outputs} values, not {values.size}")
        return np.broadcast_to(values.reshape(-1), (outputs,))

    def weight_scales(self, index: int, outputs: int) -> NDArray[np.float32]:
        """Stored scales of the weights, one for each output."""
        self.constant(index, "the weight scale", np.float32)
        scales = self.per_output(index, "the weight scale", np.float32, outputs)
        return self.positive(scales, "the weight scale is")

    def positive(self, scales: NDArray[np.float32], what: str) -> NDArray[np.float32]:
        """Refuse scales, or products of scales, that are not positive and finite."""
        if not (np.isfinite(scales) & (scales > 0)).all():
            raise self.refusal(f": {what} {scales.min()}…{scales.max()} in float32; it is damaged")
        return scales

    def weight(self, dims: str) -> NDArray[np.int32]:
        """Input 3, the stored int8 weight, with the dimensions ``dims`` (such as ``O×C×kh×kw``)."""
        weight = self.constant(3, "the weight", np.int8).astype(np.int32)
        if weight.ndim != dims.count("×") + 1 or weight.size == 0:
            raise self.refusal(f": the weight must be {dims}, not of shape {weight.shape}")
        return weight


def fold_cast(node: onnx.NodeProto, constants: Constants) -> NDArray[np.int8]:
    """Return a stored INT2, INT4 or INT8 tensor that a ``Cast`` reads, as int8.

    Raises:
        UnsupportedGraph: the input is not stored, or the pair of types is another one.
    """
    to = Operands(node, constants).attributes(to=None, saturate=1, round_mode="up")["to"]
    stored = constants.get(node.input[0])
    allowed = (ml_dtypes.int2, ml_dtypes.int4, np.int8)
    if stored is None or to != onnx.TensorProto.INT8 or stored.dtype not in allowed:
        source = "a computed tensor" if stored is None else f"stored {stored.dtype}"
        raise UnsupportedGraph(
            f"Cast {node_label(node)} of {source} to {type_name(to or 0)}: only stored INT2, INT4 "
            "or INT8 weights are cast, to INT8"
        )
    return stored.astype(np.int8)
