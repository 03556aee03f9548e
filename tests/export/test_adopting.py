"""Somebody else's classifier as a run folder: what is put into its graph, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

import qadtr
from deploy.core.engine_protocol import Engine
from deploy.core.errors import InputError, QadtrError, UsageError
from deploy.core.model_engine import run_all
from deploy.core.records import read_records
from deploy.engine import open_engine
from export.certificate import CertificateError
from export.origin import origin_of, recorded_budget
from qadtr.__main__ import main
from tests.export.foreign_files import CLASSES, foreign
from training.data import ImageSet
from training.run_folder import RunFolder

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """uint8 40×3×16×16."""
    return np.random.default_rng(9).integers(0, 256, size=(40, 3, 16, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, images: np.ndarray) -> Path:
    labels = np.arange(len(images)) % CLASSES
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        ImageSet.from_arrays(images, labels, split=split).write(folder)
    return folder


def themselves(path: Path, fed: np.ndarray) -> np.ndarray:
    """What onnxruntime gives for the file that came."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.asarray(session.run(None, {name: fed})[0])


def normalized(images: np.ndarray) -> np.ndarray:
    mean, std = (np.asarray(v, np.float32).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    return np.asarray((images.astype(np.float32) / np.float32(255) - mean) / std)


@pytest.mark.parametrize(
    ("options", "given", "fed"),
    [
        ({}, {"mean": MEAN, "std": STD}, normalized),
        ({"names": ("images", "logits")}, {"mean": MEAN, "std": STD}, normalized),
        ({"names": ("logits", "images"), "outputs": ("images",)}, {"mean": (0.0,), "std": (1.0,)},
         lambda images: images.astype(np.float32) / np.float32(255)),
        ({"shape": ("N", 3, "H", "W")}, {"mean": MEAN, "std": STD, "size": (16, 16)}, normalized),
        ({"shape": (4, 3, 16, 16)}, {"mean": MEAN, "std": STD}, normalized),
        ({"shape": ("N", 16, 16, 3), "channels_last": True},
         {"mean": MEAN, "std": STD, "layout": "NHWC"},
         lambda images: normalized(images).transpose(0, 2, 3, 1)),
        ({"kind": TensorProto.UINT8}, {}, lambda images: images),
        ({"kind": TensorProto.UINT8, "shape": ("N", 16, 16, 3), "channels_last": True},
         {"layout": "NHWC"}, lambda images: images.transpose(0, 2, 3, 1)),
        ({"kind": TensorProto.FLOAT16}, {"mean": MEAN, "std": STD},
         lambda images: normalized(images).astype(np.float16)),
        ({"after": [helper.make_node("Softmax", ["y"], ["p"])], "outputs": ("p",)},
         {"mean": MEAN, "std": STD}, normalized),
    ],
    ids=["rgb", "own-names", "swapped-names", "open-size", "fixed-batch", "channels-last",
         "bytes", "bytes-channels-last", "float16", "softmax"],
)  # fmt: skip
def test_bytes_in_the_files_own_logits_out(
    options: dict[str, Any],
    given: dict[str, Any],
    fed: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    data: Path,
    tmp_path: Path,
) -> None:
    outputs = {"outputs": options["names"][1:]} if "names" in options else {}
    path = foreign(tmp_path / "theirs.onnx", **{**outputs, **options})
    found = qadtr.adopt(path, data, tmp_path / "run", **given)
    run = RunFolder.open(tmp_path / "run")
    assert (run.adopted, run.bit_widths, run.network_name) == (True, (32,), "theirs")
    assert not found.certificate.ok
    assert found.optimized.largest_difference <= found.max_logit_difference
    with open_engine("onnxruntime", run.model_file(32)) as engine:
        ours = run_all(engine, images[:4])
    theirs = themselves(path, fed(images[:4]))
    close = 1e-5 if theirs.dtype == np.float32 else 2e-3
    np.testing.assert_allclose(ours, theirs, rtol=close, atol=close * np.abs(theirs).max())
    assert origin_of(onnx.load(run.model_file(32))) == run.checkpoint_sha256
    assert recorded_budget(run.model_file(32)) == (found.max_logit_difference, 0.005)


def test_grey_images_and_a_stated_bit_width(tmp_path: Path) -> None:
    grey = np.random.default_rng(2).integers(0, 256, (20, 1, 12, 20), dtype=np.uint8)
    ImageSet.from_arrays(grey, np.arange(20) % CLASSES, split="test").write(tmp_path)
    path = foreign(tmp_path / "grey.onnx", shape=("N", 1, 12, 20))
    found = qadtr.adopt(path, tmp_path, tmp_path / "run", bits=4, mean=(0.5,), std=(0.25,))
    assert (found.bits, found.run.spec.image_size) == (4, (12, 20))


def test_an_image_that_is_quantized_at_once_is_codes_by_a_table(
    data: Path, images: np.ndarray, tmp_path: Path
) -> None:
    """Nothing in float is left before the first layer, and the codes are QuantizeLinear's."""
    path = tmp_path / "quantized.onnx"
    model = onnx.load(foreign(path))
    graph = model.graph
    for name, value in (
        ("s", np.float32(0.031)), ("z", np.uint8(121)), ("ws", np.float32(0.02)), ("wz", np.int8(0))
    ):  # fmt: skip
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    quantize = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["codes"])
    back = helper.make_node("DequantizeLinear", ["codes", "s", "z"], ["back"])
    graph.node[0].input[0] = "back"
    graph.node.insert(0, quantize)
    graph.node.insert(1, back)
    onnx.save(model, path)
    found = qadtr.adopt(path, data, tmp_path / "run", mean=MEAN, std=STD)
    assert found.bits == 8
    made = onnx.load(found.run.model_file(8))
    assert [node.op_type for node in made.graph.node][:4] == [
        "Cast", "Add", "Gather", "DequantizeLinear"
    ]  # fmt: skip
    (table,) = (one for one in made.graph.initializer if one.name == "images.table")
    assert (table.data_type, list(table.dims)) == (TensorProto.UINT8, [3 * 256])


