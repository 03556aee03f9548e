"""Patch attacks, one file each, on a base class that owns clipping, rounding and scoring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.core.errors import InputError
from eval.attacks.base import PatchAttack
from eval.attacks.gap import Gap
from eval.attacks.lavan import Lavan
from eval.attacks.location import Location
from eval.attacks.sparse_rs import SparseRs
from training.validated import read_settings

ATTACKS: dict[str, type[PatchAttack[Any]]] = {
    attack.name: attack for attack in (Gap, Lavan, Location, SparseRs)
}
"""Every attack by its name."""


def attack_from_settings(name: str, values: Mapping[str, Any]) -> PatchAttack[Any]:
    """The named attack with settings from a configuration.

    Raises:
        InputError: an unknown attack or setting (the known ones are named), a wrong type or value.
    """
    if name not in ATTACKS:
        raise InputError(f"Unknown attack {name!r}; known: {', '.join(sorted(ATTACKS))}.")
    attack = ATTACKS[name]
    return attack(read_settings(attack.settings_type, values, f"attack {name}"))
