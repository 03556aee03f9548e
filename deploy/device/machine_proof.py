"""The machines that a manifest names because they gave the bundle's logits bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import InputError
from ..core.host import Host
from .manifest import ModelFacts

_HOST = ("machine", "emulated", "system", "cpu_model", "instruction_sets")


def machine_entry(
    host: Mapping[str, Any],
    *,
    engine: str,
    engine_version: str | None,
    golden_images: int,
    images: int,
) -> dict[str, Any]:
    """Return one machine as the manifest's ``machine_proof`` lists it.

    Args:
        host: from ``Host.as_record``, or a report's.
        engine: such as "onnxruntime-cpu".
        engine_version: None where it is not stated.
        golden_images: whose logits were equal, 1 or more.
        images: of the bundle, whose logits were equal too; 0 where not all were run.
    """
    return {
        **{key: host[key] for key in _HOST},
        "engine": engine,
        "engine_version": engine_version,
        "golden_images": golden_images,
        "images": images,
    }


def proof_line(model: ModelFacts, host: Host, *, equal_here: bool) -> str:
    """Return one line: where the logits were proved identical, and whether the golden ones are
    ``equal_here``, bit for bit, on this ``host``.
    """
    proof = model.machine_proof
    machines = [] if proof is None else proof["machines"]
    named = {entry["machine"] for entry in machines}
    known = [machine_words(entry) for entry in machines]
    known += [f"{machine} (lab)" for machine in model.logits_identical_on if machine not in named]
    this = f"{host.machine}{' emulated' if host.emulated else ''}"
    here = "equal bit for bit" if equal_here else "within the budget, not equal"
    return (
        f"logits proved identical on: {', '.join(known) or 'no machine'}; "
        f"this machine: {this}, golden logits {here}"
    )


def machine_words(entry: Mapping[str, Any]) -> str:
    """Return a machine of the manifest in a few words."""
    emulated = " emulated" if entry["emulated"] else ""
    processor = entry["cpu_model"] or " ".join(entry["instruction_sets"] or ())
    facts = [
        processor or "processor not stated",
        f"{entry['engine']} {entry['engine_version'] or ''}".strip(),
        f"{entry['golden_images']} golden and {entry['images']} more images",
    ]
    return f"{entry['machine']}{emulated} ({'; '.join(facts)})"


def check_proved_logits(model: ModelFacts, logits_sha256: str | None) -> None:
    """Compare the logits of all images with those that the manifest's machines gave.

    Args:
        model: of the manifest; a model without a proof, or with a budget, is not checked.
        logits_sha256: of this engine; None where not all images were run.

    Raises:
        InputError: they differ.
    """
    proof = model.machine_proof
    if proof is None or logits_sha256 is None or model.max_logit_difference > 0:
        return
    if logits_sha256 != proof["logits_sha256"]:
        raise InputError(
            f"the logits of all images have SHA-256 {logits_sha256[:16]}…, those of the "
            f"manifest's machines {proof['logits_sha256'][:16]}…: this engine does not compute "
            "what the lab measured"
        )
