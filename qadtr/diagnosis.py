"""What `qadtr doctor` looks at: machine and environment, and how to mend what is wrong."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from deploy.device.host import Host, host_facts

MINIMUM_PYTHON = (3, 11)

# What each extra is for, by the distribution that tells whether it is installed.
EXTRA_OF_DISTRIBUTION: Mapping[str, str] = {
    "numpy": "base",
    "torch": "train",
    "brevitas": "train",
    "safetensors": "train",
    "pillow": "train",
    "scikit-learn": "train",
    "onnx": "export",
    "qonnx": "export",
    "onnxoptimizer": "export",
    "onnxscript": "export",
    "ml_dtypes": "export",
    "onnxruntime": "cpu",
    "onnxruntime-gpu": "gpu",
    "tensorrt": "gpu",
    "ray": "cluster",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report.

    Attributes:
        level: "ok"; "note": works, with a consequence to know; "problem": something will fail.
        subject: what was looked at.
        text: what was found and, for a problem, how to mend it.
    """

    level: Literal["ok", "note", "problem"]
    subject: str
    text: str


def diagnose() -> list[Finding]:
    """Everything `qadtr doctor` says of the running environment, in reading order."""
    versions = installed_versions(EXTRA_OF_DISTRIBUTION)
    return [
        python_finding(sys.version_info[:2]),
        *package_findings(versions),
        onnxruntime_finding(versions),
        provider_finding(versions),
        processor_finding(host_facts()),
    ]


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """The version of each distribution that is installed; the others are left out."""
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def python_finding(version: tuple[int, ...]) -> Finding:
    """Whether Python is new enough. `version` is (major, minor)."""
    text = ".".join(map(str, version))
    if version < MINIMUM_PYTHON:
        wanted = ".".join(map(str, MINIMUM_PYTHON))
        return Finding(
            level="problem",
            subject="python",
            text=f"{text} is older than {wanted}: make a new environment with Python {wanted}",
        )
    return Finding(level="ok", subject="python", text=text)


def package_findings(versions: Mapping[str, str]) -> list[Finding]:
    """One line per extra: the versions that are there, or how to install what is not."""
    findings = []
    for extra in dict.fromkeys(EXTRA_OF_DISTRIBUTION.values()):
        wanted = [name for name, of in EXTRA_OF_DISTRIBUTION.items() if of == extra]
        there = [f"{name} {versions[name]}" for name in wanted if name in versions]
        missing = [name for name in wanted if name not in versions]
        text = ", ".join(there)
        if missing:
            remedy = f"not installed: {', '.join(missing)} (pip install 'qadtr[{extra}]')"
            text = f"{text}; {remedy}" if text else remedy
        # An extra that is not there is no fault: a device needs `cpu` alone.
        level: Literal["ok", "note"] = "note" if missing else "ok"
        findings.append(Finding(level=level, subject=f"extra {extra}", text=text))
    return findings


def onnxruntime_finding(versions: Mapping[str, str]) -> Finding:
    """Whether exactly one distribution provides the import name `onnxruntime`."""
    subject = "onnxruntime"
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if name in versions]
    if not both:
        return Finding(
            level="note",
            subject=subject,
            text="not installed: models cannot be run here (pip install 'qadtr[cpu]')",
        )
    if len(both) == 2:
        return Finding(
            level="problem",
            subject=subject,
            text=(
                "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's "
                "files. Uninstall both, then install the one you want: "
                "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime"
                f"=={versions['onnxruntime']} (or onnxruntime-gpu=={versions['onnxruntime-gpu']}, "
                "in an environment without the `export` extra, since qonnx brings onnxruntime)"
            ),
        )
    if both == ["onnxruntime-gpu"] and "qonnx" in versions:
        return Finding(
            level="problem",
            subject=subject,
            text=(
                "qonnx is installed beside onnxruntime-gpu: the next pip install will bring "
                "onnxruntime and overwrite it. Keep the extras `export` and `gpu` in two "
                "environments"
            ),
        )
    return Finding(level="ok", subject=subject, text=f"{both[0]} {versions[both[0]]}, alone")


def provider_finding(versions: Mapping[str, str]) -> Finding:
    """The execution providers that the installed onnxruntime offers."""
    subject = "providers"
    if not {"onnxruntime", "onnxruntime-gpu"} & set(versions):
        return Finding(level="note", subject=subject, text="none: onnxruntime is not installed")
    try:
        # By name: `deploy.device.onnxruntime_engine` alone may import the engine itself.
        runtime = importlib.import_module("onnxruntime")
        providers = list(runtime.get_available_providers())
    except (ImportError, AttributeError) as error:
        return Finding(
            level="problem",
            subject=subject,
            text=(
                f"onnxruntime does not import ({error}): its files are damaged, as after "
                "uninstalling one of two overlapping distributions. "
                "pip install --force-reinstall --no-deps onnxruntime mends it"
            ),
        )
    text = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    if "CUDAExecutionProvider" in providers:
        text += "; CUDA has no integer convolution and is refused for integer inference"
    return Finding(level="ok", subject=subject, text=text)


def processor_finding(host: Host) -> Finding:
    """What the processor's integer instructions mean for the 8-bit model."""
    sets = host.instruction_sets
    known = "instruction sets unknown" if sets is None else ", ".join(sets) or "none known"
    text = f"{host.cpu_model or host.machine} ({host.machine}), {host.cores} cores: {known}"
    if host.u8s8_saturates:
        text += (
            "; no VNNI: 8-bit weights would saturate in 16-bit sums, so the engine is opened with "
            "session.x64quantprecision=1 and is slower at 8 bits"
        )
        return Finding(level="note", subject="processor", text=text)
    return Finding(level="ok", subject="processor", text=text)
