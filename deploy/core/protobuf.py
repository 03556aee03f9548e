"""The wire format of Protocol Buffers, as far as ONNX files need it: no schema, no package.

Reference: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def fields(view: memoryview) -> Iterator[tuple[int, int | memoryview | None]]:
    """Yield the number and the value of each field of a message.

    A varint comes as the unsigned number it encodes, a length-delimited field (a message, text,
    bytes, packed numbers) as its bytes, a fixed32 or fixed64 as None.

    Raises:
        ValueError: the bytes are not a message, or end early.
    """
    position = 0
    while position < len(view):
        key, position = varint(view, position)
        number, wire_type = key >> 3, key & 7
        value: int | memoryview | None = None
        if wire_type == _VARINT:
            value, position = varint(view, position)
        elif wire_type == _LENGTH:
            length, start = varint(view, position)
            position = start + length
            value = view[start:position]
        elif wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"it is not a Protocol Buffers message (wire type {wire_type})")
        if number == 0:
            raise ValueError("it is not a Protocol Buffers message (field 0)")
        if position > len(view):
            raise ValueError("it ends early")
        yield number, value


def message(value: int | memoryview | None) -> memoryview:
    """Return the bytes of a length-delimited field.

    Raises:
        ValueError: the field is a number.
    """
    if not isinstance(value, memoryview):
        raise ValueError("a field has another type than ONNX gives it")
    return value


def text(value: int | memoryview | None) -> str:
    """Return a length-delimited field as UTF-8 text.

    Raises:
        ValueError: the field is a number, or not UTF-8.
    """
    return str(message(value), "utf-8")


def number(value: int | memoryview | None) -> int:
    """Return a varint field.

    Raises:
        ValueError: the field is something else.
    """
    if not isinstance(value, int):
        raise ValueError("a field has another type than ONNX gives it")
    return value


def varint(view: memoryview, position: int) -> tuple[int, int]:
    """Return the number encoded at ``position`` and the position after it.

    Raises:
        ValueError: it ends early or is longer than 10 bytes.
    """
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise ValueError("it ends early")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it is not a Protocol Buffers message (a number of more than 10 bytes)")
