"""Bundles by a lab that signs what must not ship: hashes, signature and golden data all fit."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy.core.files import sha256_of_bytes
from deploy.core.model_contents import code_tensors, read_model_contents
from deploy.core.model_engine import run_all
from deploy.core.npz import npz_bytes
from deploy.core.patch_set import PatchSet
from deploy.core.strict_json import json_bytes
from deploy.device.bundle_reading import checksums_text
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine, codes_from_onnxruntime
from deploy.device.profile_check import profiled_run
from deploy.device.signature import sign
from deploy.device.suite import pasted_sha256
from export.reference import IntegerReference
from tests.deploy.device.conftest import rehashed

Files = dict[str, bytes]
Change = Callable[[dict[str, Any]], None]
Attack = Callable[[Files, np.random.Generator, Path], str]
"""Changes the files in place and returns words that the refusal must hold."""

MODEL = "models/onnxruntime-4.onnx"
IMAGES, LAB, GOLDEN = "images/images.npz", "lab/predictions.npz", "golden/golden.npz"
LOUD = "patches/patch-001"
"""The patch that covers the image and nearly always wins; here it is the gated one."""


def signed(files: Files, key: Path, change: Change = lambda manifest: None) -> Files:
    """Hashes, checksums and signature of what the files are now."""
    files = rehashed(files, change)
    files["manifest.sig"] = sign(files["manifest.json"], key)
    files["manifest.sha256"] = checksums_text(files["manifest.json"], files["manifest.sig"])
    return files


def loud_is_gated(files: Files) -> Files:
    """The bundle of the tests with its strong patch as the one gate: it fails as it is."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["patches"][0]["gated"], manifest["patches"][1]["gated"] = False, True

    return rehashed(files, change)


def honest_bundle(files: Files, number: int) -> Files:
    """What attack ``number`` starts from: images of its own, unsigned; it passes, or for attacks on
    the suite, whose model must not ship, fails its gate."""
    rng = np.random.default_rng([31, number])
    suite = ATTACKS[number % len(ATTACKS)] in SUITE_ATTACKS
    parts = dict(loud_is_gated(files) if suite else files)
    _suite(parts, np.sort(rng.choice(240, 200, replace=False)))
    return parts


def dishonest_bundle(files: Files, number: int, folder: Path, key: Path) -> tuple[str, str, Files]:
    """Attack ``number``: its name, the words of its refusal, and the signed files."""
    rng = np.random.default_rng([30, number])
    attack = ATTACKS[number % len(ATTACKS)]
    parts = honest_bundle(files, number)
    words = attack(parts, rng, folder)
    return f"{number}: {attack.__name__}", words, signed(parts, key)


def arrays_of(data: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(data)) as archive:
        return {name: archive[name] for name in archive.files}


def in_manifest(files: Files, change: Change) -> None:
    manifest = json.loads(files["manifest.json"])
    change(manifest)
    files["manifest.json"] = json_bytes(manifest)


# ------------------------------------------------------------------ models


def _model(files: Files) -> onnx.ModelProto:
    return onnx.load_from_string(files[MODEL])


def _behind_the_logits(model: onnx.ModelProto) -> str:
    """Give the true logits another name and return it, so that nodes can follow."""
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == "logits":
                node.output[place] = "true"
    return "true"


def _keep(files: Files, model: onnx.ModelProto) -> None:
    files[MODEL] = model.SerializeToString()


def _outside(tensor: onnx.TensorProto, location: str) -> None:
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def weights_outside(files: Files, rng: np.random.Generator, folder: Path) -> str:
    model = _model(files)
    tensor = rng.choice([one for one in model.graph.initializer if one.raw_data])
    place = str(rng.choice(["w.bin", "../w.bin", "images/images.npz", "/dev/zero"]))
    (folder / "w.bin").write_bytes(tensor.raw_data)
    _outside(tensor, place)
    if rng.random() < 0.3:
        tensor.ClearField("data_location")  # entries without the flag, or the flag without them
    elif rng.random() < 0.3:
        tensor.ClearField("external_data")
    _keep(files, model)
    return "data outside the file"


