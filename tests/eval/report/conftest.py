"""Records as an evaluation writes them, small and with known numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from deploy.core.share import share

Record = dict[str, Any]
MakeRecord = Callable[..., Record]


def digest_of(text: str) -> str:
    """The text itself where it is a SHA-256, else its SHA-256."""
    return text if re.fullmatch("[0-9a-f]{64}", text) else sha256(text.encode()).hexdigest()


PROVENANCE: Record = {
    "commit": "0123abc" * 5,
    "dirty": False,
    "date": "2026-01-02T03:04:05+00:00",
    "seed": 7,
    "config": {"network": "resnet8"},
    "command": ["qadtr", "eval", "runs/a"],
    "python": "3.11.2",
    "packages": {"numpy": "2.4.6", "onnxruntime": "1.31.1"},
    "host": {"cpu_model": "A processor", "cores": 2, "machine": "x86_64"},
}


def _record(kind: str, payload: Record) -> Record:
    return {"format_version": 1, "kind": kind, "payload": payload, "provenance": PROVENANCE}


def _evaluation(
    *,
    defense: str = "qat",
    bits: int = 2,
    asr: int = 46,
    n: int = 100,
    floor: int = 2,
    clean: int = 920,
    clean_n: int = 1000,
    attack: str | None = "lavan",
    kind: str = "per-image",
    engine: str = "onnxruntime",
    network: str = "resnet8",
    checkpoint: str | None = None,
    source_checkpoint: str = "f" * 64,
    patch: str = "a" * 64,
    split: str = "test",
    target: int | None = None,
    name: str = "lavan 8",
    size_bytes: int | None = None,
    classes: tuple[str, ...] = ("cat", "dog", "ship"),
    drift: float | None = 0.2,
) -> Record:
    sizes = {32: 310_000, 8: 90_000, 4: 50_000, 2: 30_000}
    checkpoint = checkpoint if checkpoint is not None else digest_of(defense)
    file = f"{engine}-{bits}.onnx"
    payload: Record = {
        "key": digest_of(f"{network}{defense}{bits}{engine}{patch}"),
        "model": {
            "network": network,
            "defense": defense,
            "bit_width": bits,
            "checkpoint_sha256": digest_of(checkpoint),
            "file": file,
            "file_sha256": digest_of(f"{defense}-{bits}-{engine}"),
            "file_size_bytes": sizes[bits] if size_bytes is None else size_bytes,
            "engine": engine,
            "engine_version": "1.31.1",
            "certificate": None,
        },
        "patch": {
            "name": name,
            "attack": attack,
            "kind": kind,
            "shape": "square",
            "size_px": [8, 8],
            "area_px": 64,
            "area_share": 0.0625,
            "placement": "fixed",
            "target": target,
            "steps": 100,
            "restarts": 1,
            "seed": 0,
            "made_on": "test",
            "settings": {},
            "source": {
                "network": network,
                "defense": "qat",
                "checkpoint_sha256": digest_of(source_checkpoint),
                "bit_widths": [32],
                "seed": 2,
            },
            "sha256": digest_of(patch),
        },
        "images": {
            "name": "cifar10",
            "split": split,
            "digest": "d" * 64,
            "n": clean_n,
            "classes": list(classes),
        },
        "clean_accuracy": share(clean, clean_n),
        "clean_accuracy_patched_images": share(clean, clean_n),
        "robust_accuracy": share(n - asr, n),
        "asr": share(asr, n),
        "asr_common": None,
        "common_set_of": None,
        "asr_all_images": share(asr, n),
        "floor": {"asr": share(floor, n), "seed": 0},
        "drift": None
        if drift is None
        else {
            "asr_points": drift,
            "fake_quantized_asr": share(asr, n),
            "fake_quantized_clean": share(clean, clean_n),
            "clean_agreement": share(999, 1000),
            "patched_agreement": share(n, n),
            "clean_flips": [3],
            "patched_flips": [],
        },
        "latency": {
            "p50_ms": 0.5,
            "p95_ms": 0.75,
            "p99_ms": 1.0,
            "images_per_s": 2000.0,
            "batch_size": 1,
            "threads": 1,
            "repeats": 50,
        },
        "outcomes": {
            "n": 8,
            "first_index": 0,
            "indices": None,
            "clean_correct": "ff",
            "patched_correct": "0f",
            "eligible": "ff",
            "success": "f0",
        },
    }
    return _record("evaluation", payload)


def _certificate(digest: str, *, ok: bool = True) -> Record:
    layer = {
        "layer": "conv1",
        "operator": "QLinearConv",
        "kind": "convolution",
        "input_types": ["uint8"],
        "output_types": ["uint8"],
        "provider": "CPUExecutionProvider",
        "time_share": 0.5,
        "integer": True,
    }
    return _record(
        "certificate",
        {
            "format_version": 1,
            "ok": ok,
            "counts": {"convolution": {"integer": 9, "float": 0 if ok else 1}},
            "model": f"{digest}.onnx",
            "model_sha256": digest_of(digest),
            "engine": "onnxruntime-cpu",
            "threads": 1,
            "images": 4,
            "input_type": "uint8",
            "adapted": False,
            "layers": [layer],
            "requantizations": ["r1"],
            "float_requantizations": [],
            "failures": [] if ok else [{"layer": "conv9", "reason": "no Q behind it"}],
        },
    )


def _parity(digest: str, *, ok: bool = True, agreement: float | None = 0.998) -> Record:
    layer = {
        "name": "conv1",
        "operator": "QLinearConv",
        "tensor": "t",
        "values": 4096,
        "different": 0 if ok else 3,
        "largest_difference": 0 if ok else 1,
        "distinct_codes": 4,
    }
    return _record(
        "parity",
        {
            "format_version": 1,
            "ok": ok,
            "model": f"{digest}.onnx",
            "model_sha256": digest_of(digest),
            "reference_sha256": digest_of(digest),
            "engine": "onnxruntime-cpu",
            "images": 1000,
            "classes": 3,
            "layers": [layer],
            "logits_different": 0,
            "largest_logit_difference": 0.0,
            "predictions_different": 0,
            "predicted_classes": 3,
            "first_departure": None if ok else "conv1",
            "flips": [],
            "agreement": agreement,
            "failures": [] if ok else ["codes differ first at layer 'conv1'"],
        },
    )


@pytest.fixture
def evaluation() -> MakeRecord:
    return _evaluation


@pytest.fixture
def certificate() -> MakeRecord:
    return _certificate


@pytest.fixture
def parity() -> MakeRecord:
    return _parity


@pytest.fixture
def records() -> list[Record]:
    """A plain and a hardened network at float, 8, 4 and 2 bits under two patches."""
    out = []
    asr = {
        ("qat", "lavan"): {32: 90, 8: 70, 4: 60, 2: 46},
        ("qadtr", "lavan"): {32: 40, 8: 35, 4: 30, 2: 22},
        ("qat", "gap"): {32: 25, 8: 20, 4: 12, 2: 10},
        ("qadtr", "gap"): {32: 8, 8: 6, 4: 3, 2: 2},
    }
    clean = {
        "qat": {32: 925, 8: 924, 4: 918, 2: 880},
        "qadtr": {32: 915, 8: 910, 4: 890, 2: 870},
    }
    for (defense, attack), rates in asr.items():
        for bits, rate in rates.items():
            out.append(
                _evaluation(
                    defense=defense,
                    bits=bits,
                    asr=rate,
                    attack=attack,
                    kind="universal" if attack == "gap" else "per-image",
                    patch=attack * 12,
                    name=f"{attack} 8",
                    clean=clean[defense][bits],
                )
            )
    for defense in ("qat", "qadtr"):
        for bits in (8, 4, 2):
            out += [
                _certificate(f"{defense}-{bits}-onnxruntime"),
                _parity(f"{defense}-{bits}-onnxruntime"),
            ]
    return out
