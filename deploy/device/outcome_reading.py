"""The outcome of a patch on a model, image by image, from reports and evaluation records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.attack_checks import AttackVerdict
from ..core.errors import InputError, NothingToEvaluate
from ..core.outcomes import image_indices, unpack_bits
from ..core.records import read_record, read_records
from ..core.strict_json import read_json
from .gate import REACHED_A_VERDICT
from .report import is_report, read_report

Flags = NDArray[np.bool_]
EVALUATION = "evaluation"


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The outcome of one patch on one model, image by image.

    Attributes:
        model: distinguishes models in one file; empty in a validation report, which has one.
        patch: its name.
        patch_sha256: of the patch, or of the first pasted images; None where not stated.
        patch_file_sha256: of the patch's whole file; None in records and older reports.
        images: name, split and digest.
        images_sha256: of the file of images and labels; None where not stated.
        quick: whether only as many images were run as the thresholds needed.
        bit_width: of the model; 32 is float. None where not stated.
        engine: of the model; empty where not stated.
        checkpoint: SHA-256 of the network's; None where not stated.
        indices: int64 N, within the split.
        clean_correct: bool N, right without the patch.
        patched_correct: bool N, right with it.
        eligible: bool N, counts for the ASR.
        success: bool N, the patch won.
        attacks: what the lab's checks of the attacks on this model found.
    """

    model: str
    patch: str
    patch_sha256: str | None
    images: tuple[str, str, str]
    indices: NDArray[np.int64]
    clean_correct: Flags
    patched_correct: Flags
    eligible: Flags
    success: Flags
    attacks: AttackVerdict = field(default_factory=AttackVerdict)
    patch_file_sha256: str | None = None
    images_sha256: str | None = None
    quick: bool = False
    bit_width: int | None = None
    engine: str = ""
    checkpoint: str | None = None

    @property
    def content(self) -> str | None:
        """What identifies the same patch under any name; None where not stated."""
        return self.patch_file_sha256 or self.patch_sha256


VerdictOf = Callable[[Path, Mapping[str, Any]], AttackVerdict]
"""The verdict on the model of an evaluation record, from the folder that the record lies in."""


def _not_checked(folder: Path, model: Mapping[str, Any]) -> AttackVerdict:
    return AttackVerdict()


def read_outcomes(path: Path, verdict_of: VerdictOf = _not_checked) -> list[Outcome]:
    """Read a ``report.json`` of the validator, an evaluation record, or a folder of records (also a
    run folder, whose ``records`` are then read). Of several results of one model and patch in a
    run's folder the newest is taken; give the file of a record to read another one.

    Args:
        path: of it.
        verdict_of: the attack checks of evaluation records; a report has its own.

    Raises:
        InputError: a file of another kind, a damaged one, a report without outcomes, or a folder of
            records of several trainings of one network.
        NothingToEvaluate: it has no patch.
    """
    path = Path(path)
    if path.is_dir():
        folder = path / "records" if (path / "records").is_dir() else path
        payloads = [one["payload"] for one in read_records(folder, EVALUATION)]
        found = [_of_evaluation(payload, folder, verdict_of) for payload in payloads]
    else:
        raw = read_json(path)
        if is_report(raw):
            found = _of_report(read_report(path), path)
        elif isinstance(raw, dict) and raw.get("kind") == EVALUATION:
            found = [_of_evaluation(read_record(path)["payload"], path.parent, verdict_of)]
        else:
            raise InputError(
                f"{path} is neither a report.json of the validator nor an evaluation record"
            )
    if not found:
        raise NothingToEvaluate(f"{path} has no measured patch")
    newest = {(one.model, one.patch, one.content, one.images): one for one in found}
    if path.is_dir() and folder == path:
        _require_one_training_each(found, path)
    return list(newest.values())


