"""What a model file of a target may contain: an allow-list, checked before any engine sees it.

A list of what is forbidden is as long as the engine's list of operators, and grows with it. So the
operators that an export writes are listed, and every other one is refused; with them go graphs in
attributes, functions, and tensors whose data lie outside the file, which an engine would read from
the folder that it happens to run in, past every hash and signature.
"""

from __future__ import annotations

from collections.abc import Mapping

from .errors import InputError
from .onnx_operators import OnnxFile, OnnxNode, read_onnx
from .text import some

MICROSOFT = "com.microsoft"

_QDQ = frozenset(
    {
        "Abs",
        "Add",
        "AveragePool",
        "Clip",
        "Concat",
        "Conv",
        "DequantizeLinear",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Flatten",
        "Gemm",
        "GlobalAveragePool",
        "LeakyRelu",
        "MaxPool",
        "Mul",
        "Neg",
        "Pad",
        "QuantizeLinear",
        "Relu",
        "Reshape",
        "Resize",
        "Sigmoid",
        "Slice",
        "Softplus",
        "Sqrt",
        "Sub",
        "Tanh",
        "Transpose",
    }
)

OPERATORS: Mapping[str, frozenset[str]] = {
    "onnxruntime": frozenset(
        {
            "Cast",
            "Clip",
            "Concat",
            "Flatten",
            "Gather",
            "MaxPool",
            "Pad",
            "QLinearConv",
            "Reshape",
            "Resize",
            "Slice",
            "SpaceToDepth",
            "Transpose",
            f"{MICROSOFT}.QGemm",
            f"{MICROSOFT}.QLinearAdd",
            f"{MICROSOFT}.QLinearGlobalAveragePool",
            f"{MICROSOFT}.QLinearMul",
        }
    ),
    "qcdq": _QDQ,
    "tensorrt": _QDQ,
}
"""By target, the operators that its files may contain; none has control flow, randomness, or a
branch on the number of images."""

INTEGER_TYPES = frozenset({2, 3, 4, 5, 6, 7, 12, 13})
"""ONNX's element types of integers: a Cast of the all-integer target gives one of these."""

_EXACT = "onnxruntime"

_TARGETS = {
    "onnxruntime-tensorrt": "tensorrt",
    "openvino": "qcdq",
    "tensorrt-rtx": "tensorrt",
}


def target_of(engine: str) -> str:
    """The target of ``qadtr export`` whose file an engine runs; most have the engine's own name."""
    return _TARGETS.get(engine, engine)


def read_model_contents(model: bytes, name: str) -> OnnxFile:
    """Return what an ONNX file holds, which has all its tensors in itself.

    Raises:
        InputError: no readable ONNX file, or a tensor whose data lie outside of it; ``name`` is
            the file's.
    """
    try:
        found = read_onnx(model)
    except ValueError as error:
        raise InputError(
            f"{name} ({len(model)} bytes) is no readable ONNX file: {error}; export or copy it "
            "again"
        ) from error
    if found.outside:
        raise InputError(
            f"{name} names data outside the file for {some(found.outside)}: nothing vouches for "
            "what lies there; expected all tensors inside: save it again without external data"
        )
    return found


def require_contents(model: bytes, engine: str, name: str) -> OnnxFile:
    """Return what a model for an engine holds, none of which its target does not write.

    Args:
        model: the file's bytes.
        engine: the engine's name; one that is not known may run any target's file.
        name: of the file, for errors.

    Raises:
        InputError: as :func:`read_model_contents`; another operator or domain, a graph in an
            attribute, a function, training information, or a cast to float in the all-integer
            target.
    """
    found = read_model_contents(model, name)
    target = target_of(engine)
    allowed = OPERATORS.get(target, frozenset().union(*OPERATORS.values()))
    if found.inner:
        raise InputError(
            f"{name} holds {some(found.inner)}; expected one plain graph, as every export writes: "
            "export it again"
        )
    unknown = sorted(found.operators.keys() - allowed)
    if unknown:
        raise InputError(
            f"{name} holds the operators {some(unknown)}; a file for {engine} may contain "
            f"{', '.join(sorted(allowed))}: export it again"
        )
    foreign = sorted(found.domains - {"", MICROSOFT})
    if foreign:
        raise InputError(
            f"{name} imports operator sets of the domains {some(foreign)}; none is expected in a "
            f"file for {engine}: export it again"
        )
    if target == _EXACT:
        in_float = [one for one in found.nodes if one.operator == "Cast" and not _to_integers(one)]
        if in_float:
            raise InputError(
                f"{name} casts {some([one.outputs[0] for one in in_float if one.outputs])} to a "
                "type that holds no integers; expected integers between all nodes: export it again"
            )
    return found


def code_tensors(found: OnnxFile, image: str, logits: str) -> list[str]:
    """The tensors between the nodes of an all-integer file that hold codes, in the file's order.

    Args:
        found: the file.
        image: name of its input.
        logits: name of its output.
    """
    computed = (one for one in found.computed_from(image) if one.operator != "Cast")
    return [name for one in computed for name in one.outputs if name and name != logits]


def _to_integers(node: OnnxNode) -> bool:
    return node.cast_to in INTEGER_TYPES
