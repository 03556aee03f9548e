"""Bundles that someone or something changed without making the hashes fit: none may pass."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deploy.core.stored_zip import stored_zip_bytes
from deploy.device.bundle_reading import checksums_text

Files = dict[str, bytes]
Mutation = Callable[[Files, np.random.Generator, Path], Path]


def hostile_bundle(files: Files, seed: int, folder: Path) -> tuple[str, Path]:
    """Write hostile bundle number `seed` into `folder`; what was done to it, and its path."""
    rng = np.random.default_rng([20, seed])
    mutation = MUTATIONS[seed % len(MUTATIONS)]
    return f"{seed}: {mutation.__name__}", mutation(dict(files), rng, folder)


def _archive(folder: Path, data: bytes) -> Path:
    path = folder / "hostile.qbundle"
    path.write_bytes(data)
    return path


def _tree(folder: Path, files: Files) -> Path:
    root = folder / "hostile"
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def _either(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    if rng.random() < 0.5:
        return _tree(folder, files)
    return _archive(folder, stored_zip_bytes(files))


def _one(files: Files, rng: np.random.Generator) -> str:
    return str(rng.choice(sorted(files)))


def flip_bits_of_the_archive(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    data = bytearray(stored_zip_bytes(files))
    for _ in range(int(rng.integers(1, 4))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return _archive(folder, bytes(data))


def flip_bits_between_the_files(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    data = bytearray(stored_zip_bytes(files))
    start = data.find(b"PK\x01\x02", len(data) - 4096)
    data[int(rng.integers(start, len(data)))] ^= 1 << int(rng.integers(8))
    return _archive(folder, bytes(data))


def flip_a_byte_of_a_file(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    name = _one(files, rng)
    data = bytearray(files[name])
    data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
    files[name] = bytes(data)
    return _either(files, rng, folder)


def cut_the_archive(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    data = stored_zip_bytes(files)
    return _archive(folder, data[: int(rng.integers(len(data)))])


def add_bytes_to_the_archive(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    data, more = stored_zip_bytes(files), rng.bytes(int(rng.integers(1, 100)))
    return _archive(folder, data + more if rng.random() < 0.5 else more + data)


def cut_a_file(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    name = _one(files, rng)
    files[name] = files[name][: int(rng.integers(len(files[name])))]
    return _either(files, rng, folder)


def swap_two_files(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    first, second = rng.choice(sorted(files), 2, replace=False)
    files[first], files[second] = files[second], files[first]
    return _either(files, rng, folder)


def rename_a_file(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    name = _one(files, rng)
    files[f"{name}{rng.integers(10)}"] = files.pop(name)
    return _either(files, rng, folder)


def remove_a_file(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    del files[_one(files, rng)]
    return _either(files, rng, folder)


def add_a_file(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    names = ["extra.py", "models/other.onnx", ".hidden", "numpy.py", "a/b/c/d/e/f/g"]
    files[str(rng.choice(names))] = rng.bytes(10)
    return _either(files, rng, folder)


def shuffle_the_labels(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    with np.load(io.BytesIO(files["images/images.npz"])) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["labels"] = rng.permutation(arrays["labels"])
    out = io.BytesIO()
    np.savez(out, **arrays)
    files["images/images.npz"] = out.getvalue()
    return _either(files, rng, folder)


def blank_a_patch(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    data = bytearray(files["patches/patch-001.npz"])
    start = len(data) // 2
    data[start : start + 20] = bytes(20)
    files["patches/patch-001.npz"] = bytes(data)
    return _either(files, rng, folder)


def exchange_the_model(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    name = "models/onnxruntime-4.onnx"
    files[name] = files[name].replace(b"\x02\x01", b"\x01\x02", 3) + b"\x00"
    return _either(files, rng, folder)


def raise_a_threshold(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    manifest = json.loads(files["manifest.json"])
    manifest["thresholds"]["max_asr"] = float(rng.uniform(0.6, 1.0))
    files["manifest.json"] = json.dumps(manifest).encode()
    return _either(files, rng, folder)


def wrong_value_in_the_manifest(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    # The checksum of the manifest fits: the reader itself has to refuse.
    manifest = json.loads(files["manifest.json"])
    places = _places(manifest)
    holder, key = places[int(rng.integers(len(places)))]
    values: list[Any] = [
        float("nan"),
        float("inf"),
        10**30,
        -1,
        "../" * 20 + "etc/passwd",
        "\x00",
        "\ud800",
        {"a": [1]},
        [[[]]],
        1.5e308,
    ]
    holder[key] = values[int(rng.integers(len(values)))]
    text = json.dumps(manifest)
    if rng.random() < 0.1:
        text = text[:-1] + ', "format_version": 1}'
    if rng.random() < 0.1:
        text = "[" * 100_000 + text
    files["manifest.json"] = text.encode()
    files["manifest.sha256"] = checksums_text(files["manifest.json"], None)
    return _either(files, rng, folder)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every leaf of the manifest that is not free text."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if key in ("provenance", "source", "classes", "name", "placement", "attack", "tensors"):
            continue
        if key in ("engine", "machine", "logits_identical_on", "split"):
            continue
        if isinstance(item, (dict, list)):
            found += _places(item)
        elif key not in ("random_floor_seed",):
            found.append((value, key))
    return found


def path_out_of_the_folder(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    manifest = json.loads(files["manifest.json"])
    names = ["../outside", "/etc/hostname", "a/../../b", "./a", "C:\\x", "a//b", "images/.."]
    name = str(rng.choice(names))
    manifest["files"][name] = {"sha256": "0" * 64, "size_bytes": 3}
    files["manifest.json"] = json.dumps(manifest).encode()
    files["manifest.sha256"] = checksums_text(files["manifest.json"], None)
    if rng.random() < 0.5:
        return _tree(folder, files)
    files[name] = b"out"
    return _archive(folder, stored_zip_bytes(files))


def unknown_version(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    manifest = json.loads(files["manifest.json"])
    manifest["format_version"] = [0, 2, "1", 1.0, True, None, 10**100][int(rng.integers(7))]
    files["manifest.json"] = json.dumps(manifest).encode()
    files["manifest.sha256"] = checksums_text(files["manifest.json"], None)
    return _either(files, rng, folder)


def link_in_the_folder(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    root = _tree(folder, files)
    path = root / _one(files, rng)
    away = folder / "away"
    path.rename(away)
    if rng.random() < 0.7:
        path.symlink_to(away)
    else:
        os.mkfifo(path)
    return root


def link_in_the_archive(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    name = _one(files, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for one, data in sorted(files.items()):
            info = zipfile.ZipInfo(one)
            info.create_system = 3
            info.external_attr = (0o120777 if one == name else 0o100644) << 16
            archive.writestr(info, b"/etc/hostname" if one == name else data)
    return _archive(folder, out.getvalue())


def zip_bomb(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    name = str(rng.choice(["bomb", "images/images.npz", "manifest.json", "manifest.sha256"]))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for one, data in files.items():
            if one != name:
                archive.writestr(one, data)
        archive.writestr(name, bytes(20_000_000))
    return _archive(folder, out.getvalue())


def a_name_twice(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    plain = stored_zip_bytes({"a": files["manifest.json"], "b": files["manifest.json"]})
    return _archive(folder, plain.replace(b"b", b"a"))


def not_a_bundle(files: Files, rng: np.random.Generator, folder: Path) -> Path:
    choice = int(rng.integers(4))
    if choice == 0:
        return folder / "missing.qbundle"
    if choice == 1:
        return _archive(folder, rng.bytes(int(rng.integers(3000))))
    if choice == 2:
        empty = folder / "empty"
        empty.mkdir()
        return empty
    return _archive(folder, stored_zip_bytes({}))


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits_of_the_archive,
    flip_bits_between_the_files,
    flip_a_byte_of_a_file,
    cut_the_archive,
    add_bytes_to_the_archive,
    cut_a_file,
    swap_two_files,
    rename_a_file,
    remove_a_file,
    add_a_file,
    shuffle_the_labels,
    blank_a_patch,
    exchange_the_model,
    raise_a_threshold,
    wrong_value_in_the_manifest,
    path_out_of_the_folder,
    unknown_version,
    link_in_the_folder,
    link_in_the_archive,
    zip_bomb,
    a_name_twice,
    not_a_bundle,
)
