"""The best patches found so far, kept in a file so that a long attack can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.npz import read_npz, write_npz


class Found:
    """Best patch per image (or the one universal patch) over the restarts done so far.

    Attributes:
        patch: uint8 P×3×h×w.
        positions: int32 N×2 of per-image patches; 0×2 for a universal one.
        wins: float64 P, share of source bit-widths (universal: and images) fooled.
        margins: float64 P, mean margin in logits, which decides between equal wins.
        units_done: restarts of batches that are finished.
        unfinished: state of an interrupted optimization, by name; empty if there is none.
    """

    def __init__(self, path: Path | None, identity: str, arrays: dict[str, NDArray[Any]]):
        self._path = path
        self._identity = identity
        self.patch: NDArray[np.uint8] = arrays["patch"].astype(np.uint8)
        self.positions: NDArray[np.int32] = arrays["positions"].astype(np.int32)
        self.wins: NDArray[np.float64] = arrays["wins"].astype(np.float64)
        self.margins: NDArray[np.float64] = arrays["margins"].astype(np.float64)
        self.units_done = int(arrays["units_done"])
        self.unfinished: dict[str, NDArray[Any]] = {
            name.removeprefix(_UNFINISHED): array
            for name, array in arrays.items()
            if name.startswith(_UNFINISHED)
        }
        self._saved = time.monotonic()

    @classmethod
    def begin(
        cls,
        path: Path | None,
        *,
        identity: str,
        patches: tuple[int, int],
        images: int,
        size_px: int,
    ) -> Self:
        """An empty result for ``patches`` (count, channels) and the places of ``images``, or the
        contents of the file at ``path``; ``identity``: digest of everything that the search depends
        on.

        Raises:
            InputError: the file is damaged or belongs to another search.
        """
        count = patches[0]
        nothing: dict[str, NDArray[Any]] = {
            "patch": np.zeros((*patches, size_px, size_px), dtype=np.uint8),
            "positions": np.zeros((images, 2), dtype=np.int32),
            "wins": np.full(count, -1.0),
            "margins": np.full(count, -np.inf),
            "units_done": np.array(0, dtype=np.int64),
        }
        return cls(path, identity, read_resumed(path, identity, nothing) or nothing)

    def keep_better(
        self,
        rows: slice,
        patch: NDArray[np.uint8],
        positions: NDArray[np.int32] | None,
        wins: NDArray[np.float64],
        margins: NDArray[np.float64],
    ) -> None:
        """Replace the rows that the new patches beat: more wins, or as many with a larger margin.

        The arrays are as the attributes, for these rows only. Positions None keeps the old ones.
        """
        equal = wins == self.wins[rows]
        better = (wins > self.wins[rows]) | (equal & (margins > self.margins[rows]))
        self.patch[rows][better] = patch[better]
        if positions is not None:
            self.positions[rows][better] = positions[better]
        self.wins[rows][better] = wins[better]
        self.margins[rows][better] = margins[better]

    def unit_done(self) -> None:
        """Count one more unit as done and write the file, where there is one."""
        self.units_done += 1
        self.unfinished = {}
        self._write()

    def keep(self, state: Callable[[], Mapping[str, NDArray[Any]]]) -> None:
        """Write the state of the running optimization, if the last write was long enough ago."""
        if self._path is not None and time.monotonic() - self._saved >= SECONDS_BETWEEN_SAVES:
            self.unfinished = dict(state())
            self._write()

    def _write(self) -> None:
        self._saved = time.monotonic()
        if self._path is None:
            return
        write_npz(
            self._path,
            {
                "identity": as_array(self._identity),
                "patch": self.patch,
                "positions": self.positions,
                "wins": self.wins,
                "margins": self.margins,
                "units_done": np.array(self.units_done, dtype=np.int64),
                **{_UNFINISHED + name: array for name, array in self.unfinished.items()},
            },
        )


SECONDS_BETWEEN_SAVES = 30.0
"""Of an optimization that is not finished; when it is saved changes no result."""

_UNFINISHED = "unfinished_"


def read_resumed(
    path: Path | None, identity: str, fields: Iterable[str]
) -> dict[str, NDArray[Any]] | None:
    """The arrays of a resume file: ``fields``, and the unfinished state; None without a file.

    Raises:
        InputError: it is damaged, is not a resume file, or belongs to an attack other than
            ``identity``.
    """
    if path is None or not path.exists():
        return None
    arrays = read_npz(path)
    if {name for name in arrays if not name.startswith(_UNFINISHED)} != {*fields, "identity"}:
        raise InputError(f"{path} is not a resume file of an attack; remove it to start anew.")
    if arrays["identity"].tobytes().decode("ascii", "replace") != identity:
        raise InputError(
            f"{path} belongs to an attack with other settings, images, seed or network; "
            "give another path, or remove it to start anew."
        )
    return arrays


def as_array(text: str) -> NDArray[np.uint8]:
    """Text as an npz file holds it: its bytes."""
    return np.frombuffer(text.encode(), dtype=np.uint8)
