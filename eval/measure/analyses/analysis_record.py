"""The common part of the records of all analyses, and reading the records."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, cast, get_type_hints

from typing_extensions import TypedDict

from eval.measure.evaluation_record import ImagesFacts, PatchFacts, patch_identity
from training.record_types import Sha256, payloads
from training.validated import AtLeast1


class AnalysedModel(TypedDict):
    """The fake-quantized network that was looked into, in torch."""

    network: str
    defense: str
    checkpoint_sha256: Sha256
    bit_widths: list[AtLeast1]
    """Those looked at, widest first; 32 is float."""


class AnalysisFacts(TypedDict):
    """The part of the payload that all analyses share."""

    key: Sha256
    """Digest of all that the result depends on; it is not made again."""
    model: AnalysedModel
    images: ImagesFacts
    analysed: AtLeast1
    """Images of the split that were looked at."""
    patch: PatchFacts | None
    """Null for an analysis of images without patches."""
    settings: dict[str, Any]


@functools.cache
def form_of(part: type) -> Any:
    """The TypedDict of a payload: the part that all analyses share, and an analysis' ``part``."""
    fields = {**get_type_hints(AnalysisFacts, include_extras=True)}
    fields |= get_type_hints(part, include_extras=True)
    return cast(Any, TypedDict)(part.__name__, fields)


def analyses_from_records(
    records: Iterable[Mapping[str, Any]], kind: str, part: type
) -> list[dict[str, Any]]:
    """The payloads of one kind, the newest of each network, patch and set of images, oldest first.

    Raises:
        InputError: one does not match the schema.
    """
    newest: dict[tuple[object, ...], dict[str, Any]] = {}
    for payload in payloads(records, kind, form_of(part)):
        patch = payload["patch"]
        newest[
            payload["model"]["checkpoint_sha256"],
            None if patch is None else patch_identity(patch),
            payload["images"]["digest"],
        ] = payload
    return list(newest.values())