def weights_outside_in_an_attribute(files: Files, rng: np.random.Generator, folder: Path) -> str:
    model = _model(files)
    constant = numpy_helper.from_array(np.ones(64, np.float32), "hidden")
    (folder / "w.bin").write_bytes(constant.raw_data)
    _outside(constant, "w.bin")
    node = helper.make_node("Constant", [], ["hidden"], value=constant)
    choice = int(rng.integers(4))
    if choice == 0:
        model.graph.node.insert(0, node)
    elif choice == 1:
        graph = helper.make_graph([node], "inner", [], [])
        model.graph.node.insert(0, helper.make_node("If", ["c"], ["d"], then_branch=graph))
    elif choice == 2:
        domains = [helper.make_opsetid("", 21)]
        model.functions.append(helper.make_function("own", "f", [], ["hidden"], [node], domains))
    else:
        sparse = helper.make_sparse_tensor(
            constant, numpy_helper.from_array(np.arange(64), "at"), [64]
        )
        model.graph.sparse_initializer.append(sparse)
    _keep(files, model)
    return "data outside the file"


def a_foreign_operator(files: Files, rng: np.random.Generator, folder: Path) -> str:
    model = _model(files)
    true = _behind_the_logits(model)
    operators = HARMLESS_OPERATORS if rng.random() < 0.3 else OPERATORS
    operator, *more = operators[int(rng.integers(len(operators)))]
    domain = more[0] if more else ""
    given = {"equation": "ij->ij"} if operator == "Einsum" else {}
    node = helper.make_node(operator, [true], ["logits"], domain=domain, **given)
    model.graph.node.append(node)
    if domain and domain not in {one.domain for one in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    _keep(files, model)
    return "holds the operators"


def a_foreign_operator_of(files: Files, operator: str) -> None:
    model = _model(files)
    model.graph.node.append(helper.make_node(operator, [_behind_the_logits(model)], ["logits"]))
    _keep(files, model)


HARMLESS_OPERATORS: tuple[tuple[str, ...], ...] = (
    ("Einsum",),
    ("Identity",),
    ("Dropout",),
    ("Sum",),
    ("Mean",),
    ("Max",),
)
"""They give the true logits: nothing but the list refuses them."""

OPERATORS: tuple[tuple[str, ...], ...] = (
    ("Einsum",),
    ("Where",),
    ("Shape",),
    ("Size",),
    ("NonZero",),
    ("RandomUniform",),
    ("RandomNormalLike",),
    ("Bernoulli",),
    ("Multinomial",),
    ("Dropout",),
    ("MatMul",),
    ("Conv",),
    ("Identity",),
    ("Loop",),
    ("Scan",),
    ("If",),
    ("EPContext", "com.microsoft"),
    ("FusedMatMul", "com.microsoft"),
    ("QLinearConv", "com.microsoft"),
    ("Flatten", "somebody.else"),
    ("Transpose", "com.microsoft.nchwc"),
)


def a_graph_in_an_attribute(files: Files, rng: np.random.Generator, folder: Path) -> str:
    model = _model(files)
    inner = helper.make_graph(
        [helper.make_node("Conv", ["images", "w"], ["o"], name="pool")], "g", [], []
    )
    node = rng.choice(list(model.graph.node))
    node.attribute.append(helper.make_attribute("hidden", inner))
    _keep(files, model)
    return "a graph in an attribute"


def a_function_of_the_file(files: Files, rng: np.random.Generator, folder: Path) -> str:
    """The name of a listed operator, and a body of its own."""
    model = _model(files)
    body = [helper.make_node("RandomUniform", [], ["y"], shape=[1])]
    name = str(rng.choice(["QLinearConv", "Flatten", "QGemm"]))
    domain = "com.microsoft" if name == "QGemm" else ""
    domains = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function(domain, name, ["x"], ["y"], body, domains))
    _keep(files, model)
    return "a function"


