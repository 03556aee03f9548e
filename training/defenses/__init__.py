"""Defenses by name: each in one file, with one interface and its settings in [defense]."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from deploy.core.errors import InputError
from training.config import TrainingConfig, config_from_dict
from training.data import SIZED
from training.defenses.defense import Batch, Defense, TrainingFacts
from training.defenses.dwq import Dwq
from training.defenses.pbat import Pbat
from training.defenses.qadtr import Qadtr, QadtrSettings
from training.defenses.qat import PlainQat
from training.defenses.triqdef import Triqdef
from training.named import FORM, class_named, is_foreign
from training.patch_sizes import in_pixels, require_fit
from training.validated import as_json, json_schema, read_settings

__all__ = [
    "DEFENSES",
    "Batch",
    "Defense",
    "TrainingFacts",
    "build_defense",
    "check_defense",
    "config_of_run",
    "config_schema",
    "resolved",
]

DEFENSES: Mapping[str, type[Defense]] = {
    "qat": PlainQat,
    "pbat": Pbat,
    "dwq": Dwq,
    "triqdef": Triqdef,
    "qadtr": Qadtr,
}
"""By the ``name`` in the config's ``[defense]`` table."""


def defense_named(name: object) -> type[Defense]:
    """One of :data:`DEFENSES`, or the user's own by ``package.module:Class``.

    Raises:
        InputError: it is neither.
    """
    if isinstance(name, str) and is_foreign(name):
        return class_named(name, Defense, "defense")
    if not isinstance(name, str) or name not in DEFENSES:
        raise InputError(
            f"defense.name must be one of {', '.join(DEFENSES)}, or your own as {FORM}; got "
            f"{name!r}"
        )
    return DEFENSES[name]


def check_defense(table: Mapping[str, Any]) -> Any:
    """The settings of a ``[defense]`` table; ``InputError`` for an unknown name, key or value."""
    kind = defense_named(table.get("name"))
    settings = {key: value for key, value in table.items() if key != "name"}
    return read_settings(kind.settings_type, settings, f"defense {table['name']}")


_SOME_SIZE, _ANOTHER_SIZE = (224, 224), (448, 448)


def resolved(config: TrainingConfig, image_size: tuple[int, int] | None = None) -> TrainingConfig:
    """The config with every setting of its defense written out, so that a checkpoint records what
    was trained even where a later version has other defaults.

    Args:
        image_size: height and width in pixels; None takes the config's ``data.size`` where the
            images will have that size.

    Raises:
        InputError: as :func:`check_defense`; the batch is too small for the defense; its patches
            are too large for the images.
    """
    if image_size is None and config.data.kind in SIZED:
        image_size = (config.data.size, config.data.size)
    if image_size is None:
        known = in_pixels(config.defense, _SOME_SIZE)
        settings = check_defense(known)
        if known != in_pixels(config.defense, _ANOTHER_SIZE):
            return config  # shares of images whose size the training will see
    else:
        settings = settings_for(config.defense, image_size)
    require_batch(settings, config.training.batch_size)
    written_out = {"name": config.defense["name"], **as_json(settings)}
    return dataclasses.replace(config, defense=written_out)


def settings_for(table: Mapping[str, Any], image_size: tuple[int, int]) -> Any:
    """The settings of a ``[defense]`` table, sizes in pixels, for images of that height and width.

    Raises:
        InputError: as :func:`check_defense`, or its patches are too large for the images.
    """
    settings = check_defense(in_pixels(table, image_size))
    require_fit(getattr(settings, "largest_px", {}), image_size)
    return settings


def require_batch(settings: Any, batch_size: int) -> None:
    """Refuse a batch so small that a defense with these settings would attack none of its images.

    Raises:
        InputError: the batch is that small; the message names the setting.
    """
    if isinstance(settings, QadtrSettings):
        settings.require_batch_size(batch_size)
    for name, share in getattr(settings, "batch_shares", {}).items():
        if share > 0.0 and round(share * batch_size) == 0:
            raise InputError(
                f"defense.{name} is {share:g}, which is less than one image of "
                f"training.batch_size {batch_size}, so nothing would be attacked; raise one of "
                "the two"
            )


def config_of_run(table: Mapping[str, Any], source: str) -> TrainingConfig:
    """The config that a checkpoint or a record holds, every setting of its defense written out.

    A setting that is newer than the run gets the value that reproduces the defense's behaviour at
    that time (``BEFORE`` of its settings, where that is not the current default).  One that there
    is no more is left out where it changed nothing (``GONE``).

    Args:
        table: as it was written; ``source`` names it in errors.

    Raises:
        InputError: the current version cannot read it.
    """
    config = config_from_dict(table, source)
    try:
        settings = defense_named(config.defense.get("name")).settings_type
        before, gone = (getattr(settings, name, {}) for name in ("BEFORE", "GONE"))
        defense = {
            key: value
            for key, value in {**before, **config.defense}.items()
            if key not in gone or value != gone[key]
        }
        return resolved(dataclasses.replace(config, defense=defense))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def build_defense(table: Mapping[str, Any], facts: TrainingFacts) -> Defense:
    """The defense that a ``[defense]`` table describes, for a training of ``facts``.

    Raises:
        InputError: as :func:`settings_for`.
    """
    return defense_named(table["name"])(settings_for(table, facts.image_size), facts)


def config_schema() -> dict[str, Any]:
    """The JSON Schema of a resolved config, every defense's settings in it; docs/schemas/."""
    schema = json_schema(TrainingConfig)
    defenses = []
    for name, kind in DEFENSES.items():
        own = json_schema(kind.settings_type)
        del own["$schema"]
        own["properties"]["name"] = {"const": name}
        own["required"] = ["name"]
        defenses.append(own)
    foreign = {"type": "object", "properties": {"name": {"type": "string", "pattern": ":"}}}
    defenses.append({**foreign, "required": ["name"]})
    schema["properties"]["defense"] = {"oneOf": defenses, "default": {"name": "qat"}}
    return schema
