"""Which results are of one attack: the same method with the same settings and seed.

Of several records of the same attack the one with the most images counts, of equals the newest. Of
different attacks each is a result of its own, and what is shown for all of them is the one that
wins most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from deploy.core.errors import InputError
from deploy.core.share import Share
from deploy.core.strict_json import json_bytes
from eval.attacks import ATTACKS
from eval.attacks.adaptive.adaptive_settings import AdaptiveSettings
from eval.measure.adaptive.adaptive_record import KIND as ADAPTIVE
from eval.measure.adaptive.adaptive_record import AdaptiveRecord
from eval.measure.evaluation_record import EvaluationRecord, PatchFacts
from training.validated import read_settings

_Attacked = TypeVar("_Attacked", EvaluationRecord, AdaptiveRecord)


def attack_settings(patch: PatchFacts) -> dict[str, Any]:
    """The settings and the seed that a patch was made with, also those that are newer than its
    record."""
    return {**_complete(patch["attack"], patch["settings"]), "seed": patch["seed"]}


def attack_key(settings: Mapping[str, Any], *without: str) -> str:
    """Settings as one text, the same for the same values in any order; some may be left out."""
    told = {key: value for key, value in settings.items() if key not in without}
    return json_bytes(dict(sorted(told.items()))).decode()


def adaptive_attacks(records: Iterable[AdaptiveRecord]) -> list[AdaptiveRecord]:
    """The record of the most images, of equals the newest (they come oldest first), of each
    adaptive attack on the same network, bit-widths and split."""
    most: dict[tuple[object, ...], AdaptiveRecord] = {}
    for record in by_images(records):
        model, patch = record["model"], record["patch"]
        victim = (model["checkpoint_sha256"], record["law"], *model["bit_widths"])
        made = _complete(ADAPTIVE, record["settings"])
        attack = (patch["size_px"], patch["placement"], record["seed"], attack_key(made))
        most[(*victim, record["images"]["digest"], *attack)] = record
    return list(most.values())


def by_images(records: Iterable[_Attacked]) -> list[_Attacked]:
    """Records in the order in which a later one takes an earlier one's place: by the number of
    images that were attacked, and where it is the same as they come."""
    return sorted(records, key=lambda record: record["outcomes"]["n"])


def adaptive_asr(record: AdaptiveRecord) -> Share:
    """In the engine, where it was asked, else on the fake-quantized network."""
    return record["asr"] if record["on_engine"] is None else record["on_engine"]["asr"]


def _complete(attack: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """With the settings that are newer; as they are where they are not those of a known attack of
    this version."""
    # A patch's facts have the shape besides, which is always a square.
    own = {key: value for key, value in settings.items() if attack != ADAPTIVE or key != "shape"}
    known = {name: of.settings_type for name, of in ATTACKS.items()} | {ADAPTIVE: AdaptiveSettings}
    if attack not in known:
        return own
    try:
        return dict(read_settings(known[attack], own, attack).as_record())
    except InputError:
        return own
