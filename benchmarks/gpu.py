"""All that wants a GPU, in ten minutes: training, every engine that runs here, the tests of `gpu`.

    make gpu
    python -m benchmarks.gpu --json gpu.json

It times training steps of ResNet-20 at batch 512, with products in float32 and in bfloat16; trains
one on the GPU, makes a patch for it there, exports it, and opens the files in every engine: how
far its logits are from those of the file's numpy reference, images/s, what the gate says. Then the
tests marked ``gpu`` run. Each step is a process of its own with a time limit; what fails or has no
time left is in the record, and the rest goes on.

Without a GPU it says so and does nothing. It was never run on one: the steps are tested on the CPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.records import ROOT, parser_of, report
from deploy.core.engine_protocol import Certified
from deploy.core.errors import EngineUnavailable, QadtrError
from deploy.core.latency import measure_latency
from deploy.core.model_engine import run_all
from deploy.core.strict_json import write_json
from deploy.core.text import one_line
from deploy.engine import ENGINES, open_engine, target_of, version_of
from export.reference import reference_of
from training.devices import torch_device
from training.run_folder import RunFolder

LIMIT_S = 590.0
"""Of everything; the steps have a share of it each."""

NEVER_RUN = "this script was never run on a GPU before; its record is the first word on it"

TRAININGS = ("plain QAT, products in bfloat16", "QADT-R, default")

BATCHES = (1, 64)
IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is run, and how large.

    Attributes:
        device: torch's name of it.
        network: name.
        batch: of the timed steps.
        rounds: of the timed steps.
        epochs: of the training on scikit-learn's digits.
        bits: of the exported files.
        engines: those that are tried.
        repeats: timed batches of an engine.
        tests: pytest's arguments.
        limit_s: of everything.
    """

    device: str = "cuda"
    network: str = "resnet20"
    batch: int = 512
    rounds: int = 4
    epochs: int = 5
    bits: int = 8
    engines: tuple[str, ...] = tuple(sorted(ENGINES))
    repeats: int = 100
    tests: tuple[str, ...] = ("-m", "gpu")
    limit_s: float = LIMIT_S


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process: what it is called, what follows ``python -m``, its time limit and its folder."""

    name: str
    words: tuple[str, ...]
    limit_s: float
    folder: Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything; 1 when a step failed, 2 without a GPU."""
    parser = parser_of("gpu", __doc__)
    parser.add_argument("--check", action="store_true", help="only say whether a GPU is here")
    parser.add_argument("--engine", nargs=3, metavar=("NAME", "RUN", "OUT"), help="one step alone")
    parser.add_argument("--bits", type=int, default=Settings.bits)
    parser.add_argument("--repeats", type=int, default=Settings.repeats)
    arguments = parser.parse_args(argv)
    if arguments.engine:
        name, run, out = arguments.engine
        row = engine_row(name, RunFolder.open(Path(run)), arguments.bits, arguments.repeats)
        write_json(Path(out), row)
        return 0
    settings = Settings(bits=arguments.bits, repeats=arguments.repeats)
    try:
        torch_device(settings.device)
    except EngineUnavailable as error:
        print(f"benchmarks.gpu needs a GPU that torch can use: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.check:
        return 0
    print(NEVER_RUN)
    with tempfile.TemporaryDirectory() as folder:
        record = everything(settings, Path(folder))
    _print(record)
    report(record, arguments.json)
    print(NEVER_RUN)
    return int(any(one["outcome"] not in ("done", "not here") for one in record["processes"]))


def _print(record: Mapping[str, Any]) -> None:
    """What the table of the engines does not show."""
    for one in record["processes"]:
        print(f"{one['outcome']:<12} {one['seconds']:>6.1f} s  {one['step']}")
    for row in record["trainings"]:
        print(f"{row['images_per_s']:>12,.0f} images/s  {row['row']}")


def everything(settings: Settings, folder: Path) -> dict[str, Any]:
    """Run the steps one after the other and return the record; their files go into ``folder``."""
    start = time.monotonic()
    done = []
    for step in steps_of(settings, folder):
        left = settings.limit_s - (time.monotonic() - start)
        print(f"--- {step.name}", flush=True)
        done.append(run_step(step, min(step.limit_s, left)))
    timed, rows = folder / "steps.json", []
    for path in sorted(folder.glob("engine-*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        gate = next((one for one in done if one["step"] == f"gate {row['engine']}"), None)
        if not row["runs"]:
            for one in done:
                if one["step"].endswith(f" {row['engine']}"):
                    one["outcome"] = "not here"
        rows.append({**row, "gate": gate["outcome"] if gate and row["runs"] else None})
    return {
        "benchmark": "gpu",
        "device": settings.device,
        "gpu": _gpu_name(settings.device),
        "torch": torch.__version__,
        "network": settings.network,
        "bits": settings.bits,
        "seconds": round(time.monotonic() - start, 1),
        "processes": done,
        "trainings": json.loads(timed.read_text())["rows"] if timed.is_file() else [],
        "rows": rows,
    }


def steps_of(settings: Settings, folder: Path) -> Iterator[Step]:
    """The steps, in their order; the first writes the config of the training."""
    run, bits = str(folder / "run"), str(settings.bits)
    config, bundle = folder / "gpu.toml", folder / "model.qbundle"
    config.write_text(
        f'name = "gpu"\nseed = 1\n[data]\nkind = "digits"\naugment = "none"\n'
        f'[network]\nname = "{settings.network}"\nbit_widths = [32, {bits}]\n'
        f"[training]\nepochs = {settings.epochs}\nbatch_size = 32\n",
        encoding="utf-8",
    )

    def step(name: str, limit_s: float, *words: str) -> Step:
        return Step(name=name, words=words, limit_s=limit_s, folder=folder)

    device = ("--device", settings.device)
    targets = sorted({"onnxruntime", *map(target_of, settings.engines)})
    others = [name for name in settings.engines if name != "onnxruntime"]
    yield step(
        "training steps", 180, "benchmarks.training_step", "--network", settings.network,
        "--batch", str(settings.batch), "--rounds", str(settings.rounds), *device,
        "--only", *TRAININGS, "--json", str(folder / "steps.json"),
    )  # fmt: skip
    yield step("train", 90, "qadtr", "train", str(config), "--out", run, *device)
    yield step(
        "patch", 60, "qadtr", "patch", run, "--attack", "lavan", "--size", "8", "--steps", "20",
        "--images", "128", *device,
    )  # fmt: skip
    yield step("export", 90, "qadtr", "export", run, "--bits", bits, "--target", *targets)
    yield step(
        "bundle", 60, "qadtr", "bundle", run, "--bits", bits, "--engines", *others,
        "--max-asr", "1", "--max-drift", "1", "--min-clean", "0", "--out", str(bundle),
    )  # fmt: skip
    for name in settings.engines:
        yield step(
            f"engine {name}", 90, "benchmarks.gpu", "--bits", bits,
            "--repeats", str(settings.repeats),
            "--engine", name, run, str(folder / f"engine-{name}.json"),
        )  # fmt: skip
        yield step(
            f"gate {name}", 60, "deploy.validate", str(bundle), "--engine", name,
            "--json", str(folder / f"gate-{name}.json"),
        )  # fmt: skip
    yield Step(name="tests", words=("pytest", "-q", *settings.tests), limit_s=150, folder=ROOT)


def run_step(step: Step, limit_s: float) -> dict[str, Any]:
    """Run it for ``limit_s`` seconds at most, with all that it starts; say how it went.

    Returns:
        step; outcome: "done", "failed", "too slow" or "no time left"; seconds; said: its last line.
    """
    if limit_s <= 1:
        return {"step": step.name, "outcome": "no time left", "seconds": 0.0, "said": ""}
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", *step.words],
        cwd=step.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=limit_s)
        outcome = "done" if process.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        outcome = "too slow"
    print(text, end="", flush=True)
    return {
        "step": step.name,
        "outcome": outcome,
        "seconds": round(time.monotonic() - start, 1),
        "said": one_line(next(reversed(text.strip().splitlines()), "")),
    }


def engine_row(name: str, run: RunFolder, bits: int, repeats: int) -> dict[str, Any]:
    """What one engine makes of a run's file: against its numpy reference, and how quickly.

    An engine that is not here gives ``runs`` False and the reason; one that is here and fails on
    the file raises its error.
    """
    path = run.model_file(bits, name)
    try:
        opened = open_engine(name, path)
    except EngineUnavailable as error:
        return {"engine": name, "runs": False, "reason": one_line(str(error))}
    with opened as engine:
        shape = (IMAGES, *engine.input_shape)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        logits = run_all(engine, images)
        wanted = reference_of(target_of(name))(path).run(images)
        speed = {
            f"images_per_s_at_{batch}": measure_latency(
                engine, images, batch_size=batch, repeats=repeats
            ).images_per_s
            for batch in BATCHES
        }
        return {
            "engine": name,
            "runs": True,
            "version": getattr(engine, "version", version_of(engine.name)),
            "largest_difference": float(np.abs(logits - wanted).max()),
            "largest_logit": float(np.abs(wanted).max()),
            "flips": int((logits.argmax(axis=1) != wanted.argmax(axis=1)).sum()),
            "images": IMAGES,
            **speed,
            "layers": dict(engine.kinds_that_ran()) if isinstance(engine, Certified) else None,
        }


def _gpu_name(device: str) -> str | None:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else None


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except QadtrError as error:
        print(one_line(str(error)), file=sys.stderr)
        raise SystemExit(error.exit_code) from None
