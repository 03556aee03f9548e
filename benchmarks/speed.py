"""Images per second of our integer files against the float ONNX and stock Brevitas QCDQ.

    python -m benchmarks.speed [--network resnet20] [--rounds 30] [--json FILE]

One thread, batch 1 and 16, buffers bound once, all files in turn within each round, so that a busy
machine slows all of them alike; a figure is the median over rounds of the ratio within one round.
Beside it stands the share of the core's int8 matrix peak: the best rate that ONNX Runtime's
``MatMulInteger`` reaches here, measured in the same rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.networks import warmed_network, write_stock_qcdq
from benchmarks.ratios import ratio
from deploy.device.files import write_json
from deploy.device.host import host_facts
from deploy.device.records import provenance
from export.certificate import certify
from export.lowering import lower, lower_float
from export.qonnx_from_network import write_qonnx

BIT_WIDTHS = (32, 8, 5, 4, 2)
NETWORKS = ("resnet8", "resnet20", "resnet56")
MATRIX = 1024
"""Side of the square matrices whose product gives the int8 peak."""

Call = Callable[[], object]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--network", default="resnet20", choices=NETWORKS)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--json", type=Path, help="also write the record there")
    arguments = parser.parse_args(argv)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _our_files(arguments.network, folder)
        macs = multiply_adds(files[8])
        for batch in arguments.batches:
            rows += _measure(arguments.network, files, macs, batch, arguments.rounds, folder)
    print(_table(arguments.network, rows))
    if arguments.json:
        record = {"benchmark": "speed", "network": arguments.network, "threads": 1, "rows": rows}
        root = Path(__file__).resolve().parents[1]
        write_json(arguments.json, {**record, "provenance": provenance(repository=root)})
    return 0


def _our_files(name: str, folder: Path) -> dict[int, Path]:
    network = warmed_network(name, BIT_WIDTHS)
    files: dict[int, Path] = {}
    for bits in BIT_WIDTHS:
        qonnx = write_qonnx(network, bits, folder / f"qonnx-{bits}.onnx")
        files[bits] = folder / f"ours-{bits}.onnx"
        (lower_float if bits == 32 else lower)(qonnx, files[bits])
    return files


def multiply_adds(path: Path) -> int:
    """Multiply-adds of one image through the convolutions and the linear layer of a file."""
    model = onnx.load(path)
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    sizes: dict[str, int] = {model.graph.input[0].name: 32}
    total = 0
    for node in model.graph.node:
        side = sizes.get(node.input[0], 1)
        if node.op_type == "QLinearConv":
            weight = shapes[node.input[3]]
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            side = -(-side // attributes["strides"][0])
            total += int(np.prod(weight)) * side * side
        elif node.op_type == "QGemm":
            total += int(np.prod(shapes[node.input[3]]))
        sizes[node.output[0]] = side
    return total


def _session(path: Path | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if host_facts().u8s8_saturates:  # as the product's engine does: exact, at a price
        options.add_session_config_entry("session.x64quantprecision", "1")
    source = path if isinstance(path, bytes) else str(path)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _caller(path: Path, batch: int) -> Call:
    session = _session(path)
    wanted = session.get_inputs()[0]
    images = np.random.default_rng(0).integers(0, 256, (batch, 3, 32, 32)).astype(np.uint8)
    fed = images if wanted.type == "tensor(uint8)" else images.astype(np.float32) / 255.0
    return _bound(session, {wanted.name: fed})


def _bound(session: onnxruntime.InferenceSession, feed: dict[str, NDArray[Any]]) -> Call:
    """Run with buffers that are bound once: the engine's time without Python's conversions."""
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def _matrix_caller() -> Call:
    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    shape = [MATRIX, MATRIX]
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, shape).astype(np.int8)
    graph = helper.make_graph(
        [node],
        "peak",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("c", TensorProto.INT32, shape)],
        [onnx.numpy_helper.from_array(weights, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = _session(model.SerializeToString())
    return _bound(session, {"a": rng.integers(0, 256, shape).astype(np.uint8)})


def _seconds(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _measure(
    name: str, files: dict[int, Path], macs: int, batch: int, rounds: int, folder: Path
) -> list[dict[str, object]]:
    depth = int(name.removeprefix("resnet"))
    calls: dict[str, Call] = {"peak": _matrix_caller()}
    for bits, path in files.items():
        calls["float" if bits == 32 else f"ours-{bits}"] = _caller(path, batch)
        if bits != 32:
            stock = folder / f"stock-{bits}-{batch}.onnx"
            if not stock.exists():
                write_stock_qcdq(stock, depth, bits, batch)
            calls[f"stock-{bits}"] = _caller(stock, batch)
    repeats = {}
    for key, call in calls.items():
        call()
        repeats[key] = max(1, round(0.02 / max(1e-6, _seconds(call, 3))))
    taken: dict[str, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            taken[key].append(_seconds(call, repeats[key]))
    peak = MATRIX**3 / min(taken["peak"])
    sample = np.zeros((2, 3, 32, 32), np.uint8)
    rows: list[dict[str, object]] = []
    for bits, path in files.items():
        if bits == 32:
            continue
        ours = taken[f"ours-{bits}"]
        rows.append(
            {
                "batch": batch,
                "bits": bits,
                "images_per_s": batch / statistics.median(ours),
                "float_images_per_s": batch / statistics.median(taken["float"]),
                "stock_images_per_s": batch / statistics.median(taken[f"stock-{bits}"]),
                "over_float": ratio(taken["float"], ours),
                "over_stock": ratio(taken[f"stock-{bits}"], ours),
                "share_of_int8_peak": batch * macs / min(ours) / peak,
                "peak_giga_multiply_adds_per_s": peak / 1e9,
                "certificate": certify(path, sample).summary(),
                "stock_certificate": certify(
                    folder / f"stock-{bits}-{batch}.onnx", sample[:1].repeat(batch, axis=0)
                ).summary(),
            }
        )
    return rows


def _table(network: str, rows: Sequence[dict[str, object]]) -> str:
    lines = [
        f"{network}, one thread, ONNX Runtime {onnxruntime.__version__}",
        "b-bit codes, int8 arithmetic",
        "batch  bits  images/s  × float ONNX (quartiles)  × stock QCDQ (quartiles)  of int8 peak",
    ]
    for row in rows:
        ratios = []
        for key in ("over_float", "over_stock"):
            found = row[key]
            assert isinstance(found, dict)
            quartiles = f"{found['lower_quartile']:.2f}–{found['upper_quartile']:.2f}"
            ratios.append(f"{found['median']:.2f} ({quartiles})")
        share = 100.0 * float(str(row["share_of_int8_peak"]))
        lines.append(
            f"{row['batch']!s:>5}  {row['bits']!s:>4}  {row['images_per_s']:8.0f}  "
            f"{ratios[0]:>24}  {ratios[1]:>24}  {share:10.0f} %"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
