"""The certificate of a plan: what it runs, layer by layer, as TensorRT itself lists it.

TensorRT's inspector lists the layers of a deserialised engine, which needs a GPU. The builder logs
the same list in the inspector's one-line form when it finishes a plan, which needs no GPU. Both the
one-line form and JSON are read. JSON differs between versions: 10 has one field "Format/Datatype"
for a tensor, 11 and RTX have "Format" and "Datatype"; both are accepted.

Reference: TensorRT documentation, "Engine Inspector", and "Migrating IEngineInspector Usage".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import InputError
from ..core.strict_json import parse_json

INT8 = "int8"


@dataclass(frozen=True, kw_only=True)
class EngineLayer:
    """One layer of a plan.

    Attributes:
        name: TensorRT's.
        operator: TensorRT's type of layer, such as "correlation" or "CaskConvolution".
        inputs: types of its inputs, such as "int8" or "float32".
        weights: types of its stored tensors.
        outputs: types of its outputs.
        nodes: names of the ONNX nodes that went into it, if they are listed.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...] = ()

    @property
    def kind(self) -> str | None:
        """ "convolution", "matrix product" or "pool"; None for anything else."""
        operator = self.operator.lower()
        found = (kind for kind, words in _KINDS.items() if any(one in operator for one in words))
        return next(found, None)


_KINDS: Mapping[str, tuple[str, ...]] = {
    "convolution": ("conv", "correlation"),
    "matrix product": ("gemm", "matmul", "matrixmultiply", "matrix_multiply"),
    "pool": ("pool",),
}
"""Words in TensorRT's types of layers; Cask, Myelin and others each have their own types."""

_TYPES = {
    **{name: name for name in (INT8, "int32", "int64", "uint8", "int4", "bool", "bfloat16")},
    **dict.fromkeys(("float", "fp32"), "float32"),
    **dict.fromkeys(("half", "fp16"), "float16"),
    "bf16": "bfloat16",
    "fp8": "float8",
}
_WORD = re.compile(r"[A-Za-z]+\d*")


def layers_from_text(listing: str) -> tuple[EngineLayer, ...]:
    """Read the one-line form: one line per layer.

    Raises:
        InputError: there is no line, or a line is not of the known form.
    """
    layers = []
    for line in listing.splitlines():
        if line.startswith(("I/O Tensors", "Bindings")):
            break
        if not line.startswith("Name: "):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise InputError(f"TensorRT lists a layer in an unknown form: {line[:200]}")
        layers.append(
            EngineLayer(
                name=found["name"],
                operator=found["operator"],
                inputs=_types_in(found["inputs"]),
                weights=_types_in(found["constants"] or ""),
                outputs=_types_in(found["outputs"]),
                nodes=tuple(_NODE.findall(found["rest"])),
            )
        )
    if not layers:
        raise InputError("TensorRT lists no layers: was the engine built by this code?")
    return tuple(layers)


_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<operator>\w*), Inputs: \[(?P<inputs>.*?)\]"
    r"(?:, Constants: \[(?P<constants>.*)\])?, Outputs: \[(?P<outputs>.*?)\], "
    r"TacticName: (?P<rest>.*)"
)
_TENSOR = re.compile(r"(?:Datatype|Format/Datatype): (?P<type>[^,}\]]*)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")


def _types_in(tensors: str) -> tuple[str, ...]:
    return tuple(_type(found["type"]) for found in _TENSOR.finditer(tensors))


def layers_from_json(listing: str) -> tuple[EngineLayer, ...]:
    """Read the inspector's JSON.

    Raises:
        InputError: no JSON, or layers without details (built without detailed profiling).
    """
    value = parse_json(listing.encode("utf-8"), "the inspector's listing")
    entries = value.get("Layers") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError("the inspector lists no layers")
    layers = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("LayerType"), str):
            raise InputError(
                f"the inspector gives no details of {str(entry)[:100]!r}, because the engine was "
                "built without detailed profiling; build it with: python -m deploy.tensorrt"
            )
        told = entry.get("Weights")
        weights = [str(told.get("Type", ""))] if isinstance(told, dict) else []
        operator = entry["LayerType"]
        if isinstance(entry.get("ParameterType"), str):  # the operator of a Cask layer
            operator = f"{operator} {entry['ParameterType']}"
        layers.append(
            EngineLayer(
                name=str(entry.get("Name", "")),
                operator=operator,
                inputs=_types_of(entry.get("Inputs")),
                weights=(*map(_type, weights), *_types_of(entry.get("Constants"))),
                outputs=_types_of(entry.get("Outputs")),
                nodes=tuple(_NODE.findall(str(entry.get("Metadata", "")))),
            )
        )
    return tuple(layers)


def _types_of(tensors: object) -> tuple[str, ...]:
    if not isinstance(tensors, list):
        return ()
    return tuple(
        _type(str(tensor.get("Datatype", tensor.get("Format/Datatype", ""))))
        for tensor in tensors
        if isinstance(tensor, dict)
    )


def _type(told: str) -> str:
    """The element type in a text such as "Int8" or "Row major Int8 format"."""
    for word in _WORD.findall(told):
        if word.lower() in _TYPES:
            return _TYPES[word.lower()]
    return told.strip() or "not stated"


def require_integer(
    layers: Sequence[EngineLayer], operators: Mapping[str, int], what: str
) -> dict[str, int]:
    """Check that all ``layers`` run on int8 codes, and return how many there are of each kind.

    Each convolution and product must read int8 and hold int8 weights; each pool must read and give
    int8. There must be as many convolutions and products as the ONNX file has ``operators``,
    because one that the plan hides in a larger layer is not known to run in integers. Errors call
    the engine ``what``.

    Raises:
        InputError: a layer is not integer, with its name and types; or layers are hidden.
    """
    counts: Counter[str] = Counter()
    in_float: list[str] = []
    for layer in layers:
        if layer.kind is None:
            continue
        counts[layer.kind] += 1
        # A product may take its weights as a second input.
        stored = layer.weights[:1] or layer.inputs[1:2]
        told = layer.inputs[:1] + (layer.outputs[:1] if layer.kind == "pool" else stored)
        if told != (INT8, INT8):
            in_float.append(f"{layer.name} ({layer.operator} of {', '.join(told) or 'nothing'})")
    if in_float:
        raise InputError(
            f"{len(in_float)} of {counts.total()} layers of {what} that were promised in "
            f"integers are not in integers: {', '.join(in_float[:5])}"
        )
    promised = sum(operators.get(name, 0) for name in ("Conv", "Gemm", "MatMul"))
    found = counts["convolution"] + counts["matrix product"]
    if found != promised:
        raise InputError(
            f"{what} lists {found} convolutions and matrix products, but the ONNX file has "
            f"{promised}: it is not known how the others are run"
        )
    return {kind: counts[kind] for kind in _KINDS}
