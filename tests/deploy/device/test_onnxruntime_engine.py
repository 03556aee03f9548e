from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deploy.core.errors import EngineUnavailable, InputError, NothingToEvaluate, UsageError
from deploy.core.files import sha256_of
from deploy.core.host import Host
from deploy.core.onnx_operators import asks_for_integers, operators_of
from deploy.device import onnxruntime_engine
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine

SaveFloat = Callable[..., Path]


def test_integer_codes_are_those_of_the_formula(
    tmp_path: Path, integer_network: Any, images: np.ndarray
) -> None:
    path = integer_network.save(tmp_path / "codes.onnx", stop_at_codes=True)
    with OnnxRuntimeEngine(path) as engine:
        codes = engine.run(images)
    expected = integer_network.conv_codes(images)
    assert np.unique(expected).size == 16  # the graph is alive and both ends are clipped
    np.testing.assert_array_equal(codes, expected.reshape(len(images), -1))


def test_integer_graph_runs_integer_kernels_and_says_so(
    tmp_path: Path, integer_onnx: Path, images: np.ndarray
) -> None:
    profile, optimized = tmp_path / "out" / "profile.json", tmp_path / "optimized.onnx"
    with OnnxRuntimeEngine(integer_onnx, profile_to=profile, optimized_to=optimized) as engine:
        logits = engine.run(images)
        assert engine.integer
        assert engine.model_sha256 == sha256_of(integer_onnx)
        assert (engine.name, engine.threads) == ("onnxruntime-cpu", 1)
        assert (engine.input_shape, engine.classes, engine.batch_size) == ((3, 8, 8), 5, None)
    assert logits.dtype == np.float32
    assert logits.shape == (23, 5)
    kernels = {
        event["args"]["op_name"]
        for event in json.loads(profile.read_text())
        if event["name"].endswith("_kernel_time")
    }
    assert {"QLinearConv", "QGemm"} <= kernels
    assert not kernels & {"Conv", "Gemm", "MatMul", "FusedConv"}
    ran = [node.op_type for node in onnx.load(optimized).graph.node]
    assert "QLinearConv" in ran
    assert "Cast" not in ran  # the 4-bit weights are folded once, at load
    assert not list(tmp_path.glob("**/*.tmp"))


def test_optimized_and_plain_graph_agree_on_every_logit(
    integer_onnx: Path, images: np.ndarray
) -> None:
    with (
        OnnxRuntimeEngine(integer_onnx) as fast,
        OnnxRuntimeEngine(integer_onnx, optimize=False) as plain,
        OnnxRuntimeEngine(integer_onnx, threads=2) as threaded,
    ):
        expected = fast.run(images)
        np.testing.assert_array_equal(plain.run(images), expected)
        np.testing.assert_array_equal(threaded.run(images), expected)


def test_x64_precision_is_on_without_vnni_and_changes_no_logit(
    monkeypatch: pytest.MonkeyPatch, integer_onnx: Path, images: np.ndarray
) -> None:
    logits = {}
    for sets in (("avx2",), ("avx2", "avx512_vnni")):
        host = Host(
            machine="x86_64", system="Linux", cpu_model=None, cores=1, instruction_sets=sets
        )
        monkeypatch.setattr(onnxruntime_engine, "host_facts", partial(copy, host))
        with OnnxRuntimeEngine(integer_onnx) as engine:
            logits[engine.x64_quant_precision] = engine.run(images)
    assert set(logits) == {True, False}
    np.testing.assert_array_equal(logits[True], logits[False])


