"""Makes the corpus again, where a format has changed: ``python -m tests.fuzz.make_corpus``.

All of it is synthetic: noise as images, untrained networks, made-up results.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

import qadtr
from deploy.bundle import bundle_files
from deploy.core.files import sha256_of_bytes
from deploy.core.npz import npz_bytes
from deploy.core.patch_set import PatchSet, write_patch_set
from deploy.core.stored_zip import stored_zip_bytes
from deploy.core.strict_json import json_bytes
from deploy.device.bundle_reading import checksums_text
from deploy.device.command import main as validate
from deploy.device.onnxruntime_profile import ProfiledRun, profile_onnx
from deploy.tensorrt.engine_file import sidecar_of, write_engine_file
from eval.attacks.found import as_array
from eval.measure.analyses.stored_map import store_map
from export.lowering import lower
from export.origin import write_sidecar
from export.qonnx_from_network import write_qonnx
from tests.deploy.device.conftest import small_contents
from tests.deploy.tensorrt.test_engine_file import FACTS
from tests.eval.report.conftest import _certificate, _evaluation, _parity
from tests.eval.report.test_analyses_section import LOCATIONS, OCCLUSION, record
from tests.eval.report.test_attack_marks import adaptive, pixel
from tests.export.integer_graphs import residual_graph
from tests.export.small_qonnx import small_qonnx
from tests.fuzz.readers import IDENTITY, RUN
from tests.fuzz.trial import CORPUS
from tests.training.data.test_data_unpickler import python2_pickle
from training.checkpoint import RESUME, RunState, save_checkpoint
from training.config import load_config
from training.course import Course
from training.data.cifar10 import CLASSES
from training.run_start import RunStart

ROOT = CORPUS.parents[2]
RNG = np.random.default_rng(0)
PUBLIC_KEY = b"""-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""


