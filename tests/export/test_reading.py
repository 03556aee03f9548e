from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import InputError
from export.graph import initializers
from export.reading import read_model
from tests.export.integer_graphs import residual_graph


@pytest.fixture
def model() -> onnx.ModelProto:
    return residual_graph(np.random.default_rng(0), bits=4).model()


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_model(path)
    for word in (path.name, *words):
        assert word in str(caught.value)


def test_a_good_file_is_read_with_its_arrays(model: onnx.ModelProto, tmp_path: Path) -> None:
    read = read_model(save(model, tmp_path / "good.onnx"))
    assert read == model
    arrays = initializers(read)
    assert arrays["stem.weight"].dtype == np.int8
    assert arrays["block_conv1.weight"].dtype == ml_dtypes.int4
    assert arrays["block_conv1.weight"].shape == (8, 8, 3, 3)


@pytest.mark.parametrize("dtype", [ml_dtypes.int2, ml_dtypes.int4, np.int8])
def test_low_bit_weights_are_unpacked(dtype: type[Any], tmp_path: Path) -> None:
    values: NDArray[Any] = np.array([[-2, -1, 0], [1, 1, -2]]).astype(dtype)
    model = residual_graph(np.random.default_rng(0), bits=2).model()
    model.graph.initializer.append(numpy_helper.from_array(values, "extra"))
    read = initializers(read_model(save(model, tmp_path / "low.onnx")))["extra"]
    np.testing.assert_array_equal(read.astype(int), [[-2, -1, 0], [1, 1, -2]])


def test_missing_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx")
    refused(tmp_path, "folder")
    for name, data in {"empty": b"", "text": b"not a model at all", "zeros": bytes(100)}.items():
        (tmp_path / f"{name}.onnx").write_bytes(data)
        refused(tmp_path / f"{name}.onnx", "xport it again")


def test_every_truncation_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    data = model.SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(1, len(data) - 20, max(1, len(data) // 60)):
        path.write_bytes(data[:length])
        refused(path)


def test_flipped_bytes_give_a_model_or_one_clear_error(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    data = bytearray(model.SerializeToString())
    rng = np.random.default_rng(0)
    path = tmp_path / "flipped.onnx"
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), 4):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            initializers(read_model(path))
            outcomes.add("read")
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_a_file_over_the_limit_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = save(model, tmp_path / "large.onnx")
    with pytest.raises(InputError, match="at most 100"):
        read_model(path, max_bytes=100)


@pytest.mark.parametrize(
    "location", ["../secret.bin", "{outside}/secret.bin", "", "a\0b", "link.bin"]
)
def test_external_data_outside_the_folder_are_refused(
    location: str, model: onnx.ModelProto, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location.format(outside=tmp_path))
    refused(save(model, folder / "hostile.onnx"), "outside")


def test_external_data_inside_the_folder_are_read(model: onnx.ModelProto, tmp_path: Path) -> None:
    tensor = next(one for one in model.graph.initializer if one.name == "stem.weight")
    expected = numpy_helper.to_array(tensor).copy()
    (tmp_path / "weights.bin").write_bytes(b"head" + tensor.raw_data)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    tensor.external_data.add(key="offset", value="4")
    tensor.external_data.add(key="length", value=str(len(tensor.raw_data)))
    tensor.ClearField("raw_data")
    path = save(model, tmp_path / "beside.onnx")
    np.testing.assert_array_equal(initializers(read_model(path))["stem.weight"], expected)
    (tmp_path / "weights.bin").write_bytes(b"short")
    refused(path, "stem.weight", "weights.bin")


@pytest.mark.parametrize("location", ["pipe", "folder", "w\0.bin"])
def test_external_data_in_what_is_no_file(
    location: str, model: onnx.ModelProto, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")  # nobody ever writes to it
    (tmp_path / "folder").mkdir()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    refused(save(model, tmp_path / "m.onnx"), "cannot be read")


def test_a_graph_without_nodes_is_not_called_damaged(tmp_path: Path) -> None:
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])
    model = helper.make_model(helper.make_graph([], "g", [images], [images]))
    refused(save(model, tmp_path / "m.onnx"), "its output is its input")


def test_a_missing_initializer_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    kept = [one for one in model.graph.initializer if one.name != "stem.bias"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    refused(save(model, tmp_path / "missing.onnx"), "stem", "stem.bias", "initializer is missing")


def test_a_cycle_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    stem = next(node for node in model.graph.node if node.name == "stem")
    stem.input[0] = "block_add.out"
    refused(save(model, tmp_path / "cycle.onnx"), "stem", "cycle")


def test_a_tensor_made_twice_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    model.graph.node.append(helper.make_node("Flatten", ["pool.out"], ["flatten.out"], name="two"))
    refused(save(model, tmp_path / "twice.onnx"), "two", "exists already")


@pytest.mark.parametrize("dims", [[2**40, 2**40], [-1, 8], [9, 8, 3, 3]])
def test_shapes_that_the_data_do_not_fill_are_refused(
    dims: list[int], model: onnx.ModelProto, tmp_path: Path
) -> None:
    tensor = next(one for one in model.graph.initializer if one.name == "block_conv1.weight")
    del tensor.dims[:]
    tensor.dims.extend(dims)
    refused(save(model, tmp_path / "huge.onnx"), "block_conv1.weight")


def test_an_input_of_a_huge_shape_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40
    refused(save(model, tmp_path / "input.onnx"), "images")
