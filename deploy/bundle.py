"""Write a bundle: models, patches, images, golden data, thresholds and the validator, as one file.

The bytes depend only on the contents: the same parts give the same bundle on every machine, and the
same command gives the same bundle at any time. ``BUNDLE.json`` in the same folder records when it
was made, and ``BUNDLE.cdx.json``, a bill of materials, what it was made from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from .bundle_contents import BundleContents, BundleModel, BundlePatch
from .core.engine_versions import oldest_onnxruntime
from .core.errors import InputError
from .core.files import read_bytes, same_place, sha256_of_bytes, write_atomic
from .core.images import check_images
from .core.model_contents import read_model_contents, require_contents, target_of
from .core.npz import npz_bytes
from .core.patch_set import patch_set_bytes
from .core.records import without_clock
from .core.scratch import PREFIX, Scratch
from .core.stored_zip import write_stored_zip
from .core.strict_json import write_json
from .device.bundle_reading import Bundle, checksums_text
from .device.golden import logits_bytes
from .device.manifest import (
    CHECKSUMS,
    FORMAT,
    FORMAT_VERSION,
    GOLDEN_LOGITS,
    MANIFEST,
    PASTED_IMAGES,
    SIGNATURE,
    ModelFacts,
    manifest_bytes,
    preprocessing_facts,
    sidecar_of,
)
from .device.signature import sign
from .device.suite import pasted_sha256
from .device.thresholds import default_min_clean
from .machine_proof import LabLogits, architectures, machine_proof
from .sbom import SUFFIX, bill_of_materials
from .validator_archive import REFUSE_OLD_PYTHONS, validator_bytes

IMAGES = "images/images.npz"
GOLDEN = "golden/golden.npz"

MAIN = f'''"""Validate this bundle with the validator that it carries.