def codes_cast_to_float(files: Files, rng: np.random.Generator, folder: Path) -> str:
    model = _model(files)
    to = int(rng.choice([TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE]))
    model.graph.node.append(helper.make_node("Cast", ["images"], ["f"], to=to))
    _keep(files, model)
    return "holds no integers"


def an_attribute_twice(files: Files, rng: np.random.Generator, folder: Path) -> str:
    """Of two ``to`` the engine takes the last."""
    model = _model(files)
    node = next(node for node in model.graph.node if node.op_type == "Cast")
    node.attribute.append(helper.make_attribute("to", int(rng.choice([TensorProto.FLOAT, 3]))))
    _keep(files, model)
    return "the same attribute twice"


def floats_between_the_codes(files: Files, rng: np.random.Generator, folder: Path) -> str:
    """Codes become numbers by a table, are interpolated, and become codes again: no Cast to float.

    Out of order, they do not even look as if they were computed from the image."""
    model = _model(files)
    convolutions = [one for one in model.graph.node if one.op_type == "QLinearConv"][1:]
    where = convolutions[int(rng.integers(len(convolutions)))]
    codes, where.input[0] = where.input[0], "back"
    scales = (np.array([1, 1, one, one], np.float32) for one in (2, 0.5))
    constants = {
        "table": np.arange(256, dtype=np.float32),
        "up": next(scales),
        "down": next(scales),
    }
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    nodes = [
        helper.make_node("Cast", [codes], ["places"], to=TensorProto.INT32),
        helper.make_node("Gather", ["table", "places"], ["f"]),
        helper.make_node("Resize", ["f", "", "up"], ["large"], mode="linear"),
        helper.make_node("Resize", ["large", "", "down"], ["small"], mode="linear"),
        helper.make_node("Cast", ["small"], ["back"], to=TensorProto.UINT8),
    ]
    in_order = bool(rng.random() < 0.5)
    if not in_order:
        nodes = [*nodes[1:], nodes[0]]
    place = list(model.graph.node).index(where)
    for node in reversed(nodes):
        model.graph.node.insert(place, node)
    if in_order:
        _keep(files, model)
        return "from floating-point numbers"
    _honest_about(files, model, folder, without=("f", "large", "small"))
    return "before the node that computes it"


