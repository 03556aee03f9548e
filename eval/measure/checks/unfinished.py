"""Finished checks and the attacks that they share, in a file, so that a battery can continue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.npz import write_npz
from deploy.core.strict_json import json_bytes, parse_json
from eval.attacks.found import as_array, read_resumed
from eval.measure.checks.checks_record import CheckResult, Flags
from training.validated import checked

Attacks = dict[tuple[int, int, int], tuple[Flags, NDArray[np.uint8]]]
"""By the patch's height and width in pixels and the steps: what won, bool N, and the patches, uint8
N×C×h×w."""


class Unfinished:
    """The finished part of a battery.

    Attributes:
        results: of the finished checks, by name.
        attacks: made for them.

    Args:
        path: of the file; None stores nothing.
        identity: of the battery: network, bit-width, images and settings.
        count, channels: of the images that are attacked.

    Raises:
        InputError: the file is damaged, or belongs to another battery.
    """

    def __init__(self, path: Path | None, identity: str, count: int, channels: int) -> None:
        self._path, self._identity, self._count = path, identity, count
        self.results: dict[str, CheckResult] = {}
        self.attacks: Attacks = {}
        arrays = read_resumed(path, identity, ("results", "attacks", "won", "patches"))
        if arrays is None:
            return
        where = f"{path}: results"
        found = parse_json(arrays["results"].tobytes(), where)
        for one in found if isinstance(found, list) else [found]:
            result: CheckResult = checked(CheckResult, one, where)
            self.results[result["name"]] = result
        sizes, won, patches = (arrays[name] for name in ("attacks", "won", "patches"))
        fits = sizes.ndim == 2 and sizes.shape[1] == 3 and won.shape == (len(sizes), count)
        lengths = count * channels * sizes[:, 0] * sizes[:, 1] if fits else np.zeros(0, np.int64)
        ends = [0, *np.cumsum(lengths).tolist()]
        if not fits or patches.shape != (ends[-1],):
            raise InputError(f"{path} is damaged; remove it to start anew.")
        for number, (height, width, steps) in enumerate(sizes.tolist()):
            own = patches[ends[number] : ends[number + 1]]
            shape = (count, channels, height, width)
            self.attacks[height, width, steps] = (won[number], own.reshape(shape))

    def keep(self, result: CheckResult) -> None:
        """Write the file after a finished check."""
        self.results[result["name"]] = result
        if self._path is None:
            return
        made = list(self.attacks.values())
        patches = [patches.reshape(-1) for _, patches in made]
        write_npz(
            self._path,
            {
                "identity": as_array(self._identity),
                "results": as_array(json_bytes(list(self.results.values())).decode()),
                "attacks": np.array(list(self.attacks), np.int64).reshape(-1, 3),
                "won": np.array([won for won, _ in made], np.bool_).reshape(-1, self._count),
                "patches": np.concatenate(patches) if made else np.zeros(0, np.uint8),
            },
        )
