"""One profiled run of any ONNX file in ONNX Runtime's CPU provider: what it ran, and how long.

Unlike the engine, it takes inputs of any name, type and shape: it is for inspecting a file, not for
classifying. With ``isolated`` the run happens in a separate process, so that a file that crashes
ONNX Runtime, or requests more memory than there is, gives an error of one line here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.files import read_bytes, write_atomic
from ..core.host import host_facts
from ..core.scratch import Scratch
from ..core.text import one_line
from .onnxruntime_engine import PROVIDERS, _onnxruntime, common_options
from .own_process import answer, run_in_process

ENGINE = "onnxruntime-cpu"


@dataclass(frozen=True, kw_only=True)
class ProfiledRun:
    """Settings for running a file to inspect it.

    Attributes:
        threads: inside an operator.
        runs: number of consecutive runs.
        optimize: False runs the file's nodes unchanged.
    """

    threads: int = 1
    runs: int = 2
    optimize: bool = True


def profile_onnx(
    model: Path,
    feeds: Mapping[str, NDArray[Any]],
    *,
    settings: ProfiledRun,
    profile_to: Path,
    optimized_to: Path,
    isolated: bool = False,
) -> None:
    """Run the file and write ONNX Runtime's profile (JSON) and its optimized graph (ONNX).

    Args:
        model: the ``.onnx`` file, with its external data in the same folder.
        feeds: an array for each input, by name.
        settings: threads, runs, optimization; session options are otherwise the engine's.
        profile_to: path of the profile.
        optimized_to: path of the graph that actually ran.
        isolated: run in a separate process.

    Raises:
        InputError: the file is missing, or ONNX Runtime does not load or run it, or crashes.
        EngineUnavailable: onnxruntime is not installed.
    """
    with Scratch() as folder:
        if isolated:
            _in_process(model, feeds, settings, folder)
        else:
            _run(model, feeds, settings, folder)
        write_atomic(profile_to, read_bytes(folder / "profile.json"))
        write_atomic(optimized_to, read_bytes(folder / "optimized.onnx"))


def _run(
    model: Path, feeds: Mapping[str, NDArray[Any]], settings: ProfiledRun, folder: Path
) -> None:
    ort = _onnxruntime()
    options = common_options(
        ort, settings.threads, exact=host_facts().u8s8_saturates, optimize=settings.optimize
    )
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    read_bytes(model)  # a missing file is our error, not the engine's
    try:
        session = ort.InferenceSession(
            str(model), sess_options=options, providers=[PROVIDERS["cpu"]]
        )
    # onnxruntime's exceptions have no public base class below Exception.
    except Exception as error:
        raise InputError(
            f"ONNX Runtime {ort.__version__} does not load {model.name}: {one_line(str(error))}"
        ) from error
    try:
        for _ in range(settings.runs):
            session.run(None, dict(feeds))
    except Exception as error:  # as above
        raise InputError(
            f"ONNX Runtime {ort.__version__} failed to run {model.name} on a made-up input "
            f"({_shapes(feeds)}): {one_line(str(error))}; if it takes other shapes, give them"
        ) from error
    Path(session.end_profiling()).replace(folder / "profile.json")


def _shapes(feeds: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {a.dtype}{list(a.shape)}" for name, a in feeds.items())


# ------------------------------------------------------------------ in a process of its own


def _in_process(
    model: Path, feeds: Mapping[str, NDArray[Any]], settings: ProfiledRun, folder: Path
) -> None:
    job = {
        "model": str(model.resolve()),
        "threads": settings.threads,
        "runs": settings.runs,
        "optimize": settings.optimize,
        "inputs": list(feeds),
    }
    np.savez(folder / "feeds.npz", *feeds.values())
    run_in_process(__spec__.name, job, folder, model.name)


def _job(job: Mapping[str, Any], folder: Path) -> None:
    settings = ProfiledRun(threads=job["threads"], runs=job["runs"], optimize=job["optimize"])
    with np.load(folder / "feeds.npz", allow_pickle=False) as stored:
        feeds = {name: stored[f"arr_{i}"] for i, name in enumerate(job["inputs"])}
    _run(Path(job["model"]), feeds, settings, folder)


if __name__ == "__main__":
    sys.exit(answer(Path(sys.argv[1]), _job))
