"""Ways to requantize uint8 codes in ONNX Runtime, in nanoseconds per element, side by side.

    python -m benchmarks.requantization [--json FILE]

One thread; a chain of twenty nodes, the best of many runs, all ways in turn within each round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from deploy.core.files import write_json
from deploy.core.records import provenance
from export.graph_builder import MICROSOFT

CHAIN = 20
ROUNDS = 30
SHAPES = ((1, 16, 32, 32), (16, 16, 32, 32), (1, 64, 8, 8))
WAYS = (
    "QLinearAdd with 0",
    "QLinearConcat",
    "QLinearLeakyRelu",
    "DequantizeLinear, QuantizeLinear",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.requantization", description=__doc__
    )
    parser.add_argument("--json", type=Path, help="also write the record there")
    arguments = parser.parse_args(argv)
    rows = [row for shape in SHAPES for row in _measure(shape)]
    for row in rows:
        print(f"{row['shape']!s:<18} {row['way']:<34} {row['ns_per_element']:6.3f} ns/element")
    if arguments.json:
        root = Path(__file__).resolve().parents[1]
        record = {"benchmark": "requantization", "rows": rows}
        write_json(arguments.json, {**record, "provenance": provenance(repository=root)})
    return 0


def _model(way: str, shape: tuple[int, ...]) -> bytes:
    constants = [
        numpy_helper.from_array(np.asarray(0.02, np.float32), "s"),
        numpy_helper.from_array(np.asarray(0.18, np.float32), "t"),
        numpy_helper.from_array(np.asarray(0, np.uint8), "z"),
        numpy_helper.from_array(np.zeros(1, np.uint8), "nothing"),
    ]
    nodes = []
    name = "x"
    for index in range(CHAIN):
        out = f"y{index}"
        if way == "QLinearAdd with 0":
            inputs = [name, "s", "z", "nothing", "s", "z", "t", "z"]
            nodes.append(helper.make_node("QLinearAdd", inputs, [out], domain=MICROSOFT))
        elif way == "QLinearConcat":
            inputs = ["t", "z", name, "s", "z"]
            nodes.append(helper.make_node("QLinearConcat", inputs, [out], domain=MICROSOFT, axis=1))
        elif way == "QLinearLeakyRelu":
            inputs = [name, "s", "z", "t", "z"]
            nodes.append(
                helper.make_node("QLinearLeakyRelu", inputs, [out], domain=MICROSOFT, alpha=1.0)
            )
        else:
            nodes.append(helper.make_node("DequantizeLinear", [name, "s", "z"], [f"{out}.f"]))
            nodes.append(helper.make_node("QuantizeLinear", [f"{out}.f", "t", "z"], [out]))
        name = out
    graph = helper.make_graph(
        nodes,
        "requantization",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(name, TensorProto.UINT8, shape)],
        constants,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def _measure(shape: tuple[int, ...]) -> list[dict[str, object]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        way: onnxruntime.InferenceSession(
            _model(way, shape), options, providers=["CPUExecutionProvider"]
        )
        for way in WAYS
    }
    feed = {"x": np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)}
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(ROUNDS):
        for way, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feed)
            best[way] = min(best[way], time.perf_counter() - start)
    count = CHAIN * int(np.prod(shape))
    return [
        {"shape": list(shape), "way": way, "ns_per_element": 1e9 * best[way] / count}
        for way in WAYS
    ]


if __name__ == "__main__":
    raise SystemExit(main())
