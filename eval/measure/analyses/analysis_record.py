"""What the record of every analysis carries, and reading them back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from deploy.core.errors import InputError
from eval.measure.evaluation_record import ImagesFacts, PatchFacts


class AnalysedModel(TypedDict):
    """The fake-quantized network that was looked into, in torch."""

    network: str
    defense: str
    checkpoint_sha256: str
    bit_widths: list[int]
    """Those looked at, widest first; 32 is float."""


class AnalysisFacts(TypedDict):
    """The part of the payload that all analyses share."""

    key: str
    """Digest of all that the result depends on; it is not made again."""
    model: AnalysedModel
    images: ImagesFacts
    analysed: int
    """Images of the split that were looked at."""
    patch: PatchFacts | None
    """Null for an analysis of images without patches."""
    settings: dict[str, Any]


def analyses_from_records(
    records: Iterable[Mapping[str, Any]], kind: str, part: type
) -> list[dict[str, Any]]:
    """The payloads of one kind, the newest of each network, patch and set of images, oldest first.

    Args:
        records: as ``deploy.core.records.read_records`` gives them, oldest first.
        kind: of the analysis.
        part: the TypedDict of its own part.

    Raises:
        InputError: one lacks a field.
    """
    newest: dict[tuple[object, ...], dict[str, Any]] = {}
    for record in records:
        if record["kind"] != kind:
            continue
        payload: dict[str, Any] = record["payload"]
        fields = {*AnalysisFacts.__annotations__, *part.__annotations__}
        missing = sorted(fields - set(payload))
        if missing:
            raise InputError(
                f"A record of kind {kind!r} lacks {', '.join(missing)}: it was written by another "
                "version; analyse again, or read it with the version that wrote it."
            )
        patch = payload["patch"]
        newest[
            payload["model"]["checkpoint_sha256"],
            None if patch is None else patch["sha256"],
            payload["images"]["digest"],
        ] = payload
    return list(newest.values())
