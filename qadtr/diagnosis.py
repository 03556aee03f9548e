"""What `qadtr doctor` looks at: machine and environment, and how to mend what is wrong."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from deploy.core.colour import Colour
from deploy.core.errors import EngineUnavailable
from deploy.core.host import Host, host_facts
from deploy.core.installing import install_command, installed_from
from deploy.core.text import one_line
from deploy.device.onnxruntime_engine import require_its_numpy
from deploy.engine import DISTRIBUTIONS
from deploy.onnxruntime_tensorrt_engine import PROVIDER
from deploy.tensorrt.builder import NEVER_RUN
from deploy.tensorrt.cuda import Device
from qadtr import __version__

MINIMUM_PYTHON = (3, 11)

# The purpose of each extra, by the distribution that shows whether it is installed.
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
    "tensorrt-rtx-cu13-bindings": "rtx",
    "tensorrt-rtx-cu13-libs": "rtx",
    "adversarial-robustness-toolbox": "eval",
    "ray": "cluster",
    "openvino": "openvino",
    "cryptography": "sign",
    "matplotlib": "figures",
    "shtab": "completion",
}

ENGINE_MODULES: Mapping[str, tuple[str, str]] = {
    "onnxruntime": ("onnxruntime", "integer kernels on the CPU"),
    "litert": ("ai_edge_litert", ".tflite files of the target litert"),
    "openvino": ("openvino", "Q/DQ files of the target qcdq"),
    "onnxruntime-openvino": (
        "onnxruntime_ep_openvino",
        "the same files in stock onnxruntime, on Intel's processors",
    ),
    "onnxruntime-tensorrt-rtx": (
        "onnxruntime_ep_nv_tensorrt_rtx",
        "Q/DQ files of the target tensorrt in stock onnxruntime, on an RTX GPU",
    ),
    "tensorrt": ("tensorrt", "Q/DQ files of the target tensorrt, on a GPU"),
    "tensorrt-rtx": (
        "tensorrt_rtx_bindings",
        "builds such files ahead of time without a GPU and runs them on a GPU",
    ),
}
"""What each engine imports, and what it is for."""

ARM64 = ("aarch64", "arm64")

Level = Literal["ok", "note", "problem"]

COLOURS: Mapping[Level, Colour] = {"ok": "green", "note": "yellow", "problem": "red"}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: "ok"; "note": works, with a consequence to know; "problem": something will fail.
        subject: what was looked at.
        text: what was found and, for a problem, how to mend it.
    """

    level: Level
    subject: str
    text: str


def diagnose() -> list[Finding]:
    """Everything that `qadtr doctor` reports of the running environment, in reading order."""
    versions = installed_versions(EXTRA_OF_DISTRIBUTION)
    return [
        python_finding(sys.version_info[:2]),
        Finding("ok", "qadtr", f"{__version__}, {installed_from()}"),
        *package_findings(versions),
        onnxruntime_finding(versions),
        provider_finding(versions),
        *engine_findings(
            installed_versions(name for engine in ENGINE_MODULES for name in DISTRIBUTIONS[engine])
        ),
        gpu_finding(),
        processor_finding(host_facts()),
        *session_findings(host_facts()),
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
        text += f" is older than {wanted}: make a new environment with Python {wanted}"
        return Finding("problem", "python", text)
    return Finding("ok", "python", text)


def package_findings(versions: Mapping[str, str]) -> list[Finding]:
    """One line per extra: the versions that are there, or how to install what is not."""
    findings = []
    for extra in dict.fromkeys(EXTRA_OF_DISTRIBUTION.values()):
        wanted = [name for name, of in EXTRA_OF_DISTRIBUTION.items() if of == extra]
        there = [f"{name} {versions[name]}" for name in wanted if name in versions]
        missing = [name for name in wanted if name not in versions]
        text = ", ".join(there)
        if missing:
            remedy = f"not installed: {', '.join(missing)} ({install_command(extra)})"
            text = f"{text}; {remedy}" if text else remedy
        # An extra that is not there is no fault: a device needs `cpu` alone.
        findings.append(Finding("note" if missing else "ok", f"extra {extra}", text))
    return findings


def onnxruntime_finding(versions: Mapping[str, str]) -> Finding:
    """Whether exactly one distribution provides the import name `onnxruntime`."""
    subject = "onnxruntime"
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if name in versions]
    if not both:
        text = f"not installed: models cannot be run here ({install_command('cpu')})"
        return Finding("note", subject, text)
    if len(both) == 2:
        return Finding(
            "problem",
            subject,
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's "
            "files. Uninstall both, then install the one you want: "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime"
            f"=={versions['onnxruntime']} (or onnxruntime-gpu=={versions['onnxruntime-gpu']}, "
            "in an environment without the `export` extra, since qonnx brings onnxruntime)",
        )
    if both == ["onnxruntime-gpu"] and "qonnx" in versions:
        return Finding(
            "problem",
            subject,
            "qonnx is installed beside onnxruntime-gpu: the next pip install will bring "
            "onnxruntime and overwrite it. Keep the extras `export` and `gpu` in two environments",
        )
    return Finding("ok", subject, f"{both[0]} {versions[both[0]]}, alone")


