"""Every reader of a file that crosses a stage: its corpus, how inputs are made, what reads them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from deploy.core.errors import InputError
from deploy.core.files import sha256_of_bytes
from deploy.core.model_contents import require_contents
from deploy.core.npz import read_npz, write_npz
from deploy.core.patch_set import read_patch_set
from deploy.core.records import read_record
from deploy.core.stored_zip import stored_zip_bytes
from deploy.core.strict_json import json_bytes, read_json
from deploy.core.text import printable
from deploy.device.bundle_reading import Bundle, checksums_text
from deploy.device.command import main as validate
from deploy.device.manifest import parse_manifest
from deploy.device.onnx_outputs import with_outputs
from deploy.device.profile_check import ran_kinds
from deploy.device.signature import require_signature
from deploy.device.suite import check_preprocessing, read_golden, read_suite
from deploy.tensorrt.engine_file import read_engine_file
from deploy.tensorrt.onnx_file import check_symmetric_int8
from eval.attacks.found import read_resumed
from eval.attacks.supplied.reading import read_supplied
from eval.measure.drift.chain import DeviceInputs, read_float_patches
from eval.stages.matrix.plan import read_plan
from eval.stages.pixel import attacked_so_far
from export.litert_certificate import certify_litert
from export.lowering import lower, lower_float
from export.origin import recorded_budget
from export.reading import read_model
from export.reference import IntegerReference, LiteRtReference, QdqReference
from qadtr.__main__ import main as qadtr
from tests.fuzz.containers import (
    arrays_changed,
    gzip_inside,
    png_chunks,
    tar_members,
    tensors_changed,
    zipped,
)
from tests.fuzz.mutation import (
    either,
    mutated,
    mutated_json,
    mutated_toml,
    words_changed,
)
from tests.fuzz.onnx_structure import onnx_changed
from tests.fuzz.trial import CORPUS, Place, Reader, place
from training.checkpoint import load_network, read_run_state
from training.config import load_config
from training.data import load_images
from training.data.cache import cached_images
from training.data.image_file import read_image
from training.data.listing import list_folder
from training.defenses import resolved
from training.quantize.build import load_weights
from training.run_folder import RunFolder
from training.run_start import read_start

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
RUN = "a" * 64
IDENTITY = "settings and images of an attack"


# ------------------------------------------------------------------ where an input is put


def named(name: str) -> Place:
    """Under another name than the corpus has it."""
    return lambda folder, _, data: place(folder, name, data)


def beside(*others: str) -> Place:
    """Beside files of the corpus as they are."""

    def with_others(folder: Path, name: str, data: bytes) -> Path:
        for other in others:
            place(folder, Path(other).name, (CORPUS / other).read_bytes())
        return place(folder, name, data)

    return with_others


def hashed_beside(sidecar: str) -> Place:
    """Beside a sidecar that has its SHA-256."""

    def with_sidecar(folder: Path, name: str, data: bytes) -> Path:
        facts = json.loads((CORPUS / sidecar).read_bytes())
        facts["sha256"] = sha256_of_bytes(data)
        place(folder, Path(sidecar).name, json.dumps(facts).encode())
        return place(folder, name, data)

    return with_sidecar


def as_record(folder: Path, name: str, data: bytes) -> Path:
    """Under the name that its content asks for, as who edits on purpose would."""
    kind, digest = name.removesuffix(".json"), hashlib.sha256(data).hexdigest()
    with contextlib.suppress(Exception):  # then its own reader says what is wrong
        value = json.loads(data)
        digest = sha256_of_bytes(json_bytes(value))
        if re.fullmatch("[a-z-]{1,40}", str(value["kind"])):
            kind = value["kind"]
    return place(folder, f"records/{kind}-{digest[:16]}.json", data)


def with_an_evaluation(folder: Path, name: str, data: bytes) -> Path:
    """A record beside a whole one of an evaluation, without which there is nothing to report."""
    as_record(folder, "evaluation.json", (CORPUS / "record/evaluation.json").read_bytes())
    return as_record(folder, name, data)


def as_class_folders(folder: Path, name: str, data: bytes) -> Path:
    """One image of a data folder with two classes."""
    whole = (CORPUS / "image/rgb.png").read_bytes()
    place(folder, "data/test/cat/whole.png", whole)
    place(folder, "data/test/dog/whole.png", whole)
    return place(folder, f"data/test/dog/{name}", data)


def as_cache(folder: Path, name: str, data: bytes) -> Path:
    """A cache of two images, one of its files damaged by what the bytes say."""
    place(folder, "data/test/cat/a.png", (CORPUS / "image/rgb.png").read_bytes())
    place(folder, "data/test/dog/b.png", (CORPUS / "image/grey.png").read_bytes())
    cache = folder / "data" / "cache"
    cached_images(list_folder(folder / "data", "test"), 8, cache)
    if len(data) == _RECIPE:
        rng = Random(data)
        path = rng.choice(sorted(one for one in cache.iterdir() if one.stat().st_size))
        change = mutated_json if path.suffix == ".json" and rng.randrange(3) else mutated
        whole = change(rng, path.read_bytes())
        if path.suffix == ".json" and rng.randrange(2):
            with contextlib.suppress(Exception):
                facts = {k: v for k, v in json.loads(whole).items() if k != "sha256"}
                whole = json_bytes({**facts, "sha256": sha256_of_bytes(json_bytes(facts))})
        path.write_bytes(whole)
    return folder / "data"


_RECIPE = 9


# ------------------------------------------------------------------ bundles


def _parts(data: bytes) -> dict[str, bytes]:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def bundle_rehashed(rng: Random, data: bytes) -> bytes:
    """One file of a bundle changed, and all hashes made to fit: its own reader must refuse it."""
    parts = _parts(data)
    inner = sorted(name for name in parts if not name.startswith("manifest"))
    name = rng.choice(["manifest.json", *inner])
    change = {".json": mutated_json, ".npz": arrays_changed, ".onnx": onnx_changed}[
        Path(name).suffix
    ]
    if rng.randrange(5) == 0:
        change = mutated
    manifest = parts["manifest.json"]
    if name == "manifest.json":
        manifest = change(rng, manifest)
    else:
        parts[name] = change(rng, parts[name])
        facts = json.loads(manifest)
        facts["files"][name] = {
            "sha256": sha256_of_bytes(parts[name]),
            "size_bytes": len(parts[name]),
        }
        manifest = json_bytes(facts)
    parts["manifest.json"] = manifest
    parts["manifest.sha256"] = checksums_text(manifest, None)
    return stored_zip_bytes(parts)


def as_folder(folder: Path, name: str, data: bytes) -> Path:
    """The bundle as a folder, where it still is an archive; else one file of it damaged by it."""
    root = folder / "small"
    try:
        parts = _parts(data)
    except Exception:  # noqa: BLE001 - whatever a damaged archive gives
        parts = {**_parts((CORPUS / "bundle/small.qbundle").read_bytes()), "manifest.json": data}
    for one, content in parts.items():
        if all(part not in ("", ".", "..") for part in one.split("/")) and "\0" not in one:
            with contextlib.suppress(OSError):
                place(root, one, content)
    root.mkdir(exist_ok=True)
    return root


def read_bundle(path: Path) -> None:
    with Bundle(path) as bundle:
        try:
            check_preprocessing(bundle)
            read_suite(bundle)
            for engine, one in bundle.manifest.models.items():
                require_contents(bundle.file(one.file).read_bytes(), engine, one.file)
                read_golden(bundle, one)
        except InputError as error:
            # The command names the bundle: what is inside of it has names of its own.
            raise InputError(f"{path.name}: {error}") from error


# ------------------------------------------------------------------ commands


def commanded(
    main: Callable[[list[str]], int],
    words: Callable[[Path], list[str]],
    decided: tuple[int, ...] = (0, 1),
) -> Callable[[Path], None]:
    """What a command prints of a file: its error as one, its output free of control characters."""

    def run(path: Path) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words(path))
        said = out.getvalue() + err.getvalue()
        assert printable(said) == said, f"control characters are printed: {said[:300]!r}"
        assert "unexpected " not in said, said[-300:]
        for written in path.parent.glob("out.*"):
            text = written.read_text(encoding="utf-8")
            assert printable(text) == text, f"control characters in {written.name}"
        if code not in decided:
            complaint = err.getvalue().strip() or out.getvalue().strip()
            raise InputError(complaint.splitlines()[-1] if complaint else f"exit code {code}")

    return run


def _compare(path: Path) -> list[str]:
    other = CORPUS / ("report/report.json" if path.stem == "report" else "record/evaluation.json")
    if path.stem != "report":
        other = as_record(path.parents[1] / "other", other.name, other.read_bytes())
    return ["compare", str(other), str(path), "--json", str(path.parent / "out.json")]


def _report(path: Path) -> list[str]:
    outs = (f"--{form}" for form in ("csv", "json", "latex"))
    places = (str(path.parent / f"out.{form}") for form in ("csv", "json", "tex"))
    named = [word for both in zip(outs, places, strict=True) for word in both]
    page = str(path.parent / "out.html")
    return ["report", str(path.parents[1]), "--out", page, "--table", *named]


def _validate(path: Path) -> list[str]:
    places = {"json": "json", "junit": "xml", "sarif": "sarif", "markdown": "md"}
    named = [
        word
        for form, ending in places.items()
        for word in (f"--{form}", str(path.parent / f"out.{ending}"))
    ]
    return [str(path), *named]


def _adopt(path: Path) -> list[str]:
    data, count = path.parent / "data", 5 if path.stem == "integer" else 3
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    classes = np.array([f"class {i}" for i in range(count)])
    write_npz(data / "test.npz", {"images": images, "labels": np.arange(count), "classes": classes})
    words = ["--out", str(path.parent / "run"), "--images", "3"]
    if path.stem == "float":
        words += ["--mean", "0.5", "--std", "0.25"]
    return ["adopt", str(path), "--data", str(data), *words]


def _lower(path: Path) -> list[str]:
    return ["lower", str(path), "--out", str(path.parent / "lowered.onnx"), "--count", "2"]


def _lower_on_images(path: Path) -> list[str]:
    model, out = str(CORPUS / "onnx/qonnx.onnx"), str(path.parent / "lowered.onnx")
    return ["lower", model, "--out", out, "--images", str(path), "--least-agreement", "0"]


def lowered(target: str) -> Callable[[Path], object]:
    return lambda path: lower(path, path.parent / "lowered.bin", target=target)


# ------------------------------------------------------------------ other ways in


def _data(kind: str) -> Callable[[Path], object]:
    return lambda path: load_images(kind, path.parent, "test")


def _public_key(path: Path) -> None:
    try:
        require_signature(b"manifest", bytes(64), path)
    except InputError as error:
        if "is not that of" not in str(error):  # it was read; nothing is signed with it
            raise


def _weights(path: Path) -> None:
    from torch import nn

    load_weights(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), path)


def _run_folder(path: Path) -> None:
    run = RunFolder.open(path.parent)
    read = (run.classes, run.defense, run.seed, run.about(), run.bit_widths_with_file())
    assert len(read) == 5


class _Suite:
    """As much of a bundle's suite as the readers of arrays beside it look at."""

    def __init__(self) -> None:
        with np.load(CORPUS / "npz/device-inputs.npz") as found:
            self.images = found["clean"]
        rows = np.arange(len(self.images))
        patch = np.zeros((1, 3, 2, 2), np.uint8)
        facts = type(
            "Facts", (), {"name": "patch", "patch": patch, "mask": np.ones((2, 2), np.bool_)}
        )
        self.patches = [type("Patch", (), {"rows": rows, "patch_set": facts})]


