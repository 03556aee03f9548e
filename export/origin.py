"""The checkpoint that a model file follows from, by its SHA-256, named in the file itself.

It stands in ``ModelProto.doc_string``, which every runtime ignores and ONNX Runtime shows as the
model's description (docs/decisions/model-origin.md). Everything else about where a file comes from
is in the sidecar.
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx

from deploy.core.errors import InputError
from export.reading import read_model

_FORM = re.compile(r"checkpoint sha256:([0-9a-f]{64})")


def origin_text(checkpoint_sha256: str) -> str:
    """The text that names a checkpoint.

    Raises:
        ValueError: it is no SHA-256 in hexadecimal.
    """
    text = f"checkpoint sha256:{checkpoint_sha256}"
    if _FORM.fullmatch(text) is None:
        raise ValueError(f"{checkpoint_sha256!r} is no SHA-256")
    return text


def origin_of(model: onnx.ModelProto) -> str | None:
    """The SHA-256 of the checkpoint that a model names; None where it names none."""
    found = _FORM.fullmatch(model.doc_string)
    return None if found is None else found[1]


def require_origin(path: Path, checkpoint_sha256: str) -> None:
    """Check that a file does not follow from another checkpoint than this one.

    Raises:
        InputError: it names another; or the file is damaged.
    """
    named = origin_of(read_model(path))
    if named not in (None, checkpoint_sha256):
        raise InputError(
            f"{path} follows from the checkpoint {named[:16]}…, the run has "
            f"{checkpoint_sha256[:16]}…: it was trained again since; export it again"
        )