def provider_finding(versions: Mapping[str, str]) -> Finding:
    """The execution providers that the installed onnxruntime offers."""
    subject = "providers"
    if not {"onnxruntime", "onnxruntime-gpu"} & set(versions):
        return Finding("note", subject, "none: onnxruntime is not installed")
    try:
        require_its_numpy()
        # By name: `deploy.device.onnxruntime_engine` alone may import the engine itself.
        runtime = importlib.import_module("onnxruntime")
        providers = list(runtime.get_available_providers())
    except EngineUnavailable as error:
        return Finding("problem", subject, str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a package raises what it likes
        return Finding(
            "problem",
            subject,
            f"onnxruntime does not import ({_reason(error)}): its files are damaged, as after "
            "uninstalling one of two overlapping distributions. pip install --force-reinstall "
            "--no-deps onnxruntime repairs it",
        )
    text = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    if "CUDAExecutionProvider" in providers:
        text += "; CUDA has no integer convolution, so it is not used for integer inference"
    if PROVIDER not in providers:
        text += "; no TensorRT, so the engine onnxruntime-tensorrt is not available"
    return Finding("ok", subject, text)


def processor_finding(host: Host) -> Finding:
    """What the processor's integer instructions mean for integer inference."""
    sets = host.instruction_sets
    known = "instruction sets unknown" if sets is None else ", ".join(sets) or "none known"
    text = f"{host.cpu_model or host.machine} ({host.machine}), {host.cores} cores: {known}"
    level: Level = "ok"
    if host.u8s8_saturates:
        level = "note"
        text += (
            "; no VNNI, so integers save memory but no time: on a Zen 1, one thread, ResNet-20 ran "
            "at 0.80 (8 bits) to 0.87 (5, 4, 2 bits) of the float file's speed, where a Zen 4 and "
            "a Xeon with VNNI gave 1.9 to 2.4 (python -m benchmarks.speed measures it here)"
        )
    elif host.machine.lower() in ARM64 and sets is not None and not host.has("asimddp"):
        level = "note"
        text += "; no dot product (asimddp): int8 products take several instructions each"
    elif host.has("amx_int8"):
        text += (
            "; AMX: qadtr export --tune amx lays wide convolutions out for it (the same codes; "
            "python -m benchmarks.speed times both files here)"
        )
    return Finding(level, "processor", text)


def session_findings(host: Host) -> list[Finding]:
    """The options that an ONNX Runtime session gets here, one line each, with the reason."""
    exact = "off: this processor sums uint8 times int8 in 32 bits"
    if host.u8s8_saturates:
        exact = (
            "on: 8-bit weights beyond ±64 would saturate in 16-bit sums; ONNX Runtime replaces "
            "them with uint8 weights (weights of 5 bits or fewer cannot saturate and keep their "
            "kernel)"
        )
    elif host.machine.lower() in ARM64:
        exact = "off: only x86-64 needs it"
    options = {
        "threads": f"1 unless --threads sets more; at most {host.cores} on this machine",
        "execution": "sequential: these networks are chains, so parallel operators gain nothing",
        "optimization": (
            "all: Casts of low-bit weights are folded at load, and layouts become those of the "
            "kernels"
        ),
        "deterministic": "on: the same bytes on every run",
        "x64quantprecision": exact,
    }
    return [Finding("ok", f"option {name}", text) for name, text in options.items()]


def engine_findings(versions: Mapping[str, str]) -> list[Finding]:
    """Which engines load here, by really importing what they need."""
    findings = []
    for engine, (module, use) in ENGINE_MODULES.items():
        distributions = DISTRIBUTIONS[engine]
        there = [f"{name} {versions[name]}" for name in distributions if name in versions]
        level: Level = "ok"
        if not there:
            level, text = "note", f"not installed: {' or '.join(distributions)} ({use})"
        else:
            try:
                if module == "onnxruntime":
                    require_its_numpy()
                importlib.import_module(module)
                text = f"{there[0]} loads ({use})"
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a package raises what it likes
                level = "problem"
                text = f"{there[0]} is installed but does not load: {_reason(error)}"
        findings.append(Finding(level, f"engine {engine}", text))
    return findings


def _reason(error: BaseException) -> str:
    return one_line(str(error)) or type(error).__name__


def gpu_finding() -> Finding:
    """Which GPU the engines of TensorRT would use; they are looked for as those engines do it."""
    try:
        device = Device()
    except EngineUnavailable as error:
        return Finding("note", "gpu", str(error))
    try:
        text = f"{device.name}, compute capability {device.compute_capability}"
    finally:
        device.close()
    return Finding("note", "gpu", f"{text}; TensorRT's engines: {NEVER_RUN}")