def _device_inputs(path: Path) -> None:
    suite: Any = _Suite()
    DeviceInputs.read(path, suite)


def _float_patches(path: Path) -> None:
    suite: Any = _Suite()
    read_float_patches(path, suite)


_NPZ = either(arrays_changed, zipped, mutated)
_JSON = either(mutated_json, mutated_json, mutated)
_TOML = either(mutated_toml, mutated_toml, mutated)
_IMAGE = either(png_chunks, words_changed, mutated)
_ONNX = either(onnx_changed, onnx_changed, onnx_changed, mutated)
_TENSORS = either(tensors_changed, mutated)
_TFLITE = either(words_changed, mutated)
_BUNDLE = either(bundle_rehashed, bundle_rehashed, bundle_rehashed, zipped, mutated)

READERS = (
    # ---------------------------------------------------------------- bundles, on the device
    Reader(
        name="bundle-file",
        about="a bundle as one file, with all that is in it",
        corpus=("bundle/small.qbundle",),
        read=read_bundle,
        mutate=_BUNDLE,
        names="",
    ),
    Reader(
        name="bundle-folder",
        about="a bundle as a folder",
        corpus=("bundle/small.qbundle",),
        read=read_bundle,
        mutate=either(bundle_rehashed, bundle_rehashed, mutated),
        place=as_folder,
        names="",
    ),
    Reader(
        name="validate",
        about="`validate.pyz`, whole, in ONNX Runtime",
        corpus=("bundle/small.qbundle",),
        read=commanded(validate, _validate, (0, 1, 3)),
        mutate=bundle_rehashed,
        names="",
        tries=20,
    ),
    Reader(
        name="manifest",
        about="a bundle's manifest",
        corpus=("json/manifest.json",),
        read=lambda path: parse_manifest(path.read_bytes(), where=str(path)),
        mutate=_JSON,
    ),
    Reader(
        name="public-key",
        about="a public key, PEM",
        corpus=("key/key.pub",),
        read=_public_key,
    ),
    Reader(
        name="onnx-on-device",
        about="an ONNX file, by the device's own reader",
        corpus=("onnx/integer.onnx", "onnx/qcdq.onnx"),
        read=lambda path: require_contents(
            path.read_bytes(), "openvino" if path.stem == "qcdq" else "onnxruntime", path.name
        ),
        mutate=_ONNX,
    ),
    Reader(
        name="onnx-outputs",
        about="an ONNX file that is given outputs",
        corpus=("onnx/integer.onnx",),
        read=lambda path: with_outputs(path.read_bytes(), ["a tensor"]),
        mutate=_ONNX,
        tries=50,
    ),
    Reader(
        name="tflite-on-device",
        about="a .tflite file, by the device's own reader",
        corpus=("tflite/litert.tflite",),
        read=lambda path: require_contents(path.read_bytes(), "litert", path.name),
        mutate=_TFLITE,
        tries=150,
    ),
    Reader(
        name="engine-profile",
        about="ONNX Runtime's profile",
        corpus=("json/profile.json",),
        read=lambda path: ran_kinds(path).require_integers(),
        mutate=_JSON,
        names="",
    ),
    Reader(
        name="tensorrt-onnx",
        about="an ONNX file for TensorRT",
        corpus=("onnx/tensorrt.onnx",),
        read=lambda path: check_symmetric_int8(path.read_bytes(), path.name),
        mutate=_ONNX,
    ),
    Reader(
        name="tensorrt-engine",
        about="a TensorRT engine's sidecar",
        corpus=("engine/small.engine.json",),
        read=lambda path: read_engine_file(
            path.with_suffix(""), onnx_sha256=RUN, bindings=_bindings()
        ),
        place=beside("engine/small.engine"),
        mutate=_JSON,
        names="small.engine",
    ),
    # ---------------------------------------------------------------- results
    Reader(
        name="record",
        about="a record, by itself",
        corpus=("record/*.json",),
        read=read_record,
        place=as_record,
        mutate=_JSON,
    ),
    Reader(
        name="report",
        about="`qadtr report`: a page, a table, CSV, JSON and LaTeX of a record",
        corpus=("record/*.json",),
        read=commanded(qadtr, _report),
        place=with_an_evaluation,
        mutate=mutated_json,
        names="",
        tries=30,
    ),
    Reader(
        name="compare",
        about="`qadtr compare`: evaluation records and a validator's reports",
        corpus=("record/evaluation.json", "report/report.json"),
        read=commanded(qadtr, _compare),
        place=lambda folder, name, data: (place if name == "report.json" else as_record)(
            folder / "new", name, data
        ),
        mutate=mutated_json,
        names="",
        tries=60,
    ),
    Reader(
        name="model-sidecar",
        about="an exported model's sidecar",
        corpus=("json/model.json",),
        read=lambda path: recorded_budget(path.with_suffix(".onnx")),
        place=lambda folder, name, data: (
            place(folder, "model.onnx", b"model"),
            place(folder, name, data),
        )[1],
        mutate=_JSON,
    ),
    # ---------------------------------------------------------------- arrays and patches
    Reader(
        name="json",
        about="any JSON",
        corpus=("record/evaluation.json",),
        read=read_json,
        mutate=_JSON,
    ),
    Reader(
        name="npz", about="any .npz", corpus=("npz/*.npz",), read=read_npz, mutate=_NPZ, tries=150
    ),
    Reader(
        name="patch-arrays",
        about="a patch set's arrays",
        corpus=("patch-set/patch.npz",),
        read=read_patch_set,
        place=hashed_beside("patch-set/patch.json"),
        mutate=_NPZ,
    ),
    Reader(
        name="patch-sidecar",
        about="a patch set's sidecar",
        corpus=("patch-set/patch.json",),
        read=lambda path: read_patch_set(path.with_suffix(".npz")),
        place=beside("patch-set/patch.npz"),
        mutate=_JSON,
    ),
    Reader(
        name="supplied-arrays",
        about="somebody else's patches and masks, .npz",
        corpus=("npz/supplied.npz",),
        read=lambda path: read_supplied(path).cut((6, 6)),
        mutate=_NPZ,
    ),
    Reader(
        name="supplied-image",
        about="somebody else's patch, .png",
        corpus=("image/*.png",),
        read=lambda path: read_supplied(path).cut((6, 6)),
        mutate=_IMAGE,
    ),
    Reader(
        name="attack-state",
        about="an unfinished attack",
        corpus=("npz/resume.npz",),
        read=lambda path: read_resumed(path, IDENTITY, ("wins", "margins")),
        mutate=_NPZ,
    ),
    Reader(
        name="device-inputs",
        about="the bytes that a device fed",
        corpus=("npz/device-inputs.npz",),
        read=_device_inputs,
        mutate=_NPZ,
        tries=60,
    ),
    Reader(
        name="pixel-state",
        about="an unfinished pixel attack",
        corpus=("npz/stored.npz",),
        read=lambda path: attacked_so_far(path, np.zeros((4, 3, 6, 6), np.uint8)),
        mutate=_NPZ,
        tries=60,
    ),
    Reader(
        name="float-patches",
        about="patches before they are bytes",
        corpus=("npz/float-patches.npz",),
        read=_float_patches,
        mutate=_NPZ,
        tries=60,
    ),
    # ---------------------------------------------------------------- images
    Reader(
        name="image",
        about="one image: PNG, JPEG, TIFF, GIF, BMP, WebP, PPM",
        corpus=("image/*",),
        read=lambda path: read_image(path, 96),
        mutate=_IMAGE,
        tries=250,
    ),
    Reader(
        name="image-folder",
        about="a folder of images",
        corpus=("image/*",),
        read=lambda path: load_images("folder", path.parents[2], "test", size=12),
        place=as_class_folders,
        mutate=_IMAGE,
        tries=60,
    ),
    Reader(
        name="image-cache",
        about="decoded images on disk",
        corpus=("image/rgb.png",),
        read=lambda path: cached_images(list_folder(path, "test"), 8, path / "cache"),
        place=as_cache,
        mutate=lambda rng, data: rng.randbytes(_RECIPE),
        tries=30,
    ),
    Reader(
        name="image-arrays",
        about="images as .npz",
        corpus=("npz/stored.npz", "npz/compressed.npz"),
        read=_data("npz"),
        place=named("test.npz"),
        mutate=_NPZ,
    ),
    Reader(
        name="cifar10-batch",
        about="a batch of CIFAR-10, a pickle",
        corpus=("cifar10/protocol-*",),
        read=_data("cifar10"),
        place=named("test_batch"),
        tries=120,
    ),
    Reader(
        name="cifar10-archive",
        about="CIFAR-10's archive, .tar.gz",
        corpus=("cifar10/small.tar.gz",),
        read=_data("cifar10"),
        place=named("cifar-10-python.tar.gz"),
        names="cifar-10-python",
        mutate=either(mutated, gzip_inside, tar_members),
        tries=80,
    ),
    # ---------------------------------------------------------------- trainings
    Reader(
        name="config",
        about="a training's config, TOML",
        corpus=("toml/config.toml",),
        read=lambda path: resolved(load_config(path)),
        mutate=_TOML,
        names="",  # what a defense is missing is told by its key
    ),
    Reader(
        name="matrix-plan",
        about="a transfer matrix's plan, TOML",
        corpus=("toml/plan.toml",),
        read=read_plan,
        mutate=_TOML,
    ),
    Reader(
        name="checkpoint",
        about="a checkpoint's weights",
        corpus=("checkpoint/checkpoint.safetensors",),
        read=load_network,
        place=hashed_beside("checkpoint/checkpoint.json"),
        mutate=_TENSORS,
        tries=40,
    ),
    Reader(
        name="checkpoint-sidecar",
        about="a checkpoint's sidecar: network and plan",
        corpus=("checkpoint/checkpoint.json",),
        read=lambda path: load_network(path.with_suffix(".safetensors")),
        place=beside("checkpoint/checkpoint.safetensors"),
        mutate=_JSON,
        tries=40,
    ),
    Reader(
        name="run-folder",
        about="a finished run",
        corpus=("checkpoint/checkpoint.json",),
        read=_run_folder,
        place=beside("checkpoint/checkpoint.safetensors"),
        mutate=_JSON,
    ),
    Reader(
        name="run-start",
        about="what a run was started with",
        corpus=("json/run.json",),
        read=lambda path: (lambda start: start and start.training_config(path.parent))(
            read_start(path.parent)
        ),
        mutate=_JSON,
    ),
    Reader(
        name="run-state",
        about="a run's state for --resume",
        corpus=("checkpoint/state.safetensors",),
        read=lambda path: read_run_state(path.parents[1], RUN),
        place=named("resume/state.safetensors"),
        mutate=_TENSORS,
    ),
    Reader(
        name="float-weights",
        about="a float module's weights",
        corpus=("checkpoint/float.safetensors",),
        read=_weights,
        mutate=_TENSORS,
    ),
    # ---------------------------------------------------------------- models
    Reader(
        name="onnx",
        about="any ONNX file, on the host",
        corpus=("onnx/*.onnx",),
        read=read_model,
        mutate=_ONNX,
    ),
    Reader(
        name="integer-reference",
        about="the numpy reference of integer files",
        corpus=("onnx/integer.onnx",),
        read=lambda path: IntegerReference(path).run(IMAGES),
        mutate=_ONNX,
    ),
    Reader(
        name="qdq-reference",
        about="the numpy reference of Q/DQ files",
        corpus=("onnx/qcdq.onnx",),
        read=lambda path: QdqReference(path).run(IMAGES),
        mutate=_ONNX,
    ),
    Reader(
        name="qonnx-to-integers",
        about="QONNX to an all-integer file",
        corpus=("onnx/qonnx.onnx",),
        read=lowered("onnxruntime"),
        mutate=_ONNX,
        tries=25,
    ),
    Reader(
        name="qonnx-to-qcdq",
        about="QONNX to Q/DQ",
        corpus=("onnx/qonnx.onnx",),
        read=lowered("qcdq"),
        mutate=_ONNX,
        tries=15,
    ),
    Reader(
        name="qonnx-to-litert",
        about="QONNX to .tflite",
        corpus=("onnx/qonnx.onnx",),
        read=lowered("litert"),
        mutate=_ONNX,
        tries=15,
    ),
    Reader(
        name="qonnx-to-float",
        about="QONNX to a float file, which the engine runs",
        corpus=("onnx/float.onnx",),
        read=lambda path: lower_float(path, path.parent / "lowered.onnx"),
        mutate=_ONNX,
        tries=15,
    ),
    Reader(
        name="lower",
        about="`qadtr lower`: a quantized ONNX file of somebody else",
        corpus=("onnx/qonnx.onnx",),
        read=commanded(qadtr, _lower),
        mutate=_ONNX,
        tries=10,
    ),
    Reader(
        name="lower-images",
        about="the images that `qadtr lower` proves a file on",
        corpus=("npz/eight.npz",),
        read=commanded(qadtr, _lower_on_images),
        mutate=_NPZ,
        names="",
        tries=10,
    ),
    Reader(
        name="adopt",
        about="`qadtr adopt`: any ONNX classifier",
        corpus=("onnx/float.onnx", "onnx/integer.onnx"),
        read=commanded(qadtr, _adopt),
        mutate=_ONNX,
        names="",
        tries=4,
    ),
    Reader(
        name="inspect",
        about="`qadtr inspect`: any ONNX file, in an engine of its own",
        corpus=("onnx/integer.onnx",),
        read=commanded(qadtr, lambda path: ["inspect", str(path)]),
        mutate=_ONNX,
        names="",
        tries=3,
    ),
    Reader(
        name="litert-reference",
        about="the numpy reference of .tflite files",
        corpus=("tflite/litert.tflite",),
        read=lambda path: LiteRtReference(path).run(IMAGES),
        mutate=_TFLITE,
    ),
    Reader(
        name="litert-engine",
        about="a .tflite file in LiteRT's interpreter, certified",
        corpus=("tflite/litert.tflite",),
        read=certify_litert,
        mutate=_TFLITE,
        tries=60,
    ),
)


def _bindings() -> Any:
    from deploy.tensorrt.bindings import TENSORRT, Bindings, Log

    return Bindings(flavour=TENSORRT, api=None, version="10.16.1.11", log=Log(), logger=None)
