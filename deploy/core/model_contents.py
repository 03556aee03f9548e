"""What a model file of a target may contain: an allow-list, checked before any engine sees it.

A deny-list would be as long as the engine's list of operators, and grow with it. So the operators
that an export writes are listed, and every other one is refused. Graphs in attributes, functions,
and tensors whose data are outside the file are refused too: an engine would read such data from its
current folder, without any hash or signature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .errors import InputError
from .onnx_operators import OnnxFile, OnnxNode, read_onnx
from .text import some
from .tflite_file import OPERATORS as TFLITE_OPERATORS
from .tflite_file import TfLiteFile, read_tflite

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

ADOPTED = "adopted"
"""The target of a file that somebody else made: bytes in, logits out, any operators between."""

_OF_INFERENCE = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
    BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu
    CenterCropPad Clip Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos
    Cosh CumSum DeformConv DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum
    Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN
    LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul
    MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Not OneHot
    Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN Range Reciprocal
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu Shape Shrink
    Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub
    Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
_OF_INFERENCE_MICROSOFT = """
    BiasGelu DequantizeLinear DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul Gelu
    MatMulIntegerToFloat MatMulNBits QGemm QLinearAdd QLinearAveragePool QLinearConcat
    QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid
    QLinearSoftmax QLinearWhere QuantizeLinear QuickGelu SkipLayerNormalization
"""

_OF_CLASSIFIERS = frozenset(
    [*_OF_INFERENCE.split(), *(f"{MICROSOFT}.{name}" for name in _OF_INFERENCE_MICROSOFT.split())]
)

OPERATORS: Mapping[str, frozenset[str]] = {
    "onnxruntime": frozenset(
        {
            "Add",
            "Cast",
            "Clip",
            "Concat",
            "Flatten",
            "Gather",
            "MaxPool",
            "Mul",
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
    "litert": frozenset(TFLITE_OPERATORS.values()),
    "qcdq": _QDQ,
    "tensorrt": _QDQ,
    ADOPTED: _OF_CLASSIFIERS,
}
"""By target, the operators that its files may contain; none has control flow, randomness, or (but
for an adopted file, whose author is not us) a branch on the number of images."""

_SCALES: Mapping[str, tuple[int, ...]] = {
    "QLinearConv": (1, 4, 6),
    "Resize": (1, 2),
    f"{MICROSOFT}.QGemm": (1, 4, 7),
    f"{MICROSOFT}.QLinearAdd": (1, 4, 6),
    f"{MICROSOFT}.QLinearGlobalAveragePool": (1, 3),
    f"{MICROSOFT}.QLinearMul": (1, 4, 6),
}
"""Places of inputs of the all-integer target that are scales: all that may be floating-point."""

_LOGITS_GEMM, _LOGITS_SCALE = f"{MICROSOFT}.QGemm", 7
"""Without a scale of its output, it gives floating-point numbers: the logits."""

_INDICES = ("Add", "Cast", "Mul")
"""What the all-integer target computes the indices of tables with, in int32; they are not codes."""

INTEGER_TYPES = frozenset({2, 3, 4, 5, 6, 7, 12, 13})
"""ONNX's element types of integers: a Cast of the all-integer target gives one of these."""

_NARROW_TYPES = frozenset({21, 22, 25, 26})
"""Those of 4 and 2 bits, which weights are stored in."""

_EXACT = "onnxruntime"
_NEAREST = "nearest"

LITERT = "litert"
ONNX_SUFFIX, LITERT_SUFFIX = ".onnx", ".tflite"

_TFLITE_TYPES = frozenset({"int8", "int16", "int32", "int64"})

_TARGETS = {
    "onnxruntime-openvino": "qcdq",
    "onnxruntime-tensorrt": "tensorrt",
    "onnxruntime-tensorrt-rtx": "tensorrt",
    "openvino": "qcdq",
    "tensorrt-rtx": "tensorrt",
}


def target_of(engine: str) -> str:
    """The target of ``qadtr export`` whose file an engine runs; most have the engine's own name."""
    return _TARGETS.get(engine, engine)


def suffix_of(engine: str) -> str:
    """The ending of the file names of an engine or a target."""
    return LITERT_SUFFIX if target_of(engine) == LITERT else ONNX_SUFFIX


def read_tflite_contents(model: bytes, name: str) -> TfLiteFile:
    """Return what a ``.tflite`` file holds.

    Raises:
        InputError: it is not a readable file of that kind; ``name`` is the file's.
    """
    try:
        return read_tflite(model)
    except ValueError as error:
        raise InputError(
            f"{name} ({len(model)} bytes) is not a readable .tflite file: {error}; export or copy "
            "it again"
        ) from error