def neighbours_mixed(files: Files, rng: np.random.Generator, folder: Path) -> str:
    """With listed operators alone: each image's codes are added to those of its mirror place.

    The golden images do not always show it: they may be one image, or one again and again."""
    model = _model(files)
    last = next(node for node in model.graph.node if node.op_type == "QGemm")
    flat, scale, zero = last.input[:3]
    for name, value in (("start", -1), ("end", -(2**31)), ("axis", 0), ("step", -1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    turned = helper.make_node("Slice", [flat, "start", "end", "axis", "step"], ["turned"])
    operands = [flat, scale, zero, "turned", scale, zero, scale, zero]
    mixed = helper.make_node("QLinearAdd", operands, ["mixed"], domain="com.microsoft")
    last.input[0] = "mixed"
    place = list(model.graph.node).index(last)
    model.graph.node.insert(place, mixed)
    model.graph.node.insert(place, turned)
    golden = arrays_of(files[GOLDEN])["inputs"]
    chosen: list[NDArray[np.uint8]] = [golden, golden[:1], np.repeat(golden[:1], 4, axis=0)]
    _honest_about(files, model, folder, golden=chosen[int(rng.integers(3))])
    return "depends on the other images"


def neighbours_mixed_in_a_fixed_batch(files: Files, rng: np.random.Generator, folder: Path) -> str:
    """As many golden images as the batch has: in both of its directions the mirrored pairs are the
    same."""
    neighbours_mixed(files, rng, folder)
    model = _model(files)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 64
    del model.graph.value_info[:]
    _honest_about(files, model, folder, golden=arrays_of(files[IMAGES])["images"][:64])
    return "depends on the other images"


def _honest_about(
    files: Files,
    model: onnx.ModelProto,
    folder: Path,
    *,
    golden: NDArray[np.uint8] | None = None,
    without: tuple[str, ...] = (),
) -> None:
    """Make golden data, labels, predictions and certificate what this model gives.

    ``without``: tensors that are not listed as golden."""
    _keep(files, model)
    path = folder / "model.onnx"
    path.write_bytes(files[MODEL])
    images, arrays = arrays_of(files[IMAGES]), arrays_of(files[GOLDEN])
    inputs = arrays["inputs"] if golden is None else golden
    found = code_tensors(read_model_contents(files[MODEL], MODEL), "images", "logits")
    tensors = [name for name in found if name not in without]
    with OnnxRuntimeEngine(path) as engine:
        logits = run_all(engine, inputs)
        images["labels"] = engine.predict(images["images"])
    files[IMAGES] = npz_bytes(images)
    codes = codes_from_onnxruntime(path, inputs, tensors)
    named = {f"codes-{number}": codes[name] for number, name in enumerate(tensors)}
    files[GOLDEN] = npz_bytes({"inputs": inputs, "logits": logits, **named})
    _predict(files, path)
    size = 64 if model.graph.input[0].type.tensor_type.shape.dim[0].dim_value else 8
    kinds = profiled_run(path, images["images"][:size]).require_integers()

    def change(manifest: dict[str, Any]) -> None:
        manifest["golden"].update(tensors=tensors, n=len(inputs))
        manifest["models"]["onnxruntime"]["certificate"]["kinds"] = kinds

    in_manifest(files, change)


def adopted(manifest: dict[str, Any]) -> None:
    manifest["models"]["onnxruntime"]["target"] = "adopted"


def an_adopted_file_that_knows_its_batch(
    files: Files, rng: np.random.Generator, folder: Path
) -> str:
    """Called somebody else's, a file may have many operators: right in batches, constant alone."""
    model = _model(files)
    true = _behind_the_logits(model)
    bad = np.zeros((1, 5), np.float32)
    bad[0, int(rng.integers(5))] = 1000
    for name, value in (("bad", bad), ("most", np.array([int(rng.integers(2, 4))]))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["images"], ["count"], start=0, end=1),
            helper.make_node("Less", ["count", "most"], ["alone"]),
            helper.make_node("Where", ["alone", "bad", true], ["logits"]),
        ]
    )
    _keep(files, model)
    in_manifest(files, adopted)
    if rng.random() < 0.5:  # golden images that do not show it: all of one class, that one
        bad[0] = arrays_of(files[GOLDEN])["logits"][0]
        _keep_constant(model, "bad", bad)
        arrays = arrays_of(files[GOLDEN])
        arrays = {n: np.repeat(values[:1], 4, axis=0) for n, values in arrays.items()}
        _keep(files, model)
        files[GOLDEN] = npz_bytes(arrays)
    return "depends on the other images"


def _keep_constant(model: onnx.ModelProto, name: str, value: NDArray[Any]) -> None:
    stored = next(one for one in model.graph.initializer if one.name == name)
    stored.CopyFrom(numpy_helper.from_array(value, name))


def an_adopted_file_that_draws(files: Files, rng: np.random.Generator, folder: Path) -> str:
    a_foreign_operator_of(files, str(rng.choice(["RandomUniformLike", "Bernoulli", "Loop", "If"])))
    in_manifest(files, adopted)
    return "control flow, randomness"


def an_adopted_file_with_any_budget(files: Files, rng: np.random.Generator, folder: Path) -> str:
    golden = arrays_of(files[GOLDEN])
    golden["logits"] = rng.permutation(golden["logits"].T).T.astype(np.float32)
    files[GOLDEN] = npz_bytes(golden)
    budgets = [{"max_flips": 1000}, {"max_flips": 4}]

    def change(manifest: dict[str, Any]) -> None:
        adopted(manifest)
        budget = budgets[int(rng.integers(2))]
        manifest["models"]["onnxruntime"].update(max_logit_difference=1e3, **budget)

    in_manifest(files, change)
    return "any model meets"


