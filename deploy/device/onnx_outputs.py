"""Add tensors between the nodes of an ONNX file to its outputs, without the onnx package.

Protocol Buffers merges messages that follow one another: fields that hold one message are merged,
repeated fields are joined. So the bytes of a model followed by the bytes of a model that has only
further graph outputs are the model with these outputs.

ModelProto.graph = 7, GraphProto.output = 12, ValueInfoProto.name = 1 and .type = 2,
TypeProto.tensor_type = 1, TypeProto.Tensor.elem_type = 1.

Reference: https://protobuf.dev/programming-guides/encoding/#last-one-wins
"""

from __future__ import annotations

from collections.abc import Sequence

_UINT8 = 2


def with_outputs(model: bytes, tensors: Sequence[str]) -> bytes:
    """Return the model with the named uint8 tensors as outputs, after those that it has."""
    outputs = b"".join(_message(12, _value_info(name)) for name in tensors)
    return model + _message(7, outputs)


def _value_info(name: str) -> bytes:
    tensor = _varint(1 << 3) + _varint(_UINT8)
    return _message(1, name.encode("utf-8")) + _message(2, _message(1, tensor))


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