def test_tensors_beside_the_file_come_into_it(data: Path, tmp_path: Path) -> None:
    path = foreign(tmp_path / "theirs.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="theirs.bin", size_threshold=0)
    found = qadtr.adopt(path, data, tmp_path / "run", mean=MEAN, std=STD)
    (tmp_path / "theirs.bin").unlink()
    with open_engine("onnxruntime", found.run.model_file(32)) as engine:
        assert engine.classes == CLASSES
    with pytest.raises(InputError, match=r"'theirs.bin' cannot be read"):
        qadtr.adopt(path, data, tmp_path / "run", mean=MEAN, std=STD)


@pytest.mark.parametrize("unused", [(), ("my.ops",)])
def test_operator_sets_that_no_node_uses_are_left_out(
    unused: tuple[str, ...], data: Path, images: np.ndarray, tmp_path: Path
) -> None:
    """ONNX Runtime's preparation for quantization imports all operator sets that it knows."""
    path = foreign(tmp_path / "theirs.onnx", domains=unused)
    if not unused:
        quant_pre_process(path, path, skip_symbolic_shape=True)
        assert len(onnx.load(path).opset_import) > 1
    found = qadtr.adopt(path, data, tmp_path / "run", **USUAL)
    assert [one.domain for one in onnx.load(found.run.model_file(32)).opset_import] == [""]
    with open_engine("onnxruntime", found.run.model_file(32)) as engine:
        ours = run_all(engine, images[:3])
    plain = foreign(tmp_path / "plain.onnx")
    np.testing.assert_allclose(ours, themselves(plain, normalized(images[:3])), atol=1e-4)


def dynamically_quantized(path: Path, batch: int | str) -> None:
    foreign(path, shape=(batch, 3, 16, 16))
    quantize_dynamic(path, path)


def less_the_batch(path: Path, batch: int | str) -> None:
    """The logits less their mean over the batch, as BatchNormalization in training takes it."""
    nodes = [
        helper.make_node("ReduceMean", ["y"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["y", "mean"], ["z"]),
    ]
    foreign(path, shape=(batch, 3, 16, 16), after=nodes, outputs=("z",))


@pytest.mark.parametrize(
    ("write", "batch", "said"),
    [
        (
            dynamically_quantized,
            "N",
            r"DynamicQuantizeLinear computes one scale for all of them \('x",
        ),
        (dynamically_quantized, "N", r"quantize it statically .* fix the batch of its input at 1"),
        (dynamically_quantized, 4, r"one image at a time, differ by up to .* from batches of 4;"),
        (less_the_batch, "N", r"other images of its batch; .* export it in evaluation mode"),
    ],
)
def test_figures_that_would_depend_on_the_batch_are_refused(
    write: Callable[[Path, int | str], None],
    batch: int | str,
    said: str,
    data: Path,
    tmp_path: Path,
) -> None:
    write(tmp_path / "theirs.onnx", batch)
    with pytest.raises(InputError, match=said):
        qadtr.adopt(tmp_path / "theirs.onnx", data, tmp_path / "run", **USUAL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("write", [dynamically_quantized, less_the_batch])
def test_one_image_a_batch_depends_on_no_other(
    write: Callable[[Path, int | str], None], data: Path, images: np.ndarray, tmp_path: Path
) -> None:
    write(tmp_path / "theirs.onnx", 1)
    run = qadtr.adopt(tmp_path / "theirs.onnx", data, tmp_path / "run", **USUAL).run
    with open_engine("onnxruntime", run.model_file(run.bit_widths[0])) as engine:
        ours = run_all(engine, images[:3])
    theirs = [themselves(tmp_path / "theirs.onnx", normalized(images[[i]]))[0] for i in range(3)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_file_over_its_budget_leaves_the_earlier_adoption(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign(tmp_path / "theirs.onnx")
    found = qadtr.adopt(path, data, tmp_path / "run", **USUAL)
    files = {one: one.read_bytes() for one in found.run.path.rglob("*") if one.is_file()}

    def off(engine: Engine, images: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        return run_all(engine, images, batch_size) + np.float32(2 * found.max_logit_difference)

    monkeypatch.setattr("export.adopted_proof._require_same", lambda *_: None)
    monkeypatch.setattr("export.adopted_proof.run_all", off)
    with pytest.raises(InputError, match=r"the budget is .*; expected the engine to compute what"):
        qadtr.adopt(path, data, tmp_path / "run", **USUAL)
    left = {one: one.read_bytes() for one in found.run.path.rglob("*") if one.is_file()}
    assert left == files


def test_integers_can_be_asked_for(data: Path, tmp_path: Path) -> None:
    path = foreign(tmp_path / "theirs.onnx")
    with pytest.raises(CertificateError, match=r"NOT INTEGER: 0 of 1 convolution"):
        qadtr.adopt(path, data, tmp_path / "run", mean=MEAN, std=STD, require_integer=True)
    assert not (tmp_path / "run").exists()


def two_inputs(path: Path) -> None:
    foreign(path, more_inputs=[helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1])])


def two_outputs(path: Path) -> None:
    foreign(path, after=[helper.make_node("Relu", ["y"], ["z"])], outputs=("y", "z"))


def classes_alone(path: Path) -> None:
    last = helper.make_node("ArgMax", ["y"], ["class"], axis=1, keepdims=0)
    foreign(path, after=[last], outputs=("class",), output_type=TensorProto.INT64)


def computed_shape(path: Path) -> None:
    """Twice the logits, halved: reshaped by a shape that is computed from the batch's."""
    double = numpy_helper.from_array(np.array([1, 2]), "double")
    nodes = [
        helper.make_node("Constant", [], ["double"], value=double),
        helper.make_node("Concat", ["y", "y"], ["twice"], axis=1),
        helper.make_node("Shape", ["y"], ["shape"]),
        helper.make_node("Mul", ["shape", "double"], ["wide"]),
        helper.make_node("Reshape", ["twice", "wide"], ["flat2"]),
        helper.make_node("Split", ["flat2"], ["z", "rest"], axis=1),
        helper.make_node("Softmax", ["z"], ["p"]),
    ]
    foreign(path, after=nodes, outputs=("p",))


def test_arithmetic_of_shapes_is_no_layer_and_what_is_in_float_is_named(
    data: Path, tmp_path: Path
) -> None:
    computed_shape(tmp_path / "theirs.onnx")
    found = qadtr.adopt(tmp_path / "theirs.onnx", data, tmp_path / "run", **USUAL)
    shapes = [one for one in found.certificate.layers if set(one.input_types) == {"int64"}]
    assert {one.operator for one in shapes} >= {"Mul", "Add"}  # Add: of the image's table
    counts = found.certificate.counts()
    assert counts["gate"] == counts["addition"] == {"integer": 0, "float": 0}
    line = found.summary().splitlines()[2]
    assert line.startswith("in float: 1 convolution, 1 matrix product, 1 pool, ")


def unknown_operator(path: Path) -> None:
    foreign(path, after=[helper.make_node("Invented", ["y"], ["z"])], outputs=("z",))


def unknown_domain(path: Path) -> None:
    last = helper.make_node("Scale", ["y"], ["z"], domain="my.ops")
    foreign(path, after=[last], outputs=("z",), domains=["my.ops"])


def random_numbers(path: Path) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["y"], ["noise"]),
        helper.make_node("Add", ["y", "noise"], ["z"]),
    ]
    foreign(path, after=nodes, outputs=("z",))


def nan_weights(path: Path) -> None:
    weights = np.zeros((8, 3, 3, 3))
    weights[1, 2, 0, 0] = np.nan
    foreign(path, weights=weights)


def not_loaded(path: Path) -> None:
    """Shapes that do not fit each other: the engine refuses it."""
    foreign(path, weights=np.zeros((8, 4, 3, 3)))


def qonnx(path: Path) -> None:
    domain = "qonnx.custom_op.general"
    last = helper.make_node("Quant", ["y", "bias", "bias", "bias"], ["z"], domain=domain)
    foreign(path, after=[last], outputs=("z",), domains=[domain])


def old_opset(path: Path) -> None:
    foreign(path, opset=6)


def dynamic_height(path: Path) -> None:
    foreign(path, shape=("N", 3, "H", 16))


def channels_last(path: Path) -> None:
    foreign(path, shape=("N", 16, 16, 3), channels_last=True)


def five_channels(path: Path) -> None:
    foreign(path, shape=("N", 5, 16, 16))


def a_vector(path: Path) -> None:
    model = onnx.load(foreign(path))
    del model.graph.input[0].type.tensor_type.shape.dim[2:]
    onnx.save(model, path)


def bytes_file(path: Path) -> None:
    foreign(path, kind=TensorProto.UINT8)


def plain(path: Path) -> None:
    foreign(path)


def other_size(path: Path) -> None:
    foreign(path, shape=("N", 3, 20, 20))


def other_classes(path: Path) -> None:
    last = helper.make_node("Concat", ["y", "y"], ["z"], axis=1)
    foreign(path, after=[last], outputs=("z",))


def vast_padding(path: Path) -> None:
    model = onnx.load(foreign(path))
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    for old in [one for one in convolution.attribute if one.name == "pads"]:
        convolution.attribute.remove(old)
    convolution.attribute.append(helper.make_attribute("pads", [9000] * 4))
    onnx.save(model, path)


def text_file(path: Path) -> None:
    path.write_text("no model\n")


USUAL: dict[str, Any] = {"mean": MEAN, "std": STD}


@pytest.mark.parametrize(
    ("write", "given", "error", "said"),
    [
        (two_inputs, USUAL, InputError, r"has 2 inputs \('x' open×3×16×16, 'mask' 1\); expected"),
        (two_outputs, USUAL, InputError, r"has 2 outputs \(y, z\); select the logits.*--output y"),
        (plain, {**USUAL, "output": "q"}, UsageError, r"has no tensor 'q'; its outputs are y"),
        (classes_alone, USUAL, InputError, r"output is int64 open; expected logits.*--output"),
        (unknown_operator, USUAL, InputError, r"ONNX Runtime cannot run.*Invented"),
        (unknown_domain, USUAL, InputError, r"my\.ops"),
        (random_numbers, USUAL, InputError, r"operators 'RandomNormalLike'; a classifier may"),
        (nan_weights, USUAL, InputError, r"tensor 'w' holds 1 NaN among 216 values"),
        (not_loaded, USUAL, InputError, r"ONNX Runtime (cannot run|fails)"),
        (qonnx, USUAL, InputError, r"is a QONNX file.*qadtr lower"),
        (old_opset, USUAL, InputError, r"has opset 6, expected 7 or newer"),
        (dynamic_height, USUAL, UsageError, r"open×3×open×16, whose height or width.*--size"),
        (channels_last, USUAL, UsageError, r"open×16×16×3, channels last; give --layout NHWC"),
        (plain, {**USUAL, "layout": "NHWC"}, UsageError, r"leave out --layout NHWC"),
        (plain, {**USUAL, "layout": "CHWN"}, UsageError, r"--layout as one of NCHW, NHWC"),
        (plain, {**USUAL, "size": (8, 8)}, UsageError, r"but --size is 8 8; leave out --size"),
        (five_channels, USUAL, InputError, r"open×5×16×16; expected a fixed number of channels"),
        (a_vector, USUAL, InputError, r"is open×3; expected images"),
        (plain, {}, UsageError, r"is float; give its preprocessing.*--mean and --std"),
        (plain, {"mean": MEAN}, UsageError, r"mean and std belong together"),
        (plain, {"mean": (0.1, 0.2), "std": (1.0, 1.0)}, UsageError, r"2 values.*3 channels"),
        (plain, {"mean": MEAN, "std": (0.0,)}, UsageError, r"std must be above 0"),
        (bytes_file, USUAL, UsageError, r"is uint8, so it takes the bytes; leave out --mean"),
        (other_size, USUAL, InputError, r"takes images of 3×20×20, but those of .* are 3×16×16"),
        (other_classes, USUAL, InputError, r"gives 20 logits, .* has 10 classes \(0, 1, 2, 3, 4"),
        (plain, {**USUAL, "kind": "cifar10"}, InputError, r"cifar-10-batches-py"),
        (plain, {**USUAL, "bits": 64}, InputError, r"bit-widths must be 32 \(float\) or 2 to 8"),
        (vast_padding, USUAL, InputError, r"the shape \[1, 8, 9007, 9007\], but at most"),
        (text_file, USUAL, InputError, r"is not an ONNX file"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_bad_input_is_one_clear_error(
    write: Callable[[Path], None],
    given: dict[str, Any],
    error: type[QadtrError],
    said: str,
    data: Path,
    tmp_path: Path,
) -> None:
    write(tmp_path / "theirs.onnx")
    with pytest.raises(error, match=said) as raised:
        qadtr.adopt(tmp_path / "theirs.onnx", data, tmp_path / "run", **given)
    assert type(raised.value) is error
    assert not (tmp_path / "run").exists()


def test_the_tensor_of_the_logits_can_be_named(
    data: Path, images: np.ndarray, tmp_path: Path
) -> None:
    for write in (two_outputs, classes_alone):
        write(tmp_path / "theirs.onnx")
        run = tmp_path / write.__name__
        found = qadtr.adopt(tmp_path / "theirs.onnx", data, run, output="y", **USUAL)
        foreign(tmp_path / "plain.onnx")
        with open_engine("onnxruntime", found.run.model_file(32)) as engine:
            ours = run_all(engine, images[:3])
        theirs = themselves(tmp_path / "plain.onnx", normalized(images[:3]))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("other", ["file", "options"])
def test_another_model_in_the_folder_keeps_no_records_of_the_first(
    other: str, data: Path, tmp_path: Path
) -> None:
    path = foreign(tmp_path / "theirs.onnx")
    first = qadtr.adopt(path, data, tmp_path / "run", **USUAL).run
    made = first.path / "patches" / "made.npz"
    made.parent.mkdir()
    made.write_bytes(b"")
    assert qadtr.adopt(path, data, first.path, **USUAL).run.checkpoint_sha256
    records = {one.name for one in first.records.iterdir()}
    assert records
    given: dict[str, Any] = {"mean": (0.1,), "std": (1.0,)} if other == "options" else USUAL
    if other == "file":
        foreign(path, weights=np.ones((8, 3, 3, 3)))
    with pytest.raises(UsageError, match=r"run holds another adopted model; give --overwrite"):
        qadtr.adopt(path, data, first.path, **given)
    assert {one.name for one in first.records.iterdir()} == records
    words = [f"--{name}={value[0]}" for name, value in given.items()]
    arguments = ["adopt", str(path), "--data", str(data), "--out", str(first.path)]
    assert main([*arguments, *words]) == 4
    assert main([*arguments, *words, "--overwrite"]) == 0
    (kept,) = read_records(first.records)
    digest = RunFolder.open(first.path).checkpoint_sha256
    assert (kept["kind"], kept["payload"]["checkpoint_sha256"]) == ("certificate", digest)
    assert not records.intersection(one.name for one in first.records.iterdir())
    assert made.is_file()


def test_places(data: Path, tmp_path: Path) -> None:
    path = foreign(tmp_path / "theirs.onnx")
    with pytest.raises(
        UsageError, match="is not a run folder of an adopted model; give a new folder"
    ):
        qadtr.adopt(path, data, data, **USUAL)
    with pytest.raises(InputError, match="has no images of a known kind"):
        qadtr.adopt(path, tmp_path, tmp_path / "run", **USUAL)
    with pytest.raises(InputError, match="there is no data folder"):
        qadtr.adopt(path, tmp_path / "nowhere", tmp_path / "run", **USUAL)
    qadtr.adopt(path, data, tmp_path / "run", bits=8, **USUAL)
    with pytest.raises(
        UsageError, match=r"holds another adopted model; give --overwrite to replace it"
    ):
        qadtr.adopt(path, data, tmp_path / "run", **USUAL)
    (tmp_path / "run" / "adopted.json").unlink()  # cut short
    run = qadtr.adopt(path, data, tmp_path / "run", **USUAL).run  # again, as another width
    assert sorted(one.name for one in (run.path / "export").glob("*.onnx")) == ["adopted-32.onnx"]
    with pytest.raises(InputError, match=r"adopted from theirs.onnx: there is no network in torch"):
        run.load_network()
    with pytest.raises(InputError, match=r"adopted from theirs.onnx and has one model, at 32 bits"):
        run.exported([4])
    sidecar = tmp_path / "run" / "adopted.json"
    facts = json.loads(sidecar.read_text())
    for broken, said in (
        ({**facts, "format": "x"}, "was not written by `qadtr adopt`"),
        ({**facts, "format_version": 9}, "format version 9"),
        ({k: v for k, v in facts.items() if k != "classes"}, "lacks classes"),
    ):
        sidecar.write_text(json.dumps(broken))
        with pytest.raises(InputError, match=said):
            RunFolder.open(tmp_path / "run")
