"""One training at a time in a run's folder."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.core.errors import InputError, UsageError
from deploy.core.locks import lock
from deploy.core.text import one_line
from training.checkpoint import CHECKPOINT, RESUME

LOCK = RESUME.with_name("lock")
"""Held while a training writes into the folder; the system frees it when the process dies."""

_MOST_SHOWN = 200

logger = logging.getLogger(__name__)


def require_free(folder: Path) -> None:
    """Refuse a folder that holds a run.

    Raises:
        UsageError: it holds a checkpoint, or a state to resume from.
    """
    if (folder / RESUME).exists() or (folder / CHECKPOINT).exists():
        raise UsageError(
            f"{folder} already holds a run; give --resume to continue it, --overwrite to replace "
            "it, or another folder with --out RUN"
        )


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that this is its only training.

    Raises:
        InputError: another training holds it, or the folder is not writable.
    """
    path = folder / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; choose a writable place"
        ) from error
    try:
        taken = lock(descriptor)
        if taken is False:
            found = os.read(descriptor, _MOST_SHOWN).decode("utf-8", "replace")
            raise InputError(
                f"another training writes into {folder} ({one_line(found)}); wait until it ends, "
                "stop it, or give another --out"
            )
        if taken is None:
            logger.info("%s: this file system has no locks; start one training there only", folder)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
        yield
    finally:
        os.close(descriptor)
