"""Defenses by name: each one file, the same interface, its settings in the config's [defense]."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from deploy.core.errors import InputError
from training.config import TrainingConfig
from training.defenses.defense import Batch, Defense, TrainingFacts
from training.defenses.dwq import Dwq, DwqSettings
from training.defenses.pbat import Pbat, PbatSettings
from training.defenses.qadtr import Qadtr, QadtrSettings
from training.defenses.qat import PlainQat, QatSettings
from training.defenses.triqdef import Triqdef, TriqdefSettings
from training.patch_sizes import in_pixels, require_fit
from training.validated import as_json, json_schema, read_settings

__all__ = [
    "DEFENSES",
    "Batch",
    "Defense",
    "TrainingFacts",
    "build_defense",
    "check_defense",
    "config_schema",
    "resolved",
]

DEFENSES: Mapping[str, tuple[type[Any], type[Any]]] = {
    "qat": (QatSettings, PlainQat),
    "pbat": (PbatSettings, Pbat),
    "dwq": (DwqSettings, Dwq),
    "triqdef": (TriqdefSettings, Triqdef),
    "qadtr": (QadtrSettings, Qadtr),
}
"""Settings class and defense class by the ``name`` in the config's ``[defense]`` table."""


def check_defense(table: Mapping[str, Any]) -> Any:
    """The settings of a ``[defense]`` table; ``InputError`` for an unknown name, key or value."""
    name = table.get("name")
    if not isinstance(name, str) or name not in DEFENSES:
        raise InputError(f"defense.name must be one of {', '.join(DEFENSES)}; got {name!r}")
    settings = {key: value for key, value in table.items() if key != "name"}
    return read_settings(DEFENSES[name][0], settings, f"defense {name}")


def resolved(config: TrainingConfig, image_size: tuple[int, int] | None = None) -> TrainingConfig:
    """The config with every setting of its defense written out, so that a checkpoint says what was
    trained even where a later version has other defaults.

    Args:
        image_size: height and width in pixels; None takes the config's ``data.size``, where that
            is what the images will have.

    Raises:
        InputError: as :func:`check_defense`, the batch is too small for the defense, or its patches
            are too large for the images.
    """
    if image_size is None and config.data.kind != "npz":
        image_size = (config.data.size, config.data.size)
    if image_size is None:
        settings = check_defense(config.defense)
    else:
        settings = check_defense(in_pixels(config.defense, image_size))
        require_fit(getattr(settings, "largest_px", {}), image_size)
    if isinstance(settings, QadtrSettings):
        settings.require_batch_size(config.training.batch_size)
    written_out = {"name": config.defense["name"], **as_json(settings)}
    return dataclasses.replace(config, defense=written_out)


def build_defense(table: Mapping[str, Any], facts: TrainingFacts) -> Defense:
    """The defense that a config's ``[defense]`` table describes, for a training of ``facts``."""
    settings = check_defense(table)
    defense = DEFENSES[str(table["name"])][1](settings, facts)
    assert isinstance(defense, Defense)
    return defense


def config_schema() -> dict[str, Any]:
    """The JSON Schema of a resolved config, every defense's settings in it; docs/schemas/."""
    schema = json_schema(TrainingConfig)
    defenses = []
    for name, (settings, _) in DEFENSES.items():
        own = json_schema(settings)
        del own["$schema"]
        own["properties"]["name"] = {"const": name}
        own["required"] = ["name"]
        defenses.append(own)
    schema["properties"]["defense"] = {"oneOf": defenses, "default": {"name": "qat"}}
    return schema
