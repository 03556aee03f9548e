"""What a run continues from: one atomic safetensors file of its tensors, step and history."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from deploy.core.errors import InputError
from deploy.core.files import write_atomic
from training.checkpoint import read_tensors, tensor_bytes

RESUME = Path("resume") / "state.safetensors"
"""Where it lies in the run's folder."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run after ``step`` steps.

    Attributes:
        run: digest of the run's configuration and images.
        step: steps taken.
        history: a row per epoch.
        tensors: by the part's name, a dot, and the tensor's own name in that part.
    """

    run: str
    step: int
    history: list[dict[str, Any]]
    tensors: dict[str, Tensor]

    def of(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part by their own names."""
        start = f"{part}."
        return {n.removeprefix(start): t for n, t in self.tensors.items() if n.startswith(start)}

    def write(self, folder: Path) -> None:
        """Write it into the run's folder: the old state stays whole until the new one is."""
        metadata = {"run": self.run, "step": str(self.step), "history": json.dumps(self.history)}
        write_atomic(folder / RESUME, tensor_bytes(self.tensors, metadata))


def read_run_state(folder: Path, run: str) -> RunState:
    """The state in the run's folder.

    Raises:
        InputError: there is none, it is damaged, or it belongs to another run.
    """
    path = folder / RESUME
    if not path.is_file():
        raise InputError(f"nothing to resume: there is no {path}; train without --resume")
    tensors, metadata = read_tensors(path)
    if metadata.get("run") != run:
        raise InputError(
            f"{path} belongs to a run with another config, other images or another number of "
            "processes; train without --resume, or as it was started"
        )
    return RunState(
        run=run,
        step=int(metadata["step"]),
        history=json.loads(metadata["history"]),
        tensors=tensors,
    )