def _predict(files: Files, path: Path) -> None:
    """Make the lab's predictions those of a model."""
    images, lab = arrays_of(files[IMAGES]), arrays_of(files[LAB])
    with OnnxRuntimeEngine(path) as engine:
        lab["clean"] = engine.predict(images["images"])
        for number in range(2):
            own = _patch(files, number).paste_on(images["images"])
            lab[f"patched-{number}"] = engine.predict(own)
    files[LAB] = npz_bytes(lab)


def of_another_format(files: Files, rng: np.random.Generator, folder: Path) -> str:
    files[MODEL] = b"\x12\x80\x80\x00ORTM" + files[MODEL]
    return "format"


def a_nearly_constant_network(files: Files, rng: np.random.Generator, folder: Path) -> str:
    """The dishonest lab's own network, honestly bundled: its reference, predictions, thresholds."""
    model = _model(files)
    favourite = int(rng.integers(5))
    for tensor in model.graph.initializer:
        if tensor.name == "dense.bias":
            bias = numpy_helper.to_array(tensor).copy()
            bias[favourite] += int(rng.integers(60_000, 300_000))
            tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    _keep(files, model)
    path = folder / "constant.onnx"
    path.write_bytes(files[MODEL])
    reference = IntegerReference(path)
    golden = arrays_of(files[GOLDEN])
    golden["logits"] = reference.run(golden["inputs"])
    for number, codes in enumerate(reference.codes(golden["inputs"]).values()):
        golden[f"codes-{number}"] = codes
    files[GOLDEN] = npz_bytes(golden)
    _predict(files, path)

    def change(manifest: dict[str, Any]) -> None:
        manifest["thresholds"]["min_clean"] = 0.0 if rng.random() < 0.5 else None

    in_manifest(files, change)
    return "nearly always one class"


# ------------------------------------------------------------------ golden data


def a_budget_for_the_exact_engine(files: Files, rng: np.random.Generator, folder: Path) -> str:
    golden = arrays_of(files[GOLDEN])
    golden["logits"] = golden["logits"] * np.float32(0.5)
    files[GOLDEN] = npz_bytes(golden)
    more = [{"max_logit_difference": 1e6, "max_flips": 1000}, {"max_flips": 4}]

    def change(manifest: dict[str, Any]) -> None:
        manifest["models"]["onnxruntime"].update(more[int(rng.integers(2))])

    in_manifest(files, change)
    return "computes the codes exactly"


def tensors_left_out(files: Files, rng: np.random.Generator, folder: Path) -> str:
    golden = arrays_of(files[GOLDEN])
    tensors = json.loads(files["manifest.json"])["golden"]["tensors"]
    kept = sorted(rng.choice(len(tensors), int(rng.integers(0, len(tensors))), replace=False))
    codes = {f"codes-{i}": golden[f"codes-{old}"] for i, old in enumerate(kept)}
    files[GOLDEN] = npz_bytes({name: golden[name] for name in ("inputs", "logits")} | codes)
    in_manifest(files, lambda m: m["golden"].update(tensors=[tensors[i] for i in kept]))
    return "expected golden codes for all"


# ------------------------------------------------------------------ suites


def _patch(files: Files, number: int) -> PatchSet:
    path = f"patches/patch-{number:03d}"
    about = json.loads(files[f"{path}.json"])
    facts: dict[str, Any] = dict(arrays_of(files[f"{path}.npz"]))
    return PatchSet(name=about["name"], kind=about["kind"], **facts)


def _suite(files: Files, rows: NDArray[np.int64], images: NDArray[np.uint8] | None = None) -> None:
    """Make these rows of the images the whole suite, under new indices."""
    old, lab = arrays_of(files[IMAGES]), arrays_of(files[LAB])
    now = old["images"][rows] if images is None else images
    index = np.arange(len(rows))
    files[IMAGES] = npz_bytes({"images": now, "labels": old["labels"][rows], "indices": index})
    files[LAB] = npz_bytes({name: values[rows] for name, values in lab.items()})
    for number in range(2):
        path = f"patches/patch-{number:03d}"
        arrays = arrays_of(files[f"{path}.npz"])
        arrays["image_indices"] = index
        arrays["positions"] = arrays["positions"][rows]
        _put_patch(files, number, arrays)
    in_manifest(files, lambda m: m["images"].update(n=len(rows)))


