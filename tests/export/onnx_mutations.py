"""Damage to ONNX models: any field of the protobuf message, changed as a generator chooses.

Byte flips mostly hit weights, or give a file that does not parse. These mutations keep the file
parseable and change what it says: a shape, a name, an attribute's type, an order, a missing part.

The generator is Python's and not hypothesis': what hypothesis draws, even "derandomized", depends
on which modules of the project are loaded: a file found in the whole suite was not found again.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]

INTEGERS = (0, 1, -1, 2, 3, 7, 255, 2**31 - 1, -(2**31))
LONG = (*INTEGERS, 2**40, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"))

_LONG = {FieldDescriptor.TYPE_INT64}
_UNSIGNED = {FieldDescriptor.TYPE_UINT64}
_FLOATS = {FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE}


def places(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every set field of the message and of those inside it."""
    for field, value in message.ListFields():
        yield message, field
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                yield from places(inner)


def _scalar(rng: Random, field: FieldDescriptor, names: list[str], old: Any) -> Any:
    if field.type in _FLOATS:
        return rng.choice(FLOATS)
    if field.type in _LONG:
        return rng.choice(LONG)
    if field.type in _UNSIGNED:
        return abs(rng.choice(INTEGERS))
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice([*names, "", "\n", "../x", "é" * 300])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice([b"", old[: len(old) // 2], old + b"\xff", b"\xff\xfe\x00"])
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice([value.number for value in field.enum_type.values])
    return rng.choice(INTEGERS)


def damaged(rng: Random, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with one to three of its fields changed, cleared, doubled or swapped."""
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    names = sorted({name for node in model.graph.node for name in (*node.input, *node.output)})
    for _ in range(rng.randint(1, 3)):
        everything = list(places(broken))
        message, field = rng.choice(everything)
        if not field.is_repeated:
            if field.type == FieldDescriptor.TYPE_MESSAGE or rng.randrange(5) == 0:
                message.ClearField(field.name)
            else:
                old = getattr(message, field.name)
                setattr(message, field.name, _scalar(rng, field, names, old))
            continue
        values = getattr(message, field.name)
        index, other = rng.randrange(len(values)), rng.randrange(len(values))
        change = rng.choice(["delete", "double", "swap", "set"])
        if change == "delete":
            del values[index]
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            copy = type(values[index])()
            copy.CopyFrom(values[index])
            if change == "double":
                values.append(copy)
            else:
                values[index].CopyFrom(values[other])
                values[other].CopyFrom(copy)
        elif change == "double":
            values.append(values[index])
        elif change == "swap":
            values[index], values[other] = values[other], values[index]
        else:
            values[index] = _scalar(rng, field, names, values[index])
    return broken
