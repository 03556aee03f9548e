"""The machines that a bundle names as giving its logits, from validation reports of devices.

A report counts only for a bundle of the same model, golden data and images, and only if the device
gave the lab's logits bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .core.errors import InputError
from .core.strict_json import json_bytes
from .device.gate import REACHED_A_VERDICT
from .device.machine_proof import machine_entry
from .device.report import read_report


@dataclass(frozen=True, kw_only=True)
class LabLogits:
    """The inputs and logits that a device's report must match; logits in little-endian float32.

    Attributes:
        engine: the bundle's name of the model, such as "onnxruntime".
        golden_file_sha256: of the golden inputs, logits and codes.
        images_file_sha256: of the images, labels and indices.
        logits_sha256: of the logits of all images, in the lab.
    """

    engine: str
    model_sha256: str
    golden_file_sha256: str
    golden_logits_sha256: str
    images_file_sha256: str
    logits_sha256: str


@dataclass(frozen=True, kw_only=True)
class DeviceReports:
    """The reports that prove a bundle's model on further machines.

    Attributes:
        lab: the lab's own machine, from ``deploy.device.machine_proof.machine_entry``.
        logits_sha256: of the logits that it gave for all images.
        reports: ``report.json`` files of devices.
    """

    lab: Mapping[str, Any]
    logits_sha256: str
    reports: tuple[Path, ...]


def machine_proof(given: DeviceReports, lab: LabLogits) -> dict[str, Any]:
    """Return the manifest's ``machine_proof``: the lab's machine and those of the reports.

    Raises:
        InputError: a report is damaged, of another bundle, or of a device with other logits.
    """
    machines = [dict(given.lab), *(machine_of_report(path, lab) for path in given.reports)]
    once = {json_bytes(machine): machine for machine in machines}
    return {"logits_sha256": given.logits_sha256, "machines": [once[key] for key in sorted(once)]}


def architectures(machines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the architectures of machines, each once, sorted."""
    return sorted({machine["machine"] for machine in machines})


def machine_of_report(path: Path, lab: LabLogits) -> dict[str, Any]:
    """Return the machine that a device's ``report.json`` proves to give the lab's logits.

    Raises:
        InputError: there is no such report, its validation did not reach a verdict, it is of
            another model, golden data or images, or its logits differ in any bit.
    """
    report = read_report(path)
    # A failed gate does not affect the logits.
    if report["exit_code"] not in REACHED_A_VERDICT:
        raise InputError(
            f"{path} is the report of a validation that was aborted, so it proves "
            f"nothing: {report['reason']}"
        )
    _of(report["host"], "emulated", path)
    engine, golden, clean = report["engine"], report["golden"], report["clean"]
    for what, found, expected in (
        ("model file", _of(engine, "model_sha256", path), lab.model_sha256),
        ("model", _of(engine, "model", path), lab.engine),
        ("golden file", _of(golden, "file_sha256", path), lab.golden_file_sha256),
        ("image file", _of(report["images"], "file_sha256", path), lab.images_file_sha256),
    ):
        if found != expected:
            raise InputError(
                f"{path} is the report on another {what} ({found[:16]}) than that of this bundle "
                f"({expected[:16]}); validate a bundle with the same parts on the device, and "
                "give that report"
            )
    full = not report["quick"]
    logits = [("golden images", golden["logits_sha256"], lab.golden_logits_sha256)]
    if full:
        logits.append(("images", _of(clean, "logits_sha256", path), lab.logits_sha256))
    for what, found, expected in logits:
        if found != expected:
            raise InputError(
                f"{path}: the device's logits of the {what} have SHA-256 {found[:16]}…, the "
                f"lab's {expected[:16]}…: the logits are not identical on that device, so the "
                "bundle cannot state that they are"
            )
    return machine_entry(
        report["host"],
        engine=engine["name"],
        engine_version=engine["version"],
        golden_images=golden["n"],
        images=report["images_total"] if full else 0,
    )


def _of(part: Mapping[str, Any] | None, key: str, path: Path) -> str:
    """A fact that reports contain since bundles name machines."""
    value = None if part is None else part.get(key)
    if value is None:
        raise InputError(
            f"{path} does not state {key}, because an older validator wrote it; validate again "
            "on the device with the validator of this qadtr"
        )
    return str(value)
