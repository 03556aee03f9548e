"""Images per second of our integer files against the float file and every peer's int8.

    python -m benchmarks.speed [--network resnet20] [--size 32] [--rounds 30] [--json FILE]

Batch 1 and 16, one thread and two, all files in turn within each round, so that a busy machine
slows all of them alike; a figure is the median over rounds of the ratio within one round. Who else
is on the processor still shows: a neighbour on the same core slows integer products more than
float ones. So each round begins and ends with the core's int8 peak (the rate of ONNX Runtime's
``MatMulInteger``), and beside the median over all rounds stands the one over the rounds in which
the peak held (:data:`STEADY` of its best, before and after).

"OpenVINO int8" is the faster of its two files, so a peer that may itself be ours. Two more ratios
are over what ``quantize_static`` made for OpenVINO, run there: our ``qcdq`` file in OpenVINO, and
our ``.tflite`` file in LiteRT.

With one thread a call takes the less of what the clock and the process's own time on the processor
say, and a round the least of its calls: the work takes no less than either, others on the machine
lengthen the one, and an engine that hands each call to a thread of its own the other.

Where the processor has AMX, each bit-width has a second row: our file laid out for it
(``qadtr export --tune amx``).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.records import parser_of, ratio, report
from benchmarks.speed_files import AMX, STATIC, Files, write_files
from deploy.core.host import host_facts
from export.certificate import certify
from training.networks import NETWORKS

MATRIX = 1024
"""Side of the square matrices whose product gives the int8 peak."""

STEADY = 0.9
"""Share of the best int8 rate above which a round counts as undisturbed."""

SLICE_S = 0.02
"""Each file runs about this long in each round, once at least."""

PAUSE_S = 0.1
"""Rest between two files where there are several threads: ONNX Runtime's workers spin for a while
after a run, and would take a core from whatever comes next."""

TUNED = {"any": "ours", "amx": AMX}
"""Our two files of a bit-width: what they are laid out for, and the key of their file."""

Call = Callable[[], object]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0 whatever the figures are."""
    parser = parser_of("speed", __doc__)
    parser.add_argument("--network", default="resnet20", choices=sorted(NETWORKS))
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 5, 4, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        files = write_files(arguments.network, arguments.size, arguments.bits, Path(name))
        certificates = _certificates(files)
        for threads in arguments.threads:
            for batch in arguments.batches:
                rows += _measure(files, batch, threads, arguments.rounds)
    record = {
        "benchmark": "speed",
        "network": arguments.network,
        "size": arguments.size,
        "rounds": arguments.rounds,
        "multiply_adds": files.macs,
        "steady_share": STEADY,
        "certificates": certificates,
        "rows": rows,
    }
    report(record, arguments.json)
    return 0


def _certificates(files: Files) -> dict[str, str]:
    """What each ONNX Runtime file really runs, so that no ratio is between unlike things unseen."""
    sample = np.zeros((1, 3, files.size, files.size), np.uint8)
    return {
        key: certify(path, sample).summary()
        for key, path in files.in_onnxruntime.items()
        if key != "float"
    }


def _session(path: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if host_facts().u8s8_saturates:  # as the product's engine does: exact, at a price
        options.add_session_config_entry("session.x64quantprecision", "1")
    source = path if isinstance(path, bytes) else str(path)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def onnxruntime_call(path: Path, images: NDArray[np.uint8], threads: int) -> Call:
    """One run of a file in ONNX Runtime on images, uint8 N×C×H×W, as the product runs it."""
    session = _session(path, threads)
    wanted = session.get_inputs()[0]
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


def openvino_call(path: Path, images: NDArray[np.uint8], threads: int) -> Call:
    """OpenVINO with its integer kernels, its own defaults otherwise, on bytes given once."""
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(images))
    return lambda: request.infer()