def _require_one_training_each(found: Sequence[Outcome], path: Path) -> None:
    """Refuse a folder with results of several networks of one name: the newest of them is not
    a result of the others. In a run's own folder they are of the same run, trained again."""
    trainings: dict[str, set[str]] = {}
    for one in found:
        if one.checkpoint is not None:
            trainings.setdefault(one.model, set()).add(one.checkpoint)
    for model, checkpoints in trainings.items():
        if len(checkpoints) > 1:
            known = ", ".join(sorted(f"{checkpoint[:12]}…" for checkpoint in checkpoints))
            raise InputError(
                f"{path} has results of several trainings of {model} (checkpoints {known}); give "
                "the folder of one run, or the file of one record"
            )


def _of_report(raw: Mapping[str, Any], path: Path) -> list[Outcome]:
    if not raw["patches"]:
        raise NothingToEvaluate(f"{path} has no measured patch: {raw['reason']}")
    if raw["exit_code"] not in REACHED_A_VERDICT:
        raise InputError(
            f"{path} is the report of a validation that was aborted, so its figures prove "
            f"nothing: {raw['reason']}"
        )
    facts = raw.get("images")
    if facts is None or any("outcomes" not in patch for patch in raw["patches"]):
        raise InputError(
            f"{path} does not state on which images each patch succeeded; validate again with a "
            "validator of this release"
        )
    images = facts["name"], facts["split"], facts["digest"]
    verdict = AttackVerdict.of(raw.get("attack_checks"))
    return [
        replace(
            _outcome(
                "", patch["name"], patch.get("pasted_sha256"), images, patch["outcomes"], verdict
            ),
            patch_file_sha256=patch.get("file_sha256"),
            images_sha256=facts.get("file_sha256"),
            quick=raw["quick"],
            bit_width=raw["bundle"]["bit_width"],
        )
        for patch in raw["patches"]
    ]


def _of_evaluation(payload: Mapping[str, Any], folder: Path, verdict_of: VerdictOf) -> Outcome:
    try:
        model, patch, images = payload["model"], payload["patch"], payload["images"]
        found = _outcome(
            f"{model['network']} {model['defense']} {model['bit_width']}-bit {model['engine']}",
            patch["name"],
            patch["sha256"],
            (images["name"], images["split"], images["digest"]),
            payload["outcomes"],
            verdict_of(folder, model),
        )
        _require_kinds(model["bit_width"], (int, type(None)), "bit-width")
        _require_kinds(model["engine"], (str,), "engine")
        checkpoint = model.get("checkpoint_sha256")
        _require_kinds(checkpoint, (str, type(None)), "checkpoint's SHA-256")
        return replace(
            found,
            bit_width=model["bit_width"],
            engine=model["engine"],
            checkpoint=checkpoint,
        )
    except KeyError as error:
        raise InputError(f"an evaluation record lacks {error}; evaluate again") from error
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"an evaluation record has a value of another type ({error}); evaluate again"
        ) from error


def _require_kinds(value: object, kinds: tuple[type, ...], what: str) -> None:
    if not isinstance(value, kinds) or isinstance(value, bool):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"expected the {what} as {wanted}, got {type(value).__name__}")


def _outcome(
    model: str,
    patch: str,
    sha256: str | None,
    images: tuple[str, str, str],
    outcomes: Mapping[str, Any],
    attacks: AttackVerdict,
) -> Outcome:
    for text in (patch, *images):
        _require_kinds(text, (str,), "name of a patch, data set or split")
    _require_kinds(sha256, (str, type(None)), "SHA-256 of a patch")
    n, indices = outcomes["n"], image_indices(outcomes)
    if indices.shape != (n,) or len(np.unique(indices)) != n:
        raise InputError(f"{patch}: expected {n} different image indices")
    return Outcome(
        model=model,
        patch=patch,
        patch_sha256=sha256,
        images=images,
        indices=indices,
        clean_correct=unpack_bits(outcomes["clean_correct"], n),
        patched_correct=unpack_bits(outcomes["patched_correct"], n),
        eligible=unpack_bits(outcomes["eligible"], n),
        success=unpack_bits(outcomes["success"], n),
        attacks=attacks,
    )
