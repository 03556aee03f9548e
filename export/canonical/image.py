"""How the image's bytes become the file's input, and its first codes.

The lowered file takes bytes; the original file takes floats and does not state their range.  By the
project's rule they are pixel values 0 … 255; with ``mean`` and ``std``, (byte / 255 - mean) / std,
per channel.  The operations of a network on each number of its image before its first quantizer are
one function of a byte, in any form: (x - 128) / 64, x · 1/255, a BatchNorm.  So this function is
computed for all 256 bytes, in float32 and in the file's order (export.passes.image_codes).

If nothing quantizes the image and the function is s · (byte - z) with an integer z in 0 … 255, the
bytes are already codes of scale s and zero point z.  A quantizer that rounds nothing is inserted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from deploy.core.errors import InputError, UsageError
from deploy.core.text import shape_in_words
from export.canonical.draft import Draft
from export.canonical.operators import QUANTIZERS
from export.graph import attributes_of, node_label, type_name
from export.graph_builder import QONNX

ELEMENTWISE = (
    "Add", "BatchNormalization", "Clip", "Div", "Identity", "Mul", "Neg", "Relu", "Sub",
)  # fmt: skip
LAYOUT = ("Flatten", "Reshape", "Transpose")
BYTES = 256


@dataclass(frozen=True, kw_only=True)
class ImageForm:
    """The facts of the image that the file does not state.

    Attributes:
        mean: of each channel or of all, 0…1; the file's input is (byte / 255 - mean) / std. None:
            the input is the byte.
        std: likewise, above 0.
        size: height and width, if the file leaves them open; None uses those of the file.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        size: tuple[int, int] | None,
    ) -> Self:
        """An image form from any sequences of numbers."""
        return cls(
            mean=None if mean is None else tuple(mean),
            std=None if std is None else tuple(std),
            size=size,
        )

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise UsageError("mean and std belong together; give both or neither")
        if self.std is not None and not all(np.isfinite(s) and s > 0 for s in self.std):
            raise UsageError(f"std must be above 0, got {self.std}")
        if self.mean is not None and not all(np.isfinite(self.mean)):
            raise UsageError(f"mean must be finite, got {self.mean}")

    def input_of(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The file's input for images, uint8 N×C×H×W: float32 of that shape.

        Raises:
            UsageError: mean and std have another number of channels.
        """
        pixels = images.astype(np.float32)
        if self.mean is None or self.std is None:
            return pixels
        mean, std = (self._per_channel(one, images.shape[1]) for one in (self.mean, self.std))
        scaled: NDArray[np.float32] = (pixels / np.float32(255.0) - mean) / std
        return scaled

    @staticmethod
    def _per_channel(values: Sequence[float], channels: int) -> NDArray[np.float32]:
        if len(values) not in (1, channels):
            raise UsageError(
                f"mean and std have {len(values)} values, but the images have {channels} "
                "channels; expected one value, or one per channel"
            )
        return np.asarray(values, np.float32).reshape(1, -1, 1, 1)

    def bytes(self, channels: int) -> NDArray[np.float32]:
        """The file's input for each byte of each channel, float32 1×C×256×1."""
        every = np.arange(BYTES, dtype=np.uint8).reshape(1, 1, BYTES, 1)
        return self.input_of(np.broadcast_to(every, (1, channels, BYTES, 1)))


def require_image(draft: Draft, form: ImageForm) -> None:
    """Check that the input is a batch of images, and fix its shape: batch 1 if it is open.

    Raises:
        InputError: the input is something else, or its size is open and not given.
    """
    name, shape = draft.image, draft.shapes.get(draft.image, ())
    shown = shape_in_words(side or None for side in shape) if shape else "unknown"
    kind = type_name(draft.image_type)
    if draft.image_type not in (TensorProto.FLOAT, TensorProto.UINT8):
        raise InputError(
            f"{draft.path}: its input {name!r} is {kind}; expected an image of float or uint8"
        )
    if len(shape) == 3:
        raise InputError(
            f"{draft.path}: its input {name!r} has the shape {shown}, a signal of one dimension "
            "(its convolutions are 1-D); only networks of images N×C×H×W are lowered"
        )
    if len(shape) != 4:
        raise InputError(
            f"{draft.path}: its input {name!r} has the shape {shown}; only networks of images "
            "N×C×H×W are lowered"
        )
    sides = [shape[0] or 1, *shape[1:]]
    channels_last = shape[1] not in (1, 3) and shape[3] in (1, 3)
    places = (1, 2) if channels_last else (2, 3)
    if form.size is not None:
        for place, side in zip(places, form.size, strict=True):
            if shape[place] not in (0, side):
                raise UsageError(
                    f"{draft.path} takes images of {shown}, not of the given size "
                    f"{form.size[0]}×{form.size[1]}"
                )
            sides[place] = side
    if not all(sides):
        raise InputError(
            f"{draft.path}: its input {name!r} has the shape {shown}, but height, width and "
            "channels must be known; give the size (--size HEIGHT WIDTH), or export with a fixed "
            "size"
        )
    if tuple(sides) != shape:
        keep = {draft.image: tuple(sides)}
        draft.shapes = keep  # the declared shapes of the others depend on the open dimensions
    if channels_last:
        _channels_first(draft)
    if draft.shapes[draft.image][1] not in (1, 3):
        raise InputError(
            f"{draft.path}: its input {name!r} has the shape {shown}; expected a grey or RGB "
            "image, 1 or 3 channels"
        )


def _channels_first(draft: Draft) -> None:
    """Make the input N×C×H×W; the file reads its transpose."""
    n, height, width, channels = draft.shapes[draft.image]
    inner = draft.name(f"{draft.image}.channels_last")
    draft.rename(draft.image, inner)
    draft.shapes[inner] = (n, height, width, channels)
    draft.shapes[draft.image] = (n, channels, height, width)
    node = helper.make_node("Transpose", [draft.image], [inner], name=inner, perm=[0, 2, 3, 1])
    draft.nodes.insert(0, node)
    draft.notes.append(
        "the image is N×C×H×W in the lowered file; in the source file its channels are last"
    )


def quantize(draft: Draft, form: ImageForm) -> None:
    """Make a quantizer read the image, or a function of each of its numbers; layout changes are
    moved after it.

    Raises:
        InputError: the first layer reads the image unquantized, and its bytes are not codes.
    """
    _layout_last(draft)
    for name in _functions_of_the_image(draft):
        readers = draft.wiring.readers(name)
        computing = [
            one
            for one in readers
            if one.op_type not in (*ELEMENTWISE, *QUANTIZERS) or not _one_tensor(one, draft)
        ]
        if computing:
            _insert(draft, name, computing, form)


def _one_tensor(node: onnx.NodeProto, draft: Draft) -> bool:
    """Whether only one input of a node is computed."""
    return sum(bool(name) and name not in draft.constants for name in node.input) == 1


def _functions_of_the_image(draft: Draft) -> list[str]:
    """The image, and the tensors that are functions of each of its numbers."""
    found = [draft.image]
    for node in draft.nodes:
        reads = any(name in found for name in node.input)
        if reads and node.op_type in ELEMENTWISE and _one_tensor(node, draft):
            found.append(node.output[0])
    return found


def _layout_last(draft: Draft) -> None:
    """Move Flatten, Reshape and Transpose of the image after its first quantizer.

    An elementwise function that is the same for all elements commutes with moves of elements.
    """
    while True:
        wiring = draft.wiring
        moves = [
            one
            for name in _functions_of_the_image(draft)
            for one in wiring.readers(name)
            if one.op_type in LAYOUT and one.input[0] == name
        ]
        step = next(
            (
                (move, reader)
                for move in moves
                for reader in wiring.readers(move.output[0])
                if len(wiring.readers(move.output[0])) == 1
                and reader.op_type in (*ELEMENTWISE, "Quant", "BipolarQuant")
                and _one_tensor(reader, draft)
                and all(draft.constants[n].size == 1 for n in reader.input if n in draft.constants)
            ),
            None,
        )
        if step is None:
            return
        move, reader = step
        x, end = move.input[0], reader.output[0]
        inner = draft.name(f"{end}.image")
        reader.input[:] = [x if name == move.output[0] else name for name in reader.input]
        reader.output[0] = inner
        draft.shapes[inner] = draft.shapes.get(x, ())
        draft.nodes.remove(move)
        move.input[0], move.output[0] = inner, end
        index = next(i for i, one in enumerate(draft.nodes) if one is reader)
        draft.nodes.insert(index + 1, move)


class Readable(Protocol):
    """A graph that gives access to its stored tensors and to the producers of its tensors."""

    @property
    def constants(self) -> Mapping[str, NDArray[Any]]:
        """Stored tensors by name."""

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that outputs a tensor."""


def image_function(
    tensor: str, graph: Readable, image: str, values: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """The value of a tensor for each byte of each channel, float32 1×C×256×1; None if it is not a
    function of each single number of the image.

    Args:
        tensor: its name.
        graph: that it is in.
        image: name of the image.
        values: of the image, as :meth:`ImageForm.bytes` gives them.

    Raises:
        InputError: a stored tensor is neither one number nor one number for each channel.
    """
    constants = graph.constants
    chain: list[onnx.NodeProto] = []
    name = tensor
    while name != image:
        node = graph.producer(name)
        if node is None or node.op_type not in ELEMENTWISE:
            return None
        computed = [one for one in node.input if one and one not in constants]
        if len(computed) != 1 or len(chain) > 64:
            return None
        chain.append(node)
        name = computed[0]
    x = values
    for node in reversed(chain):
        with np.errstate(all="ignore"):
            x = _applied(node, x, constants)
    return x


def _applied(
    node: onnx.NodeProto, x: NDArray[np.float32], constants: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    def number(name: str) -> NDArray[np.float32]:
        value = constants[name].astype(np.float32)
        if value.size == 1:
            return value.reshape(())
        wide = value.reshape((1,) * (4 - value.ndim) + value.shape) if value.ndim <= 4 else value
        if wide.shape != (1, x.shape[1], 1, 1):
            raise InputError(
                f"{node_label(node)} has stored values of shape {list(value.shape)}; before the "
                "image's quantizer one number is expected, or one per channel"
            )
        return wide

    operands = [x if name not in constants else None for name in node.input]
    attributes = attributes_of(node)
    if node.op_type == "BatchNormalization":
        gamma, beta, mean, variance = (
            constants[name].astype(np.float32).reshape(1, -1, 1, 1) for name in node.input[1:]
        )
        epsilon = np.float32(attributes.get("epsilon", 1e-5))
        return ((x - mean) / np.sqrt(variance + epsilon) * gamma + beta).astype(np.float32)
    if node.op_type in ("Relu", "Clip"):
        low, high = (
            (0.0, np.inf)
            if node.op_type == "Relu"
            else (float(attributes.get("min", -np.inf)), float(attributes.get("max", np.inf)))
        )
        bounds = [float(constants[n].item()) if n else None for n in node.input[1:3]]
        bounds += [None] * (2 - len(bounds))
        low = low if bounds[0] is None else bounds[0]
        high = high if bounds[1] is None else bounds[1]
        return np.clip(x, np.float32(low), np.float32(high))
    if node.op_type == "Neg":
        return -x
    if node.op_type == "Identity":
        return x
    a, b = (number(n) if one is None else one for n, one in zip(node.input, operands, strict=True))
    functions = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    result: NDArray[np.float32] = functions[node.op_type](a, b)
    return result


def _insert(draft: Draft, name: str, readers: list[onnx.NodeProto], form: ImageForm) -> None:
    channels = draft.shapes[draft.image][1]
    x = image_function(name, draft, draft.image, form.bytes(channels))
    assert x is not None, "it was found to be one"
    step = (x[:, :, -1:] - x[:, :, :1]) / np.float32(BYTES - 1)
    first = readers[0]
    why = (
        f"{draft.path}: the layer {node_label(first)} reads the image without a quantizer, and "
        "the bytes of the image are not its codes"
    )
    cure = "quantize the image in the network (a QuantIdentity of 8 bits), or give mean and std"
    if not bool((step == step.reshape(-1)[0]).all()) or not step.reshape(-1)[0] > 0:
        raise InputError(f"{why}: the channels have {channels} different scales; {cure}")
    scale = np.float32(step.reshape(-1)[0])
    zero = -x[:, :, 0] / scale
    point = np.rint(zero)
    line = scale * (np.arange(BYTES, dtype=np.float32).reshape(1, 1, -1, 1) - point[..., None])
    exact = bool((np.abs(line - x) <= 1e-5 * np.abs(x).max()).all())
    if (
        not exact
        or bool((point != point.reshape(-1)[0]).any())
        or not 0 <= point.reshape(-1)[0] < 256
    ):
        raise InputError(
            f"{why}: 0 is the byte {zero.reshape(-1)[0]:.4g}, which is not whole or not the same "
            f"in each channel; {cure}"
        )
    output = draft.name(f"{draft.image}.codes")
    inputs = [
        name,
        draft.constant(scale, f"{output}.scale"),
        draft.constant(np.float32(point.reshape(-1)[0]), f"{output}.zero"),
        draft.constant(np.float32(8), f"{output}.bits"),
    ]
    node = helper.make_node(
        "Quant", inputs, [output], name=output, domain=QONNX, signed=0, narrow=0,
        rounding_mode="ROUND",
    )  # fmt: skip
    draft.shapes[output] = draft.shapes.get(name, ())
    index = next(i for i, one in enumerate(draft.nodes) if one is first)
    draft.nodes.insert(index, node)
    for reader in readers:
        reader.input[:] = [output if one == name else one for one in reader.input]
    draft.notes.append(f"the image is not quantized: its bytes are codes of scale {scale:.6g}")
