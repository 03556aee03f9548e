"""The JSON beside an exported model file: where it comes from, what was proved, what it may do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.core.errors import InputError
from deploy.core.files import read_json, sha256_of, write_json

FORMAT = "qadtr-export"
FORMAT_VERSION = 1


def write_sidecar(model: Path, facts: Mapping[str, Any]) -> None:
    """Write the sidecar of a model file atomically."""
    write_json(
        model.with_suffix(".json"), {"format": FORMAT, "format_version": FORMAT_VERSION, **facts}
    )


def recorded_budget(model: Path) -> tuple[float, float]:
    """How far an engine of a model file may be from the file's reference, as its export enforced:
    the largest difference of a logit, absolute, and the share of images with another class.

    Raises:
        InputError: there is no sidecar, it is of another file, or no engine ran the file.
    """
    path = model.with_suffix(".json")
    facts = read_json(path)
    if (
        not isinstance(facts, dict)
        or (facts.get("format"), facts.get("format_version")) != (FORMAT, FORMAT_VERSION)
        or facts.get("sha256") != sha256_of(model)
    ):
        raise InputError(f"{path} is not the sidecar of {model}; export it again")
    budget: Any = facts.get("budget")
    try:
        found = (float(budget["max_logit_difference"]), float(budget["max_flip_share"]))
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} states no budget: no engine ran {model.name} when it was exported"
        ) from error
    if not (0.0 <= found[0] < float("inf") and 0.0 <= found[1] <= 1.0):
        raise InputError(f"{path} states the budget {found}, which is none; export it again")
    return found