def test_float_baseline_runs(save_float_onnx: SaveFloat, images: np.ndarray) -> None:
    weights = np.zeros((5, 3, 3, 3))
    weights[np.arange(5), np.arange(5) % 3, 1, 1] = [1, 2, 3, -1, 0]  # scaled channel means
    with OnnxRuntimeEngine(save_float_onnx(weights=weights)) as engine:
        logits = engine.run(images)
        assert not engine.integer
    means = images.mean(axis=(2, 3))
    expected = means[:, np.arange(5) % 3] * [1, 2, 3, -1, 0]
    # float32 sums of 64 bytes of up to 765: 2**-24 relative for each of few additions
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7, 23, 64])
def test_predictions_do_not_depend_on_the_batch(
    integer_onnx: Path, images: np.ndarray, batch_size: int
) -> None:
    with OnnxRuntimeEngine(integer_onnx) as engine:
        predictions = engine.predict(images, batch_size)
        expected = engine.run(images).argmax(axis=1)
    assert predictions.dtype == np.int64
    np.testing.assert_array_equal(predictions, expected)


def test_a_fixed_batch_is_kept_by_run_and_filled_up_by_predict(
    tmp_path: Path, integer_onnx: Path, integer_network: Any, images: np.ndarray
) -> None:
    fixed = integer_network.save(tmp_path / "fixed.onnx", batch=4)
    with OnnxRuntimeEngine(fixed) as engine, OnnxRuntimeEngine(integer_onnx) as free:
        assert engine.batch_size == 4
        np.testing.assert_array_equal(engine.predict(images), free.predict(images))
        with pytest.raises(InputError, match="batches of 4 images, got 23"):
            engine.run(images)


def test_equal_logits_give_the_lowest_class(save_float_onnx: SaveFloat, images: np.ndarray) -> None:
    with OnnxRuntimeEngine(save_float_onnx(weights=np.zeros((5, 3, 3, 3)))) as engine:
        assert set(engine.predict(images).tolist()) == {0}


def test_nan_weights_are_an_error(save_float_onnx: SaveFloat, images: np.ndarray) -> None:
    weights = np.full((5, 3, 3, 3), np.nan)
    with (
        OnnxRuntimeEngine(save_float_onnx(weights=weights)) as engine,
        pytest.raises(InputError, match="NaN or infinite"),
    ):
        engine.predict(images)


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        (np.zeros((2, 3, 8, 8), np.float32), InputError, "uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), InputError, r"channels-last"),
        (np.zeros((2, 3, 9, 8), np.uint8), InputError, r"N×3×8×8"),
        (np.zeros((3, 8, 8), np.uint8), InputError, "N×3×H×W"),
        (np.zeros((0, 3, 8, 8), np.uint8), NothingToEvaluate, "at least one"),
    ],
)
def test_wrong_images_are_refused(
    integer_onnx: Path, batch: np.ndarray, error: type[Exception], words: str
) -> None:
    with OnnxRuntimeEngine(integer_onnx) as engine:
        with pytest.raises(error, match=words):
            engine.run(batch)
        with pytest.raises(error, match=words):
            engine.predict(batch)


def test_no_length_of_a_truncated_file_loads(
    tmp_path: Path, integer_onnx: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = integer_onnx.read_bytes()
    cut = tmp_path / "cut.onnx"
    # Every length near the end, where whole fields are missing, and a sample of the others.
    for length in {*range(0, len(data), 97), *range(len(data) - 60, len(data))}:
        cut.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut\.onnx") as caught:
            OnnxRuntimeEngine(cut)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"not a model\n",
        b'{"a": 1}',
        b"\x80\x04pickle",
        b"\xff" * 64,
        b"PK\3\4zip",
    ],
)
def test_what_is_no_onnx_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx .* is not a readable ONNX file"):
        OnnxRuntimeEngine(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        OnnxRuntimeEngine(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="cannot read"):
        OnnxRuntimeEngine(tmp_path)


def test_grey_images_are_taken_by_a_file_of_grey_images(save_float_onnx: SaveFloat) -> None:
    grey = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 1, 8, 8])
    with OnnxRuntimeEngine(save_float_onnx(info=grey, weights=np.ones((5, 1, 3, 3)))) as engine:
        assert engine.input_shape == (1, 8, 8)
        assert engine.run(np.zeros((2, 1, 8, 8), np.uint8)).shape == (2, 5)
        with pytest.raises(InputError, match="expected images of shape N×1×8×8"):
            engine.run(np.zeros((2, 3, 8, 8), np.uint8))


