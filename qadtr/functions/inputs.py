"""The types that every function accepts for a run, for several runs, and for patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploy.core.patch_set import PatchSet
from qadtr.functions.load import load
from training.data import Images
from training.run_folder import RunFolder

Run = RunFolder | Path | str
"""A run, or its folder."""

Runs = Run | Sequence[Run]

Patches = PatchSet | Path | str | Sequence[PatchSet | Path | str]
"""Patch sets, their files, or folders of these."""


def opened(run: Run, images: Images | None = None) -> RunFolder:
    """The run, from the run itself or from its folder."""
    return run if isinstance(run, RunFolder) else load(run, images)


def several(runs: Runs) -> Sequence[Run]:
    """One run or several, as a sequence."""
    return [runs] if isinstance(runs, RunFolder | Path | str) else runs


def all_opened(runs: Runs, images: Images | None = None) -> list[RunFolder]:
    """:func:`opened` of one or several."""
    return [opened(run, images) for run in several(runs)]


def all_patches(patches: Patches) -> list[Path | PatchSet]:
    """One patch set or several, as a list, with strings as paths."""
    given = [patches] if isinstance(patches, PatchSet | Path | str) else patches
    return [Path(one) if isinstance(one, str) else one for one in given]
