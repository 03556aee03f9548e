"""Where an exported model file comes from: its checkpoint in the file, all else in the sidecar.

The checkpoint's SHA-256 is in ``ModelProto.doc_string``, which every runtime ignores and ONNX
Runtime shows as the model's description (docs/decisions/model-origin.md); a ``.tflite`` file has it
in its description. The JSON beside the file states its proofs and its budget.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from deploy.core.errors import InputError
from deploy.core.files import read_bytes, sha256_of
from deploy.core.model_contents import LITERT_SUFFIX, read_tflite_contents
from deploy.core.strict_json import read_json, write_json
from export.reading import read_model

SIDECAR_FORMAT = "qadtr-export"
SIDECAR_FORMAT_VERSION = 1
_FORM = re.compile(r"checkpoint sha256:([0-9a-f]{64})")


def origin_text(checkpoint_sha256: str) -> str:
    """The text that names a checkpoint.

    Raises:
        ValueError: it is not a SHA-256 in hexadecimal.
    """
    text = f"checkpoint sha256:{checkpoint_sha256}"
    if _FORM.fullmatch(text) is None:
        raise ValueError(f"expected a SHA-256, got {checkpoint_sha256!r}")
    return text


def origin_of(model: onnx.ModelProto) -> str | None:
    """The SHA-256 of the checkpoint that a model names; None if it names none."""
    found = _FORM.fullmatch(model.doc_string)
    return None if found is None else found[1]


def require_origin(path: Path, checkpoint_sha256: str) -> None:
    """Check that a file does not come from another checkpoint than this one.

    Raises:
        InputError: it names another; or the file is damaged.
    """
    if path.suffix == LITERT_SUFFIX:
        found = _FORM.fullmatch(read_tflite_contents(read_bytes(path), str(path)).description)
        named = None if found is None else found[1]
    else:
        named = origin_of(read_model(path))
    if named not in (None, checkpoint_sha256):
        raise InputError(
            f"{path} was made from the checkpoint {named[:16]}…, but the run has "
            f"{checkpoint_sha256[:16]}…, because it was trained again since; export it again: "
            f"{_again(path)}"
        )


def _again(model: Path) -> str:
    """The command that writes a run's model file RUN/export/TARGET-BITS.onnx again."""
    target, _, bits = model.stem.rpartition("-")
    words = ["--bits", bits, *([] if target == "onnxruntime" else ["--target", target])]
    return shlex.join(["qadtr", "export", str(model.parent.parent), *words])


def write_sidecar(model: Path, facts: Mapping[str, Any]) -> None:
    """Write the sidecar of a model file atomically."""
    form = {"format": SIDECAR_FORMAT, "format_version": SIDECAR_FORMAT_VERSION}
    write_json(model.with_suffix(".json"), {**form, **facts})


def recorded_budget(model: Path) -> tuple[float, float]:
    """The difference of an engine from a model file's reference that its export enforced: the
    largest absolute difference of a logit, and the share of images with another class.

    Raises:
        InputError: there is no sidecar, it is of another file, or no engine ran the file.
    """
    path = model.with_suffix(".json")
    facts = read_json(path)
    wanted = (SIDECAR_FORMAT, SIDECAR_FORMAT_VERSION, sha256_of(model))
    keys = ("format", "format_version", "sha256")
    if not isinstance(facts, dict) or tuple(map(facts.get, keys)) != wanted:
        raise InputError(f"{path} is not the sidecar of {model}; export it again")
    budget: Any = facts.get("budget")
    try:
        found = (float(budget["max_logit_difference"]), float(budget["max_flip_share"]))
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} states no budget, because no engine ran {model.name} when it was exported"
        ) from error
    if not (0.0 <= found[0] < float("inf") and 0.0 <= found[1] <= 1.0):
        raise InputError(f"{path} states the budget {found}, which is not valid; export it again")
    return found
