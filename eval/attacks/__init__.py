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
from training.named import class_named, is_foreign, unknown
from training.validated import read_settings

ATTACKS: dict[str, type[PatchAttack[Any]]] = {
    attack.name: attack for attack in (Gap, Lavan, Location, SparseRs)
}
"""Every attack by its name."""


def attack_from_settings(name: str, values: Mapping[str, Any]) -> PatchAttack[Any]:
    """The named attack with settings from a configuration.

    Args:
        name: one of :data:`ATTACKS`, or the user's own subclass of ``PatchAttack`` by
            ``package.module:Class``.
        values: of its ``settings_type``.

    Raises:
        InputError: an unknown attack or setting (the message lists the known ones), a wrong type or
            value.
    """
    attack: type[PatchAttack[Any]]
    if is_foreign(name):
        attack = class_named(name, PatchAttack, "attack")
        if getattr(attack, "name", None) in {None, *ATTACKS}:
            raise InputError(
                f"{name} needs a name of its own, which its patches bear: "
                f"name: ClassVar[str] = {name.rpartition(':')[2].lower()!r}"
            )
    elif name in ATTACKS:
        attack = ATTACKS[name]
    else:
        raise unknown("attack", name, sorted(ATTACKS))
    return attack(read_settings(attack.settings_type, values, f"attack {name}"))