def read_model_contents(model: bytes, name: str) -> OnnxFile:
    """Return what an ONNX file holds; all its tensors must be inside the file.

    Raises:
        InputError: it is not a readable ONNX file, or a tensor's data are outside of it; ``name``
            is the file's.
    """
    try:
        found = read_onnx(model)
    except ValueError as error:
        raise InputError(
            f"{name} ({len(model)} bytes) is not a readable ONNX file: {error}; export or copy it "
            "again"
        ) from error
    if found.outside:
        raise InputError(
            f"{name} refers to data outside the file for {some(found.outside)}, which nothing "
            "authenticates; expected all tensors inside the file; save it again without external "
            "data"
        )
    return found


def require_contents(
    model: bytes, engine: str, name: str, *, target: str | None = None
) -> OnnxFile | TfLiteFile:
    """Return what a model for an engine holds, after checking that its target writes all of it.

    Args:
        model: the file's bytes.
        engine: the engine's name; an unknown engine may run the file of any target.
        name: of the file, for errors.
        target: of the file; None: the engine's own.

    Raises:
        InputError: as :func:`read_model_contents`; another operator or domain, a graph in an
            attribute, a function, training information, or a cast to float in the all-integer
            target.
    """
    target = target_of(engine) if target is None else target
    if target == LITERT:
        return _require_tflite(model, engine, name)
    found = read_model_contents(model, name)
    onnx_targets = (one for key, one in OPERATORS.items() if key not in (LITERT, ADOPTED))
    allowed = OPERATORS.get(target, frozenset().union(*onnx_targets))
    _require_plain(found.inner, name)
    _require_known(found.operators, allowed, engine, name)
    foreign = sorted(found.domains - {"", MICROSOFT})
    if foreign:
        raise InputError(
            f"{name} imports operator sets of the domains {some(foreign)}, but a file for "
            f"{engine} must not; export it again"
        )
    if found.out_of_order:
        raise InputError(
            f"{name} reads {some(found.out_of_order)} before the node that computes it; expected "
            "nodes in the order in which they run; export it again"
        )
    if target == _EXACT:
        _require_integers(found, name)
    return found


def _require_integers(found: OnnxFile, name: str) -> None:
    """Require that floating-point numbers are only scales or logits, and no node computes with
    them."""
    casts = [one for one in found.nodes if one.operator == "Cast" and not _to_integers(one)]
    if casts:
        raise InputError(
            f"{name} casts {some([one.outputs[0] for one in casts if one.outputs])} to a type "
            "that holds no integers; expected integers between all nodes; export it again"
        )
    in_float = {
        tensor for tensor, element in found.tensors if element not in INTEGER_TYPES | _NARROW_TYPES
    }
    in_float |= {
        output
        for node in found.nodes
        if node.operator == _LOGITS_GEMM and not any(node.inputs[_LOGITS_SCALE:][:1])
        for output in node.outputs
    }
    for node in found.nodes:
        scales = _SCALES.get(node.operator, ())
        read = [one for i, one in enumerate(node.inputs) if i not in scales and one in in_float]
        odd = [f"the attribute {one}" for one in node.floats]
        if node.operator == "Resize" and node.mode not in (None, _NEAREST):
            odd.append(f"the mode {node.mode}")
        if read or odd:
            raise InputError(
                f"{name} computes {some(list(node.outputs))} ({node.operator}) from "
                f"floating-point numbers, {some(read + odd)}; expected integers between all "
                "nodes; export it again"
            )


def _require_plain(inner: Sequence[str], name: str) -> None:
    if inner:
        raise InputError(
            f"{name} holds {some(inner)}; expected one plain graph, as every export writes; "
            "export it again"
        )


def _require_known(
    operators: Counter[str], allowed: frozenset[str], engine: str, name: str
) -> None:
    unknown = sorted(operators.keys() - allowed)
    if unknown:
        may = (
            "a classifier may contain the inference operators of ONNX and ONNX Runtime, without "
            "control flow, randomness or custom operators"
            if allowed is _OF_CLASSIFIERS
            else f"a file for {engine} may contain {', '.join(sorted(allowed))}"
        )
        raise InputError(f"{name} holds the operators {some(unknown)}; {may}; export it again")


def _require_tflite(model: bytes, engine: str, name: str) -> TfLiteFile:
    found = read_tflite_contents(model, name)
    _require_plain(found.inner, name)
    if found.outside:
        raise InputError(
            f"{name} refers to data outside the file for {some(found.outside)}, which nothing "
            "authenticates; export it again"
        )
    _require_known(found.operators, OPERATORS[LITERT], engine, name)
    in_float = [one.name for one in found.tensors if one.type not in _TFLITE_TYPES]
    if in_float:
        raise InputError(
            f"{name} has tensors that hold no integers, {some(in_float)}; expected integers "
            "throughout; export it again"
        )
    return found


def code_tensors(found: OnnxFile, image: str, logits: str) -> list[str]:
    """The tensors between the nodes of an all-integer file that hold codes, in the file's order.

    Args:
        found: the file.
        image: name of its input.
        logits: name of its output.
    """
    computed = (one for one in found.computed_from(image) if one.operator not in _INDICES)
    return [name for one in computed for name in one.outputs if name and name != logits]


def _to_integers(node: OnnxNode) -> bool:
    return node.cast_to in INTEGER_TYPES