A gate that must be trusted uses a validate.pyz that was obtained apart from the bundle.
"""

import os
import signal
import subprocess
import sys
import tempfile

{REFUSE_OLD_PYTHONS}bundle = os.path.dirname(os.path.abspath(__file__))
with tempfile.TemporaryDirectory(prefix="{PREFIX}") as folder:
    held = []
    try:
        # A folder that nobody locks is removed by the next validator.
        import fcntl

        held.append(os.open(folder, os.O_RDONLY))
        fcntl.flock(held[0], fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass
    validator = os.path.join(folder, "validate.pyz")
    with open(validator, "wb") as out:
        out.write(__loader__.get_data(os.path.join(bundle, "validate.pyz")))
    command = [sys.executable, validator, bundle] + sys.argv[1:]
    child = subprocess.Popen(command, pass_fds=held)
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, frame: child.send_signal(number))
    try:
        code = child.wait()
    except KeyboardInterrupt:  # a terminal sends it to the child too, which ends by itself
        try:
            code = child.wait(10)
        except subprocess.TimeoutExpired:
            child.terminate()
            code = child.wait()
sys.exit(code if code in (0, 1, 2, 3, 4) else 2)
'''


def write_bundle(
    out: Path,
    contents: BundleContents,
    *,
    signing_key: Path | None = None,
    as_folder: bool = False,
) -> str:
    """Write a bundle, read it back, and return the SHA-256 of its manifest.

    ``OUT.json`` in the same folder records when and from what the bundle was made, with its
    manifest's SHA-256; ``OUT.cdx.json`` lists its files and the packages of this environment with
    their licences.

    Args:
        out: the file (replaced atomically), or the folder, which must not exist, unless it is the
            same bundle.
        contents: the parts.
        signing_key: PEM file of an Ed25519 private key.
        as_folder: write a folder instead of one file.

    Raises:
        InputError: parts that do not fit together, or a place that is not writable.
        EngineUnavailable: a signature is wanted and the package cryptography is not installed.
    """
    inputs = [signing_key, *(model.path for model in contents.models.values())]
    about, bill = (out.with_name(f"{out.name}{suffix}") for suffix in (".json", SUFFIX))
    for place in (out, about, bill):
        if any(one is not None and same_place(place, one) for one in inputs):
            raise InputError(f"{place} is an input of the bundle; give another output path")
    files = bundle_files(contents, signing_key=signing_key)
    if as_folder:
        _write_folder(out, files)
    else:
        write_stored_zip(out, files)
    with Bundle(out) as bundle:
        digest = bundle.manifest_sha256
    write_json(
        about,
        {"manifest_sha256": digest, "provenance": dict(contents.provenance)},
    )
    write_json(bill, bill_of_materials(out.name, files, digest))
    return digest


def bundle_files(contents: BundleContents, *, signing_key: Path | None = None) -> dict[str, bytes]:
    """Return every file of the bundle by its path; errors as :func:`write_bundle`."""
    files = _data_files(contents)
    manifest = manifest_bytes(_manifest(contents, files))
    signature = None if signing_key is None else sign(manifest, signing_key)
    files[MANIFEST] = manifest
    files[CHECKSUMS] = checksums_text(manifest, signature)
    if signature is not None:
        files[SIGNATURE] = signature
    return files


def _data_files(contents: BundleContents) -> dict[str, bytes]:
    images = check_images(contents.images)
    if not len(images) == len(contents.labels) == len(contents.indices) == len(contents.lab_clean):
        raise InputError("expected one label, index and lab prediction for each image")
    files = {
        "__main__.py": MAIN.encode("utf-8"),
        "validate.pyz": validator_bytes(),
        IMAGES: npz_bytes(
            {
                "images": images,
                "labels": contents.labels.astype(np.int64),
                "indices": contents.indices.astype(np.int64),
            }
        ),
        GOLDEN: npz_bytes(
            {
                "inputs": contents.golden_inputs,
                GOLDEN_LOGITS: contents.golden_logits,
                **{
                    _golden_name(engine, model): model.golden_logits
                    for engine, model in contents.models.items()
                    if model.golden_logits is not None
                },
                **{f"codes-{i}": codes for i, codes in enumerate(contents.golden_codes.values())},
            }
        ),
        "lab/predictions.npz": npz_bytes(
            {
                "clean": contents.lab_clean.astype(np.int64),
                **{
                    f"patched-{i}": patch.lab.astype(np.int64)
                    for i, patch in enumerate(contents.patches)
                },
            }
        ),
    }
    for engine, model in contents.models.items():
        path, data = _model_path(engine, contents.bit_width, model), read_bytes(model.path)
        require_contents(data, engine, str(model.path), target=model.target)
        if files.setdefault(path, data) != data:
            raise InputError(
                f"{engine} runs the target {target_of(engine)}, and another engine runs that "
                "target with another file; give both engines the same file"
            )
    for number, patch in enumerate(contents.patches):
        path = _patch_path(number)
        origin = patch.patch_set.origin
        origin = replace(origin, run=without_clock(origin.run))
        files[path], files[sidecar_of(path)] = patch_set_bytes(
            replace(patch.patch_set, origin=origin)
        )
    return files


def _model_path(engine: str, bit_width: int, model: BundleModel) -> str:
    # By the target: engines that run the same file share it.
    return f"models/{model.target or target_of(engine)}-{bit_width}{model.path.suffix}"


def _golden_name(engine: str, model: BundleModel) -> str:
    return GOLDEN_LOGITS if model.golden_logits is None else f"{GOLDEN_LOGITS}-{engine}"


def _patch_path(number: int) -> str:
    # A number: names of patches are for people and need not fit a file system.
    return f"patches/patch-{number:03d}.npz"


def _manifest(contents: BundleContents, files: Mapping[str, bytes]) -> dict[str, Any]:
    channels, height, width = contents.images.shape[1:]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": contents.name,
        "bit_width": contents.bit_width,
        "classes": list(contents.classes),
        "preprocessing": preprocessing_facts((channels, height, width)),
        "files": {
            path: {"sha256": sha256_of_bytes(data), "size_bytes": len(data)}
            for path, data in files.items()
        },
        "models": {
            engine: _model_facts(engine, model, contents, files).as_record()
            for engine, model in contents.models.items()
        },
        "images": {
            "file": IMAGES,
            "n": len(contents.images),
            **contents.images_about,
        },
        "golden": {
            "file": GOLDEN,
            "n": len(contents.golden_inputs),
            "tensors": list(contents.golden_codes),
            **({} if contents.golden_engine is None else {"engine": contents.golden_engine}),
        },
        "lab": {"file": "lab/predictions.npz", "engine": contents.lab_engine},
        "patches": [
            _patch_facts(number, patch, contents) for number, patch in enumerate(contents.patches)
        ],
        "thresholds": _thresholds(contents),
        "random_floor_seed": contents.random_floor_seed,
        **(
            {}
            if contents.attack_checks is None
            else {"attack_checks": contents.attack_checks.as_record()}
        ),
        "provenance": without_clock(contents.provenance),
    }


def _thresholds(contents: BundleContents) -> dict[str, float | None]:
    found = asdict(contents.thresholds)
    if found["min_clean"] is None:
        found["min_clean"] = default_min_clean(contents.lab_clean, contents.labels)
    return found


def _model_facts(
    engine: str, model: BundleModel, contents: BundleContents, files: Mapping[str, bytes]
) -> ModelFacts:
    path = _model_path(engine, contents.bit_width, model)
    proof = None
    identical_on = model.logits_identical_on
    golden = contents.golden_logits if model.golden_logits is None else model.golden_logits
    if model.device_reports is not None:
        lab = LabLogits(
            engine=engine,
            model_sha256=sha256_of_bytes(files[path]),
            golden_file_sha256=sha256_of_bytes(files[GOLDEN]),
            golden_logits_sha256=sha256_of_bytes(logits_bytes(golden)),
            images_file_sha256=sha256_of_bytes(files[IMAGES]),
            logits_sha256=model.device_reports.logits_sha256,
        )
        proof = machine_proof(model.device_reports, lab)
        identical_on = tuple(sorted({*identical_on, *architectures(proof["machines"])}))
    return ModelFacts(
        file=path,
        max_logit_difference=model.max_logit_difference,
        max_flips=model.max_flips,
        certificate=model.certificate,
        logits_identical_on=identical_on,
        golden_logits=_golden_name(engine, model),
        target=model.target,
        machine_proof=proof,
        oldest_engine=(
            oldest_onnxruntime(read_model_contents(files[path], path))
            if engine == "onnxruntime"
            else None
        ),
    )


def _patch_facts(number: int, patch: BundlePatch, contents: BundleContents) -> dict[str, Any]:
    patch_set = patch.patch_set
    absent = np.setdiff1d(patch_set.image_indices, contents.indices)
    if absent.size or (np.diff(contents.indices) <= 0).any():
        raise InputError(
            f"{patch_set.name} is for {absent.size} images that the bundle does not hold, or the "
            "bundle's indices are not ascending"
        )
    rows = np.searchsorted(contents.indices, patch_set.image_indices)
    made, source = patch_set.origin, None
    if made.source is not None:
        # The manifest has no place for a list of objects; the patch's own sidecar keeps it.
        source = {key: value for key, value in made.source.items() if key != "members"}
    return {
        "name": patch_set.name,
        "file": _patch_path(number),
        "gated": patch.gated,
        "attack": made.attack or "not stated",
        "kind": patch_set.kind,
        "placement": str(made.settings.get("placement", "explicit positions")),
        "target": patch_set.target,
        "source": source,
        "seed": made.seed,
        "pasted_sha256": pasted_sha256(patch_set, contents.images[rows[:PASTED_IMAGES]]),
    }


def _write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    if out.exists():
        if _is_bundle(out, sha256_of_bytes(files[MANIFEST])):
            return
        raise InputError(f"{out} exists, but a bundle is written to a new folder; remove it first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with Scratch(f".{out.name}.", out.parent) as made:
            for name, data in files.items():
                write_atomic(made / name, data)
            made.chmod(0o755)
            os.rename(made, out)  # noqa: PTH104 - fails where a folder with files came in between
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write {out}: {reason}; choose a writable place") from error


def _is_bundle(path: Path, manifest_sha256: str) -> bool:
    try:
        with Bundle(path) as bundle:
            return bundle.manifest_sha256 == manifest_sha256
    except InputError:
        return False
