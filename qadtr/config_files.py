"""Training configs by path, or by the name of one that comes with the package."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.config import TrainingConfig

CONFIGS = Path(__file__).resolve().parent / "configs"
"""The configs that come with the package: in a checkout a link to its folder `configs/`."""


def config_from(name: str, overrides: Mapping[str, Any]) -> TrainingConfig:
    """The config of a file, or of one that comes with the package, by its bare name.

    Raises:
        InputError: as :func:`training.config.load_config`; no config of that name.
    """
    from training.config import load_config

    return load_config(config_file(name), overrides)


def config_file(name: str) -> Path:
    """The path that ``name`` is, or that of the package's config of that name.

    Raises:
        InputError: a bare name that is neither.
    """
    path = Path(name)
    if path.suffix == ".toml" or len(path.parts) != 1 or path.is_file():
        return path
    from deploy.core.errors import InputError

    shipped = CONFIGS / f"{name}.toml"
    if shipped.is_file():
        return shipped
    close = difflib.get_close_matches(name, config_names(), n=1)
    hint = f", did you mean {close[0]}" if close else ""
    raise InputError(f"there is no config {name}{hint}; `qadtr configs` lists the configs")


def config_names() -> list[str]:
    """The names of the configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))