def _put_patch(files: Files, number: int, arrays: dict[str, NDArray[Any]], **facts: Any) -> None:
    path = f"patches/patch-{number:03d}"
    files[f"{path}.npz"] = npz_bytes(arrays)
    about = json.loads(files[f"{path}.json"]) | facts
    about["sha256"] = sha256_of_bytes(files[f"{path}.npz"])
    files[f"{path}.json"] = json_bytes(about)
    images = arrays_of(files[IMAGES])["images"]
    pasted = pasted_sha256(_patch(files, number), images[arrays["image_indices"][:16]])

    def change(manifest: dict[str, Any]) -> None:
        manifest["patches"][number].update(pasted_sha256=pasted, **facts)

    in_manifest(files, change)


def _losing(files: Files) -> NDArray[np.int64]:
    """Rows on which the strong patch does not win."""
    lab = arrays_of(files[LAB])
    return np.flatnonzero(lab["clean"] == lab["patched-1"])


def _no_drift(files: Files) -> None:
    in_manifest(files, lambda m: m["thresholds"].update(max_drift=None))


def one_image_again_and_again(files: Files, rng: np.random.Generator, folder: Path) -> str:
    few = rng.choice(_losing(files), int(rng.integers(1, 6)), replace=False)
    rows = np.resize(few, 200)
    images = arrays_of(files[IMAGES])["images"][rows]
    if rng.random() < 0.5:  # not quite the same
        noise = rng.integers(-2, 3, images.shape)
        images = np.clip(images.astype(np.int64) + noise, 0, 255).astype(np.uint8)
    _suite(files, rows, images)
    _no_drift(files)
    return ""


