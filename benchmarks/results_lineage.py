"""The trainings that a network of the results went through, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.report.words import defense_name
from training.checkpoint import CHECKPOINT, read_sidecar
from training.quantizers import FLOAT


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Trainings, each from the weights of the one before.

    Attributes:
        trainings: of each what was trained, in words, and its epochs; the first one first.
        elsewhere: the first of these started from a network that results/ does not hold.
    """

    trainings: tuple[tuple[str, float], ...] = ()
    elsewhere: bool = False

    @property
    def epochs(self) -> str:
        """Of each training: "20 + 12"."""
        known = [f"{epochs:g}" for _, epochs in self.trainings]
        return " + ".join([*(["?"] if self.elsewhere else []), *known])

    def __str__(self) -> str:
        """Such as "20 epochs of float training, 12 of plain QAT"."""
        known = [
            f"{epochs:g}{'' if place else ' epochs'} of {label}"
            for place, (label, epochs) in enumerate(self.trainings)
        ]
        return ", ".join([*(["another network"] if self.elsewhere else []), *known])


def lineages(folder: Path) -> dict[str, Lineage]:
    """Of every network in ``folder``, by the digest of its weights.

    Raises:
        InputError: the sidecar of a checkpoint is not one.
    """
    sidecars: dict[str, Any] = {}
    for path in sorted(folder.glob(f"**/{CHECKPOINT}")):
        sidecar = read_sidecar(path)
        sidecars[sidecar["sha256"]] = sidecar
    return {digest: _lineage(digest, sidecars) for digest in sidecars}


def _lineage(digest: str, sidecars: Mapping[str, Any]) -> Lineage:
    config, start = sidecars[digest]["config"], sidecars[digest].get("warm_start_sha256")
    before = Lineage(elsewhere=bool(config["training"].get("warm_start")))
    if start in sidecars:
        before = _lineage(start, sidecars)
    last = (_label(config), float(config["training"]["epochs"]))
    return Lineage(trainings=(*before.trainings, last), elsewhere=before.elsewhere)


def _label(config: Mapping[str, Any]) -> str:
    if config["network"]["bit_widths"] == [FLOAT]:
        return "float training"
    # Configs of before there were grey squares do not name them.
    squares = " with grey squares" if config["data"].get("masks") else ""
    return f"{defense_name(config['defense']['name'])}{squares}"