def test_another_interface_is_refused(save_float_onnx: SaveFloat, tmp_path: Path) -> None:
    floats = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])
    two = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 2, 8, 8])
    free = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 3, "H", "W"])
    with pytest.raises(InputError, match=r"tensor\(float\).*expected one input 'images'"):
        OnnxRuntimeEngine(save_float_onnx(info=floats))
    with pytest.raises(InputError, match=r"\['N', 2, 8, 8\].*3×H×W"):
        OnnxRuntimeEngine(save_float_onnx(info=two, weights=np.ones((5, 2, 3, 3))))
    with pytest.raises(InputError, match="numbers for H, W and C"):
        OnnxRuntimeEngine(save_float_onnx(info=free))
    model = onnx.load(save_float_onnx())
    model.graph.input[0].name = model.graph.node[0].input[0] = "x"
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(InputError, match=r"inputs 'x' tensor\(uint8\)"):
        OnnxRuntimeEngine(tmp_path / "x.onnx")
    model = onnx.load(save_float_onnx())
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(InputError, match="'more'"):
        OnnxRuntimeEngine(tmp_path / "two.onnx")


def test_cuda_is_refused_for_integers_and_named_when_missing(
    integer_onnx: Path, save_float_onnx: SaveFloat
) -> None:
    with pytest.raises(InputError, match="CUDA provider does not have"):
        OnnxRuntimeEngine(integer_onnx, provider="cuda")
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider")
    with pytest.raises(EngineUnavailable, match=r"CUDAExecutionProvider.*onnxruntime-gpu"):
        OnnxRuntimeEngine(save_float_onnx(), provider="cuda")


def test_without_onnxruntime_the_error_names_it(
    monkeypatch: pytest.MonkeyPatch, integer_onnx: Path
) -> None:
    real_import = builtins.__import__

    def no_onnxruntime(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real_import(name, *arguments, **named)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_onnxruntime)
    with pytest.raises(EngineUnavailable, match="pip install onnxruntime"):
        OnnxRuntimeEngine(integer_onnx)


def test_settings_that_do_not_exist(integer_onnx: Path) -> None:
    with pytest.raises(UsageError, match="known: cpu, cuda"):
        OnnxRuntimeEngine(integer_onnx, provider="gpu")
    with pytest.raises(UsageError, match="1 to 1024 threads"):
        OnnxRuntimeEngine(integer_onnx, threads=0)
    with (
        OnnxRuntimeEngine(integer_onnx) as engine,
        pytest.raises(UsageError, match="batch size"),
    ):
        engine.predict(np.zeros((1, 3, 8, 8), np.uint8), 0)


def test_a_closed_engine_says_so(integer_onnx: Path, images: np.ndarray) -> None:
    engine = OnnxRuntimeEngine(integer_onnx)
    engine.close()
    engine.close()
    with pytest.raises(UsageError, match="closed"):
        engine.run(images)


def test_operators_are_read_as_the_onnx_package_reads_them(
    integer_onnx: Path, save_float_onnx: SaveFloat
) -> None:
    for path, integer in ((integer_onnx, True), (save_float_onnx(), False)):
        operators = operators_of(path.read_bytes())
        names = [
            f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            for node in onnx.load(path).graph.node
        ]
        assert sorted(operators.elements()) == sorted(names)
        assert asks_for_integers(operators) is integer


def test_damaged_bytes_never_give_another_exception_than_value_error(integer_onnx: Path) -> None:
    rng = np.random.default_rng(5)
    data = np.frombuffer(integer_onnx.read_bytes(), np.uint8)
    refused = 0
    for _ in range(2_000):
        damaged = data.copy()
        where = rng.integers(0, len(data), size=4)
        damaged[where] = rng.integers(0, 256, size=4, dtype=np.uint8)
        try:
            operators_of(damaged.tobytes())
        except ValueError:
            refused += 1
    assert refused > 100