def pixels_of_the_image_itself(files: Files, rng: np.random.Generator, folder: Path) -> str:
    images = arrays_of(files[IMAGES])["images"]
    count, _, height, width = images.shape
    side = int(rng.integers(1, height + 1))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    patch = images[:, :, top : top + side, left : left + side].copy()
    patch ^= np.uint8(rng.integers(0, 4))  # by three levels at most
    few = int(rng.integers(0, 1 + side * side // 11))  # and less than one pixel in ten by much
    patch.reshape(count, 3, -1)[:, :, :few] ^= np.uint8(128)
    arrays: dict[str, NDArray[Any]] = {
        "patch": patch,
        "mask": np.ones((side, side), np.bool_),
        "positions": np.tile(np.array([top, left], np.int32), (count, 1)),
        "image_indices": np.arange(count),
    }
    _put_patch(files, 1, arrays, kind="per-image")
    _no_drift(files)
    return "the patch leaves"


def patch_on_no_pixel(files: Files, rng: np.random.Generator, folder: Path) -> str:
    arrays = arrays_of(files[f"{LOUD}.npz"])
    if rng.random() < 0.5:
        arrays["mask"] = np.zeros_like(arrays["mask"])
        words = "a mask that covers a pixel"
    else:
        arrays["positions"] = arrays["positions"] + np.int32(rng.integers(1, 100))
        words = "outside"
    files[f"{LOUD}.npz"] = npz_bytes(arrays)
    about = json.loads(files[f"{LOUD}.json"])
    about["sha256"] = sha256_of_bytes(files[f"{LOUD}.npz"])
    files[f"{LOUD}.json"] = json_bytes(about)
    return words


def labels_that_leave_the_losing_images(
    files: Files, rng: np.random.Generator, folder: Path
) -> str:
    images, lab = arrays_of(files[IMAGES]), arrays_of(files[LAB])
    won = lab["clean"] != lab["patched-1"]
    images["labels"] = np.where(won, (images["labels"] + 1) % 5, images["labels"])
    files[IMAGES] = npz_bytes(images)
    _no_drift(files)
    choice = rng.random()

    def change(manifest: dict[str, Any]) -> None:
        manifest["thresholds"]["min_clean"] = None if choice < 0.5 else 0.0

    in_manifest(files, change)
    return "images count"


def images_of_the_target_alone(files: Files, rng: np.random.Generator, folder: Path) -> str:
    """A targeted patch, and a suite that is mostly of its target's class: those do not count."""
    labels = arrays_of(files[IMAGES])["labels"]
    target = int(rng.integers(5))
    own = np.flatnonzero(labels == target)
    others = np.intersect1d(np.flatnonzero(labels != target), _losing(files))[: len(own) * 5 // 8]
    rows = np.sort(np.concatenate([own, others]))
    _suite(files, rows)
    _put_patch(files, 1, arrays_of(files[f"{LOUD}.npz"]), target=target)
    _no_drift(files)
    return ""


def images_of_one_class(files: Files, rng: np.random.Generator, folder: Path) -> str:
    labels = arrays_of(files[IMAGES])["labels"]
    _suite(files, np.flatnonzero(labels == rng.integers(5)))
    _no_drift(files)
    return "tells classes apart"


def a_patch_for_the_losing_images(files: Files, rng: np.random.Generator, folder: Path) -> str:
    """The suite is whole, and its patch is for those images alone on which it does not win."""
    losing = _losing(files)
    rows = np.sort(rng.choice(losing, int(rng.integers(20, len(losing) + 1)), replace=False))
    lab = arrays_of(files[LAB])
    files[LAB] = npz_bytes({**lab, "patched-1": lab["patched-1"][rows]})
    arrays = arrays_of(files[f"{LOUD}.npz"])
    arrays["image_indices"], arrays["positions"] = rows, arrays["positions"][rows]
    _put_patch(files, 1, arrays)
    _no_drift(files)
    return "the patch is not for"


def a_target_that_it_never_causes(files: Files, rng: np.random.Generator, folder: Path) -> str:
    caused = arrays_of(files[LAB])["patched-1"]
    target = int(rng.choice(np.setdiff1d(np.arange(5), caused)))
    _put_patch(files, 1, arrays_of(files[f"{LOUD}.npz"]), target=target)
    _no_drift(files)
    return "the target decides this"


def images_of_nearly_one_class(files: Files, rng: np.random.Generator, folder: Path) -> str:
    """A few others keep the number of labels up."""
    labels, losing = arrays_of(files[IMAGES])["labels"], _losing(files)
    most = np.bincount(labels[losing]).argmax()
    own = losing[labels[losing] == most]
    others = np.flatnonzero(labels != most)[: len(own) // int(rng.integers(12, 16))]
    _suite(files, np.sort(np.concatenate([own, others])))
    _no_drift(files)
    return "have the same label"


SUITE_ATTACKS: tuple[Attack, ...] = (
    one_image_again_and_again,
    pixels_of_the_image_itself,
    patch_on_no_pixel,
    labels_that_leave_the_losing_images,
    images_of_the_target_alone,
    a_patch_for_the_losing_images,
    a_target_that_it_never_causes,
    images_of_nearly_one_class,
)
"""On a bundle whose gate fails without them; the others start from one that passes."""

ATTACKS: tuple[Attack, ...] = (
    weights_outside,
    weights_outside_in_an_attribute,
    a_foreign_operator,
    a_graph_in_an_attribute,
    a_function_of_the_file,
    codes_cast_to_float,
    an_attribute_twice,
    floats_between_the_codes,
    neighbours_mixed,
    neighbours_mixed_in_a_fixed_batch,
    of_another_format,
    a_nearly_constant_network,
    an_adopted_file_that_knows_its_batch,
    an_adopted_file_that_draws,
    an_adopted_file_with_any_budget,
    a_budget_for_the_exact_engine,
    tensors_left_out,
    images_of_one_class,
    *SUITE_ATTACKS,
)