def _put(name: str, data: bytes) -> None:
    path = CORPUS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _images() -> None:
    rgb = Image.fromarray(RNG.integers(0, 256, (9, 12, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    forms: tuple[tuple[str, Image.Image, dict[str, Any]], ...] = (
        ("rgb.png", rgb, {}),
        ("alpha.png", rgb.convert("RGBA"), {}),
        ("palette.png", rgb.quantize(8), {"transparency": 0}),
        ("grey.png", rgb.convert("L"), {}),
        ("turned.jpg", rgb, {"exif": exif}),
        ("progressive.jpg", rgb, {"progressive": True}),
        ("cmyk.jpg", rgb.convert("CMYK"), {}),
        ("palette.gif", rgb.quantize(8), {}),
        ("rgb.bmp", rgb, {}),
        ("rgb.webp", rgb, {"lossless": True}),
        ("lzw.tif", rgb, {"compression": "tiff_lzw"}),
        ("jpeg.tif", rgb, {"compression": "jpeg"}),
        ("raw.tif", rgb, {}),
        ("rgb.ppm", rgb, {}),
    )
    for name, image, options in forms:
        stream = io.BytesIO()
        image.save(stream, Image.registered_extensions()[Path(name).suffix], **options)
        _put(f"image/{name}", stream.getvalue())


def _arrays() -> None:
    images, mask = RNG.integers(0, 256, (4, 3, 6, 6), np.uint8), np.ones((6, 6), np.bool_)
    labels = np.array([0, 1, 0, 1])
    compressed = io.BytesIO()
    np.savez_compressed(compressed, images=images, labels=labels, classes=np.array(["a", "b"]))
    _put("npz/compressed.npz", compressed.getvalue())
    for name, arrays in {
        "stored": {"images": images, "labels": labels},
        "eight": {"images": np.random.default_rng(8).integers(0, 256, (2, 3, 8, 8), np.uint8)},
        "supplied": {"patches": images, "targets": np.arange(4), "mask": mask},
        "device-inputs": {"clean": images, "patched-0": images},
        "float-patches": {"patch-0": np.full((1, 3, 2, 2), 7.5, np.float32)},
        "resume": {
            "identity": as_array(IDENTITY),
            "wins": np.zeros(4, np.bool_),
            "margins": np.zeros(4, np.float32),
        },
    }.items():
        _put(f"npz/{name}.npz", npz_bytes(arrays))
    patches = PatchSet(
        name="patch",
        kind="universal",
        patch=images[:1],
        mask=mask,
        positions=np.zeros((4, 2), np.int32),
        image_indices=np.arange(4, dtype=np.int64),
    )
    write_patch_set(CORPUS / "patch-set" / "patch.npz", patches)


def _cifar10() -> None:
    rows = RNG.integers(0, 256, (3, 3072), np.uint8)
    batch = {b"data": rows, b"labels": [0, 1, 2], b"filenames": [b"a.png", b"b.png", b"c.png"]}
    _put("cifar10/protocol-2", python2_pickle(rows, [0, 1, 2]))
    _put("cifar10/protocol-5", pickle.dumps(batch, 5))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        meta = {"label_names": list(CLASSES)}
        for name, content in (("test_batch", batch), ("batches.meta", meta)):
            data = pickle.dumps(content, 4)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    _put("cifar10/small.tar.gz", gzip.compress(packed.getvalue(), mtime=0))


def _trainings(folder: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    images = torch.from_numpy(RNG.integers(0, 256, (8, 3, 8, 8))).float()
    network = qadtr.quantize(module, images, bits=(32, 4)).for_evaluation()
    about = {"classes": ["a", "b", "c"], "config": {"seed": 0, "defense": {"name": "qat"}}}
    save_checkpoint(folder / "checkpoint.safetensors", network, about)
    for name in ("checkpoint.safetensors", "checkpoint.json"):
        _put(f"checkpoint/{name}", (folder / name).read_bytes())
    write_qonnx(network, 32, folder / "float.onnx")
    _put("onnx/float.onnx", (folder / "float.onnx").read_bytes())
    float_module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    _put("checkpoint/float.safetensors", save(float_module.state_dict()))
    state = RunState(
        run=RUN, step=3, course=Course(), tensors={"network.weight": torch.zeros(3, 4)}
    )
    (folder / RESUME).parent.mkdir()
    state.write(folder)
    _put(f"checkpoint/{RESUME.name}", (folder / RESUME).read_bytes())
    config = ROOT / "configs" / "cifar10-resnet8.toml"
    _put("toml/config.toml", config.read_bytes())
    plan = ROOT / "configs" / "matrix" / "transfer-cifar10-resnet8.toml"
    _put("toml/plan.toml", plan.read_bytes())
    start = RunStart(
        config=load_config(config).as_dict(),
        data=Path("data"),
        cache=None,
        images_sha256=RUN,
        device="cpu",
        save_every=500,
    )
    start.write(folder)
    _put("json/run.json", (folder / "run.json").read_bytes())


def _models(folder: Path) -> None:
    rng = np.random.default_rng(0)
    integer, source = folder / "integer.onnx", folder / "qonnx.onnx"
    integer.write_bytes(residual_graph(rng, bits=4).model().SerializeToString())
    source.write_bytes(small_qonnx(rng).SerializeToString())
    for path in (integer, source):
        _put(f"onnx/{path.name}", path.read_bytes())
    for target in ("qcdq", "tensorrt", "litert"):
        made = lower(source, folder / f"{target}.bin", target=target).path.read_bytes()
        _put("tflite/litert.tflite" if target == "litert" else f"onnx/{target}.onnx", made)
    noise = {"images": RNG.integers(0, 256, (2, 3, 8, 8), np.uint8)}
    profile_onnx(
        integer,
        noise,
        settings=ProfiledRun(runs=1),
        profile_to=folder / "profile.json",
        optimized_to=folder / "optimized.onnx",
    )
    events = json.loads((folder / "profile.json").read_bytes())
    ran = [one for one in events if one["name"].endswith("kernel_time")]
    _put("json/profile.json", json_bytes(ran))
    budget = {"max_logit_difference": 0.0, "max_flip_share": 0.0}
    write_sidecar(folder / "model.onnx", {"sha256": sha256_of_bytes(b"model"), "budget": budget})
    _put("json/model.json", (folder / "model.json").read_bytes())
    engine = CORPUS / "engine" / "small.engine"
    write_engine_file(engine, b"a plan", FACTS)
    assert sidecar_of(engine).is_file()


def _bundle(folder: Path) -> None:
    files = bundle_files(small_contents(folder, n=12))
    manifest = json.loads(files["manifest.json"])
    for name in ("validate.pyz", "__main__.py"):  # large, and no reader opens them
        del files[name], manifest["files"][name]
    files["manifest.json"] = json_bytes(manifest)
    files["manifest.sha256"] = checksums_text(files["manifest.json"], None)
    _put("bundle/small.qbundle", stored_zip_bytes(files))
    _put("json/manifest.json", files["manifest.json"])
    report = folder / "report.json"
    validate(
        [
            *(str(CORPUS / "bundle/small.qbundle"), "--json", str(report)),
            *("--junit", str(folder / "junit.xml")),
        ]
    )
    assert json.loads(report.read_bytes())["patches"]
    _put("report/report.json", report.read_bytes())


def _records() -> None:
    noise = store_map(RNG.random((4, 4)))
    shown = [{"index": 0, "clean": [noise, noise], "patched": [noise, noise]}]
    for one in (
        _evaluation(),
        _certificate("qat"),
        _parity("qat"),
        adaptive("fixed", [2]),
        {
            "format_version": 1,
            "kind": "pixel-attack",
            "payload": dict(pixel(2, 2)),
            "provenance": {},
        },
        LOCATIONS,
        OCCLUSION,
        record("gradient-maps", shown=shown),
    ):
        _put(f"record/{one['kind']}.json", json_bytes(one))
    _put("key/key.pub", PUBLIC_KEY)


if __name__ == "__main__":
    shutil.rmtree(CORPUS, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp())
    _images()
    _arrays()
    _cifar10()
    _trainings(scratch)
    _models(scratch)
    _bundle(scratch)
    _records()
    shutil.rmtree(scratch)
