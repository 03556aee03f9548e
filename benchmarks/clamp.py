"""What the clamp of narrow codes costs in OpenVINO: files that differ in nothing else.

    python -m benchmarks.clamp [--network mobilenetv2] [--size 224] [--bits 4 2] [--json FILE]

Each ratio is over what ``quantize_static`` made for OpenVINO, 8 bits, as in
:mod:`benchmarks.speed`: one thread, all files in turn within each round. The ways to hold unsigned
codes 0 … h of a convolution:

===============  ===================================================================================
``clamp``        as the target ``qcdq`` writes it: Clip, then a quantizer of zero point 0
``zero point``   Relu, then a quantizer of zero point 255 - h, which saturates at the upper end
``own form``     OpenVINO's FakeQuantize of h + 1 levels instead of Clip and quantizer
``one end``      for the price alone, wrong codes: LeakyRelu, which is an operator for one end
``no operator``  for the price alone, wrong codes: the zero point of above without the Relu
``nothing``      for the price alone, wrong codes: the quantizer alone
===============  ===================================================================================
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.helper import make_attribute, make_node, make_opsetid

from benchmarks.records import parser_of, ratio, report
from benchmarks.speed import openvino_call, undisturbed
from benchmarks.speed_files import STATIC, write_files

OPENVINO = "org.openvinotoolkit"


class _Held:
    """One Clip between a convolution and its quantizer, in a graph that is being changed."""

    def __init__(self, graph: onnx.GraphProto, clip: onnx.NodeProto) -> None:
        self.graph, self.clip = graph, clip
        readers = {name: node for node in graph.node for name in node.input}
        self.quantize = readers[clip.output[0]]
        self.dequantize = readers[self.quantize.output[0]]
        constants = {one.name: one for one in graph.initializer}
        self.low = float(numpy_helper.to_array(constants[clip.input[1]]))
        self.upper = numpy_helper.to_array(constants[clip.input[2]])
        step = numpy_helper.to_array(constants[self.quantize.input[1]])
        self.high = round(float(self.upper / step))

    def constant(self, hint: str, value: Any) -> str:
        name = f"{self.clip.name}.{hint}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def unary(self, operator: str, **attributes: float) -> None:
        self.clip.op_type = operator
        del self.clip.input[1:]
        self.clip.attribute.extend(make_attribute(*pair) for pair in attributes.items())

    def shift(self) -> None:
        zero = self.constant("zero", np.uint8(255 - self.high))
        self.quantize.input[2] = self.dequantize.input[2] = zero

    def remove(self) -> None:
        self.quantize.input[0] = self.clip.input[0]
        self.graph.node.remove(self.clip)


def _zero_point(held: _Held) -> None:
    held.shift()
    held.unary("Relu")


def _own_form(held: _Held) -> None:
    ends = [
        held.constant("lower", np.zeros(1, np.float32)),
        held.constant("upper", held.upper.reshape(1)),
    ]
    node = make_node(
        "FakeQuantize",
        [held.clip.input[0], *ends, *ends],
        [held.dequantize.output[0]],
        domain=OPENVINO,
        levels=held.high + 1,
    )
    held.graph.node.insert(list(held.graph.node).index(held.clip), node)
    for gone in (held.clip, held.quantize, held.dequantize):
        held.graph.node.remove(gone)


def _no_operator(held: _Held) -> None:
    held.shift()
    held.remove()


WAYS: dict[str, Callable[[_Held], None]] = {
    "clamp": lambda _: None,
    "zero point": _zero_point,
    "own form": _own_form,
    "one end": lambda held: held.unary("LeakyRelu", alpha=0.125),
    "no operator": _no_operator,
    "nothing": _Held.remove,
}


def written(qcdq: Path, way: str, out: Path) -> Path:
    """A copy of a ``qcdq`` file whose convolutions' unsigned codes are held in another way."""
    model = onnx.load(qcdq)
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in list(model.graph.node):
        if node.op_type == "Clip" and makers[node.input[0]].op_type == "Conv":
            held = _Held(model.graph, node)
            if held.low == 0:
                WAYS[way](held)
    model.opset_import.append(make_opsetid(OPENVINO, 1))
    onnx.save(model, out)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0 whatever the figures are."""
    parser = parser_of("clamp", __doc__)
    parser.add_argument("--network", default="mobilenetv2")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=24)
    arguments = parser.parse_args(argv)
    shape = (arguments.batch, 3, arguments.size, arguments.size)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_files(arguments.network, arguments.size, arguments.bits, folder).in_openvino
        for bits in arguments.bits:
            qcdq = files[f"openvino-{bits}"]
            paths = {way: written(qcdq, way, folder / f"{way}-{bits}.onnx") for way in WAYS}
            paths[STATIC] = files[f"openvino-{STATIC}"]
            calls = {way: openvino_call(path, images, 1) for way, path in paths.items()}
            taken: dict[str, list[float]] = {way: [] for way in calls}
            for number in range(arguments.rounds + 1):
                for way, call in calls.items():
                    seconds = min(undisturbed(call) for _ in range(2))
                    if number:  # the first round allocates
                        taken[way].append(seconds)
            rows += [
                {"way": way, "bits": bits, "over_static": ratio(taken[STATIC], taken[way])}
                for way in WAYS
            ]
    record = {
        "benchmark": "clamp",
        "network": arguments.network,
        "size": arguments.size,
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "rows": rows,
    }
    report(record, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