def _litert_call(path: Path, images: NDArray[np.uint8], threads: int) -> Call:
    """LiteRT with XNNPACK, on codes given once."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_path=str(path), num_threads=threads)
    codes = (images.transpose(0, 2, 3, 1) ^ np.uint8(128)).view(np.int8)
    number = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(number, codes.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(number, np.ascontiguousarray(codes))
    run: Call = interpreter.invoke
    return run


def _matrix_call(threads: int) -> Call:
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
    session = _session(model.SerializeToString(), threads)
    return _bound(session, {"a": rng.integers(0, 256, shape).astype(np.uint8)})


def seconds_of(call: Call, repeats: int) -> float:
    """The time of one call, the mean of ``repeats``."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _rested(call: Call, repeats: int, threads: int) -> float:
    if threads == 1:
        return min(undisturbed(call) for _ in range(repeats))
    time.sleep(PAUSE_S)
    call()
    return seconds_of(call, repeats)


def undisturbed(call: Call) -> float:
    """Seconds of one call: the less of what the clock and the process's own time say."""
    clock, used = time.perf_counter(), time.process_time()
    call()
    return min(time.process_time() - used, time.perf_counter() - clock)


def _measure(files: Files, batch: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    shape = (batch, 3, files.size, files.size)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    calls: dict[str, Call] = {}
    for key, path in files.in_onnxruntime.items():
        calls[key] = onnxruntime_call(path, images, threads)
    for key, path in files.in_openvino.items():
        calls[key] = openvino_call(path, images, threads)
    for key, path in files.in_litert.items():
        calls[key] = _litert_call(path, images, threads)
    calls["peak"] = _matrix_call(threads)
    repeats = {}
    for key, call in calls.items():
        call()
        # The least of three: one that was interrupted would leave this file fewer calls a round.
        shortest = min(seconds_of(call, 1) for _ in range(3))
        repeats[key] = max(1, round(SLICE_S / max(1e-6, shortest)))
    taken: dict[str, list[float]] = {key: [] for key in (*calls, "peak before")}
    for _ in range(rounds):
        taken["peak before"].append(_rested(calls["peak"], repeats["peak"], threads))
        for key, call in calls.items():
            taken[key].append(_rested(call, repeats[key], threads))
    best = min(*taken["peak"], *taken["peak before"])
    steady = [
        number
        for number, pair in enumerate(zip(taken["peak before"], taken["peak"], strict=True))
        if max(pair) * STEADY <= best
    ]
    return [
        _row(files, bits, tune, batch, threads, taken, steady, best)
        for bits in files.bit_widths
        for tune, key in TUNED.items()
        if f"{key}-{bits}" in taken
    ]


def _row(
    files: Files,
    bits: int,
    tune: str,
    batch: int,
    threads: int,
    taken: dict[str, list[float]],
    steady: Sequence[int],
    best: float,
) -> dict[str, Any]:
    ours = taken[f"{TUNED[tune]}-{bits}"]
    # OpenVINO has two files of the network: the faster of them is the peer.
    own, static = f"openvino-{bits}", f"openvino-{STATIC}"
    openvino = min((own, static), key=lambda key: statistics.median(taken[key]))
    theirs = {"float": "float", "static": STATIC, "openvino": openvino}
    peak = MATRIX**3 / best
    return {
        "threads": threads,
        "batch": batch,
        "bits": bits,
        "tune": tune,
        "images_per_s": batch / statistics.median(ours),
        "peers_images_per_s": {
            peer: batch / statistics.median(taken[key]) for peer, key in theirs.items()
        },
        "openvino_file": openvino,
        "in_openvino_over_static": _ratio(taken[static], taken[own], steady),
        "in_litert_over_static": _ratio(taken[static], taken[f"litert-{bits}"], steady),
        "over": {peer: _ratio(taken[key], ours, steady) for peer, key in theirs.items()},
        "steady_rounds": len(steady),
        "share_of_int8_peak": batch * files.macs / min(ours) / peak,
        "peak_giga_multiply_adds_per_s": peak / 1e9,
    }


def _ratio(
    theirs: Sequence[float], ours: Sequence[float], steady: Sequence[int]
) -> dict[str, float | None]:
    by_round = [a / b for a, b in zip(theirs, ours, strict=True)]
    undisturbed = statistics.median(by_round[i] for i in steady) if steady else None
    return {**ratio(theirs, ours), "steady_median": undisturbed}


if __name__ == "__main__":
    raise SystemExit(main())
