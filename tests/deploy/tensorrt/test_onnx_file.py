"""Nothing that TensorRT would misread gets as far as its parser."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from deploy.core.errors import InputError
from deploy.core.files import sha256_of_bytes
from deploy.tensorrt.onnx_file import check_symmetric_int8
from tests.deploy.tensorrt.qdq_files import BROKEN, Change, changed, exported


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("qdq")


@pytest.fixture(scope="module")
def good(folder: Path) -> Path:
    return exported(folder)


def test_a_file_of_the_target_is_taken_and_described(good: Path) -> None:
    model = onnx.load(good)
    facts = check_symmetric_int8(good.read_bytes(), "m")
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert facts.input_shape == tuple(dims[1:]) and facts.batch_size is None
    assert facts.classes == model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    assert facts.sha256 == sha256_of_bytes(good.read_bytes())
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    assert facts.operators["Conv"] == convolutions > 0


@pytest.mark.parametrize("bits", [8, 5, 2])
def test_every_bit_width_is_taken(folder: Path, bits: int) -> None:
    assert check_symmetric_int8(exported(folder, bits).read_bytes(), "m").classes > 1


def test_a_fixed_batch_size_is_told(good: Path) -> None:
    def fix(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4

    assert check_symmetric_int8(changed(good, fix), "m").batch_size == 4


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_what_tensorrt_would_misread_is_refused(good: Path, change: Change) -> None:
    with pytest.raises(InputError, match=BROKEN[change]):
        check_symmetric_int8(changed(good, change), "m.onnx")


@pytest.mark.parametrize("target", ["onnxruntime", "qcdq"])
def test_files_for_other_engines_are_refused(folder: Path, target: str) -> None:
    with pytest.raises(InputError, match=r"uint8.*--target tensorrt"):
        check_symmetric_int8(exported(folder, target=target).read_bytes(), "m.onnx")


def test_a_file_cut_anywhere_gives_one_error(good: Path) -> None:
    data = good.read_bytes()
    for end in range(0, len(data), max(1, len(data) // 60)):
        with pytest.raises(InputError, match=r"m\.onnx"):
            check_symmetric_int8(data[:end], "m.onnx")


@pytest.mark.parametrize("junk", [b"", b"\x00" * 64, b"\xff" * 64, b"not a model at all"])
def test_junk_gives_one_error(junk: bytes) -> None:
    with pytest.raises(InputError, match="not a readable ONNX file"):
        check_symmetric_int8(junk, "m.onnx")
